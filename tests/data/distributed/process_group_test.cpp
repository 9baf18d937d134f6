// Ranks are threads of this process here; tests/integration has processes.
#include "data/distributed/process_group.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <vector>

#include "tests/support/free_port.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

ProcessPlace place(int rank, int world_size, uint16_t port) {
  ProcessPlace place;
  place.rank = rank;
  place.world_size = world_size;
  place.master_address = "127.0.0.1";
  place.master_port = port;
  return place;
}

void on_ranks(int world_size, const std::function<void(ProcessGroup& group)>& body) {
  const uint16_t port = test::free_port();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        const auto group = join_process_group(place(rank, world_size, port));
        body(*group);
        group->barrier();
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ProcessGroup, SumsAndBroadcastsReachEveryRank) {
  for (const int world_size : {2, 3}) {
    on_ranks(world_size, [&](ProcessGroup& group) {
      EXPECT_EQ(group.world_size(), world_size);
      std::vector<float> floats(1001, static_cast<float>(group.rank() + 1));
      group.all_reduce_sum(floats.data(), static_cast<int64_t>(floats.size()));
      EXPECT_EQ(floats, std::vector<float>(1001, world_size == 2 ? 3.0f : 6.0f));
      double number = group.rank() + 0.25;
      group.all_reduce_sum(&number, 1);
      EXPECT_EQ(number, world_size == 2 ? 1.5 : 3.75);
      const std::string text = group.rank() == 0 ? "told by rank 0" : "";
      EXPECT_EQ(broadcast_text(group, text), "told by rank 0");
      EXPECT_EQ(broadcast_text(group, ""), "");
    });
  }
}

TEST(ProcessGroup, SendsBytesFromOneToAnother) {
  on_ranks(2, [](ProcessGroup& group) {
    const std::string long_text(100000, 'x');
    if (group.rank() == 0) {
      group.send("", 1);
      group.send(long_text, 1);
      EXPECT_EQ(group.receive(1), "got both");
    } else {
      EXPECT_EQ(group.receive(0), "");
      EXPECT_EQ(group.receive(0), long_text);
      group.send("got both", 0);
    }
  });
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ProcessGroup, ARankThatEndsEndsTheOthersWithItsReason) {
  const uint16_t port = test::free_port();
  std::thread other([&] {
    const auto group = join_process_group(place(1, 2, port));
    group->leave("its disk is full");
  });
  const auto group = join_process_group(place(0, 2, port));
  other.join();
  float value = 1.0f;
  EXPECT_EQ(error_of([&] { group->all_reduce_sum(&value, 1); }),
            "rank 1 of 2 ended: its disk is full");
}

TEST(ProcessGroup, SaysThatTheOthersDidNotCome) {
  ProcessGroupOptions options;
  options.join_timeout_ms = 1000;
  options.timeout_ms = 1000;
  EXPECT_THAT(error_of([&] { join_process_group(place(1, 2, test::free_port()), options); }),
              HasSubstr("rank 1: cannot reach rank 0 at port"));
  EXPECT_THAT(error_of([&] { join_process_group(place(0, 3, test::free_port()), options); }),
              HasSubstr("of 3 processes these did not come within 1 s: rank 1, 2"));
}

}  // namespace
}  // namespace quarry
