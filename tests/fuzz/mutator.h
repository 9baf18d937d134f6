#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "tests/fuzz/file_facts.h"

namespace quarry::fuzz {

// Numbers that are the same on every platform for one seed.
class Dice {
 public:
  Dice(uint64_t seed, uint64_t index) {
    std::seed_seq seeds{seed, seed >> 32, index, index >> 32};
    engine_.seed(seeds);
  }
  // In [0, n); n >= 1.
  uint64_t below(uint64_t n) { return engine_() % n; }
  bool chance(uint64_t percent) { return below(100) < percent; }
  template <typename T>
  const T& pick(const std::vector<T>& items) {
    return items[below(items.size())];
  }

 private:
  std::mt19937_64 engine_;
};

enum class FileKind { kGguf, kSafetensors, kJson, kText, kBinary };

// A sound file that mutations start from.
struct SeedFile {
  FileKind kind = FileKind::kBinary;
  std::string bytes;
  std::optional<FileFacts> facts;  // of weights
};
// Throws quarry::Error when `bytes` are not sound.
SeedFile make_seed_file(FileKind kind, std::string bytes);

struct MutatedFile {
  std::string bytes;
  bool is_data_only = false;  // only bytes of tensors differ from the seed's
};

// One to four changes: bits, bytes, integers that are at an edge, ranges cut, copied, moved or
// filled, most of them in the header; numbers of the header by their place; JSON by its values.
MutatedFile mutate(const SeedFile& seed, Dice& dice);

// One change of one value, member or literal of a JSON text, which need not stay JSON.
std::string mutate_json(const std::string& text, Dice& dice);

}  // namespace quarry::fuzz
