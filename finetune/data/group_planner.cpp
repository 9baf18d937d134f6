#include "finetune/data/group_planner.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_set>
#include <utility>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "finetune/data/random_order.h"
#include "finetune/data/text_match.h"

namespace quarry {
namespace {

// Hits behind the group's own whose questions the group does not answer.
constexpr int64_t kHitsBelow = 7;
// Searches run together: enough to embed as a batch and to keep the threads busy.
constexpr size_t kSearchBatch = 16;
// Same-title passages whose questions a gold passage alone does not answer.
constexpr size_t kTitleNeighbors = 8;
// Tokens that the group's other questions and replies may have more than the anchor's.
constexpr int64_t kQuestionSlack = 64;
constexpr double kFullListShare = 0.5;
// Of so many random candidates for a question asked in vain, the one nearest to the passages.
constexpr size_t kNearestOf = 4;

}  // namespace

PassageSource parse_passage_source(const std::string& text) {
  if (text == "given") return PassageSource::kGiven;
  if (text == "gold") return PassageSource::kGold;
  if (text == "retrieved") return PassageSource::kRetrieved;
  if (text == "mixed") return PassageSource::kMixed;
  throw_error(ErrorCode::kInvalidArgument, "passages \"", text,
              "\" is unknown: use given, gold, retrieved or mixed");
}

void check_group_options(const GroupOptions& options) {
  const auto check_share = [](const char* name, double value, double limit) {
    QUARRY_CHECK(value >= 0.0 && value <= limit, ErrorCode::kInvalidArgument, name, " is ", value,
                 ", wanted 0 to ", limit);
  };
  check_share("gold_share", options.gold_share, 1.0);
  check_share("unanswerable_share", options.unanswerable_share, 0.9);
  check_share("gold_removed_share", options.gold_removed_share, 1.0);
  QUARRY_CHECK(options.top_k >= 1 && options.top_k <= 100, ErrorCode::kInvalidArgument, "top_k is ",
               options.top_k, ", wanted 1 to 100");
  QUARRY_CHECK(options.questions_per_group >= 1, ErrorCode::kInvalidArgument,
               "questions_per_group is ", options.questions_per_group, ", wanted at least 1");
}

struct GroupPlanner::Pool {
  std::vector<Hit> passages;
  bool refuse_anchor = false;
  std::vector<int32_t> unanswered;  // rows to ask in vain, before any check
  std::string skipped;
};

GroupPlanner::GroupPlanner(const TrainingSet& set, const SequenceRenderer& renderer,
                           const Retriever* retriever, const Embedder* embedder,
                           const GroupOptions& options)
    : set_(set),
      renderer_(renderer),
      retriever_(retriever),
      embedder_(embedder),
      options_(options),
      matcher_(set) {
  check_group_options(options);
  const bool searches = options.passages == PassageSource::kRetrieved ||
                        (options.passages == PassageSource::kMixed && options.gold_share < 1.0);
  QUARRY_CHECK(!searches || retriever != nullptr, ErrorCode::kInvalidArgument,
               "retrieved passages need an index to take them from, and none was given");
  QUARRY_CHECK(!searches || options.retrieval_mode == SearchMode::kLexical || embedder != nullptr,
               ErrorCode::kInvalidArgument,
               "retrieval by vectors needs the index's embedder: load it, or retrieve lexically");
  std::map<std::vector<int32_t>, int32_t> lists;
  for (size_t i = 0; i < set.rows.size(); ++i) {
    const TrainingRow& row = set.rows[i];
    const bool is_question = row.kind == TrainingRow::Kind::kQuestion;
    QUARRY_CHECK(!is_question || row.gold >= 0 || options.passages != PassageSource::kGold,
                 ErrorCode::kInvalidArgument, row.where, ": row ", row.id, " has ",
                 row.passages.size(),
                 " passages, none known to hold the answer: \"gold\" wants one");
    const auto [list, added] = lists.emplace(row.passages, static_cast<int32_t>(lists.size()));
    if (added) rows_of_list_.emplace_back();
    list_of_row_.push_back(is_question && !row.passages.empty() ? list->second : -1);
    if (list_of_row_.back() >= 0) {
      rows_of_list_[static_cast<size_t>(list->second)].push_back(static_cast<int32_t>(i));
    }
  }
}

// Each anchor's choices are drawn from a stream of its own, so that they can be foreseen and do not
// depend on what was planned before.
SplitMix64 GroupPlanner::random_of(int64_t epoch, int32_t anchor) const {
  return stream_of(options_.seed, static_cast<uint64_t>(epoch), static_cast<uint64_t>(anchor) + 1);
}

bool GroupPlanner::wants_search(int64_t epoch, int32_t anchor) const {
  if (row(anchor).kind != TrainingRow::Kind::kQuestion) return false;
  if (options_.passages == PassageSource::kRetrieved) return true;
  if (options_.passages != PassageSource::kMixed) return false;
  if (row(anchor).gold < 0) return true;
  return random_of(epoch, anchor).next_unit() >= options_.gold_share;
}

GroupPlan GroupPlanner::plan(int64_t epoch, int32_t anchor, const UsedRows& used,
                             const std::vector<int32_t>& anchors_ahead) {
  SplitMix64 random = random_of(epoch, anchor);
  random.next_unit();  // wants_search()'s
  if (row(anchor).kind != TrainingRow::Kind::kQuestion ||
      options_.passages == PassageSource::kGiven) {
    return plan_given(anchor, used, random);
  }
  Pool pool;
  if (wants_search(epoch, anchor)) {
    if (retriever_ == nullptr) {
      pool.skipped = "no gold passage in the data and no index";
    } else {
      search_ahead(epoch, anchor, used, anchors_ahead);
      pool = pool_of_search(anchor, used, random);
    }
  } else {
    pool = pool_of_gold(anchor, random);
  }
  if (!pool.skipped.empty()) {
    GroupPlan plan;
    plan.skipped = pool.skipped;
    return plan;
  }
  fit(anchor, pool);
  return fill(anchor, used, random, std::move(pool));
}

void GroupPlanner::search_ahead(int64_t epoch, int32_t anchor, const UsedRows& used,
                                const std::vector<int32_t>& anchors_ahead) {
  if (searches_.count(anchor) > 0) return;
  searches_.clear();  // of rows that have joined a group meanwhile
  std::vector<int32_t> batch = {anchor};
  for (const int32_t next : anchors_ahead) {
    if (batch.size() == kSearchBatch) break;
    const bool is_free = next != anchor && used.asked[static_cast<size_t>(next)] == 0;
    if (is_free && wants_search(epoch, next)) batch.push_back(next);
  }
  SearchOptions search;
  search.mode = options_.retrieval_mode;
  search.top_k = options_.top_k + kHitsBelow;
  std::vector<float> vectors;
  if (search.mode != SearchMode::kLexical) {
    std::vector<std::string> queries;
    queries.reserve(batch.size());
    for (const int32_t next : batch) queries.push_back(row(next).question);
    vectors = embedder_->embed_queries(queries);
  }
  std::vector<std::vector<Hit>> found(batch.size());
  parallel_for(static_cast<int64_t>(batch.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* vector = vectors.empty() ? nullptr : vectors.data() + i * embedder_->dim();
      const auto at = static_cast<size_t>(i);
      found[at] = retriever_->search(row(batch[at]).question, vector, search);
    }
  });
  for (size_t i = 0; i < batch.size(); ++i) searches_[batch[i]] = std::move(found[i]);
}

