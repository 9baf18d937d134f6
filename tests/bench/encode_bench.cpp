// Speed of the text encoder on real passages.
//   encode_bench PASSAGES.jsonl [MODEL] [fast|fast8|exact] [COUNT] [none|VECTORS] [cpu|cuda]
// Each line of PASSAGES is {"text": ...}. Prints passages and tokens a second, one pass after a
// warm-up, then the median time of a single query. VECTORS gets the passages' vectors as float32.
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "data/core/error.h"
#include "data/core/json.h"
#include "data/core/parallel_for.h"
#include "generator/models/text_encoder.h"
#include "generator/weights/model_catalog.h"
#include "tests/bench/bench_util.h"

namespace {

std::vector<std::string> read_passages(const std::string& path, size_t count) {
  std::ifstream file(path);
  std::vector<std::string> texts;
  std::string line;
  while (texts.size() < count && std::getline(file, line)) {
    texts.push_back(quarry::parse_json(line, path, quarry::ErrorCode::kCorruptData)
                        .at("text")
                        .get<std::string>());
  }
  return texts;
}

void run(int argc, char** argv) {
  const std::string model = argc > 2 ? argv[2] : quarry::kDefaultEmbedder;
  const std::string name = argc > 3 ? argv[3] : "fast";
  const auto precision = name == "exact"   ? quarry::kernels::Precision::kExact
                         : name == "fast8" ? quarry::kernels::Precision::kFast8
                                           : quarry::kernels::Precision::kFast;
  const std::vector<std::string> texts =
      read_passages(argv[1], argc > 4 ? std::stoul(argv[4]) : 512);
  const bool on_cuda = argc > 6 && std::string(argv[6]) == "cuda";
  const quarry::LoadedEncoder encoder = quarry::load_text_encoder(
      model, precision, on_cuda ? quarry::Device::kCuda : quarry::Device::kCpu);
  int64_t tokens = 0;
  for (const std::string& text : texts) tokens += encoder.model->tokenizer().count_tokens(text) + 2;
  encoder.model->encode({texts.begin(), texts.begin() + static_cast<int64_t>(texts.size() / 8)});
  const double start = quarry::bench::seconds_now();
  const std::vector<float> vectors = encoder.model->encode(texts);
  const double seconds = quarry::bench::seconds_now() - start;
  std::printf("%d threads%s: %.1f passages/s, %.0f tok/s\n", quarry::num_threads(),
              on_cuda ? " and CUDA" : "", static_cast<double>(texts.size()) / seconds,
              static_cast<double>(tokens) / seconds);
  const std::vector<std::string> query = {"When was the first stone of the tower laid?"};
  const quarry::bench::Timing one =
      quarry::bench::time_calls([&] { encoder.model->encode(query); });
  std::printf("one query: %.2f ms\n", one.median * 1e3);
  if (argc > 5 && std::string(argv[5]) != "none") {
    std::ofstream(argv[5], std::ios::binary)
        .write(reinterpret_cast<const char*>(vectors.data()),
               static_cast<std::streamsize>(vectors.size() * sizeof(float)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: encode_bench PASSAGES.jsonl [MODEL] [fast|fast8|exact] [COUNT] "
                 "[none|VECTORS] [cpu|cuda]\n");
    return 2;
  }
  try {
    run(argc, argv);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "encode_bench: %s\n", error.what());
    return 1;
  }
}
