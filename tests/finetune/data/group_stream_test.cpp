#include "finetune/data/group_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/core/error.h"
#include "tests/finetune/data/render_fixture.h"
#include "tests/retriever/index_fixture.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

using Groups = std::vector<std::vector<TrainingSequence>>;

constexpr int kTowns = 24;
const std::string kRefusal = default_rag_template().not_in_documents + "<|end|>";

std::string town_of(int town) { return "Town" + std::string(1, static_cast<char>('a' + town)); }

std::string fact_of(int town) {
  return concat("The stone bridge of ", town_of(town), " was built in ", 1800 + town * 7,
                " by the mason M", town * 11 + 100, " at a price of P", town * 13 + 500, " marks.");
}

// Three questions on each town's fact; the facts are also the records p0, p1 ... of an index.
class GroupStreamTest : public IndexFixture {
 protected:
  GroupStreamTest() : generator_(chat_generator()), renderer_(*generator_, RenderOptions()) {
    for (int town = 0; town < kTowns; ++town) {
      Passage passage;
      passage.title = town % 3 == 0 ? "Bridges" : "More bridges";
      passage.text = fact_of(town);
      set_.passages.push_back(passage);
      const std::string name = town_of(town);
      add_question(town, "When was the stone bridge of " + name + " built?",
                   concat(1800 + town * 7));
      add_question(town, "Which mason built the bridge of " + name + "?",
                   concat("M", town * 11 + 100));
      add_question(town, "What price had the bridge of " + name + "?",
                   concat("P", town * 13 + 500));
    }
  }

  void add_question(int town, const std::string& question, const std::string& answer) {
    TrainingRow row;
    row.id = concat("q", set_.rows.size());
    row.where = concat("data.jsonl:", set_.rows.size() + 1);
    row.question = question;
    row.answers = {answer};
    row.passages = {town};
    row.gold = town;
    row.gold_ids = {concat("p", town)};
    set_.rows.push_back(row);
  }

  // The index of all facts but those of `without`.
  const Retriever& index(const std::set<int>& without = {}) {
    for (int town = 0; town < kTowns; ++town) {
      if (without.count(town) == 0) put_lines(concat("/facts.jsonl#p", town), fact_of(town));
    }
    retriever_ = Retriever::open(folder_.path(), letter_embedder());
    return *retriever_;
  }

  GroupOptions options_for(PassageSource passages, uint64_t seed = 1) {
    GroupOptions options;
    options.passages = passages;
    options.retrieval_mode = SearchMode::kLexical;
    options.seed = seed;
    return options;
  }

  GroupStream stream(const GroupOptions& options) {
    return GroupStream(set_, renderer_, retriever_.get(), nullptr, options);
  }

  static Groups all(GroupStream& stream) {
    Groups groups;
    while (auto group = stream.next_group()) groups.push_back(std::move(*group));
    return groups;
  }

  const TrainingRow& row_of(const TrainingSequence& sequence) {
    const std::string id = sequence.id.substr(0, sequence.id.find('#'));
    return set_.rows.at(std::stoul(id.substr(1)));
  }
  static bool refuses(const TrainingSequence& sequence) { return targets_of(sequence) == kRefusal; }

