#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/fuzz/mutator.h"

namespace quarry::fuzz {

// What Quarry must never do.
class Failure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What the loaders read: a file to mutate in a folder with all that belongs to it.
struct FuzzTarget {
  std::string format;            // "gguf", "tokenizer" ...
  std::filesystem::path folder;  // sound, as it was made
  std::string file;              // in the folder
  SeedFile seed;
};

struct CaseResult {
  bool refused = false;
  std::string message;          // of the Error that refused it
  int64_t tensors_checked = 0;  // equal to the file's bytes
};

// Small models, tokenizers and indexes from tests/golden, and some that are made here, under
// `folder`. Throws quarry::Error.
void make_seed_folders(const std::filesystem::path& folder);
// The targets of the formats that make_seed_folders left there.
std::vector<FuzzTarget> list_targets(const std::filesystem::path& folder);
// In the order of their share of the cases.
const std::vector<std::string>& formats();

// Loads `mutated`, which lies as target.file in `folder`, by Quarry's own loaders and makes use of
// what they give. Throws Failure for a tensor that is not what the file says, a token out of
// range, a refusal that does not name the file; whatever else comes out is a failure as well.
CaseResult run_case(const FuzzTarget& target, const std::filesystem::path& folder,
                    const MutatedFile& mutated, Dice& dice);

}  // namespace quarry::fuzz