GroupPlan GroupPlanner::plan_given(int32_t anchor, const UsedRows& used, SplitMix64& random) const {
  GroupPlan plan;
  plan.questions.push_back({anchor, false});
  const int32_t list = list_of_row_[static_cast<size_t>(anchor)];
  if (list < 0) return plan;
  for (const int32_t index : row(anchor).passages) {
    Hit hit;
    hit.passage = set_.passages[static_cast<size_t>(index)];
    plan.passages.push_back(std::move(hit));
  }
  std::vector<int32_t> others = rows_of_list_[static_cast<size_t>(list)];
  shuffle(others, random);
  for (const int32_t other : others) {
    if (static_cast<int64_t>(plan.questions.size()) == options_.questions_per_group) break;
    if (other == anchor || used.asked[static_cast<size_t>(other)] != 0) continue;
    plan.questions.push_back({other, false});
  }
  return plan;
}

std::optional<Hit> GroupPlanner::gold_hit(int32_t anchor) const {
  const int32_t gold = row(anchor).gold;
  if (gold < 0) return std::nullopt;
  Hit hit;
  hit.passage = set_.passages[static_cast<size_t>(gold)];
  return hit;
}

bool GroupPlanner::is_gold(const Passage& passage, int32_t anchor) const {
  const std::vector<PassageMatcher::Match> matches = matcher_.match(passage);
  return std::any_of(matches.begin(), matches.end(), [anchor](const PassageMatcher::Match& match) {
    return match.row == anchor && match.holds_answer;
  });
}

