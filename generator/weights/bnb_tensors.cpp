#include "generator/weights/bnb_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>
#include <unordered_map>

#include "data/core/error.h"
#include "generator/quant/four_bit.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

constexpr const char* kStateKey = ".quant_state.bitsandbytes__";
constexpr const char* kWeightPart = ".weight.";
constexpr int64_t kMaxStateBytes = 1 << 16;

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

int64_t blocks_of(int64_t count, int64_t block_size) {
  return (count + block_size - 1) / block_size;
}

// A file with the parts of its quantized tensors put together.
class JoinedTensors : public TensorSource {
 public:
  explicit JoinedTensors(std::unique_ptr<SafetensorsFile> file) : file_(std::move(file)) {
    std::unordered_map<std::string, TensorView> joined;  // by name
    for (const TensorView& tensor : file_->tensors()) {
      const size_t at = tensor.name.find(kStateKey);
      if (at != std::string::npos) {
        const std::string weight = tensor.name.substr(0, at);
        QUARRY_CHECK(joined.emplace(weight, join_four_bit(weight, tensor)).second,
                     ErrorCode::kCorruptData, description(), ": tensor ", printable(weight),
                     " has two quant_states");
      } else if (ends_with(tensor.name, ".SCB")) {
        const std::string module = tensor.name.substr(0, tensor.name.size() - 4);
        joined.emplace(module + ".weight", join_int8(module, tensor));
      }
    }
    for (const TensorView& tensor : file_->tensors()) {
      const auto found = joined.find(tensor.name);
      if (found != joined.end()) {
        add(found->second);
      } else if (used_.count(tensor.name) == 0) {
        const size_t at = tensor.name.find(kWeightPart);
        const bool of_joined =
            at != std::string::npos && joined.count(tensor.name.substr(0, at) + ".weight") != 0;
        check_is_no_part(tensor, of_joined);
        add(tensor);
      }
    }
  }

