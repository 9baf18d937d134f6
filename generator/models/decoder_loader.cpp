#include "generator/models/decoder_loader.h"

#include <cstring>
#include <utility>

#include "data/core/error.h"
#include "generator/nn/load.h"
#include "generator/nn/pack_weight.h"
#include "generator/quant/encode_dense.h"

namespace quarry {
namespace {

using Use = CausalLm::TensorSlot::Use;

std::vector<float> decode_table(int64_t rows, int64_t width,
                                const std::function<void(int64_t, float*)>& decode) {
  std::vector<float> values(static_cast<size_t>(rows * width));
  for (int64_t row = 0; row < rows; ++row) decode(row, values.data() + row * width);
  return values;
}

// A Conv1D weight [in, out] as that of a Linear.
struct Transposed {
  explicit Transposed(const TensorView& stored) : view(stored) {
    QUARRY_CHECK(is_dense_float(stored.type), ErrorCode::kInvalidArgument, "tensor '", stored.name,
                 "': a Conv1D weight as ", weight_type_traits(stored.type).name,
                 " is not supported");
    const int64_t in = stored.shape[0];
    const int64_t out = stored.shape[1];
    const auto size = static_cast<size_t>(weight_bytes(stored.type, 1));
    bytes.resize(static_cast<size_t>(stored.bytes));
    for (int64_t row = 0; row < out; ++row) {
      for (int64_t i = 0; i < in; ++i) {
        std::memcpy(bytes.data() + static_cast<size_t>(row * in + i) * size,
                    stored.data + static_cast<size_t>(i * out + row) * size, size);
      }
    }
    view.shape = {out, in};
    view.data = bytes.data();
  }
  std::vector<uint8_t> bytes;
  TensorView view;
};

}  // namespace

DecoderLoader::DecoderLoader(const CausalLmSource& source, const ModelLayout& layout,
                             kernels::Precision precision)
    : source_(source), layout_(layout) {
  for (const ModelLayout::Linear& linear : layout.linears) {
    tensors_[linear.weight.hf_name] = &linear.weight;
    modules_->slots.push_back(linear.slot);
  }
  for (const ModelTensor& tensor : layout.others) tensors_[tensor.hf_name] = &tensor;
  modules_->precision = precision;
  modules_->head_weight = layout.head;
  load_tables();
}

const ModelTensor& DecoderLoader::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  QUARRY_CHECK(it != tensors_.end(), ErrorCode::kInternal, "the layout has no tensor '", name, "'");
  return *it->second;
}

const std::string& DecoderLoader::stored_name(const ModelTensor& tensor) const {
  return source_.gguf != nullptr ? tensor.gguf_name : tensor.folder_name;
}

const TensorView* DecoderLoader::view(const ModelTensor& tensor) const {
  const TensorSource& file = *source_.tensors;
  return tensor.optional ? nn::find_checked(file, stored_name(tensor), tensor.shape)
                         : &nn::get_checked(file, stored_name(tensor), tensor.shape);
}

at::Tensor DecoderLoader::vector(const std::string& name) const {
  const ModelTensor& tensor = find(name);
  at::Tensor values = nn::load_vector(*source_.tensors, stored_name(tensor), tensor.shape.front());
  if (source_.gguf != nullptr && tensor.gguf_offset != 0.0f) values.sub_(tensor.gguf_offset);
  return values;
}

void DecoderLoader::load_tables() {
  DecoderModules& modules = *modules_;
  const ModelTensor& embedding = find(layout_.embedding);
  const TensorView& table = *view(embedding);
  const TensorView& head = layout_.tied_head ? table : *view(find(layout_.head));
  // 4- and 8-bit quantization leaves the head alone.
  const LoadIn load_in = source_.weights.load_in;
  std::unique_ptr<kernels::PackedMatrix> packed =
      nn::pack_weight(head, {}, nn::head_precision(modules.precision, head.type),
                      nn::quantized_type(load_in) ? LoadIn::kAsIs : load_in);
  SpillFile* spill = source_.weights.spill.get();
  if (spill != nullptr) packed->move_to(*spill);
  modules.head = std::move(packed);
  const ModelTensor* head_bias = layout_.head_bias.empty() ? nullptr : &find(layout_.head_bias);
  const TensorView* bias = head_bias == nullptr ? nullptr : view(*head_bias);
  if (bias != nullptr) {
    modules.head_bias.resize(static_cast<size_t>(bias->num_elements()));
    dequantize(bias->type, bias->data, modules.head_bias.data(), bias->num_elements());
  }
  const std::string path =
      embedding.hf_name.substr(0, embedding.hf_name.size() - std::strlen(".weight"));
  if (layout_.tied_head) {
    modules.embeddings.emplace_back(modules.head, path);
  } else {
    modules.embeddings.emplace_back(table, path, spill);
  }
  source_.tensors->forget(table);
  source_.tensors->forget(head);
  const int64_t rows = table.shape[0];
  const int64_t width = table.shape[1];
  list(layout_.embedding, table.shape, Use::kEmbedding,
       [&rows_of = modules.embeddings.front(), rows, width] {
         return decode_table(rows, width,
                             [&](int64_t row, float* out) { rows_of.decode(row, out); });
       });
  list(layout_.head, table.shape, Use::kLinear, [packed = modules.head, rows, width] {
    return decode_table(rows, width,
                        [&](int64_t row, float* out) { kernels::decode_row(*packed, row, out); });
  });
}

