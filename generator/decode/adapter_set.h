#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/nn/lora.h"
#include "generator/prompt.h"

namespace quarry {

// How much of each adapter: name -> weight, finite and not 0.
using AdapterMix = std::map<std::string, double>;
// "law:0.5+med:1".
std::string mix_text(const AdapterMix& mix);

// What a request runs with, from its first token to its last. Immutable.
struct ServedAdapter {
  std::string name;  // as users see it; mix_text() of what is fused into the base; empty: the base
  std::shared_ptr<const LoraAdapter> weights;  // null: nothing beside the base model's weights
  const RagTemplate* rag_template = nullptr;   // never null: the one it was trained with, else ours
  std::string not_in_documents;  // what it says when the passages lack the answer; never empty
  double refusal_bias = 0;       // AdapterNotes::refusal_bias
};

// The adapters that an engine serves beside its base model: load, replace, remove, combine, fuse.
// A refused call changes nothing. All methods are safe to call from any thread; none waits for
// requests and no request waits for them.
class AdapterSet {
 public:
  // `generator` may be null: then nothing can be loaded. Adapters and mixes of a larger rank than
  // `max_rank` in any Linear are refused.
  AdapterSet(std::shared_ptr<const LoadedGenerator> generator, int64_t max_rank);
  AdapterSet(const AdapterSet&) = delete;
  AdapterSet& operator=(const AdapterSet&) = delete;

  // `folder` is a PEFT LoRA adapter. Throws kNotFound, kCorruptData; kInvalidArgument: name taken
  // or not usable, unsupported keys, trained on another base model or with a prompt template that
  // this program does not have, rank above the limit.
  void load(const std::string& name, const std::filesystem::path& folder);
  // Hot-swap: requests that have begun finish with the adapter they began with, later ones get the
  // new one. Throws as load(), and kNotFound for an unknown name; kInvalidArgument when it is
  // fused. Combinations that were made of it stay as they are.
  void replace(const std::string& name, const std::filesystem::path& folder);
  // Requests that run with it go on. Throws kNotFound; kInvalidArgument when it is fused.
  void remove(const std::string& name);

  // A new adapter whose update of each Linear is exactly the weighted sum of theirs,
  //   sum_i weight_i * scale_i * B_i A_i,
  // as one pair: the A's below each other, the B's beside each other with weight and scale in them,
  // so that ranks add. It owns its numbers. Keeps the prompt template on which all agree, else
  // the default one. One that has parameters whole (modules_to_save, biases) can only be taken
  // alone with weight 1. Throws kNotFound, kInvalidArgument.
  void combine(const std::string& name, const AdapterMix& mix);

  // From now on requests for the base model run with this weighted sum, instead of what was fused
  // before; requests that name an adapter do not change. The sum is computed beside the base
  // weights, never written into them, so that unfuse() gives back the base bit for bit. Throws as
  // combine().
  void fuse(const AdapterMix& mix);
  void unfuse();
  AdapterMix fused() const;  // empty: nothing

  struct Listing {
    std::string name;
    std::string origin;  // absolute folder; empty: made by combine()
    AdapterMix parts;    // of a combination
    int64_t rank = 0;    // largest of any Linear
    double scale = 1;    // of most Linears
    int64_t requests_in_flight = 0;
  };
  std::vector<Listing> list() const;  // by name
  std::vector<std::string> names() const;
  int64_t base_requests_in_flight() const;

  // The adapter of that name as it is now, "" for the base model; counted as a request in flight
  // until the last copy of the pointer goes. Throws kNotFound, naming those that are there.
  std::shared_ptr<const ServedAdapter> acquire(const std::string& name) const;

 private:
  struct Entry {
    std::shared_ptr<const ServedAdapter> adapter;
    Listing listing;
    std::shared_ptr<std::atomic<int64_t>> in_flight = std::make_shared<std::atomic<int64_t>>(0);
  };

  void check_generator(const std::string& name) const;
  void check_free(const std::string& name) const;
  void check_not_fused(const std::string& name) const;
  const Entry& find(const std::string& name) const;  // under either mutex
  Entry read(const std::string& name, const std::filesystem::path& folder) const;
  std::shared_ptr<const ServedAdapter> sum(const std::string& name, const AdapterMix& mix) const;

  const std::shared_ptr<const LoadedGenerator> generator_;
  const int64_t max_rank_;
  std::mutex change_mutex_;   // held by a changing call from its checks to its end
  mutable std::mutex mutex_;  // guards what follows, for moments only; written under both
  std::map<std::string, Entry> entries_;
  Entry base_;
  AdapterMix fused_;
};

}  // namespace quarry