  const TensorView* find(const std::string& name) const override {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  const TensorView& get(const std::string& name) const override {
    const TensorView* tensor = find(name);
    // The file's own message when it is absent or of a type that we do not read.
    if (tensor == nullptr) file_->get(name);
    QUARRY_CHECK(tensor != nullptr, ErrorCode::kCorruptData, description(), ": tensor ",
                 printable(name), " is part of another tensor's quantization");
    return *tensor;
  }
  const std::vector<TensorView>& tensors() const override { return tensors_; }
  const std::string& description() const override { return file_->description(); }
  void forget(const TensorView& tensor) const override { file_->forget(tensor); }

 private:
  void add(const TensorView& tensor) {
    index_.emplace(tensor.name, tensors_.size());
    tensors_.push_back(tensor);
  }

  // The part `name` with `count` elements of a type.
  const TensorView& part(const std::string& name, WeightType type, int64_t count) {
    const TensorView* tensor = file_->find(name);
    QUARRY_CHECK(tensor != nullptr, ErrorCode::kCorruptData, description(), ": tensor ",
                 printable(name), " is missing, a part of a quantized tensor");
    QUARRY_CHECK(tensor->type == type && tensor->num_elements() == count, ErrorCode::kCorruptData,
                 description(), ": tensor ", printable(name), " holds ", tensor->num_elements(),
                 " ", weight_type_traits(tensor->type).name, ", wanted ", count, " ",
                 weight_type_traits(type).name);
    used_.insert(name);
    return *tensor;
  }
  std::vector<float> floats(const std::string& name, int64_t count) {
    const TensorView& tensor = part(name, WeightType::kF32, count);
    std::vector<float> values(static_cast<size_t>(count));
    decode_tensor(tensor, values.data());
    for (const float value : values) {
      QUARRY_CHECK(std::isfinite(value), ErrorCode::kCorruptData, description(), ": tensor ",
                   printable(name), " holds ", value);
    }
    return values;
  }

  [[noreturn]] void refuse(const TensorView& state, const std::string& reason) const {
    throw_error(ErrorCode::kCorruptData, description(), ": tensor ", printable(state.name), ": ",
                reason);
  }
  Json read_state(const TensorView& tensor) const {
    QUARRY_CHECK(tensor.type == WeightType::kU8 && tensor.bytes <= kMaxStateBytes,
                 ErrorCode::kCorruptData, description(), ": tensor ", printable(tensor.name),
                 " is no JSON text in bytes");
    const std::string_view text(reinterpret_cast<const char*>(tensor.data),
                                static_cast<size_t>(tensor.bytes));
    Json json = parse_json(text, description() + ": tensor " + printable(tensor.name),
                           ErrorCode::kCorruptData);
    if (!json.is_object()) refuse(tensor, "is no JSON object");
    return json;
  }
  int64_t read_number(const TensorView& state, const Json& value, const char* name) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > uint64_t{1} << 40) {
      refuse(state, concat(name, " is ", dump_json(value), ", wanted a whole number"));
    }
    return value.get<int64_t>();
  }
  std::vector<int64_t> read_shape(const TensorView& state, const Json& json) const {
    const Json shape = json.value("shape", Json());
    if (!shape.is_array() || shape.empty()) refuse(state, "has no shape");
    std::vector<int64_t> extents;
    int64_t count = 1;
    for (const Json& extent : shape) {
      extents.push_back(read_number(state, extent, "extent"));
      if (extents.back() == 0 || count > (int64_t{1} << 50) / extents.back()) {
        refuse(state, "has a shape that is empty or overflows");
      }
      count *= extents.back();
    }
    return extents;
  }

  TensorView join_four_bit(const std::string& weight, const TensorView& stored) {
    used_.insert(stored.name);
    const std::string type_name = stored.name.substr(weight.size() + std::string(kStateKey).size());
    if (type_name != "nf4" && type_name != "fp4") refuse(stored, "the types known are nf4 and fp4");
    const Json json = read_state(stored);
    if (json.value("quant_type", Json()) != Json(type_name)) {
      refuse(stored, "quant_type is " + dump_json(json.value("quant_type", Json())));
    }
    TensorView joined;
    joined.name = weight;
    joined.type = type_name == "nf4" ? WeightType::kNF4 : WeightType::kFP4;
    joined.shape = read_shape(stored, json);
    const TensorView* codes = file_->find(weight);
    if (codes == nullptr) refuse(stored, "its weight is missing");
    joined.data = codes->data;
    joined.bytes = (joined.num_elements() + 1) / 2;
    QUARRY_CHECK(codes->bytes == joined.bytes, ErrorCode::kCorruptData, description(), ": tensor ",
                 printable(weight), " takes ", codes->bytes, " bytes, its quant_state wants ",
                 joined.bytes);
    joined.state = read_four_bit_state(weight, stored, json, joined);
    return joined;
  }

  std::shared_ptr<const QuantState> read_four_bit_state(const std::string& weight,
                                                        const TensorView& stored, const Json& json,
                                                        const TensorView& joined) {
    auto state = std::make_shared<QuantState>();
    state->block_size = read_number(stored, json.value("blocksize", Json()), "blocksize");
    const int64_t size = state->block_size;
    if (size < 32 || size > 4096 || (size & (size - 1)) != 0) {
      refuse(stored, concat("blocksize is ", size, ", wanted a power of two from 32 to 4096"));
    }
    const Json dtype = json.value("dtype", Json());
    if (dtype != Json("float16") && dtype != Json("bfloat16") && dtype != Json("float32")) {
      refuse(stored, "dtype is " + dump_json(dtype));
    }
    state->dtype = dtype.get<std::string>();
    check_map(weight, joined.type);
    const int64_t blocks = blocks_of(joined.num_elements(), size);
    if (file_->find(weight + ".nested_absmax") == nullptr && !json.contains("nested_offset")) {
      state->absmax = floats(weight + ".absmax", blocks);
      return state;
    }
    state->nested = read_nested(weight, stored, json, blocks);
    state->absmax = decode_absmax(*state->nested);
    return state;
  }

  NestedAbsmax read_nested(const std::string& weight, const TensorView& stored, const Json& json,
                           int64_t blocks) {
    NestedAbsmax nested;
    if (json.value("nested_blocksize", Json()) != Json(kNestedBlock)) {
      refuse(stored,
             concat("nested_blocksize is ", dump_json(json.value("nested_blocksize", Json())),
                    ", wanted ", kNestedBlock));
    }
    const Json offset = json.value("nested_offset", Json());
    if (!offset.is_number()) refuse(stored, "has no nested_offset");
    nested.offset = static_cast<float>(offset.get<double>());
    const TensorView& codes = part(weight + ".absmax", WeightType::kU8, blocks);
    nested.codes.assign(codes.data, codes.data + blocks);
    nested.absmax = floats(weight + ".nested_absmax", blocks_of(blocks, kNestedBlock));
    const std::vector<float> map = floats(weight + ".nested_quant_map", 256);
    std::copy(map.begin(), map.end(), nested.map.begin());
    return nested;
  }

  // bitsandbytes stores the codebook and computes with its own; a file with another is not what it
  // says.
  void check_map(const std::string& weight, WeightType type) {
    const std::vector<float> map = floats(weight + ".quant_map", 16);
    const std::array<float, 16>& known = four_bit_codebook(type);
    for (size_t i = 0; i < map.size(); ++i) {
      QUARRY_CHECK(std::fabs(map[i] - known[i]) < 1e-5f, ErrorCode::kCorruptData, description(),
                   ": tensor ", printable(weight + ".quant_map"), " has ", map[i], " at ", i, ", ",
                   weight_type_traits(type).name, " has ", known[i]);
    }
  }

  TensorView join_int8(const std::string& module, const TensorView& row_absmax) {
    const TensorView* weight = file_->find(module + ".weight");
    QUARRY_CHECK(weight != nullptr && weight->type == WeightType::kI8 && weight->shape.size() == 2,
                 ErrorCode::kCorruptData, description(), ": tensor ", printable(row_absmax.name),
                 " has no matrix ", printable(module + ".weight"), " of I8 beside it");
    if (const TensorView* format = file_->find(module + ".weight_format")) {
      part(format->name, WeightType::kU8, 1);
      QUARRY_CHECK(format->data[0] == 0, ErrorCode::kInvalidArgument, description(), ": tensor ",
                   printable(format->name), " is ", int{format->data[0]},
                   ", only 0 (rows) is supported");
    }
    auto state = std::make_shared<QuantState>();
    state->absmax = floats(row_absmax.name, weight->shape[0]);
    state->dtype = "float16";
    TensorView joined = *weight;
    joined.type = WeightType::kInt8Rows;
    joined.state = std::move(state);
    return joined;
  }

  // A tensor that is left over must not be one that only a quant_state explains.
  void check_is_no_part(const TensorView& tensor, bool of_joined) const {
    const size_t at = tensor.name.find(kWeightPart);
    bool is_known = false;
    for (const char* part : {"absmax", "quant_map", "nested_absmax", "nested_quant_map"}) {
      is_known = is_known || ends_with(tensor.name, kWeightPart + std::string(part));
    }
    QUARRY_CHECK(!is_known && !of_joined, ErrorCode::kCorruptData, description(), ": tensor ",
                 printable(tensor.name), " belongs to no quant_state of ",
                 printable(tensor.name.substr(0, at + std::string(".weight").size())));
    QUARRY_CHECK(!ends_with(tensor.name, ".weight") ||
                     (tensor.type != WeightType::kU8 && tensor.type != WeightType::kI8),
                 ErrorCode::kCorruptData, description(), ": tensor ", printable(tensor.name),
                 " holds ", weight_type_traits(tensor.type).name, " codes and lacks its ",
                 tensor.type == WeightType::kU8 ? "quant_state.bitsandbytes__nf4 or __fp4" : "SCB");
  }

  std::unique_ptr<SafetensorsFile> file_;
  std::set<std::string> used_;  // parts
  std::vector<TensorView> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

