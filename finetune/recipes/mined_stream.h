#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/store/passage_store.h"
#include "data/types.h"
#include "finetune/config.h"
#include "finetune/data/row_order.h"
#include "finetune/data/summary.h"
#include "finetune/data/training_set.h"
#include "retriever/embedder.h"
#include "retriever/search.h"

namespace quarry {

struct MinedPassage {
  int64_t id = 0;    // of the index; below 0: of the training set
  std::string text;  // embedding_text()
  std::string key;   // passage_match_key()
  std::string body;  // match_key() of its text alone
};

// A question with the passage that answers it and some that do not.
struct MinedQuestion {
  std::string id;
  std::string question;
  std::vector<std::string> answers;
  std::string context;                 // match_key() of the row's own; empty: it has none
  std::vector<MinedPassage> passages;  // the right one, then hard negatives, nearest first
  std::vector<float> vectors;          // [passages.size(), dim]; empty where they are not wanted
};

struct MinedStreamOptions {
  int64_t hard_negatives = 4;
  int64_t candidates = 50;  // passages found for a question
  bool wants_vectors = true;
  uint64_t seed = 0;
};

// What the configuration says of contrastive.* and the seed.
MinedStreamOptions mined_stream_options(const FinetuneConfig& config);

// Questions of a set in the order that seed and epoch give, with passages mined from an index by
// the embedder as it is when they are asked for. Hard negatives are the nearest passages that hold
// no answer and are no part of the row's own context. The right passage is the nearest that holds
// an answer and, where the row has a context, is a part of that; else that context itself. Rows
// without any are left out and counted. One thread.
class MinedStream {
 public:
  // All are borrowed; `store` is the retriever's. Throws as answered_questions().
  MinedStream(const TrainingSet& set, const Retriever& retriever, const PassageStore& store,
              const Embedder& embedder, const MinedStreamOptions& options);

  // Of the next `rows` rows of this epoch, at most one each; none at its end. Throws
  // kInvalidArgument for an index without a passage.
  std::vector<MinedQuestion> next(int64_t rows);
  bool at_end() const { return order_.at_end(); }
  void start_epoch(int64_t epoch) { order_.start_epoch(epoch); }

  const DataState& state() const { return order_.state(); }
  void restore(const DataState& state) { order_.restore(state); }  // throws as RowOrder
  int64_t num_rows() const { return order_.num_rows(); }
  // Since the stream was made; sequences are questions.
  const DataSummary& summary() const { return summary_; }
  // Of what a question that was taken costs.
  void count_tokens(const std::string& id, int64_t tokens);

 private:
  bool mine(const TrainingRow& row, const float* query_vector, MinedQuestion& mined);
  void add_vectors(MinedQuestion& mined);
  const std::vector<float>& vector_of_context(int32_t passage);

  const TrainingSet& set_;
  const Retriever& retriever_;
  const PassageStore& store_;
  const Embedder& embedder_;
  MinedStreamOptions options_;
  DataSummary summary_;
  RowOrder order_;                                                   // of the rows with an answer
  std::unordered_map<int32_t, std::vector<float>> context_vectors_;  // by passage of the set
};

// Whether a passage is a part of the question's own context, or the other way round.
bool is_of_context(const MinedPassage& passage, const MinedQuestion& question);

// For people: the question, its right passage and how the others begin.
std::string describe(const MinedQuestion& question);

// The next `count` questions with passages, or as many as there are until `may_take` says no; the
// epochs of the stream begin anew. Throws kInvalidArgument when the data give none.
std::vector<MinedQuestion> take_mined(MinedStream& stream, int64_t count,
                                      const std::function<bool()>& may_take);

}  // namespace quarry
