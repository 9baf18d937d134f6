#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/distributed/process_group.h"
#include "data/store/passage_store.h"
#include "finetune/checkpoint.h"
#include "finetune/run_adapter.h"
#include "retriever/embedder.h"
#include "retriever/vector_index.h"

namespace quarry {

struct IndexRefreshOptions {
  int64_t every = 0;      // steps of a round, > 0
  bool is_stale = false;  // the index was not embedded with the adapter that training starts from
  ProcessGroup* group = nullptr;  // that shares the embedding, borrowed; null: this process alone
};

// All passages of an index, embedded again and again with an encoder that is being trained. A round
// takes the adapter as it is at its beginning and embeds a share of the passages after each step;
// when the last is done, its vectors replace those of the round before at once. What is there after
// a step depends on the steps alone, so runs repeat. In memory: the index is not touched. One
// thread.
class IndexRefresh {
 public:
  // All are borrowed. `trained` is what learns.
  IndexRefresh(const PassageStore& store, const Embedder& embedder, const RunAdapter& trained,
               const IndexRefreshOptions& options);

  // Does what is due after the step of this number, counted from 1. Throws LostRankError.
  void after_step(int64_t step);
  // Those of the last whole round, compared one by one: a graph's order depends on threads. Null
  // when there was none yet: the index itself is as new.
  const VectorIndex* vectors() const { return whole_.vectors.get(); }
  // Steps since the vectors in use were what the encoder makes.
  int64_t age(int64_t step) const { return step - whole_.begun_at; }

  // The adapters of both rounds. Vectors are made from them again. restore() throws kCorruptData
  // naming `source`.
  void save(Checkpoint& checkpoint) const;
  void restore(const Checkpoint& checkpoint, const std::string& source);

 private:
  struct Round {
    int64_t begun_at = 0;                  // after this step
    std::unique_ptr<LoraAdapter> adapter;  // null: there is no such round
    std::unique_ptr<VectorIndex> vectors;
    size_t embedded = 0;  // passages
  };

  Round begin(int64_t step) const;
  // Embeds passages until the round has so many.
  void embed(Round& round, size_t end) const;
  // Passages that a round has after so many steps.
  size_t share(int64_t steps) const;
  void restore(const Checkpoint& checkpoint, const std::string& source, const char* name,
               Round& round) const;

  const PassageStore& store_;
  const Embedder& embedder_;
  const RunAdapter& trained_;
  IndexRefreshOptions options_;
  std::vector<int64_t> ids_;  // of all passages
  Round whole_;
  Round growing_;
};

}  // namespace quarry