Json find_quantization(const Json& config) {
  return config.is_object() ? config.value("quantization_config", Json()) : Json();
}

TensorToWrite owned_part(const std::string& name, WeightType type, std::vector<int64_t> shape,
                         std::string bytes) {
  TensorToWrite tensor;
  tensor.name = name;
  tensor.type = type;
  tensor.shape = std::move(shape);
  tensor.make_data = [bytes = std::move(bytes)] { return bytes; };
  return tensor;
}

template <typename Values>
std::string bytes_of(const Values& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(typename Values::value_type)};
}

// Spaced as json.dumps of Python does.
std::string state_text(const char* type_name, const std::vector<int64_t>& shape,
                       const QuantState& state) {
  std::string text =
      concat("{\"quant_type\": \"", type_name, "\", \"blocksize\": ", state.block_size,
             ", \"dtype\": \"", state.dtype, "\", \"shape\": [");
  for (size_t i = 0; i < shape.size(); ++i) text += concat(i == 0 ? "" : ", ", shape[i]);
  text += "]";
  if (state.nested) {
    text += concat(", \"nested_blocksize\": ", kNestedBlock,
                   ", \"nested_dtype\": \"float32\", \"nested_offset\": ",
                   dump_json(Json(double{state.nested->offset})));
  }
  return text + "}";
}

int64_t size_of(const std::string& bytes) { return static_cast<int64_t>(bytes.size()); }

}  // namespace

std::unique_ptr<TensorSource> join_bnb_tensors(std::unique_ptr<SafetensorsFile> file) {
  return std::make_unique<JoinedTensors>(std::move(file));
}

