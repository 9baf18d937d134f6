#include "data/distributed/rank_watch.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <stdexcept>

namespace quarry {
namespace {

// Notes in memory that can go away.
class Notes {
 public:
  SharedNotes view() {
    SharedNotes notes;
    notes.set = [this](const std::string& key, const std::string& value) {
      const std::lock_guard<std::mutex> lock(mutex_);
      check();
      values_[key] = value;
    };
    notes.get = [this](const std::string& key) {
      const std::lock_guard<std::mutex> lock(mutex_);
      check();
      return values_[key];
    };
    return notes;
  }
  void go_away() {
    const std::lock_guard<std::mutex> lock(mutex_);
    gone_ = true;
  }

 private:
  void check() const {
    if (gone_) throw std::runtime_error("connection reset");
  }
  std::mutex mutex_;
  bool gone_ = false;
  std::map<std::string, std::string> values_;
};

TEST(RankWatch, NamesTheRankThatFellSilentForAllThatAsk) {
  Notes notes;
  RankWatch first(notes.view(), 0, 3);
  auto second = std::make_unique<RankWatch>(notes.view(), 1, 3);
  RankWatch third(notes.view(), 2, 3);
  second.reset();
  EXPECT_EQ(first.find_lost("closed"), "rank 1 of 3 was lost");
  EXPECT_EQ(third.find_lost("closed"), "rank 1 of 3 was lost");
}

TEST(RankWatch, SaysTheCauseWhenAllAreAlive) {
  Notes notes;
  RankWatch first(notes.view(), 0, 2);
  RankWatch second(notes.view(), 1, 2);
  EXPECT_EQ(second.find_lost("a cable"), "the connection between the 2 processes broke: a cable");
}

TEST(RankWatch, WithoutTheNotesRankZeroIsLost) {
  Notes notes;
  RankWatch second(notes.view(), 1, 2);
  notes.go_away();
  EXPECT_EQ(second.find_lost("closed"), "rank 0 of 2 was lost");
}

TEST(RankWatch, WhatARankSaidComesBeforeWhatOthersFind) {
  Notes notes;
  RankWatch first(notes.view(), 0, 2);
  RankWatch second(notes.view(), 1, 2);
  second.announce("rank 1 of 2 ended: disk full");
  first.announce("something else");
  EXPECT_EQ(first.find_lost("closed"), "rank 1 of 2 ended: disk full");
}

}  // namespace
}  // namespace quarry
