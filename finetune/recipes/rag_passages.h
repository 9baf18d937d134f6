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

class IndexRefresh;

// What LivePassages works with; all borrowed.
struct LivePassagesParts {
  const Retriever* retriever = nullptr;
  const PassageStore* store = nullptr;  // the retriever's
  const Embedder* embedder = nullptr;
  const LoraAdapter* adapter = nullptr;   // what is trained
  const IndexRefresh* refresh = nullptr;  // null: the index finds, however old it grows
  ProcessGroup* group = nullptr;          // whose processes ask for the same and share the work
};

// Passages found by vectors of some steps ago, with those that an encoder in training makes of them
// now: of the `candidates` nearest by the old vectors the top_k nearest by the new ones.
class LivePassages final : public PassageFinder {
 public:
  LivePassages(const LivePassagesParts& parts, int64_t candidates)
      : parts_(parts), candidates_(candidates) {}
  std::vector<LatentPassages> find(const std::vector<std::string>& questions,
                                   const std::vector<float>& query_vectors,
                                   int64_t top_k) const override;

 private:
  // By the old vectors.
  std::vector<LatentPassages> find_candidates(const std::vector<std::string>& questions,
                                              const std::vector<float>& query_vectors,
                                              int64_t count) const;

  LivePassagesParts parts_;
  int64_t candidates_;
};

// Passages' vectors [texts, dim] with `adapter`, each made by one of the processes of `group`.
std::vector<float> embed_together(const Embedder& embedder, const LoraAdapter& adapter,
                                  const std::vector<std::string>& texts, ProcessGroup* group);

}  // namespace quarry
