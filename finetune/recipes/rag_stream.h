#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "finetune/data/data_state.h"
#include "finetune/data/group_options.h"
#include "finetune/data/render.h"
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
};

struct RagStreamOptions {
  int64_t top_k = 5;
  TooLong too_long = TooLong::kError;  // a question that exceeds max_seq_len without a passage
  uint64_t seed = 0;
};

// Questions of a set in the order that seed and epoch give, with the passages that the embedder, as
// it is when they are asked for, finds. Rows without an answer are left out. One thread.
class RagStream {
 public:
  // All are borrowed. Throws kInvalidArgument for a row that is no question, naming it, and when
  // no row has an answer.
  RagStream(const TrainingSet& set, const SequenceRenderer& renderer, const PassageFinder& finder,
            const Embedder& embedder, const RagStreamOptions& options);

  // Examples of the next `rows` rows of this epoch, at most one each; none at its end. Throws
  // kInvalidArgument naming the row when it is too long and that is an error.
  std::vector<RagExample> next(int64_t rows);
  bool at_end() const;
  void start_epoch(int64_t epoch);

  // restore(state()) continues with the same rows. Throws kInvalidArgument for a state of another
  // seed or a larger set. DataState::used is not in use.
  const DataState& state() const { return state_; }
  void restore(const DataState& state);
  int64_t num_rows() const { return static_cast<int64_t>(order_.size()); }
  // Since the stream was made.
  const DataSummary& summary() const { return summary_; }

 private:
  void order_rows();
  bool make_example(const TrainingRow& row, LatentPassages found, RagExample& example);

  const TrainingSet& set_;
  const SequenceRenderer& renderer_;
  const PassageFinder& finder_;
  const Embedder& embedder_;
  RagStreamOptions options_;
  std::vector<int32_t> answered_;  // rows with an answer
  std::vector<int32_t> order_;     // of these in this epoch
  DataState state_;
  DataSummary summary_;
};

}  // namespace quarry
