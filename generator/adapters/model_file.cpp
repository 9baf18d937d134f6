#include "generator/adapters/model_file.h"

#include "data/core/error.h"
#include "generator/weights/bnb_tensors.h"
#include "generator/weights/gguf_file.h"

namespace quarry {
namespace {

bool ends_with(const std::string& text, const std::string& tail) {
  return text.size() >= tail.size() &&
         text.compare(text.size() - tail.size(), tail.size(), tail) == 0;
}

}  // namespace

std::unique_ptr<ModelFile> ModelFile::open(const ModelLocation& location) {
  std::unique_ptr<ModelFile> file(new ModelFile());
  file->location_ = location;
  if (location.kind == ModelLocation::Kind::kGgufFile) {
    auto gguf = GgufFile::open(location.path);
    file->family_ = &find_causal_lm_family(*gguf);
    file->gguf_ = gguf.get();
    file->tensors_ = std::move(gguf);
  } else {
    const std::filesystem::path config_path = location.path / "config.json";
    file->config_ = std::make_unique<const Json>(read_json_file(config_path));
    file->family_ = &find_causal_lm_family(*file->config_, config_path.string());
    // What cannot be read could not be written either.
    const auto stored = SafetensorsFile::open(location.path);
    QUARRY_CHECK(stored->unreadable().empty(), ErrorCode::kInvalidArgument, stored->description(),
                 ": tensor '", stored->unreadable().begin()->first, "' has dtype ",
                 stored->unreadable().begin()->second, ", which is not supported");
    file->tensors_ = open_folder_tensors(location.path, *file->config_);
  }
  file->layout_ = file->family_->layout(file->source());
  for (const ModelLayout::Linear& linear : file->layout_.linears) {
    file->slots_.push_back(linear.slot);
  }
  file->list_tensors();
  return file;
}

CausalLmSource ModelFile::source() const {
  CausalLmSource source;
  source.tensors = tensors_.get();
  source.gguf = gguf_;
  source.config = config_.get();
  source.description =
      config_ == nullptr ? tensors_->description() : (location_.path / "config.json").string();
  return source;
}

void ModelFile::list_tensors() {
  using Use = CausalLm::TensorSlot::Use;
  for (const ModelLayout::Linear& linear : layout_.linears) {
    if (linear.weight.is_conv1d) continue;  // as in the model: copies of these are not offered
    tensor_slots_.push_back(
        {linear.weight.hf_name, {linear.slot.out_features, linear.slot.in_features}, Use::kLinear});
  }
  std::vector<int64_t> table_shape;
  for (const ModelTensor& tensor : layout_.others) {
    const TensorView* view = tensors_->find(stored_name(tensor));
    if (view == nullptr || (layout_.tied_head && tensor.hf_name == layout_.head)) continue;
    const bool is_table = tensor.hf_name == layout_.embedding;
    if (is_table) table_shape = view->shape;
    const Use matrix = is_table ? Use::kEmbedding : Use::kLinear;
    tensor_slots_.push_back(
        {tensor.hf_name, view->shape, view->shape.size() == 2 ? matrix : Use::kVector});
  }
  if (layout_.tied_head) tensor_slots_.push_back({layout_.head, table_shape, Use::kLinear});
}

const std::string& ModelFile::stored_name(const ModelTensor& tensor) const {
  return gguf_ != nullptr ? tensor.gguf_name : tensor.folder_name;
}

const TensorView& ModelFile::weight(const ModelLayout::Linear& linear) const {
  const TensorView& view = tensors_->get(stored_name(linear.weight));
  std::vector<int64_t> wanted = {linear.slot.out_features, linear.slot.in_features};
  if (stores_transposed(linear.weight, view)) std::swap(wanted[0], wanted[1]);
  QUARRY_CHECK(view.shape == wanted, ErrorCode::kCorruptData, tensors_->description(), ": tensor '",
               view.name, "' does not have the shape [", wanted[0], ", ", wanted[1],
               "] that the configuration asks for");
  return view;
}

bool ModelFile::stores_transposed(const ModelTensor& tensor, const TensorView& view) const {
  // bitsandbytes holds a Conv1D as a Linear.
  return tensor.is_conv1d && gguf_ == nullptr && !needs_quant_state(view.type);
}

int64_t ModelFile::num_parameters() const {
  const bool tied = config_ != nullptr && config_->value("tie_word_embeddings", false);
  int64_t count = 0;
  for (const TensorView& tensor : tensors_->tensors()) {
    const bool integers = tensor.type == WeightType::kI32 || tensor.type == WeightType::kI64;
    const bool table =
        tensor.name == "rope_freqs.weight" || ends_with(tensor.name, "rotary_emb.inv_freq");
    const bool shared = tied && tensor.name == "lm_head.weight";
    if (!integers && !table && !shared) count += tensor.num_elements();
  }
  return count;
}

}  // namespace quarry