  // What must hold for every group whatever the options.
  void check(const Groups& groups) {
    std::set<std::string> ids;
    std::set<int64_t> numbers;
    for (const auto& group : groups) {
      ASSERT_FALSE(group.empty());
      ASSERT_TRUE(numbers.insert(group[0].group).second) << "a group's number is its own";
      for (const TrainingSequence& sequence : group) {
        ASSERT_TRUE(ids.insert(sequence.id).second) << sequence.id << " is there twice";
        ASSERT_EQ(sequence.group, group[0].group);
        ASSERT_EQ(sequence.is_target.size(), sequence.tokens.size());
        check_reply(sequence);
      }
    }
  }
  void check_reply(const TrainingSequence& sequence) {
    const TrainingRow& row = row_of(sequence);
    const std::string prompt = prompt_of(sequence);
    ASSERT_THAT(prompt, HasSubstr(row.question));
    const std::string passages = prompt.substr(0, prompt.find("Using the text above"));
    if (refuses(sequence)) {
      EXPECT_EQ(passages.find(row.answers[0]), std::string::npos) << prompt;
    } else {
      EXPECT_EQ(targets_of(sequence), row.answers[0] + "<|end|>");
      EXPECT_THAT(passages, HasSubstr(fact_of(row.gold)));
    }
  }
  static size_t count_passages(const TrainingSequence& sequence) {
    const std::string prompt = prompt_of(sequence);
    size_t count = 0;
    while (prompt.find(concat("\n[", count + 1, "] ")) != std::string::npos ||
           prompt.find(concat("user\n[", count + 1, "] ")) != std::string::npos) {
      ++count;
    }
    return count;
  }

  TrainingSet set_;
  std::shared_ptr<LoadedGenerator> generator_;
  SequenceRenderer renderer_;
  std::unique_ptr<Retriever> retriever_;
};

TEST_F(GroupStreamTest, GivenPassagesAreSharedByTheirQuestions) {
  GroupStream given = stream(options_for(PassageSource::kGiven));
  const Groups groups = all(given);
  check(groups);
  EXPECT_EQ(groups.size(), static_cast<size_t>(kTowns));
  for (const auto& group : groups) EXPECT_EQ(group.size(), 3U);
  EXPECT_EQ(given.summary().sequences, 3 * kTowns);
  EXPECT_EQ(given.summary().unanswerable, 0);
  EXPECT_EQ(given.summary().rows, 3 * kTowns);
}

TEST_F(GroupStreamTest, QuestionsPerGroupSplitsAListOfPassages) {
  GroupOptions options = options_for(PassageSource::kGiven);
  options.questions_per_group = 2;
  GroupStream given = stream(options);
  std::map<size_t, int> sizes;
  for (const auto& group : all(given)) ++sizes[group.size()];
  EXPECT_EQ(sizes, (std::map<size_t, int>{{1, kTowns}, {2, kTowns}}));
}

TEST_F(GroupStreamTest, GoldStandsAloneAndQuestionsOfTheSameTitleAreRefused) {
  GroupOptions options = options_for(PassageSource::kGold);
  options.unanswerable_share = 0.25;
  GroupStream gold = stream(options);
  const Groups groups = all(gold);
  check(groups);
  for (const auto& group : groups) {
    for (const TrainingSequence& sequence : group) EXPECT_EQ(count_passages(sequence), 1U);
  }
  EXPECT_EQ(gold.summary().sequences - gold.summary().unanswerable, 3 * kTowns);
  EXPECT_NEAR(gold.summary().unanswerable_share(), 0.25, 0.08);
}

TEST_F(GroupStreamTest, MixedGroupsKeepEveryPromise) {
  index();
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    GroupStream mixed = stream(options_for(PassageSource::kMixed, seed));
    const Groups groups = all(mixed);
    check(groups);
    std::map<size_t, int> passages;
    for (const auto& group : groups) {
      ++passages[count_passages(group[0])];
      for (const TrainingSequence& other : group) {
        const std::string first = prompt_of(group[0]);
        const size_t shared = first.find("Using the text above");
        EXPECT_EQ(prompt_of(other).substr(0, shared), first.substr(0, shared));
      }
    }
    EXPECT_GT(passages[1], 0);
    EXPECT_GT(passages[3], 0);
    EXPECT_EQ(passages.size(), passages.count(2) + 2);
    EXPECT_GT(mixed.summary().unanswerable_share(), 0.08);
    EXPECT_LT(mixed.summary().unanswerable_share(), 0.35);
    EXPECT_LT(groups.size(), 2U * kTowns) << "questions share passages";
  }
}

