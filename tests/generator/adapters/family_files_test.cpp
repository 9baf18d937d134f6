// What is written from the models of tests/golden/families and encoder_decoders computes what was
// read: rows in another order, values with an offset and transposed weights find their way.
#include <gtest/gtest.h>

#include "data/core/spill_file.h"
#include "generator/adapters/gguf_adapter.h"
#include "generator/adapters/merge_adapter.h"
#include "generator/adapters/quantize_model.h"
#include "generator/models/generator_memory.h"
#include "tests/generator/adapters/adapter_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::largest_difference;
using test::open_model;

fs::path folder_of(const std::string& family) {
  const fs::path folder = fs::path(test::kGolden) / "families" / family;
  return fs::exists(folder) ? folder : fs::path(test::kGolden) / "encoder_decoders" / family;
}

std::vector<float> logits(const CausalLm& model, const LoraAdapter* adapter = nullptr) {
  const std::vector<int32_t> tokens = {5, 17, 50, 3, 9, 42, 42, 18, 7, 1, 63, 31};
  const testing_util::Sequence sequence(model, tokens, adapter);
  if (model.config().has_encoder()) {
    model.encode({9, 3, 17, 50, 5, 1}, adapter, *sequence.cache);
  }
  return model.forward({sequence.chunk(static_cast<int64_t>(tokens.size()))});
}

std::vector<float> logits(const fs::path& model, const fs::path& adapter = {},
                          LoadIn load_in = LoadIn::kAsIs) {
  GeneratorOptions options;
  options.precision = kernels::Precision::kExact;
  options.weights.load_in = load_in;
  const LoadedGenerator loaded = load_generator(model.string(), options);
  std::unique_ptr<LoraAdapter> lora;
  if (!adapter.empty()) lora = LoraAdapter::load(adapter, *loaded.model);
  return logits(*loaded.model, lora.get());
}

double tolerance(const std::vector<float>& wanted) {
  float largest = 1.0f;
  for (const float value : wanted) largest = std::max(largest, std::fabs(value));
  return 1e-4 * std::max(1.0, double{largest} / 10.0);
}

class FamilyFiles : public ::testing::TestWithParam<const char*> {
 protected:
  // The folder, and the GGUF file where there is one.
  std::vector<fs::path> sources() const {
    const fs::path source = folder_of(GetParam());
    if (!fs::exists(source / "model.gguf")) return {source};
    return {source, source / "model.gguf"};
  }
  test::TemporaryFolder folder_;
  const fs::path adapter_ = folder_of(GetParam()) / "lora";
};

TEST_P(FamilyFiles, MergedModelsAnswerAsBaseAndAdapterDid) {
  const std::vector<float> wanted = logits(folder_of(GetParam()), adapter_);
  MergeOptions options;
  options.type = WeightType::kF32;
  for (const fs::path& source : sources()) {
    const auto base = open_model(source);
    const bool is_gguf = base->gguf() != nullptr;
    const fs::path out = folder_.path() / (is_gguf ? "from_gguf" : "from_folder");
    merge_adapter(*base, adapter_, out, options);
    EXPECT_LE(largest_difference(logits(out), wanted), tolerance(wanted)) << source;
    if (!is_gguf) continue;
    const fs::path gguf = folder_.path() / "merged.gguf";
    merge_adapter(*base, adapter_, gguf, options);
    EXPECT_LE(largest_difference(logits(gguf), wanted), tolerance(wanted)) << source;
  }
}

// A head that was tied to the embedding gets values of its own.
TEST_P(FamilyFiles, MergedModelsKeepAHeadOrEmbeddingOfTheirOwn) {
  const fs::path source = folder_of(GetParam());
  const auto base = open_model(source);
  const LoadedGenerator loaded = load_generator(source.string(), kernels::Precision::kExact);
  for (const std::string& tensor : {base->layout().head, base->layout().embedding}) {
    SCOPED_TRACE(tensor);
    LoraSettings settings;
    settings.r = 4;
    settings.target_modules = {base->slots().front().path};
    settings.modules_to_save = {tensor.substr(0, tensor.rfind(".weight"))};
    const fs::path adapter = folder_.path() / tensor;
    test::save_moved_modules(settings, *loaded.model, adapter);
    const std::vector<float> wanted = logits(source, adapter);
    EXPECT_GT(largest_difference(wanted, logits(source)), 10 * tolerance(wanted));
    const fs::path out = folder_.path() / (tensor + "_merged");
    merge_adapter(*base, adapter, out, {WeightType::kF32});
    EXPECT_LE(largest_difference(logits(out), wanted), tolerance(wanted));
  }
}

TEST_P(FamilyFiles, QuantizedFoldersAreWhatQuantizingAtLoadGives) {
  const std::vector<float> wanted = logits(folder_of(GetParam()), {}, LoadIn::kNF4);
  QuantizeModelOptions options;
  options.type = WeightType::kNF4;
  for (const fs::path& source : sources()) {
    const fs::path out = folder_.path() / source.filename().replace_extension();
    quantize_model(*open_model(source), out, options);
    EXPECT_LE(largest_difference(logits(out), wanted), tolerance(wanted)) << source;
  }
}

TEST_P(FamilyFiles, WeightsInAFileGiveTheSameAndAreAsManyAsEstimated) {
  for (const fs::path& source : sources()) {
    for (const LoadIn load_in : {LoadIn::kAsIs, LoadIn::kNF4, LoadIn::kF32}) {
      GeneratorOptions options;
      options.weights.load_in = load_in;
      const LoadedGenerator wanted = load_generator(source.string(), options);
      options.weights.spill = std::make_shared<SpillFile>(folder_.path());
      const LoadedGenerator spilled = load_generator(source.string(), options);
      EXPECT_EQ(logits(*spilled.model), logits(*wanted.model));

      const auto file = open_model(source);
      CausalLmSource of_file = file->source();
      of_file.weights.load_in = load_in;
      const GeneratorMemory memory =
          estimate_generator_memory(file->family(), of_file, GeneratorMemoryOptions());
      // The file holds whole pages, of four parts of each matrix.
      const auto num_parts = static_cast<int64_t>(4 * (file->slots().size() + 4));
      EXPECT_LE(memory.weight_bytes, options.weights.spill->bytes());
      EXPECT_GE(memory.weight_bytes + 4096 * num_parts, options.weights.spill->bytes());
    }
  }
}

TEST_P(FamilyFiles, AdaptersGoToGgufAndBack) {
  const fs::path source = folder_of(GetParam());
  const auto base = open_model(source);
  const fs::path gguf = folder_.path() / "adapter.gguf";
  if (base->family().gguf_architecture == nullptr) {
    test::expect_error(ErrorCode::kInvalidArgument, "GGUF has no adapters for",
                       [&] { adapter_to_gguf(adapter_, *base, gguf); });
    return;
  }
  adapter_to_gguf(adapter_, *base, gguf);
  gguf_to_adapter(gguf, *base, folder_.path() / "back");
  EXPECT_EQ(logits(source, folder_.path() / "back"), logits(source, adapter_));
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyFiles,
                         ::testing::Values("mistral", "qwen2_full", "qwen3", "gemma3", "phi3",
                                           "gpt2", "gpt_neox", "opt", "bloom", "t5", "t5_gated",
                                           "bart"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quarry
