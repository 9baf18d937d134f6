#include "generator/adapters/gguf_adapter.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "data/core/error.h"
#include "generator/nn/lora_save.h"
#include "generator/weights/gguf_writer.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNotesKey = "quarry.adapter.notes";
constexpr const char* kSuffixA = ".lora_a";
constexpr const char* kSuffixB = ".lora_b";

// Rows of `values` moved so that row i lands at, or comes from, rows[i].
enum class Move { kToRows, kFromRows };
std::vector<float> move_rows(const std::vector<float>& values, const std::vector<int64_t>& rows,
                             Move move) {
  if (rows.empty()) return values;
  const int64_t width = static_cast<int64_t>(values.size() / rows.size());
  std::vector<float> moved(values.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto here = static_cast<int64_t>(i);
    const int64_t from = move == Move::kToRows ? here : rows[i];
    const int64_t to = move == Move::kToRows ? rows[i] : here;
    std::copy_n(values.begin() + from * width, width, moved.begin() + to * width);
  }
  return moved;
}

TensorToWrite f32_tensor(const std::string& name, const std::vector<int64_t>& shape,
                         const std::vector<float>& values) {
  TensorToWrite tensor;
  tensor.name = name;
  tensor.shape = shape;
  tensor.data = values.data();
  return tensor;
}

// B times what alpha / r leaves out of PEFT's scale.
std::vector<float> folded(const LoraWeights& weights, double scale, double alpha) {
  const double factor = scale * static_cast<double>(weights.rank) / alpha;
  constexpr double kRounding = 1e-12;  // of alpha / r * r / alpha
  std::vector<float> b = weights.b;
  if (std::fabs(factor - 1) < kRounding) return b;
  for (float& value : b) value = static_cast<float>(value * factor);
  return b;
}

std::vector<float> read_matrix(const GgufFile& file, const TensorView& view, int64_t rows,
                               int64_t columns) {
  const std::vector<int64_t> wanted = {rows, columns};
  QUARRY_CHECK(view.shape == wanted, ErrorCode::kInvalidArgument, file.description(), ": tensor ",
               printable(view.name), " does not have the shape [", rows, ", ", columns,
               "] of this model (made for another base model?)");
  std::vector<float> values(static_cast<size_t>(view.num_elements()));
  dequantize(view.type, view.data, values.data(), view.num_elements());
  for (const float value : values) {
    QUARRY_CHECK(std::isfinite(value), ErrorCode::kCorruptData, file.description(), ": tensor ",
                 printable(view.name), " holds a value that is not finite");
  }
  return values;
}

void check_header(const GgufFile& file, const ModelFile& base) {
  const auto require = [&](const char* key, const std::string& wanted) {
    const std::string found = file.find_string(key).value_or("");
    QUARRY_CHECK(found == wanted, ErrorCode::kInvalidArgument, file.description(), ": ", key,
                 " is '", found, "', wanted '", wanted, "'");
  };
  require("general.type", "adapter");
  require("adapter.type", "lora");
  require("general.architecture", base.family().gguf_architecture);
  QUARRY_CHECK(!file.has("adapter.alora.invocation_tokens"), ErrorCode::kInvalidArgument,
               file.description(),
               ": adapter.alora.invocation_tokens changes the maths and is not supported");
}

using WeightsByPath = std::map<std::string, LoraWeights>;

// The pairs of a GGUF adapter, in PEFT's layout. scale is left to the caller.
WeightsByPath read_pairs(const GgufFile& file, const ModelFile& base) {
  WeightsByPath pairs;
  std::set<std::string> taken;
  for (const ModelLayout::Linear& linear : base.layout().linears) {
    const std::string name = linear.weight.gguf_name;
    const TensorView* a = file.find(name + kSuffixA);
    const TensorView* b = file.find(name + kSuffixB);
    if (a == nullptr && b == nullptr) continue;
    QUARRY_CHECK(a != nullptr && b != nullptr, ErrorCode::kCorruptData, file.description(),
                 ": holds only ", a != nullptr ? "lora_a" : "lora_b", " of ", printable(name));
    LoraWeights& weights = pairs[linear.slot.path];
    weights.rank = a->shape.front();
    weights.a = read_matrix(file, *a, weights.rank, linear.slot.in_features);
    weights.b = move_rows(read_matrix(file, *b, linear.slot.out_features, weights.rank),
                          linear.weight.gguf_rows, Move::kFromRows);
    taken.insert({a->name, b->name});
  }
  for (const TensorView& tensor : file.tensors()) {
    QUARRY_CHECK(taken.count(tensor.name) != 0, ErrorCode::kInvalidArgument, file.description(),
                 ": tensor ", printable(tensor.name),
                 " is not the lora_a or lora_b of a Linear of this model");
  }
  QUARRY_CHECK(!pairs.empty(), ErrorCode::kCorruptData, file.description(), ": holds no tensors");
  return pairs;
}

std::vector<std::string> last_components(const WeightsByPath& pairs) {
  std::set<std::string> names;
  for (const auto& [path, weights] : pairs) names.insert(path.substr(path.rfind('.') + 1));
  return {names.begin(), names.end()};
}