TEST_F(GroupStreamTest, EveryQuestionIsAskedOnceWhenNoneIsRefused) {
  index();
  GroupOptions options = options_for(PassageSource::kRetrieved);
  options.unanswerable_share = 0.0;
  GroupStream retrieved = stream(options);
  const Groups groups = all(retrieved);
  check(groups);
  EXPECT_EQ(retrieved.summary().sequences, 3 * kTowns);
  EXPECT_EQ(retrieved.summary().unanswerable, 0);
}

TEST_F(GroupStreamTest, AMissingGoldIsPutInAtAnyRank) {
  std::set<int> missing;
  for (int town = 0; town < kTowns; town += 2) missing.insert(town);
  index(missing);
  GroupOptions options = options_for(PassageSource::kRetrieved);
  options.unanswerable_share = 0.0;
  GroupStream retrieved = stream(options);
  const Groups groups = all(retrieved);
  check(groups);
  EXPECT_EQ(retrieved.summary().sequences, 3 * kTowns);
  std::set<size_t> ranks;
  for (const auto& group : groups) {
    const TrainingRow& row = row_of(group[0]);
    if (missing.count(row.gold) == 0) continue;
    const std::string prompt = prompt_of(group[0]);
    ranks.insert(static_cast<size_t>(
        std::count(prompt.begin(),
                   prompt.begin() + static_cast<int64_t>(prompt.find(fact_of(row.gold))), '[')));
  }
  EXPECT_EQ(ranks, (std::set<size_t>{1, 2, 3}));
}

TEST_F(GroupStreamTest, ARemovedGoldMakesItsOwnNeighborhoodUnanswerable) {
  index();
  GroupOptions options = options_for(PassageSource::kRetrieved);
  options.gold_removed_share = 1.0;
  GroupStream retrieved = stream(options);
  const Groups groups = all(retrieved);
  check(groups);
  int refused_first = 0;
  for (const auto& group : groups) refused_first += refuses(group[0]) ? 1 : 0;
  EXPECT_GT(refused_first, static_cast<int>(groups.size()) / 2);
}

TEST_F(GroupStreamTest, APassageThatHoldsTheAnswerByChanceRefusesNobody) {
  for (TrainingRow& row : set_.rows) row.answers = {"stone bridge"};
  index();
  GroupStream mixed = stream(options_for(PassageSource::kMixed));
  check(all(mixed));
  EXPECT_EQ(mixed.summary().unanswerable, 0);
}

TEST_F(GroupStreamTest, OrderDependsOnSeedAndEpochAlone) {
  index();
  const auto ids = [&](uint64_t seed, int64_t epoch) {
    GroupStream mixed = stream(options_for(PassageSource::kMixed, seed));
    mixed.start_epoch(epoch);
    std::vector<std::string> ids;
    for (const auto& group : all(mixed)) {
      for (const TrainingSequence& sequence : group) {
        ids.push_back(concat(sequence.id, text_of(sequence.tokens)));
      }
    }
    return ids;
  };
  EXPECT_EQ(ids(1, 0), ids(1, 0));
  EXPECT_NE(ids(1, 0), ids(1, 1));
  EXPECT_NE(ids(1, 0), ids(2, 0));
}

void expect_same(const Groups& actual, const Groups& expected, size_t from) {
  ASSERT_EQ(actual.size(), expected.size() - from);
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].size(), expected[from + i].size());
    for (size_t j = 0; j < actual[i].size(); ++j) {
      EXPECT_EQ(actual[i][j].id, expected[from + i][j].id);
      EXPECT_EQ(actual[i][j].tokens, expected[from + i][j].tokens);
      EXPECT_EQ(actual[i][j].group, expected[from + i][j].group);
    }
  }
}

