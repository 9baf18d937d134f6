#include "finetune/recipes/rag_stream.h"

#include <algorithm>
#include <utility>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "finetune/data/passage_matcher.h"
#include "finetune/data/random_order.h"
#include "finetune/data/text_match.h"

namespace quarry {

RagStream::RagStream(const TrainingSet& set, const SequenceRenderer& renderer,
                     const PassageFinder& finder, const Embedder& embedder,
                     const RagStreamOptions& options)
    : set_(set), renderer_(renderer), finder_(finder), embedder_(embedder), options_(options) {
  summary_.rows = static_cast<int64_t>(set.rows.size());
  summary_.skipped = set.skipped;
  for (size_t i = 0; i < set.rows.size(); ++i) {
    const TrainingRow& row = set.rows[i];
    QUARRY_CHECK(row.kind == TrainingRow::Kind::kQuestion, ErrorCode::kInvalidArgument, row.where,
                 ": row ", row.id,
                 " is no question with an answer, for which passages could be found");
    if (row.answers.empty()) {
      ++summary_.skipped["no answer to learn"];
    } else {
      answered_.push_back(static_cast<int32_t>(i));
    }
  }
  QUARRY_CHECK(!answered_.empty(), ErrorCode::kInvalidArgument,
               "the training data has no question with an answer");
  state_.seed = options.seed;
  start_epoch(0);
}

void RagStream::start_epoch(int64_t epoch) {
  state_.epoch = epoch;
  state_.position = 0;
  state_.cursor = 0;
  order_rows();
}

void RagStream::order_rows() {
  order_ = answered_;
  SplitMix64 random = stream_of(state_.seed, static_cast<uint64_t>(state_.epoch), 0);
  shuffle(order_, random);
}

bool RagStream::at_end() const { return state_.cursor == num_rows(); }

std::vector<RagExample> RagStream::next(int64_t rows) {
  const int64_t end = std::min(state_.cursor + rows, num_rows());
  std::vector<std::string> questions;
  for (int64_t at = state_.cursor; at < end; ++at) {
    questions.push_back(set_.rows[static_cast<size_t>(order_[static_cast<size_t>(at)])].question);
  }
  const std::vector<float> vectors = embedder_.embed_queries(questions);
  std::vector<LatentPassages> found = finder_.find(questions, vectors, options_.top_k);
  const auto dim = static_cast<size_t>(embedder_.dim());
  std::vector<RagExample> examples;
  for (size_t i = 0; state_.cursor < end; ++i, ++state_.cursor, ++state_.position) {
    const auto index = static_cast<size_t>(order_[static_cast<size_t>(state_.cursor)]);
    RagExample example;
    if (!make_example(set_.rows[index], std::move(found[i]), example)) continue;
    example.query_vector.assign(vectors.data() + i * dim, vectors.data() + (i + 1) * dim);
    for (TrainingSequence& sequence : example.sequences) {
      sequence.group = state_.epoch * num_rows() + state_.cursor;
      summary_.add(sequence);
    }
    ++summary_.groups;
    examples.push_back(std::move(example));
  }
  return examples;
}

// False when the row was left out.
bool RagStream::make_example(const TrainingRow& row, LatentPassages found, RagExample& example) {
  QUARRY_CHECK(!found.hits.empty(), ErrorCode::kInvalidArgument,
               "the index holds no passage to learn from");
  example.question = row.question;
  for (const Hit& hit : found.hits) {
    Rendered rendered = renderer_.question(row, {hit}, row.answers.front());
    if (!rendered.too_long.empty()) {
      QUARRY_CHECK(options_.too_long == TooLong::kSkip, ErrorCode::kInvalidArgument, row.where,
                   ": row ", row.id, ": ", rendered.too_long);
      ++summary_.skipped["longer than max_seq_len"];
      return false;
    }
    rendered.sequences.front().id = concat(row.id, "#", example.sequences.size() + 1);
    example.sequences.push_back(std::move(rendered.sequences.front()));
    example.passage_ids.push_back(hit.passage.id);
    example.scores.push_back(hit.score);
    example.passage_texts.push_back(embedding_text(hit.passage));
    example.holds_answer |= holds_any(passage_match_key(hit.passage), row.answers);
  }
  example.passage_vectors = std::move(found.vectors);
  return true;
}

void RagStream::restore(const DataState& state) {
  QUARRY_CHECK(state.seed == state_.seed, ErrorCode::kInvalidArgument,
               "the data state was made with seed ", state.seed, ", this run has ", state_.seed);
  QUARRY_CHECK(state.cursor <= num_rows(), ErrorCode::kInvalidArgument,
               "the data state stands at row ", state.cursor, " of an epoch, this set has ",
               num_rows());
  state_ = state;
  order_rows();
}

}  // namespace quarry
