#include "finetune/data/group_stream.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "data/core/error.h"
#include "finetune/data/random_order.h"
#include "finetune/data/text_match.h"

namespace quarry {
namespace {

// Rows of the order that are offered for searching ahead: enough to fill a batch of searches.
constexpr size_t kRowsAhead = 64;

bool hits_hold(const std::vector<Hit>& hits, const std::vector<std::string>& answers) {
  return std::any_of(hits.begin(), hits.end(), [&](const Hit& hit) {
    return holds_any(passage_match_key(hit.passage), answers);
  });
}

// Whether the prompt lost the answer with what was cut from the passages.
bool lost_answer(const std::vector<Citation>& citations, const std::vector<Hit>& passages,
                 const std::vector<std::string>& answers) {
  if (answers.empty() || is_whole(citations, passages) || !hits_hold(passages, answers)) {
    return false;
  }
  std::vector<Hit> left;
  left.reserve(citations.size());
  for (const Citation& citation : citations) left.push_back(citation.hit);
  return !hits_hold(left, answers);
}

}  // namespace

GroupStream::GroupStream(const TrainingSet& set, const SequenceRenderer& renderer,
                         const Retriever* retriever, const Embedder* embedder,
                         const GroupOptions& options)
    : planner_(set, renderer, retriever, embedder, options) {
  summary_.rows = static_cast<int64_t>(set.rows.size());
  summary_.skipped = set.skipped;
  state_.seed = options.seed;
  start_epoch(0);
}

void GroupStream::start_epoch(int64_t epoch) {
  state_.epoch = epoch;
  state_.position = 0;
  state_.cursor = 0;
  state_.used.asked.assign(planner_.set().rows.size(), 0);
  state_.used.refused.assign(planner_.set().rows.size(), 0);
  order_rows();
}

void GroupStream::order_rows() {
  order_.resize(planner_.set().rows.size());
  std::iota(order_.begin(), order_.end(), 0);
  SplitMix64 random = stream_of(state_.seed, static_cast<uint64_t>(state_.epoch), 0);
  shuffle(order_, random);
}

// Moves the cursor to the next row that no group has asked.
bool GroupStream::at_end() {
  const auto size = static_cast<int64_t>(order_.size());
  const auto is_asked = [this](int64_t at) {
    return state_.used.asked[static_cast<size_t>(order_[static_cast<size_t>(at)])] != 0;
  };
  while (state_.cursor < size && is_asked(state_.cursor)) ++state_.cursor;
  return state_.cursor == size;
}

// REQUIRES: !at_end().
GroupPlan GroupStream::next_plan() {
  const auto begin = order_.begin() + state_.cursor;
  const auto count = std::min<int64_t>(kRowsAhead, order_.end() - begin);
  GroupPlan plan = planner_.plan(state_.epoch, *begin, state_.used, {begin, begin + count});
  ++state_.cursor;
  ++state_.position;
  for (const GroupPlan::Question& question : plan.questions) {
    UsedRows& used = state_.used;
    (question.refused ? used.refused : used.asked)[static_cast<size_t>(question.row)] = 1;
  }
  return plan;
}

std::optional<std::vector<TrainingSequence>> GroupStream::next_group() {
  while (!at_end()) {
    const GroupPlan plan = next_plan();
    if (!plan.skipped.empty()) ++summary_.skipped[plan.skipped];
    std::vector<TrainingSequence> sequences = render(plan);
    if (sequences.empty()) continue;
    ++summary_.groups;
    for (const TrainingSequence& sequence : sequences) summary_.add(sequence);
    return sequences;
  }
  return std::nullopt;
}

std::vector<TrainingSequence> GroupStream::render(const GroupPlan& plan) {
  std::vector<TrainingSequence> sequences;
  for (const GroupPlan::Question& question : plan.questions) {
    const TrainingRow& row = planner_.set().rows[static_cast<size_t>(question.row)];
    if (row.kind == TrainingRow::Kind::kQuestion) {
      render_question(plan, question, sequences);
      continue;
    }
    Rendered rendered = planner_.renderer().messages(row);
    if (!rendered.too_long.empty()) too_long(row, rendered.too_long);
    std::move(rendered.sequences.begin(), rendered.sequences.end(), std::back_inserter(sequences));
  }
  // One number for each group of a run, past epochs' ends too.
  const auto rows = static_cast<int64_t>(planner_.set().rows.size());
  const int64_t group = state_.epoch * rows + state_.position - 1;
  for (TrainingSequence& sequence : sequences) sequence.group = group;
  return sequences;
}

void GroupStream::render_question(const GroupPlan& plan, const GroupPlan::Question& question,
                                  std::vector<TrainingSequence>& sequences) {
  const TrainingRow& row = planner_.set().rows[static_cast<size_t>(question.row)];
  const bool refuses = question.refused || row.answers.empty();
  const SequenceRenderer& renderer = planner_.renderer();
  Rendered rendered = renderer.question(
      row, plan.passages, refuses ? renderer.options().form.not_in_documents : row.answers.front());
  if (!rendered.too_long.empty()) return too_long(row, rendered.too_long);
  if (!refuses && lost_answer(rendered.citations, plan.passages, row.answers)) {
    ++summary_.skipped["the passage that holds the answer does not fit max_seq_len"];
    return;
  }
  TrainingSequence& sequence = rendered.sequences.front();
  if (question.refused) sequence.id += "#unanswerable";
  if (refuses) ++summary_.unanswerable;
  sequences.push_back(std::move(sequence));
}

void GroupStream::too_long(const TrainingRow& row, const std::string& reason) {
  QUARRY_CHECK(planner_.options().too_long == TooLong::kSkip, ErrorCode::kInvalidArgument,
               row.where, ": row ", row.id, ": ", reason);
  ++summary_.skipped["longer than max_seq_len"];
}

void GroupStream::restore(const DataState& state) {
  const size_t rows = planner_.set().rows.size();
  QUARRY_CHECK(state.seed == state_.seed, ErrorCode::kInvalidArgument,
               "the data state was made with seed ", state.seed, ", this run has ", state_.seed);
  const bool replay = state.used.asked.empty() && state.position > 0;
  const bool fits =
      replay || (state.used.asked.size() == rows && state.used.refused.size() == rows &&
                 state.cursor <= static_cast<int64_t>(rows));
  QUARRY_CHECK(fits, ErrorCode::kInvalidArgument, "the data state is of a set of ",
               state.used.asked.size(), " rows, this one has ", rows);
  if (!replay) {
    state_ = state;
    return order_rows();
  }
  start_epoch(state.epoch);
  while (state_.position < state.position) {
    QUARRY_CHECK(!at_end(), ErrorCode::kInvalidArgument, "the data state stands at group ",
                 state.position, ", but epoch ", state.epoch, " of this set has only ",
                 state_.position);
    next_plan();
  }
}

}  // namespace quarry