TEST_F(GroupStreamTest, ARestoredStateContinuesExactly) {
  index();
  const GroupOptions options = options_for(PassageSource::kMixed);
  GroupStream whole = stream(options);
  whole.start_epoch(1);
  std::vector<DataState> states = {whole.state()};
  Groups groups;
  while (auto group = whole.next_group()) {
    groups.push_back(std::move(*group));
    states.push_back(whole.state());
  }
  for (size_t at = 0; at < states.size(); at += 5) {
    GroupStream restored = stream(options);
    restored.restore(data_state_from_json(to_json(states[at]), "run"));
    expect_same(all(restored), groups, at);
    DataState position_only = states[at];
    position_only.used = {};
    GroupStream replayed = stream(options);
    if (at > 0) {
      replayed.restore(position_only);
      expect_same(all(replayed), groups, at);
    }
  }
}

std::string error_of_call(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(GroupStreamTest, AStateOfAnotherRunIsRefused) {
  GroupStream given = stream(options_for(PassageSource::kGiven, 1));
  DataState state = stream(options_for(PassageSource::kGiven, 2)).state();
  EXPECT_EQ(error_of_call([&] { given.restore(state); }),
            "the data state was made with seed 2, this run has 1");
  state = given.state();
  state.used.asked.resize(5);
  EXPECT_EQ(error_of_call([&] { given.restore(state); }),
            "the data state is of a set of 5 rows, this one has 72");
  Json damaged = to_json(given.state());
  damaged["asked"] = "xyz";
  EXPECT_EQ(error_of_call([&] { data_state_from_json(damaged, "state.json"); }),
            "state.json: data state: asked: found 3 digits for 72 rows");
  damaged["cursor"] = -1;
  EXPECT_EQ(error_of_call([&] { data_state_from_json(damaged, "state.json"); }),
            "state.json: data state: no whole number \"cursor\"");
}

TEST_F(GroupStreamTest, QuestionsWithoutGoldAreAskedOfWhatIsFound) {
  index();
  for (TrainingRow& row : set_.rows) {
    row.gold = -1;
    row.gold_ids.clear();
    row.answers = {"A free answer."};
  }
  GroupStream mixed = stream(options_for(PassageSource::kMixed));
  const Groups groups = all(mixed);
  EXPECT_EQ(groups.size(), set_.rows.size());
  for (const auto& group : groups) {
    EXPECT_EQ(group.size(), 1U);
    EXPECT_EQ(targets_of(group[0]), "A free answer.<|end|>");
    EXPECT_GE(count_passages(group[0]), 1U);
  }
}

TEST_F(GroupStreamTest, GoldIdsThatTheIndexLacksAreCountedAsLeftOut) {
  index();
  for (TrainingRow& row : set_.rows) {
    row.gold = -1;
    row.gold_ids = {"elsewhere"};
  }
  GroupStream retrieved = stream(options_for(PassageSource::kRetrieved));
  all(retrieved);
  EXPECT_GT(
      retrieved.summary().skipped.at("no gold passage in the data, and none found in the index"),
      40);
}

TEST_F(GroupStreamTest, HybridSearchEmbedsInBatches) {
  index();
  GroupOptions options = options_for(PassageSource::kMixed);
  options.retrieval_mode = SearchMode::kHybrid;
  const std::shared_ptr<const Embedder> embedder = letter_embedder();
  GroupStream mixed(set_, renderer_, retriever_.get(), embedder.get(), options);
  check(all(mixed));
  EXPECT_GT(mixed.summary().sequences, 2 * kTowns);
}

TEST_F(GroupStreamTest, RowsThatTheDataCallsUnanswerableGetTheFixedReply) {
  for (size_t i = 0; i < set_.rows.size(); i += 3) set_.rows[i].answers.clear();
  GroupStream given = stream(options_for(PassageSource::kGiven));
  const Groups groups = all(given);
  EXPECT_EQ(given.summary().unanswerable, kTowns);
  EXPECT_NEAR(given.summary().unanswerable_share(), 1.0 / 3.0, 1e-9);
}

TEST_F(GroupStreamTest, TooLongIsAnErrorOrCounted) {
  set_.rows[4].question = std::string(4200, 'q');
  GroupOptions options = options_for(PassageSource::kGiven);
  EXPECT_THAT(error_of_call([&] {
                GroupStream given = stream(options);
                all(given);
              }),
              HasSubstr("data.jsonl:5: row q4: the question takes "));
  options.too_long = TooLong::kSkip;
  GroupStream given = stream(options);
  all(given);
  EXPECT_EQ(given.summary().sequences, 3 * kTowns - 1);
  EXPECT_EQ(given.summary().skipped.at("longer than max_seq_len"), 1);
}

TEST_F(GroupStreamTest, AnAnswerThatWasCutAwayIsCountedAsLeftOut) {
  Passage passage;
  for (int i = 0; i < 100; ++i) passage.text += "Nothing is said in this sentence. ";
  passage.text += "It was Zoe.";
  set_.passages.push_back(passage);
  add_question(kTowns, "Who was it?", "Zoe");
  add_question(kTowns, "What is said?", "Nothing");
  GroupStream given = stream(options_for(PassageSource::kGold));
  all(given);
  EXPECT_EQ(
      given.summary().skipped.at("the passage that holds the answer does not fit max_seq_len"), 1);
}

TEST_F(GroupStreamTest, LongPassagesLeaveARetrievedGroupButNotItsGold) {
  RenderOptions small;
  small.max_seq_len = 620;
  const SequenceRenderer renderer(*generator_, small);
  index();
  GroupStream mixed(set_, renderer, retriever_.get(), nullptr, options_for(PassageSource::kMixed));
  const Groups groups = all(mixed);
  check(groups);
  for (const auto& group : groups) EXPECT_LE(count_passages(group[0]), 2U);
}

TEST_F(GroupStreamTest, ChatsAreGroupsOfTheirOwn) {
  TrainingRow chat;
  chat.kind = TrainingRow::Kind::kChat;
  chat.id = "chat";
  chat.messages = {{"user", "Hi"}, {"assistant", "Hello"}};
  chat.learned = {0, 1};
  set_.rows.push_back(chat);
  index();
  GroupStream mixed = stream(options_for(PassageSource::kMixed));
  int chats = 0;
  for (const auto& group : all(mixed)) {
    if (group[0].id != "chat") continue;
    ++chats;
    EXPECT_EQ(group.size(), 1U);
    EXPECT_EQ(targets_of(group[0]), "Hello<|end|>");
  }
  EXPECT_EQ(chats, 1);
}

TEST_F(GroupStreamTest, OptionsAreChecked) {
  const auto failure = [&](const GroupOptions& options) {
    return error_of_call([&] { stream(options); });
  };
  EXPECT_EQ(failure(options_for(PassageSource::kMixed)),
            "retrieved passages need an index to take them from, and none was given");
  index();
  GroupOptions options = options_for(PassageSource::kMixed);
  options.retrieval_mode = SearchMode::kHybrid;
  EXPECT_EQ(failure(options),
            "retrieval by vectors needs the index's embedder: load it, or retrieve lexically");
  options = options_for(PassageSource::kMixed);
  options.gold_share = 1.5;
  EXPECT_EQ(failure(options), "gold_share is 1.5, wanted 0 to 1");
  options = options_for(PassageSource::kMixed);
  options.top_k = 0;
  EXPECT_EQ(failure(options), "top_k is 0, wanted 1 to 100");
  set_.rows[7].gold = -1;
  EXPECT_EQ(
      failure(options_for(PassageSource::kGold)),
      "data.jsonl:8: row q7 has 1 passages, none known to hold the answer: \"gold\" wants one");
  EXPECT_EQ(error_of_call([] { parse_passage_source("best"); }),
            "passages \"best\" is unknown: use given, gold, retrieved or mixed");
  EXPECT_EQ(parse_passage_source("mixed"), PassageSource::kMixed);
}

}  // namespace
}  // namespace quarry
