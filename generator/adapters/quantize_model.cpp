#include "generator/adapters/quantize_model.h"

#include <algorithm>
#include <map>

#include "data/core/error.h"
#include "data/core/mapped_file.h"
#include "data/core/parallel_for.h"
#include "data/core/paths.h"
#include "data/core/staged_folder.h"
#include "generator/adapters/copy_model_text.h"
#include "generator/adapters/merged_tensor.h"
#include "generator/adapters/model_folder_from_gguf.h"
#include "generator/quant/encode_blocks.h"
#include "generator/quant/encode_dense.h"
#include "generator/quant/four_bit.h"
#include "generator/quant/int8_rows.h"
#include "generator/weights/bnb_tensors.h"
#include "generator/weights/gguf_writer.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

struct Name {
  const char* name;
  WeightType type;
  uint32_t gguf_file_type;  // general.file_type: "mostly" this type
};
constexpr Name kNames[] = {{"nf4", WeightType::kNF4, 0},       {"fp4", WeightType::kFP4, 0},
                           {"int8", WeightType::kInt8Rows, 0}, {"q8_0", WeightType::kQ8_0, 7},
                           {"q5_1", WeightType::kQ5_1, 9},     {"q5_0", WeightType::kQ5_0, 8},
                           {"q4_1", WeightType::kQ4_1, 3},     {"q4_0", WeightType::kQ4_0, 2}};

const char* torch_name(WeightType type) {
  if (type == WeightType::kF32) return "float32";
  return type == WeightType::kBF16 ? "bfloat16" : "float16";
}

std::vector<float> decode(const TensorView& tensor, const std::vector<int64_t>& rows) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  decode_tensor(tensor, values.data());
  if (rows.empty()) return values;
  const int64_t width = tensor.shape.back();
  QUARRY_CHECK(tensor.shape.front() == static_cast<int64_t>(rows.size()) || width == 1,
               ErrorCode::kCorruptData, "tensor '", tensor.name, "' has ", tensor.shape.front(),
               " rows, wanted ", rows.size());
  return rows_in_order(values, rows);
}

std::string encoded(WeightType type, const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size());
  std::string bytes(static_cast<size_t>(weight_bytes(type, count)), '\0');
  if (is_dense_float(type)) {
    encode_dense(type, values.data(), count, bytes.data());
    return bytes;
  }
  const int64_t block = weight_type_traits(type).block_size;
  parallel_for(count / block, 2048, [&](int64_t begin, int64_t end) {
    encode_blocks(type, values.data() + begin * block, (end - begin) * block,
                  bytes.data() + weight_bytes(type, begin * block));
  });
  return bytes;
}

class Quantization {
 public:
  Quantization(const ModelFile& base, const QuantizeModelOptions& options)
      : base_(base), options_(options) {
    for (const ModelLayout::Linear& linear : base.layout().linears) {
      dtype_ = is_dense_float(base.weight(linear).type) ? base.weight(linear).type : dtype_;
      tensors_[base.stored_name(linear.weight)] = {&linear.weight, true};
    }
    for (const ModelTensor& tensor : base.layout().others) {
      tensors_[base.stored_name(tensor)] = {&tensor, false};
    }
    for (const TensorView& view : base.tensors().tensors()) result_.source_bytes += view.bytes;
  }

  QuantizeModelResult write_folder(const fs::path& out) {
    StagedFolder staged(out);
    std::vector<TensorToWrite> list;
    for (const TensorView& view : base_.tensors().tensors()) add_to_folder(view, list);
    for (const TensorToWrite& tensor : list) count(tensor.type, tensor.shape);
    write_safetensors(staged.path() / "model.safetensors", list, {{"format", "pt"}});
    if (base_.gguf() != nullptr) {
      write_model_folder_from_gguf(*base_.gguf(), base_.family(), torch_name(dtype_),
                                   staged.path());
    } else {
      copy_model_text(base_.location().path, staged.path());
    }
    add_quantization_config(staged.path() / "config.json");
    staged.commit();
    return result_;
  }

  QuantizeModelResult write_gguf(const fs::path& out) {
    GgufWriter writer;
    writer.copy_metadata(*base_.gguf());
    for (const Name& entry : kNames) {
      if (entry.type == options_.type) writer.set_uint32("general.file_type", entry.gguf_file_type);
    }
    writer.set_uint32("general.quantization_version", 2);
    for (const TensorView& view : base_.tensors().tensors()) {
      TensorToWrite tensor = {view.name, gguf_type(view), view.shape, view.data};
      if (tensor.type != view.type) {
        tensor.make_data = [this, &view, type = tensor.type] {
          check_cancelled();
          return encoded(type, decode(view, {}));
        };
      }
      count(tensor.type, tensor.shape);
      writer.add_tensor(std::move(tensor));
    }
    writer.write(out);
    return result_;
  }

 private:
  struct Part {
    const ModelTensor* tensor = nullptr;
    bool is_linear = false;
  };

  void count(WeightType type, const std::vector<int64_t>& shape) {
    int64_t elements = 1;
    for (const int64_t extent : shape) elements *= extent;
    result_.bytes += weight_bytes(type, elements);
  }

  Part find(const TensorView& view) const {
    const auto it = tensors_.find(view.name);
    return it == tensors_.end() ? Part() : it->second;
  }

  // What becomes of a tensor of a GGUF file.
  WeightType gguf_type(const TensorView& view) {
    const Part part = find(view);
    if (part.is_linear) {
      QUARRY_CHECK(view.shape.back() % 32 == 0, ErrorCode::kInvalidArgument, "tensor '", view.name,
                   "' has rows of ", view.shape.back(), " values, no multiple of 32");
      result_.quantized_tensors += view.type == options_.type ? 0 : 1;
      return options_.type;
    }
    const bool is_table = part.tensor != nullptr && view.shape.size() == 2;
    return is_table && is_dense_float(view.type) && view.shape.back() % 32 == 0 ? WeightType::kQ8_0
                                                                                : view.type;
  }

