#include "generator/adapters/merge_adapter.h"

#include <algorithm>
#include <map>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "data/core/staged_folder.h"
#include "generator/adapters/copy_model_text.h"
#include "generator/adapters/merged_tensor.h"
#include "generator/adapters/model_folder_from_gguf.h"
#include "generator/nn/lora_save.h"
#include "generator/quant/encode_dense.h"
#include "generator/weights/gguf_writer.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// What general.file_type calls a file whose weights mostly have this type.
uint32_t gguf_file_type(WeightType type) {
  if (type == WeightType::kF32) return 0;
  return type == WeightType::kF16 ? 1 : 32;
}

const char* torch_name(WeightType type) {
  if (type == WeightType::kF32) return "float32";
  return type == WeightType::kF16 ? "float16" : "bfloat16";
}

WeightType output_type(const TensorView& base, const MergeOptions& options) {
  if (options.type) return *options.type;
  QUARRY_CHECK(is_dense_float(base.type), ErrorCode::kInvalidArgument, "tensor '", base.name,
               "' of the base is ", weight_type_traits(base.type).name,
               "; only a dense base can be merged as-base, choose f32, f16 or bf16");
  return base.type;
}

// A merge under way: the model, the adapter and what becomes of each tensor.
class Merge {
 public:
  Merge(const ModelFile& base, const fs::path& adapter, const MergeOptions& options)
      : base_(base),
        options_(options),
        adapter_(LoraAdapter::load(adapter, base.slots(), base.tensor_slots())) {
    const ModelLayout& layout = base.layout();
    for (const ModelLayout::Linear& linear : layout.linears) {
      base.weight(linear);
      tensors_[base.stored_name(linear.weight)] = {&linear.weight, adapter_->find(linear.slot.path),
                                                   adapter_->find_full(linear.weight.hf_name)};
    }
    for (const ModelTensor& tensor : layout.others) {
      if (tensor.hf_name == layout.head) head_ = &tensor;
      tensors_[base.stored_name(tensor)] = {&tensor, nullptr, adapter_->find_full(tensor.hf_name)};
    }
    unties_head_ = layout.tied_head && (adapter_->find_full(layout.head) != nullptr ||
                                        adapter_->find_full(layout.embedding) != nullptr);
  }

  MergeResult write_gguf(const fs::path& out) {
    writes_gguf_ = true;
    GgufWriter writer;
    writer.copy_metadata(*base_.gguf());
    for (const TensorView& view : base_.tensors().tensors()) {
      const Part* part = find(view);
      if (part == nullptr || !part->is_merged()) {
        count(view.type, view.num_elements());
        writer.add_tensor({view.name, view.type, view.shape, view.data});
        continue;
      }
      const MergedTensor merged = merged_tensor(view, *part);
      if (view.shape.size() == 2) {
        writer.set_uint32("general.file_type", gguf_file_type(merged.type));
      }
      writer.add_tensor(to_write(view.name, merged));
    }
    if (unties_head_) add_head_to_gguf(writer);
    writer.write(out);
    return result_;
  }

  MergeResult write_folder(const fs::path& out) {
    StagedFolder staged(out);
    std::vector<TensorToWrite> list;
    WeightType main_type = WeightType::kF32;
    for (const TensorView& view : base_.tensors().tensors()) {
      const Part* part = find(view);
      if (unties_head_ && part != nullptr && part->tensor == head_) continue;  // of no use so far
      QUARRY_CHECK(part != nullptr || base_.gguf() == nullptr, ErrorCode::kInvalidArgument,
                   base_.tensors().description(), ": tensor '", view.name,
                   "' has no name in a Hugging Face folder");
      MergedTensor merged = merged_tensor(view, part == nullptr ? Part() : *part);
      merged.in_stored_order = false;
      if (merged.lora != nullptr) main_type = merged.type;
      list.push_back(to_write(part == nullptr ? view.name : part->tensor->hf_name, merged));
    }
    if (unties_head_) list.push_back(to_write(head_->hf_name, merged_head()));
    write_safetensors(staged.path() / "model.safetensors", list, {{"format", "pt"}});
    if (base_.gguf() != nullptr) {
      write_model_folder_from_gguf(*base_.gguf(), base_.family(), torch_name(main_type),
                                   staged.path());
    } else {
      copy_model_text(base_.location().path, staged.path());
    }
    finish_config(main_type, staged.path());
    staged.commit();
    return result_;
  }

 private:
  struct Part {
    const ModelTensor* tensor = nullptr;
    const LoraWeights* lora = nullptr;
    const FullTensor* full = nullptr;
    bool is_merged() const { return lora != nullptr || full != nullptr; }
  };

  const Part* find(const TensorView& view) const {
    const auto it = tensors_.find(view.name);
    return it == tensors_.end() ? nullptr : &it->second;
  }

  void count(WeightType type, int64_t elements) { result_.bytes += weight_bytes(type, elements); }

