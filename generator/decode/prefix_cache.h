#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"

namespace quarry {

// Keys and values of token sequences that were computed before, for requests that begin alike: a
// radix tree over token ids for each adapter (Zheng et al. 2024, SGLang, arXiv:2312.07104), one
// page of a KvCache at each node. Pages are shared with the sequences that run, never copied here;
// those unused for longest go when the limit is reached, ends before beginnings. Of an activated
// LoRA the tree holds the base model's pages too, which count once. One thread.
class PrefixCache {
 public:
  // Most bytes that its pages may hold; 0: nothing is kept.
  explicit PrefixCache(int64_t max_bytes) : max_bytes_(max_bytes) {}
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  using Adapter = std::shared_ptr<const LoraAdapter>;  // null: the base model

  // Lets `cache`, which holds a beginning of tokens [0, num_tokens), share the longest beginning
  // that is known, if that is longer. Returns cache.length().
  int64_t fetch(const Adapter& adapter, const int32_t* tokens, int64_t num_tokens, KvCache& cache);
  // Keeps the first `num_tokens` tokens of `cache`, which are `tokens`. What belongs to adapters
  // that are gone is forgotten.
  void store(const Adapter& adapter, const int32_t* tokens, int64_t num_tokens,
             const KvCache& cache);

  // A page and where it hangs.
  struct Entry {
    Adapter adapter;
    int64_t parent = -1;          // index of the page before it; -1: it begins the sequence
    std::vector<int32_t> tokens;  // 1 to kKvPageTokens of them
    std::shared_ptr<KvPage> page;
  };
  // All that is kept for the base model and for adapters that are there: used last first, a page
  // before those that follow it.
  std::vector<Entry> entries() const;
  // Takes over such a list, from its front as much as there is room for. Throws kCorruptData where
  // it is none, and holds nothing then. REQUIRES: nothing is held.
  void restore(std::vector<Entry> entries);

  int64_t max_bytes() const { return max_bytes_; }
  int64_t bytes() const { return bytes_; }

 private:
  // A node with fewer than kKvPageTokens tokens is a leaf; no child's tokens begin another's.
  struct Node {
    std::vector<int32_t> tokens;  // 1 to kKvPageTokens of them; none at the root
    std::shared_ptr<KvPage> page;
    Node* parent = nullptr;
    std::map<std::vector<int32_t>, std::unique_ptr<Node>> children;  // by their tokens
    std::list<Node*>::iterator use;
  };
  struct Match {
    Node* node = nullptr;
    int64_t num_tokens = 0;  // of the node's that are equal
  };

  static Match longest_match(const Node& parent, const std::vector<int32_t>& tokens);
  Node& add(Node& parent, std::vector<int32_t> tokens, std::shared_ptr<KvPage> page);
  void touch(Node* node);
  void erase(Node* node);
  void erase_below(Node& node);
  void forget_gone_adapters();
  void add_entry(Entry entry, std::vector<Node*>& nodes);

  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::map<const KvPage*, int64_t> num_nodes_;  // of each page; bytes_ counts it once
  // By owner, so that another adapter at the same address is another adapter.
  std::map<std::weak_ptr<const LoraAdapter>, Node, std::owner_less<>> roots_;
  std::list<Node*> uses_;  // most recent first, and a parent before its children
};

}  // namespace quarry