  void check_cancelled() const {
    if (options_.cancel != nullptr) options_.cancel->check("quantizing");
  }

  void add_to_folder(const TensorView& view, std::vector<TensorToWrite>& list) {
    check_cancelled();
    const Part part = find(view);
    QUARRY_CHECK(part.tensor != nullptr || base_.gguf() == nullptr, ErrorCode::kInvalidArgument,
                 base_.tensors().description(), ": tensor '", view.name,
                 "' has no name in a Hugging Face folder");
    const std::string name = part.tensor == nullptr ? view.name : part.tensor->hf_name;
    const bool moves_rows = base_.gguf() != nullptr && part.tensor != nullptr;
    const std::vector<int64_t> rows = moves_rows ? part.tensor->gguf_rows : std::vector<int64_t>();
    if (part.is_linear) {
      ++result_.quantized_tensors;
      const bool transposes = base_.stores_transposed(*part.tensor, view);
      for (TensorToWrite& tensor : quantized(name, view, rows, transposes)) {
        list.push_back(std::move(tensor));
      }
      return;
    }
    const float offset = moves_rows ? part.tensor->gguf_offset : 0.0f;
    TensorToWrite tensor = {name, view.type, view.shape, view.data};
    if (!rows.empty() || offset != 0.0f || !weight_is_plain(view.type)) {
      tensor.type = weight_is_plain(view.type) ? view.type : WeightType::kF16;
      tensor.make_data = [this, &view, rows, offset, type = tensor.type] {
        check_cancelled();
        std::vector<float> values = decode(view, rows);
        for (float& value : values) value -= offset;
        return encoded(type, values);
      };
    }
    list.push_back(std::move(tensor));
  }

  // Whether safetensors holds the type as it is.
  static bool weight_is_plain(WeightType type) {
    return weight_type_traits(type).block_size == 1 && !needs_quant_state(type);
  }

  std::vector<TensorToWrite> quantized(const std::string& name, const TensorView& view,
                                       const std::vector<int64_t>& rows, bool transposes) const {
    std::vector<float> values = decode(view, rows);
    std::vector<int64_t> shape = view.shape;
    if (transposes) {
      values = transposed(values, shape[0], shape[1]);
      std::swap(shape[0], shape[1]);
    }
    try {
      if (options_.type == WeightType::kInt8Rows) {
        Int8Rows coded = quantize_int8_rows(values.data(), shape[0], shape[1]);
        return split_bnb_tensor(name, options_.type, shape,
                                {coded.codes.begin(), coded.codes.end()}, coded.state);
      }
      FourBitOptions four_bit;
      four_bit.type = options_.type;
      four_bit.block_size = options_.block_size;
      four_bit.double_quant = options_.double_quant;
      FourBitCodes coded = quantize_four_bit(values.data(), view.num_elements(), four_bit);
      coded.state.dtype = torch_name(dtype_);
      return split_bnb_tensor(name, options_.type, shape, {coded.codes.begin(), coded.codes.end()},
                              coded.state);
    } catch (const Error& error) {
      throw_error(error.code(), "tensor '", view.name, "': ", error.what());
    }
  }

  void add_quantization_config(const fs::path& path) const {
    const MappedFile file(path);
    OrderedJson config =
        OrderedJson::parse(std::string(reinterpret_cast<const char*>(file.data()), file.size()));
    config["quantization_config"] =
        bnb_quantization_config(options_.type, torch_name(dtype_), options_.double_quant);
    write_file_atomically(path, dump_json(config, 2) + "\n");
  }

  const ModelFile& base_;
  const QuantizeModelOptions& options_;
  std::map<std::string, Part> tensors_;  // by stored name
  WeightType dtype_ = WeightType::kF16;  // of the dense weights
  QuantizeModelResult result_;
};

}  // namespace

std::vector<std::string> quantized_type_names() {
  std::vector<std::string> names;
  for (const Name& entry : kNames) names.emplace_back(entry.name);
  return names;
}

WeightType parse_quantized_type(const std::string& name) {
  std::string known;
  for (const Name& entry : kNames) {
    if (name == entry.name) return entry.type;
    known += concat(known.empty() ? "" : ", ", entry.name);
  }
  throw_error(ErrorCode::kInvalidArgument, "a model cannot be quantized to '", name, "', wanted ",
              known);
}

QuantizeModelResult quantize_model(const ModelFile& base, const fs::path& out,
                                   const QuantizeModelOptions& options) {
  std::error_code error;
  QUARRY_CHECK(!fs::exists(out, error), ErrorCode::kInvalidArgument, out.string(),
               ": is there already and is not replaced");
  const bool to_folder = needs_quant_state(options.type);
  QUARRY_CHECK(to_folder == (out.extension() != ".gguf"), ErrorCode::kInvalidArgument, out.string(),
               ": ", weight_type_traits(options.type).name,
               to_folder ? " is written to a folder" : " is written to a file with the name .gguf");
  QUARRY_CHECK(to_folder || base.gguf() != nullptr, ErrorCode::kInvalidArgument,
               base.location().path.string(), ": ", weight_type_traits(options.type).name,
               " is written from a GGUF; let llama.cpp's convert_hf_to_gguf.py make one of this "
               "folder, or choose nf4, fp4 or int8");
  Quantization quantization(base, options);
  return to_folder ? quantization.write_folder(out) : quantization.write_gguf(out);
}

}  // namespace quarry
