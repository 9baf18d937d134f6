#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "generator/decode/prefix_cache.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// What keys and values depend on beside tokens and adapter, by name: those of another origin are of
// no use. The instruction set is part of it, since sums differ in their last bits.
struct PrefixOrigin {
  std::map<std::string, std::string> facts;  // "model": content hash, "precision": "fast8" ...
  int64_t page_bytes = 0;
  std::shared_ptr<KvMemory> page_memory;  // null: the CPU's
};
PrefixOrigin prefix_origin(const LoadedGenerator& generator);

// A prefix cache in a file, as safetensors:
//   nodes [n, 4] I32        node before it or -1; its adapter, number of tokens and page
//   tokens [m] I32          those of all nodes, in order
//   page.0 ... [bytes] U8   keys and values, opaque
// in the order of PrefixCache::entries(). The metadata hold a format version, the origin, the
// content hashes of the adapters ("base" for none) and a SHA-256 over all of it.

// Replaces `path` atomically; only its owner may read it. Throws kUnavailable.
void write_prefixes(const std::filesystem::path& path, const PrefixOrigin& origin,
                    const PrefixCache& prefixes);

// Fills `prefixes`, which is empty, with what belongs to one of `adapters` (null: the base model).
// Returns why nothing was taken; empty where something was or where there is no such file. A file
// of any content is safe to read.
std::string read_prefixes(const std::filesystem::path& path, const PrefixOrigin& origin,
                          const std::vector<PrefixCache::Adapter>& adapters, PrefixCache& prefixes);

}  // namespace quarry