GroupPlanner::Pool GroupPlanner::pool_of_gold(int32_t anchor, SplitMix64& random) const {
  Pool pool;
  pool.passages = {*gold_hit(anchor)};
  std::vector<int32_t> neighbors = matcher_.golds_of_title(pool.passages.front().passage.title);
  shuffle(neighbors, random);
  if (neighbors.size() > kTitleNeighbors) neighbors.resize(kTitleNeighbors);
  for (const int32_t neighbor : neighbors) {
    const std::vector<int32_t>& rows = matcher_.rows_of_gold(neighbor);
    pool.unanswered.insert(pool.unanswered.end(), rows.begin(), rows.end());
  }
  return pool;
}

GroupPlanner::Pool GroupPlanner::pool_of_search(int32_t anchor, const UsedRows& used,
                                                SplitMix64& random) {
  const auto entry = searches_.find(anchor);
  const std::vector<Hit> found = std::move(entry->second);
  searches_.erase(entry);
  const bool is_full = random.next_unit() < kFullListShare;
  const int64_t count = is_full ? options_.top_k : 1 + below(random, options_.top_k);
  const bool refuse = random.next_unit() < options_.gold_removed_share;
  Pool pool;
  const bool can_refuse = options_.unanswerable_share > 0.0 && knows_gold(anchor) &&
                          !row(anchor).answers.empty() &&
                          used.refused[static_cast<size_t>(anchor)] == 0;
  if (refuse && can_refuse && remove_gold(anchor, count, found, pool)) return pool;
  for (size_t i = 0; i < found.size(); ++i) {
    if (i < static_cast<size_t>(count)) {
      pool.passages.push_back(found[i]);
      continue;
    }
    for (const PassageMatcher::Match& match : matcher_.match(found[i].passage)) {
      pool.unanswered.push_back(match.row);
    }
  }
  if (knows_gold(anchor)) put_gold_in(anchor, found, random, pool);
  if (pool.passages.empty()) pool.skipped = "the index finds nothing for the question";
  return pool;
}

// The first `count` hits that neither are the anchor's gold nor hold its answer. False: none is
// left.
bool GroupPlanner::remove_gold(int32_t anchor, int64_t count, const std::vector<Hit>& found,
                               Pool& pool) const {
  Pool without;
  without.refuse_anchor = true;
  for (const Hit& hit : found) {
    const std::vector<PassageMatcher::Match> matches = matcher_.match(hit.passage);
    const bool is_anchors =
        std::any_of(matches.begin(), matches.end(),
                    [anchor](const PassageMatcher::Match& match) { return match.row == anchor; });
    const bool answers =
        is_anchors || holds_any(passage_match_key(hit.passage), row(anchor).answers);
    if (!answers && static_cast<int64_t>(without.passages.size()) < count) {
      without.passages.push_back(hit);
      continue;
    }
    for (const PassageMatcher::Match& match : matches) without.unanswered.push_back(match.row);
  }
  if (without.passages.empty()) return false;
  pool = std::move(without);
  return true;
}

// When no passage of the pool is the anchor's gold, it replaces a random one: as the index has it
// when it was found further down, else as the data has it.
void GroupPlanner::put_gold_in(int32_t anchor, const std::vector<Hit>& found, SplitMix64& random,
                               Pool& pool) const {
  std::optional<Hit> gold;
  for (size_t i = 0; i < found.size() && !gold; ++i) {
    if (!is_gold(found[i].passage, anchor)) continue;
    if (i < pool.passages.size()) return;
    gold = found[i];
  }
  if (!gold) gold = gold_hit(anchor);
  if (!gold) {
    pool.skipped = "no gold passage in the data, and none found in the index";
    return;
  }
  const auto size = static_cast<int64_t>(pool.passages.size());
  if (size == 0) {
    pool.passages.push_back(std::move(*gold));
  } else {
    pool.passages[static_cast<size_t>(below(random, size))] = std::move(*gold);
  }
}