  MergedTensor merged_tensor(const TensorView& view, const Part& part) {
    MergedTensor merged;
    merged.base = &view;
    merged.lora = part.lora;
    merged.full = part.full;
    if (part.is_merged()) ++result_.merged_tensors;
    if (base_.gguf() != nullptr && part.tensor != nullptr) {
      merged.stored_rows = &part.tensor->gguf_rows;
      merged.stored_offset = part.tensor->gguf_offset;
    }
    if (part.tensor != nullptr && part.tensor->is_conv1d) {
      merged.stored_transposed = base_.stores_transposed(*part.tensor, view);
      merged.writes_transposed = !writes_gguf_;
    }
    // llama.cpp computes with norms and biases in float32 only.
    const bool is_gguf_vector = writes_gguf_ && view.shape.size() < 2;
    merged.type = is_gguf_vector ? WeightType::kF32 : output_type(view, options_);
    count(merged.type, view.num_elements());
    return merged;
  }

  // The head that was tied to the embedding: the adapter's, else what the embedding was.
  MergedTensor merged_head() {
    const TensorView& embedding = base_.tensors().get(embedding_name());
    return merged_tensor(embedding, {head_, nullptr, adapter_->find_full(head_->hf_name)});
  }

  void add_head_to_gguf(GgufWriter& writer) {
    if (adapter_->find_full(head_->hf_name) != nullptr) {
      writer.add_tensor(to_write(head_->gguf_name, merged_head()));
      return;
    }
    const TensorView& embedding = base_.tensors().get(embedding_name());
    count(embedding.type, embedding.num_elements());
    writer.add_tensor({head_->gguf_name, embedding.type, embedding.shape, embedding.data});
  }

  const std::string& embedding_name() const {
    const auto& others = base_.layout().others;
    const auto it = std::find_if(others.begin(), others.end(), [&](const ModelTensor& tensor) {
      return tensor.hf_name == base_.layout().embedding;
    });
    QUARRY_DCHECK(it != others.end());
    return base_.stored_name(*it);
  }

  TensorToWrite to_write(const std::string& name, const MergedTensor& merged) const {
    TensorToWrite tensor;
    tensor.name = name;
    tensor.type = merged.type;
    tensor.shape = merged.base->shape;
    if (merged.stored_transposed != merged.writes_transposed) {
      std::reverse(tensor.shape.begin(), tensor.shape.end());
    }
    tensor.make_data = [merged, cancel = options_.cancel] {
      if (cancel != nullptr) cancel->check("merging");
      return merged_bytes(merged);
    };
    return tensor;
  }

  // config.json with the new dtype, and with a head of its own where it lost the tied one.
  void finish_config(WeightType type, const fs::path& out) const {
    const fs::path path = out / "config.json";
    const MappedFile file(path);
    OrderedJson config =
        OrderedJson::parse(std::string(reinterpret_cast<const char*>(file.data()), file.size()));
    config[config.contains("dtype") ? "dtype" : "torch_dtype"] = torch_name(type);
    if (unties_head_) {
      // Where the states before T5's head are scaled is else read from how the head was.
      if (config.value("model_type", "") == "t5" && !config.contains("scale_decoder_outputs")) {
        config["scale_decoder_outputs"] = config.value("tie_word_embeddings", true);
      }
      config["tie_word_embeddings"] = false;
    }
    config.erase("quantization_config");
    write_file_atomically(path, dump_json(config, 2) + "\n");
  }

  const ModelFile& base_;
  const MergeOptions& options_;
  std::unique_ptr<LoraAdapter> adapter_;
  std::map<std::string, Part> tensors_;  // by stored name
  const ModelTensor* head_ = nullptr;    // of the layout
  bool unties_head_ = false;  // the head was tied to the embedding and gets its own values
  bool writes_gguf_ = false;
  MergeResult result_;
};

}  // namespace

std::optional<WeightType> parse_merge_type(const std::string& name) {
  if (name == "f32") return WeightType::kF32;
  if (name == "f16") return WeightType::kF16;
  if (name == "bf16") return WeightType::kBF16;
  QUARRY_CHECK(name == "as-base", ErrorCode::kInvalidArgument, "type \"", name,
               "\" of the merged model: wanted f32, f16, bf16 or as-base");
  return std::nullopt;
}

std::optional<WeightType> default_merge_type(const ModelFile& base) {
  for (const ModelLayout::Linear& linear : base.layout().linears) {
    if (!is_dense_float(base.weight(linear).type)) return WeightType::kF16;
  }
  return std::nullopt;
}

MergeResult merge_adapter(const ModelFile& base, const fs::path& adapter, const fs::path& out,
                          const MergeOptions& options) {
  std::error_code error;
  QUARRY_CHECK(!fs::exists(out, error), ErrorCode::kInvalidArgument, out.string(),
               ": is there already and is not replaced");
  const bool to_gguf = out.extension() == ".gguf";
  QUARRY_CHECK(!to_gguf || base.gguf() != nullptr, ErrorCode::kInvalidArgument, out.string(),
               ": a GGUF is written from a GGUF base, and ", base.location().path.string(),
               " is a folder; merge into a folder, and let llama.cpp's convert_hf_to_gguf.py make "
               "a GGUF of it");
  if (options.check_base) {
    check_adapter_base(adapter, model_content_hash(base.location()), base.location().name);
  }
  Merge merge(base, adapter, options);
  return to_gguf ? merge.write_gguf(out) : merge.write_folder(out);
}

}  // namespace quarry