// Short module names when they select just these Linears, else whole paths.
std::vector<std::string> target_modules(const WeightsByPath& pairs, const ModelFile& base) {
  LoraSettings settings;
  settings.target_modules = last_components(pairs);
  const LoraConfig config = LoraConfig::from_settings(settings);
  const bool exact =
      std::all_of(base.slots().begin(), base.slots().end(), [&](const CausalLm::LinearSlot& slot) {
        return config.targets(slot.path, false) == (pairs.count(slot.path) != 0);
      });
  if (exact) return settings.target_modules;
  std::vector<std::string> paths;
  for (const auto& [path, weights] : pairs) paths.push_back(path);
  return paths;
}

int64_t most_common_rank(const WeightsByPath& pairs) {
  std::map<int64_t, int64_t> counts;
  for (const auto& [path, weights] : pairs) ++counts[weights.rank];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

// alpha 0 is llama.cpp's way to say: no scale.
LoraSettings make_settings(const WeightsByPath& pairs, double alpha, const ModelFile& base) {
  LoraSettings settings;
  settings.r = most_common_rank(pairs);
  settings.lora_alpha = alpha > 0 ? alpha : static_cast<double>(settings.r);
  settings.target_modules = target_modules(pairs, base);
  for (const auto& [path, weights] : pairs) {
    if (weights.rank == settings.r) continue;
    settings.rank_pattern[path] = weights.rank;
    if (alpha <= 0) settings.alpha_pattern[path] = static_cast<double>(weights.rank);
  }
  return settings;
}

}  // namespace

namespace {

void check_architecture(const ModelFile& base) {
  QUARRY_CHECK(base.family().gguf_architecture != nullptr, ErrorCode::kInvalidArgument,
               base.location().path.string(), ": GGUF has no adapters for ",
               base.family().hf_class);
}

}  // namespace

void adapter_to_gguf(const fs::path& folder, const ModelFile& base, const fs::path& gguf,
                     const ConvertOptions& options) {
  check_architecture(base);
  if (options.check_base) {
    check_adapter_base(folder, model_content_hash(base.location()), base.location().name);
  }
  const LoraConfig config = LoraConfig::load(folder / "adapter_config.json");
  const auto adapter = LoraAdapter::load(folder, base.slots(), base.tensor_slots());
  QUARRY_CHECK(
      adapter->full().empty(), ErrorCode::kInvalidArgument, folder.string(), ": has '",
      adapter->full().empty() ? "" : adapter->full().begin()->first, "'",
      adapter->full().size() > 1 ? " and others" : "",
      " whole (modules_to_save or bias), and a GGUF adapter holds the LoRA of Linears only; "
      "`quarry adapter merge` puts all of it into a model");
  const double alpha = config.default_alpha() > 0 ? config.default_alpha()
                                                  : static_cast<double>(config.default_rank());
  GgufWriter writer;
  writer.set_string("general.type", "adapter");
  writer.set_string("general.architecture", base.family().gguf_architecture);
  writer.set_string("general.name", fs::absolute(folder).lexically_normal().filename().string());
  writer.set_string("adapter.type", "lora");
  writer.set_float("adapter.lora.alpha", static_cast<float>(alpha));
  if (const auto notes = read_adapter_notes(folder)) {
    writer.set_string(kNotesKey, adapter_notes_text(*notes));
  }
  std::map<std::string, std::vector<float>> kept;  // what the tensors point to
  for (const ModelLayout::Linear& linear : base.layout().linears) {
    const LoraWeights* weights = adapter->find(linear.slot.path);
    if (weights == nullptr) continue;
    const std::string& name = linear.weight.gguf_name;
    kept[name] = move_rows(folded(*weights, config.scale(linear.slot.path), alpha),
                           linear.weight.gguf_rows, Move::kToRows);
    writer.add_tensor(
        f32_tensor(name + kSuffixA, {weights->rank, linear.slot.in_features}, weights->a));
    writer.add_tensor(
        f32_tensor(name + kSuffixB, {linear.slot.out_features, weights->rank}, kept[name]));
  }
  writer.write(gguf);
}

void gguf_to_adapter(const fs::path& gguf, const ModelFile& base, const fs::path& folder,
                     const ConvertOptions& options) {
  check_architecture(base);
  const auto file = GgufFile::open(gguf);
  check_header(*file, base);
  SaveAdapterOptions save;
  if (const auto notes = file->find_string(kNotesKey)) {
    save.notes = parse_adapter_notes(*notes, file->description());
    if (options.check_base) {
      check_adapter_base(save.notes, file->description(), model_content_hash(base.location()),
                         base.location().name);
    }
  }
  WeightsByPath pairs = read_pairs(*file, base);
  const double alpha = file->get_float("adapter.lora.alpha");
  const LoraConfig config = LoraConfig::from_settings(make_settings(pairs, alpha, base));
  AdapterWeightsByPath weights;
  for (auto& [path, pair] : pairs) {
    pair.scale = static_cast<float>(config.scale(path));
    weights[path] = &pair;
  }
  save_adapter(folder, config, weights, {}, save);
}

}  // namespace quarry
