#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <mutex>
#include <queue>

#include "data/core/error.h"
#include "data/text/token_model.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

// Ids of words seen before. Bounded: a shard that is full is emptied. Thread-safe.
class WordCache {
 public:
  bool append(std::string_view word, std::vector<int32_t>& ids) const {
    Shard& shard = shard_of(word);
    const std::lock_guard<std::mutex> lock(shard.mutex);
    const auto found = shard.words.find(word);
    if (found == shard.words.end()) return false;
    ids.insert(ids.end(), found->second.ids.begin(), found->second.ids.end());
    return true;
  }

  void put(std::string_view word, const int32_t* ids, size_t count) const {
    if (word.size() > kMaxWordBytes) return;
    Entry entry;
    entry.text = std::make_unique<char[]>(word.size());
    std::copy(word.begin(), word.end(), entry.text.get());
    entry.ids.assign(ids, ids + count);
    const std::string_view key(entry.text.get(), word.size());
    Shard& shard = shard_of(word);
    const std::lock_guard<std::mutex> lock(shard.mutex);
    if (shard.words.size() >= kMaxWordsPerShard) shard.words.clear();
    shard.words.emplace(key, std::move(entry));
  }

 private:
  static constexpr size_t kShards = 16;
  static constexpr size_t kMaxWordsPerShard = 4096;
  static constexpr size_t kMaxWordBytes = 64;
  struct Entry {
    std::unique_ptr<char[]> text;  // what the key views
    std::vector<int32_t> ids;
  };
  struct Shard {
    std::mutex mutex;
    std::unordered_map<std::string_view, Entry> words;
  };
  Shard& shard_of(std::string_view word) const {
    const size_t hash = std::hash<std::string_view>()(word);
    return shards_[(hash >> 20) % kShards];
  }
  mutable std::array<Shard, kShards> shards_;
};

struct Symbol {
  int32_t id;
  int32_t previous;  // index, -1 at the ends
  int32_t next;
  bool alive;
};