const nn::Linear& DecoderLoader::linear(const std::vector<std::string>& paths) {
  std::vector<nn::Projection> projections;
  std::deque<Transposed> transposed;
  for (const std::string& path : paths) {
    const ModelTensor& weight = find(path + ".weight");
    nn::Projection projection;
    projection.path = path;
    if (source_.gguf != nullptr) projection.row_order = weight.gguf_rows;
    // bitsandbytes quantizes a Conv1D as the Linear that it is.
    const TensorView& stored = source_.tensors->get(stored_name(weight));
    if (weight.is_conv1d && source_.gguf == nullptr && !needs_quant_state(stored.type)) {
      const std::vector<int64_t> shape = {weight.shape[1], weight.shape[0]};
      transposed.emplace_back(nn::get_checked(*source_.tensors, stored_name(weight), shape));
      projection.weight = &transposed.back().view;
    } else {
      projection.weight = view(weight);
    }
    const auto bias = tensors_.find(path + ".bias");
    if (bias != tensors_.end()) projection.bias = view(*bias->second);
    projections.push_back(std::move(projection));
  }
  std::deque<nn::Linear>& linears = modules_->linears;
  linears.emplace_back(projections, modules_->precision, source_.weights);
  // Models load their Linears in the order in which they use them.
  if (linears.size() > 1) (linears.end() - 2)->set_next(&linears.back());
  linears.back().set_next(&linears.front());
  for (const std::string& path : paths) {
    source_.tensors->forget(source_.tensors->get(stored_name(find(path + ".weight"))));
  }
  list_linear(linears.back());
  return linears.back();
}

const nn::RmsNorm& DecoderLoader::rms_norm(const std::string& path, double epsilon, float offset) {
  modules_->rms_norms.emplace_back(path, vector(path + ".weight"), static_cast<float>(epsilon),
                                   offset);
  const nn::RmsNorm& norm = modules_->rms_norms.back();
  list(norm.weight_name(), find(norm.weight_name()).shape, Use::kVector,
       [&norm] { return norm.weight_values(); });
  return norm;
}

const nn::LayerNorm& DecoderLoader::layer_norm(const std::string& path, double epsilon) {
  modules_->layer_norms.emplace_back(path, vector(path + ".weight"), vector(path + ".bias"),
                                     static_cast<float>(epsilon));
  const nn::LayerNorm& norm = modules_->layer_norms.back();
  const std::vector<int64_t> shape = find(norm.weight_name()).shape;
  list(norm.weight_name(), shape, Use::kVector, [&norm] { return norm.weight_values(); });
  list(norm.bias_name(), shape, Use::kVector, [&norm] { return norm.bias_values(); });
  return norm;
}

const nn::Embedding& DecoderLoader::table(const std::string& path) {
  modules_->embeddings.emplace_back(*view(find(path + ".weight")), path,
                                    source_.weights.spill.get());
  return modules_->embeddings.back();
}

void DecoderLoader::list_linear(const nn::Linear& linear) {
  for (size_t i = 0; i < linear.num_projections(); ++i) {
    const int64_t width = linear.width(i);
    // PEFT keeps the copy of a Conv1D as [in, out]: such copies are not offered.
    if (!find(linear.path(i) + ".weight").is_conv1d) {
      list(linear.path(i) + ".weight", {width, linear.in_features()}, Use::kLinear,
           [&linear, i] { return linear.weight_values(i); });
    }
    if (!linear.has_bias(i)) continue;
    list(linear.path(i) + ".bias", {width}, Use::kVector,
         [&linear, i] { return linear.bias_values(i); });
  }
}

void DecoderLoader::list(const std::string& name, std::vector<int64_t> shape, Use use,
                         std::function<std::vector<float>()> values) {
  modules_->tensor_slots.push_back({name, std::move(shape), use});
  modules_->tensor_values[name] = std::move(values);
}

}  // namespace quarry