std::unique_ptr<TensorSource> open_folder_tensors(const std::filesystem::path& folder,
                                                  const Json& config) {
  const Json quantization = find_quantization(config);
  if (!quantization.is_null()) {
    const std::string method =
        quantization.is_object() ? dump_json(quantization.value("quant_method", Json())) : "?";
    QUARRY_CHECK(method == "\"bitsandbytes\"", ErrorCode::kInvalidArgument,
                 (folder / "config.json").string(), ": quantization_config: quant_method ", method,
                 " is not supported (bitsandbytes)");
  }
  return join_bnb_tensors(SafetensorsFile::open(folder));
}

LoadIn configured_load_in(const Json& config, const TensorSource& tensors,
                          const std::string& source) {
  const Json quantization = find_quantization(config);
  if (!quantization.is_object()) return LoadIn::kAsIs;
  for (const TensorView& tensor : tensors.tensors()) {
    if (needs_quant_state(tensor.type)) return LoadIn::kAsIs;
  }
  const auto flag = [&](const char* name) {
    return quantization.value(name, Json()) == Json(true);
  };
  if (flag("load_in_8bit")) return LoadIn::kInt8;
  if (!flag("load_in_4bit")) return LoadIn::kAsIs;
  const Json type = quantization.value("bnb_4bit_quant_type", Json("fp4"));
  QUARRY_CHECK(type == Json("nf4") || type == Json("fp4"), ErrorCode::kInvalidArgument, source,
               ": bnb_4bit_quant_type is ", dump_json(type), ", wanted nf4 or fp4");
  return type == Json("nf4") ? LoadIn::kNF4 : LoadIn::kFP4;
}

std::vector<TensorToWrite> split_bnb_tensor(const std::string& name, WeightType type,
                                            const std::vector<int64_t>& shape, std::string codes,
                                            const QuantState& state) {
  std::vector<TensorToWrite> parts;
  const auto floats = [&](const std::string& part, const auto& values) {
    parts.push_back(owned_part(part, WeightType::kF32, {static_cast<int64_t>(values.size())},
                               bytes_of(values)));
  };
  if (type == WeightType::kInt8Rows) {
    const std::string module = name.substr(0, name.size() - std::string(".weight").size());
    parts.push_back(owned_part(name, WeightType::kI8, shape, std::move(codes)));
    floats(module + ".SCB", state.absmax);
    parts.push_back(
        owned_part(module + ".weight_format", WeightType::kU8, {}, std::string(1, '\0')));
    return parts;
  }
  const char* type_name = type == WeightType::kNF4 ? "nf4" : "fp4";
  const int64_t code_bytes = size_of(codes);
  parts.push_back(owned_part(name, WeightType::kU8, {code_bytes, 1}, std::move(codes)));
  floats(name + ".quant_map", four_bit_codebook(type));
  if (state.nested) {
    const std::string nested = bytes_of(state.nested->codes);
    parts.push_back(owned_part(name + ".absmax", WeightType::kU8, {size_of(nested)}, nested));
    floats(name + ".nested_absmax", state.nested->absmax);
    floats(name + ".nested_quant_map", state.nested->map);
  } else {
    floats(name + ".absmax", state.absmax);
  }
  const std::string text = state_text(type_name, shape, state);
  parts.push_back(owned_part(name + kStateKey + type_name, WeightType::kU8, {size_of(text)}, text));
  return parts;
}

OrderedJson bnb_quantization_config(WeightType type, const std::string& compute_dtype,
                                    bool double_quant) {
  const bool is_int8 = type == WeightType::kInt8Rows;
  OrderedJson json;
  json["_load_in_4bit"] = !is_int8;
  json["_load_in_8bit"] = is_int8;
  json["bnb_4bit_compute_dtype"] = compute_dtype;
  json["bnb_4bit_quant_storage"] = "uint8";
  json["bnb_4bit_quant_type"] = type == WeightType::kFP4 ? "fp4" : "nf4";
  json["bnb_4bit_use_double_quant"] = !is_int8 && double_quant;
  json["llm_int8_enable_fp32_cpu_offload"] = false;
  json["llm_int8_has_fp16_weight"] = false;
  json["llm_int8_skip_modules"] = nullptr;
  json["llm_int8_threshold"] = 6.0;
  json["load_in_4bit"] = !is_int8;
  json["load_in_8bit"] = is_int8;
  json["quant_method"] = "bitsandbytes";
  return json;
}

}  // namespace quarry