struct Candidate {
  int32_t rank;
  int32_t left;  // index of the left symbol
  int32_t merged_id;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

class BpeModel : public TokenModel {
 public:
  BpeModel(Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
           const BpeOptions& options, const std::string& source)
      : TokenModel(std::move(vocabulary)), options_(options) {
    if (!options_.unknown_token.empty()) unknown_id_ = vocabulary_.find(options_.unknown_token);
    merges_.reserve(merges.size());
    for (size_t rank = 0; rank < merges.size(); ++rank) {
      const auto& [left, right] = merges[rank];
      const size_t skipped =
          right.compare(0, options_.continuing_prefix.size(), options_.continuing_prefix) == 0
              ? options_.continuing_prefix.size()
              : 0;
      const int32_t left_id = vocabulary_.find(left);
      const int32_t right_id = vocabulary_.find(right);
      const int32_t merged_id = vocabulary_.find(left + right.substr(skipped));
      QUARRY_CHECK(left_id >= 0 && right_id >= 0 && merged_id >= 0, ErrorCode::kCorruptData, source,
                   ": merge ", rank, " \"", left, "\" + \"", right, "\" uses or makes \"",
                   left_id < 0    ? left
                   : right_id < 0 ? right
                                  : left + right.substr(skipped),
                   "\", which is not in the vocabulary");
      // A pair that is given again keeps its last rank.
      merges_[pair_key(left_id, right_id)] = {static_cast<int32_t>(rank), merged_id};
    }
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
      byte_ids_[static_cast<size_t>(byte)] = vocabulary_.find(name);
    }
  }

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    if (options_.ignore_merges) {
      const int32_t id = vocabulary_.find(piece);
      if (id >= 0) {
        ids.push_back(id);
        return;
      }
    }
    if (cache_.append(piece, ids)) return;
    const size_t before = ids.size();
    merge_word(piece, ids);
    cache_.put(piece, ids.data() + before, ids.size() - before);
  }

 private:
  struct Merge {
    int32_t rank;
    int32_t merged_id;
  };

  static uint64_t pair_key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }

  // Start symbols: one per character, with the unknown and byte fallback rules of Hugging Face.
  std::vector<Symbol> split_characters(std::string_view piece) const {
    std::vector<Symbol> symbols;
    symbols.reserve(piece.size());
    const auto add = [&symbols](int32_t id) {
      const auto index = static_cast<int32_t>(symbols.size());
      symbols.push_back({id, index - 1, index + 1, true});
    };
    bool pending_unknown = false;
    std::string text;
    for (size_t i = 0; i < piece.size();) {
      const size_t length = utf8_length(piece[i]);
      const std::string_view character = piece.substr(i, length);
      std::string_view entry = character;
      const bool last = i + length >= piece.size();
      if ((i > 0 && !options_.continuing_prefix.empty()) ||
          (last && !options_.end_of_word_suffix.empty())) {
        text = i > 0 ? options_.continuing_prefix : "";
        text += character;
        if (last) text += options_.end_of_word_suffix;
        entry = text;
      }
      i += length;
      const int32_t id = vocabulary_.find(entry);
      if (id >= 0) {
        if (pending_unknown) add(unknown_id_);
        pending_unknown = false;
        add(id);
      } else if (!(options_.byte_fallback && add_bytes(entry, add)) && unknown_id_ >= 0) {
        if (pending_unknown && !options_.fuse_unknown) add(unknown_id_);
        pending_unknown = true;
      }
    }
    if (pending_unknown) add(unknown_id_);
    if (!symbols.empty()) symbols.back().next = -1;
    return symbols;
  }

  template <typename Add>
  bool add_bytes(std::string_view text, const Add& add) const {
    const auto id_of = [this](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (!std::all_of(text.begin(), text.end(), [&](char c) { return id_of(c) >= 0; })) return false;
    for (const char c : text) add(id_of(c));
    return true;
  }

  void merge_word(std::string_view piece, std::vector<int32_t>& ids) const {
    std::vector<Symbol> symbols = split_characters(piece);
    std::priority_queue<Candidate, std::vector<Candidate>, std::greater<Candidate>> queue;
    const auto consider = [&](int32_t left) {
      if (left < 0) return;
      const Symbol& symbol = symbols[static_cast<size_t>(left)];
      if (symbol.next < 0) return;
      const auto found =
          merges_.find(pair_key(symbol.id, symbols[static_cast<size_t>(symbol.next)].id));
      if (found != merges_.end()) {
        queue.push({found->second.rank, left, found->second.merged_id});
      }
    };
    for (size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<int32_t>(i));
    while (!queue.empty()) {
      const Candidate best = queue.top();
      queue.pop();
      Symbol& left = symbols[static_cast<size_t>(best.left)];
      if (!left.alive || left.next < 0) continue;
      Symbol& right = symbols[static_cast<size_t>(left.next)];
      const auto found = merges_.find(pair_key(left.id, right.id));
      // An entry made before its neighbours changed.
      if (found == merges_.end() || found->second.merged_id != best.merged_id) continue;
      left.id = best.merged_id;
      left.next = right.next;
      right.alive = false;
      if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = best.left;
      consider(left.previous);
      consider(best.left);
    }
    for (const Symbol& symbol : symbols) {
      if (symbol.alive) ids.push_back(symbol.id);
    }
  }

  BpeOptions options_;
  int32_t unknown_id_ = -1;
  std::array<int32_t, 256> byte_ids_{};
  std::unordered_map<uint64_t, Merge> merges_;
  WordCache cache_;
};

}  // namespace

std::unique_ptr<TokenModel> make_bpe_model(
    Vocabulary vocabulary, const std::vector<std::pair<std::string, std::string>>& merges,
    const BpeOptions& options, const std::string& source) {
  return std::make_unique<BpeModel>(std::move(vocabulary), merges, options, source);
}

}  // namespace quarry
