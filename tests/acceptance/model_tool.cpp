// Runs a model on what standard input holds, for model_parity.py. Not installed.
//   model_tool logits MODEL exact|fast|fast8 [ADAPTER]   one line of token ids -> int32 T, int32 V,
//                                                  float32 logits [T, V]
//   model_tool greedy MODEL exact|fast|fast8 COUNT       one line of token ids -> one line of COUNT
//   ids model_tool encode MODEL exact|fast             all lines, JSON strings -> float32 [lines,
//   dim]
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "generator/kernels/elementwise.h"
#include "generator/models/causal_lm.h"
#include "generator/models/text_encoder.h"
#include "generator/nn/kv_cache.h"
#include "generator/nn/lora.h"

namespace {

using quarry::CausalLm;
using quarry::SequenceChunk;

std::vector<int32_t> parse_ids(const std::string& line) {
  std::istringstream in(line);
  std::vector<int32_t> ids;
  for (int32_t id; in >> id;) ids.push_back(id);
  return ids;
}

void write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, stdout) != bytes) std::exit(1);
}

void logits(const CausalLm& model, const quarry::LoraAdapter* adapter) {
  for (std::string line; std::getline(std::cin, line);) {
    const std::vector<int32_t> ids = parse_ids(line);
    const auto cache = model.make_cache();
    SequenceChunk chunk;
    chunk.tokens = ids.data();
    chunk.num_tokens = static_cast<int64_t>(ids.size());
    chunk.cache = cache.get();
    chunk.adapter = adapter;
    chunk.all_logits = true;
    const std::vector<float> result = model.forward({chunk});
    const int32_t shape[2] = {static_cast<int32_t>(ids.size()),
                              static_cast<int32_t>(model.config().vocab_size)};
    write(shape, sizeof shape);
    write(result.data(), result.size() * sizeof(float));
  }
}

void greedy(const CausalLm& model, int count) {
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<int32_t> ids = parse_ids(line);
    const auto cache = model.make_cache();
    std::string out;
    for (int i = 0; i < count; ++i) {
      SequenceChunk chunk;
      chunk.tokens = ids.data();
      chunk.num_tokens = static_cast<int64_t>(ids.size());
      chunk.cache = cache.get();
      const std::vector<float> row = model.forward({chunk});
      ids = {static_cast<int32_t>(
          quarry::kernels::argmax(row.data(), static_cast<int64_t>(row.size())))};
      out += std::to_string(ids[0]) + " ";
    }
    std::cout << out << std::endl;
  }
}

void encode(const quarry::TextEncoder& model) {
  std::vector<std::string> texts;
  for (std::string line; std::getline(std::cin, line);) {
    texts.push_back(
        quarry::parse_json(line, "stdin", quarry::ErrorCode::kInvalidArgument).get<std::string>());
  }
  const std::vector<float> vectors = model.encode(texts);
  write(vectors.data(), vectors.size() * sizeof(float));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: model_tool logits|greedy|encode MODEL exact|fast|fast8 [ADAPTER|COUNT]\n",
               stderr);
    return 2;
  }
  const std::string mode = argv[1];
  using quarry::kernels::Precision;
  const std::string name = argv[3];
  const auto precision = name == "exact"   ? Precision::kExact
                         : name == "fast8" ? Precision::kFast8
                                           : Precision::kFast;
  try {
    if (mode == "encode") {
      encode(*quarry::load_text_encoder(argv[2], precision).model);
      return 0;
    }
    const quarry::LoadedGenerator loaded = quarry::load_generator(argv[2], precision);
    if (mode == "greedy") {
      greedy(*loaded.model, std::atoi(argc > 4 ? argv[4] : "64"));
      return 0;
    }
    std::unique_ptr<quarry::LoraAdapter> adapter;
    if (argc > 4) adapter = quarry::LoraAdapter::load(argv[4], *loaded.model);
    logits(*loaded.model, adapter.get());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_tool: %s\n", error.what());
    return 1;
  }
}
