#include "generator/decode/prefix_cache.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "data/core/error.h"

namespace quarry {
namespace {

// Tokens of the page that begins at `begin`.
std::vector<int32_t> page_tokens(const int32_t* tokens, int64_t num_tokens, int64_t begin) {
  return std::vector<int32_t>(tokens + begin, tokens + std::min(begin + kKvPageTokens, num_tokens));
}

int64_t common_length(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  const size_t most = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(most);
  return std::mismatch(a.begin(), end, b.begin()).first - a.begin();
}

int64_t size_of(const std::vector<int32_t>& tokens) { return static_cast<int64_t>(tokens.size()); }

bool is_base(const std::weak_ptr<const LoraAdapter>& adapter) {
  const std::weak_ptr<const LoraAdapter> base;
  return !adapter.owner_before(base) && !base.owner_before(adapter);
}

}  // namespace

// In the order of the map the longest common beginning is with one of the neighbours.
PrefixCache::Match PrefixCache::longest_match(const Node& parent,
                                              const std::vector<int32_t>& tokens) {
  Match best;
  const auto consider = [&](const std::unique_ptr<Node>& node) {
    const int64_t common = common_length(node->tokens, tokens);
    if (common > best.num_tokens) best = {node.get(), common};
  };
  const auto next = parent.children.lower_bound(tokens);
  if (next != parent.children.end()) consider(next->second);
  if (next != parent.children.begin()) consider(std::prev(next)->second);
  return best;
}

int64_t PrefixCache::fetch(const Adapter& adapter, const int32_t* tokens, int64_t num_tokens,
                           KvCache& cache) {
  const auto root = roots_.find(adapter);
  if (root == roots_.end()) return cache.length();
  Node* node = &root->second;
  std::vector<std::shared_ptr<KvPage>> pages;
  int64_t found = 0;
  while (found < num_tokens) {
    const Match match = longest_match(*node, page_tokens(tokens, num_tokens, found));
    if (match.node == nullptr) break;
    node = match.node;
    pages.push_back(node->page);
    found += match.num_tokens;
    if (match.num_tokens < kKvPageTokens) break;
  }
  touch(node);
  if (found > cache.length()) cache.share(std::move(pages), found);
  return cache.length();
}

void PrefixCache::store(const Adapter& adapter, const int32_t* tokens, int64_t num_tokens,
                        const KvCache& cache) {
  QUARRY_DCHECK(num_tokens <= cache.length());
  forget_gone_adapters();
  if (max_bytes_ == 0) return;
  Node* node = &roots_[adapter];
  for (int64_t begin = 0; begin < num_tokens; begin += kKvPageTokens) {
    std::vector<int32_t> wanted = page_tokens(tokens, num_tokens, begin);
    const Match match = longest_match(*node, wanted);
    if (match.num_tokens == size_of(wanted)) {  // held already, perhaps as the beginning of more
      node = match.node;
      continue;
    }
    const bool is_longer = match.node != nullptr && match.num_tokens == size_of(match.node->tokens);
    if (is_longer) erase(match.node);
    node =
        &add(*node, std::move(wanted), cache.pages()[static_cast<size_t>(begin / kKvPageTokens)]);
  }
  touch(node);
  while (bytes_ > max_bytes_) erase(uses_.back());
}

std::vector<PrefixCache::Entry> PrefixCache::entries() const {
  struct Place {
    int64_t index = -1;  // in the list; -1: a root
    Adapter adapter;
  };
  std::map<const Node*, Place> places;
  for (const auto& [adapter, root] : roots_) {
    Adapter alive = adapter.lock();
    if (alive != nullptr || is_base(adapter)) places[&root] = {-1, std::move(alive)};
  }
  std::vector<Entry> entries;
  for (const Node* node : uses_) {
    const auto parent = places.find(node->parent);
    if (parent == places.end()) continue;
    const Place place = {static_cast<int64_t>(entries.size()), parent->second.adapter};
    entries.push_back({place.adapter, parent->second.index, node->tokens, node->page});
    places.emplace(node, place);
  }
  return entries;
}

void PrefixCache::restore(std::vector<Entry> entries) {
  QUARRY_DCHECK(bytes_ == 0);
  std::vector<Node*> nodes;
  try {
    for (Entry& entry : entries) {
      const bool is_known = num_nodes_.count(entry.page.get()) > 0;
      if (!is_known && bytes_ + entry.page->bytes() > max_bytes_) break;
      add_entry(std::move(entry), nodes);
    }
  } catch (...) {
    for (auto& root : roots_) erase_below(root.second);
    throw;
  }
}

// `nodes` are those of the entries before it.
void PrefixCache::add_entry(Entry entry, std::vector<Node*>& nodes) {
  const int64_t count = size_of(entry.tokens);
  QUARRY_CHECK(count >= 1 && count <= kKvPageTokens, ErrorCode::kCorruptData, "page ", nodes.size(),
               " of the prefix cache has ", count, " tokens, wanted 1 to ", kKvPageTokens);
  QUARRY_CHECK(entry.parent >= -1 && entry.parent < static_cast<int64_t>(nodes.size()),
               ErrorCode::kCorruptData, "page ", nodes.size(), " of the prefix cache follows page ",
               entry.parent, ", wanted one before it");
  Node* parent =
      entry.parent < 0 ? &roots_[entry.adapter] : nodes[static_cast<size_t>(entry.parent)];
  const Match match = longest_match(*parent, entry.tokens);
  const bool hides_another =
      match.node != nullptr && match.num_tokens == std::min(count, size_of(match.node->tokens));
  const bool follows_part = entry.parent >= 0 && size_of(parent->tokens) < kKvPageTokens;
  QUARRY_CHECK(!hides_another && !follows_part, ErrorCode::kCorruptData, "page ", nodes.size(),
               " of the prefix cache ",
               follows_part ? "follows one that is not full" : "begins like another");
  nodes.push_back(&add(*parent, std::move(entry.tokens), std::move(entry.page)));
}

PrefixCache::Node& PrefixCache::add(Node& parent, std::vector<int32_t> tokens,
                                    std::shared_ptr<KvPage> page) {
  auto node = std::make_unique<Node>();
  node->tokens = tokens;
  node->page = std::move(page);
  node->parent = &parent;
  node->use = uses_.insert(uses_.end(), node.get());
  if (++num_nodes_[node->page.get()] == 1) bytes_ += node->page->bytes();
  return *(parent.children[std::move(tokens)] = std::move(node));
}

// From the leaf up, so that a parent comes before its children in uses_.
void PrefixCache::touch(Node* node) {
  for (; node->parent != nullptr; node = node->parent) {
    uses_.splice(uses_.begin(), uses_, node->use);
  }
}

void PrefixCache::erase(Node* node) {
  QUARRY_DCHECK(node->children.empty());
  const auto count = num_nodes_.find(node->page.get());
  if (--count->second == 0) {
    bytes_ -= node->page->bytes();
    num_nodes_.erase(count);
  }
  uses_.erase(node->use);
  node->parent->children.erase(std::vector<int32_t>(node->tokens));
}

void PrefixCache::erase_below(Node& node) {
  while (!node.children.empty()) {
    Node* child = node.children.begin()->second.get();
    erase_below(*child);
    erase(child);
  }
}

void PrefixCache::forget_gone_adapters() {
  for (auto it = roots_.begin(); it != roots_.end();) {
    if (is_base(it->first) || !it->first.expired()) {
      ++it;
      continue;
    }
    erase_below(it->second);
    it = roots_.erase(it);
  }
}

}  // namespace quarry
