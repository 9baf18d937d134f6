#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/distributed/process_group.h"
#include "data/store/passage_store.h"
#include "generator/nn/lora.h"
#include "retriever/embedder.h"
#include "retriever/search.h"

namespace quarry {

// What was found for one question, nearest first.
struct LatentPassages {
  std::vector<Hit> hits;       // score: inner product of question and vector
  std::vector<float> vectors;  // [hits, dim]
};

// Where the passages of questions come from while a retriever is trained. One thread.
class PassageFinder {
 public:
  virtual ~PassageFinder() = default;
  // The top_k passages of each question; fewer when there are fewer. `query_vectors` [questions,
  // dim].
  virtual std::vector<LatentPassages> find(const std::vector<std::string>& questions,
                                           const std::vector<float>& query_vectors,
                                           int64_t top_k) const = 0;
};

// Passages with the vectors that the index has.
class IndexedPassages final : public PassageFinder {
 public:
  // Both are borrowed; `store` is the retriever's.
  IndexedPassages(const Retriever& retriever, const PassageStore& store)
      : retriever_(retriever), store_(store) {}
  std::vector<LatentPassages> find(const std::vector<std::string>& questions,
                                   const std::vector<float>& query_vectors,
                                   int64_t top_k) const override;

 private:
  const Retriever& retriever_;
  const PassageStore& store_;
};

// Passages that the index finds, with the vectors that an encoder in training makes of them now.
class LivePassages final : public PassageFinder {
 public:
  // All are borrowed. `adapter` is what is trained. The processes of `group`, which may be null,
  // ask for the same and share the embedding.
  LivePassages(const Retriever& retriever, const Embedder& embedder, const LoraAdapter& adapter,
               ProcessGroup* group)
      : retriever_(retriever), embedder_(embedder), adapter_(adapter), group_(group) {}
  std::vector<LatentPassages> find(const std::vector<std::string>& questions,
                                   const std::vector<float>& query_vectors,
                                   int64_t top_k) const override;

 private:
  const Retriever& retriever_;
  const Embedder& embedder_;
  const LoraAdapter& adapter_;
  ProcessGroup* group_;
};

// Passages' vectors [texts, dim] with `adapter`, each made by one of the processes of `group`.
std::vector<float> embed_together(const Embedder& embedder, const LoraAdapter& adapter,
                                  const std::vector<std::string>& texts, ProcessGroup* group);

}  // namespace quarry
