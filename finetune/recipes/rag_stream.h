#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "finetune/data/group_options.h"
#include "finetune/data/render.h"
#include "finetune/data/row_order.h"
#include "finetune/data/summary.h"
#include "finetune/data/training_set.h"
#include "finetune/recipes/rag_passages.h"
#include "retriever/embedder.h"

namespace quarry {

// A question with its k passages, nearest first. The target of every sequence is the same answer.
struct RagExample {
  std::string question;
  std::vector<int64_t> passage_ids;         // [k]
  std::vector<double> scores;               // [k]: inner product of question and passage
  std::vector<float> query_vector;          // [dim]
  std::vector<float> passage_vectors;       // [k, dim]
  std::vector<std::string> passage_texts;   // [k]: what these vectors are made of
  std::vector<TrainingSequence> sequences;  // [k]: the question with that passage alone
  bool holds_answer = false;                // one of the passages spells it out
  // [k], or empty: with each passage that does not spell the answer out, the template's
  // not_in_documents as the target. None where that would pass max_seq_len.
  std::vector<std::optional<TrainingSequence>> refusals;
};

// Null: there is none with passage z.
const TrainingSequence* refusal_of(const RagExample& example, size_t z);
// Every sequence of the examples, one after the other; behind that of each passage its refusal,
// which begins alike.
std::vector<TrainingSequence> all_sequences(const std::vector<RagExample>& examples);

struct RagStreamOptions {
  int64_t top_k = 5;
  TooLong too_long = TooLong::kError;  // a question that exceeds max_seq_len without a passage
  uint64_t seed = 0;
  bool abstain = false;  // examples have refusals
};

// Questions of a set in the order that seed and epoch give, with the passages that the embedder, as
// it is when they are asked for, finds. Rows without an answer are left out. One thread.
class RagStream {
 public:
  // All are borrowed. Throws as answered_questions().
  RagStream(const TrainingSet& set, const SequenceRenderer& renderer, const PassageFinder& finder,
            const Embedder& embedder, const RagStreamOptions& options);

  // Examples of the next `rows` rows of this epoch, at most one each; none at its end. Throws
  // kInvalidArgument naming the row when it is too long and that is an error.
  std::vector<RagExample> next(int64_t rows);
  bool at_end() const { return order_.at_end(); }
  void start_epoch(int64_t epoch) { order_.start_epoch(epoch); }

  const DataState& state() const { return order_.state(); }
  void restore(const DataState& state) { order_.restore(state); }  // throws as RowOrder
  int64_t num_rows() const { return order_.num_rows(); }
  // Since the stream was made.
  const DataSummary& summary() const { return summary_; }

 private:
  bool make_example(const TrainingRow& row, LatentPassages found, RagExample& example);
  std::optional<TrainingSequence> make_refusal(const TrainingRow& row, const Hit& hit) const;

  const TrainingSet& set_;
  const SequenceRenderer& renderer_;
  const PassageFinder& finder_;
  const Embedder& embedder_;
  RagStreamOptions options_;
  DataSummary summary_;
  RowOrder order_;  // of the rows with an answer
};

}  // namespace quarry
