#include "data/core/parallel_for.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace quarry {
namespace {

class ParallelForTest : public testing::Test {
 protected:
  ~ParallelForTest() override { set_num_threads(threads_); }

 private:
  const int threads_ = num_threads();
};

// How often each of n items was in a piece.
std::vector<int> visits(int64_t n, int64_t grain) {
  std::vector<std::atomic<int>> counts(static_cast<size_t>(n));
  parallel_for(n, grain, [&](int64_t begin, int64_t end) {
    EXPECT_LT(begin, end);
    for (int64_t i = begin; i < end; ++i) ++counts[static_cast<size_t>(i)];
  });
  return {counts.begin(), counts.end()};
}

TEST_F(ParallelForTest, VisitsEachItemOnceWhateverTheNumbers) {
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    for (const int64_t n : {1, 2, 5, 64, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        EXPECT_EQ(visits(n, grain), std::vector<int>(static_cast<size_t>(n), 1))
            << threads << " threads, " << n << " items, grain " << grain;
      }
    }
  }
  parallel_for(0, 1, [](int64_t, int64_t) { FAIL() << "nothing to do"; });
}

TEST_F(ParallelForTest, SeveralThreadsTakePart) {
  set_num_threads(3);
  for (int round = 0; round < 3; ++round) {
    std::atomic<int> inside{0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    parallel_for(3, 1, [&](int64_t, int64_t) {
      ++inside;  // each piece waits for the others: only three threads come through
      while (inside.load() < 3 && std::chrono::steady_clock::now() < deadline) {
        std::this_thread::yield();
      }
    });
    EXPECT_EQ(inside.load(), 3);
    EXPECT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));  // they fall asleep
  }
}

TEST_F(ParallelForTest, LibrariesInABodyStayOnItsThread) {
  set_num_threads(3);
  const int before = omp_get_max_threads();
  parallel_for(12, 1, [](int64_t, int64_t) { EXPECT_EQ(omp_get_max_threads(), 1); });
  EXPECT_EQ(omp_get_max_threads(), before);
  {
    const LibraryThreads threads(2);
    EXPECT_EQ(omp_get_max_threads(), 2);
  }
  EXPECT_EQ(omp_get_max_threads(), before);
}

TEST_F(ParallelForTest, WithinABodyRunsSerially) {
  set_num_threads(4);
  parallel_for(8, 1, [](int64_t, int64_t) {
    EXPECT_EQ(num_threads(), 1);
    const std::thread::id self = std::this_thread::get_id();
    parallel_for(100, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(begin, 0);
      EXPECT_EQ(end, 100);
      EXPECT_EQ(std::this_thread::get_id(), self);
    });
  });
  EXPECT_EQ(num_threads(), 4);
}

TEST_F(ParallelForTest, AnExceptionComesOutAfterAllPiecesHaveRun) {
  set_num_threads(3);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> ran{0};
    try {
      parallel_for(24, 1, [&](int64_t begin, int64_t end) {
        ran += static_cast<int>(end - begin);
        if (begin % 2 == 0) throw std::runtime_error("piece");
      });
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "piece");
    }
    EXPECT_EQ(ran.load(), 24);
    EXPECT_EQ(num_threads(), 3);
  }
}

TEST_F(ParallelForTest, SeveralCallersAtOnceEachGetTheirOwnWorkDone) {
  set_num_threads(3);
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&wrong, caller] {
      std::vector<int64_t> values(static_cast<size_t>(500 + caller));
      const auto n = static_cast<int64_t>(values.size());
      for (int round = 0; round < 200; ++round) {
        std::fill(values.begin(), values.end(), 0);
        parallel_for(n, 1, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += i + round;
        });
        const int64_t sum = std::accumulate(values.begin(), values.end(), int64_t{0});
        if (sum != n * (n - 1) / 2 + n * round) ++wrong;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
}

// A worker that comes late must never see a job that has ended, or its successor half set up.
TEST_F(ParallelForTest, ManySmallCallsInARow) {
  set_num_threads(4);
  for (int round = 0; round < 20000; ++round) {
    std::atomic<int64_t> sum{0};
    parallel_for(4, 1, [&](int64_t begin, int64_t end) { sum += 10 * begin + end; });
    ASSERT_EQ(sum.load(), 10 * (0 + 1 + 2 + 3) + (1 + 2 + 3 + 4));
    if (round % 4000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // they sleep
  }
}

}  // namespace
}  // namespace quarry