// Leaves out passages, last first, until the anchor's prompt holds them whole with some room for
// longer questions: a passage cut differently for each question could not be shared.
void GroupPlanner::fit(int32_t anchor, Pool& pool) const {
  const TrainingRow& question = row(anchor);
  const std::string reply =
      question.answers.empty() ? renderer_.options().form.not_in_documents : question.answers[0];
  const int64_t limit =
      std::min(renderer_.options().max_seq_len, renderer_.options().preferred_prompt_tokens) -
      kQuestionSlack;
  while (pool.passages.size() > 1) {
    const Rendered rendered = renderer_.question(question, pool.passages, reply);
    const bool whole = is_whole(rendered.citations, pool.passages);
    if (whole && rendered.sequences.front().num_tokens() <= limit) return;
    auto last = pool.passages.end() - 1;
    if (!pool.refuse_anchor && is_gold(last->passage, anchor)) --last;
    for (const PassageMatcher::Match& match : matcher_.match(last->passage)) {
      pool.unanswered.push_back(match.row);
    }
    pool.passages.erase(last);
  }
}

GroupPlan GroupPlanner::fill(int32_t anchor, const UsedRows& used, SplitMix64& random,
                             Pool&& pool) const {
  std::vector<int32_t> answered;
  for (const Hit& hit : pool.passages) {
    for (const PassageMatcher::Match& match : matcher_.match(hit.passage)) {
      const bool is_free = match.row != anchor && used.asked[static_cast<size_t>(match.row)] == 0;
      if (is_free && match.holds_answer) answered.push_back(match.row);
    }
  }
  std::sort(answered.begin(), answered.end());
  answered.erase(std::unique(answered.begin(), answered.end()), answered.end());
  shuffle(answered, random);
  const auto most = static_cast<int64_t>(std::llround(
      static_cast<double>(options_.questions_per_group) * (1.0 - options_.unanswerable_share)));
  GroupPlan plan;
  plan.questions.push_back({anchor, pool.refuse_anchor});
  const int64_t wanted = std::max<int64_t>(most, 1) - (pool.refuse_anchor ? 0 : 1);
  for (const int32_t other : answered) {
    if (static_cast<int64_t>(plan.questions.size()) > wanted) break;
    plan.questions.push_back({other, false});
  }
  plan.passages = pool.passages;
  add_unanswerable(used, random, pool, plan);
  return plan;
}

// A question about what the passages tell, whose answer they lack, is what an index without the
// answer serves: the reply must rest on the answer and not on the topic.
void GroupPlanner::nearest_first(const std::vector<std::string>& keys,
                                 std::vector<int32_t>& rows) const {
  std::vector<std::pair<double, int32_t>> ranked;
  for (const int32_t candidate : rows) {
    double nearest = 0.0;
    for (const std::string& key : keys) {
      nearest = std::max(nearest, share_of_words(key, row(candidate).question));
    }
    ranked.emplace_back(-nearest, candidate);
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < ranked.size(); ++i) rows[i] = ranked[i].second;
}

// Adds questions that the passages do not answer, as many as the share wants beside the answered.
void GroupPlanner::add_unanswerable(const UsedRows& used, SplitMix64& random, const Pool& pool,
                                    GroupPlan& plan) const {
  int64_t refused = 0;
  for (const GroupPlan::Question& question : plan.questions) {
    if (question.refused || row(question.row).answers.empty()) ++refused;
  }
  const double share = options_.unanswerable_share;
  const auto answered = static_cast<double>(static_cast<int64_t>(plan.questions.size()) - refused);
  const auto wanted =
      static_cast<int64_t>(answered * share / (1.0 - share) + random.next_unit()) - refused;
  if (wanted <= 0) return;
  std::vector<std::string> keys;
  std::unordered_set<int32_t> excluded;
  for (const GroupPlan::Question& question : plan.questions) excluded.insert(question.row);
  for (const Hit& hit : pool.passages) {
    keys.push_back(passage_match_key(hit.passage));
    for (const PassageMatcher::Match& match : matcher_.match(hit.passage)) {
      excluded.insert(match.row);
    }
  }
  std::vector<int32_t> candidates = pool.unanswered;
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  shuffle(candidates, random);
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&](int32_t candidate) {
                                    return row(candidate).answers.empty() ||
                                           used.refused[static_cast<size_t>(candidate)] != 0 ||
                                           excluded.count(candidate) > 0;
                                  }),
                   candidates.end());
  candidates.resize(std::min(candidates.size(), kNearestOf * static_cast<size_t>(wanted)));
  nearest_first(keys, candidates);
  int64_t added = 0;
  for (const int32_t candidate : candidates) {
    if (added == wanted) return;
    const bool answered_anyway = std::any_of(keys.begin(), keys.end(), [&](const std::string& key) {
      return holds_any(key, row(candidate).answers);
    });
    if (answered_anyway) continue;
    plan.questions.push_back({candidate, true});
    ++added;
  }
}

}  // namespace quarry
