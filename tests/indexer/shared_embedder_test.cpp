#include "indexer/shared_embedder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "tests/indexer/fake_embedder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;

// What ranks that are threads of one process tell each other.
struct Mail {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::pair<int, int>, std::deque<std::string>> letters;  // by (from, to)
};

class ThreadRank final : public ProcessGroup {
 public:
  ThreadRank(Mail& mail, int rank, int world_size)
      : mail_(mail), rank_(rank), world_size_(world_size) {}
  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  void all_reduce_sum(float*, int64_t) override { FAIL(); }
  void all_reduce_sum(double*, int64_t) override { FAIL(); }
  void broadcast(void* bytes, int64_t count) override {
    if (rank_ == 0) {
      for (int to = 1; to < world_size_; ++to) {
        send({static_cast<const char*>(bytes), static_cast<size_t>(count)}, to);
      }
    } else {
      const std::string letter = receive(0);
      std::copy(letter.begin(), letter.end(), static_cast<char*>(bytes));
    }
  }
  void barrier() override {}
  void send(const std::string& bytes, int to) override {
    const std::lock_guard<std::mutex> lock(mail_.mutex);
    mail_.letters[{rank_, to}].push_back(bytes);
    mail_.changed.notify_all();
  }
  std::string receive(int from) override {
    std::unique_lock<std::mutex> lock(mail_.mutex);
    auto& letters = mail_.letters[{from, rank_}];
    mail_.changed.wait(lock, [&] { return !letters.empty(); });
    std::string letter = letters.front();
    letters.pop_front();
    return letter;
  }
  void leave(const std::string&) noexcept override {}

 private:
  Mail& mail_;
  int rank_;
  int world_size_;
};

TEST(EvenShares, EndWhereTheBytesAreEven) {
  EXPECT_THAT(even_shares({"aaaa", "b", "b", "cccc"}, 2), ElementsAre(2u, 4u));
  EXPECT_THAT(even_shares({"a"}, 3), ElementsAre(0u, 1u, 1u));
  EXPECT_THAT(even_shares({}, 2), ElementsAre(0u, 0u));
}

TEST(SharedEmbedder, GivesTheVectorsOfOneEmbedderInOrder) {
  const FakeEmbedder fake;
  std::vector<std::string> texts = {"", "one"};
  for (int i = 0; i < 37; ++i)
    texts.push_back(std::string(static_cast<size_t>(i * 5 % 40), 'x') + std::to_string(i));
  for (const int world_size : {2, 3}) {
    Mail mail;
    std::vector<std::thread> others;
    for (int rank = 1; rank < world_size; ++rank) {
      others.emplace_back([&, rank] {
        ThreadRank group(mail, rank, world_size);
        embed_for_rank_0(fake, group);
      });
    }
    ThreadRank group(mail, 0, world_size);
    {
      const SharedEmbedder shared(fake, group);
      EXPECT_EQ(shared.embed(texts), fake.embed(texts));
      EXPECT_EQ(shared.embed({"only one"}), fake.embed({"only one"}));
      EXPECT_EQ(shared.content_hash(), fake.content_hash());
    }
    for (std::thread& other : others) other.join();
  }
}

}  // namespace
}  // namespace quarry
