#include "generator/models/model_layout.h"

#include <utility>

#include "generator/weights/tensor_source.h"

namespace quarry {

ModelTensor LayoutBuilder::make(const std::string& hf, const std::string& gguf,
                                const char* parameter, std::vector<int64_t> shape) const {
  ModelTensor tensor;
  tensor.hf_name = hf + parameter;
  if (!gguf.empty()) tensor.gguf_name = gguf + parameter;
  tensor.folder_name = tensor.hf_name;
  tensor.shape = std::move(shape);
  if (folder_ == nullptr || root_.empty() || tensor.hf_name.rfind(root_, 0) != 0) return tensor;
  const std::string bare = tensor.hf_name.substr(root_.size());
  if (folder_->find(tensor.hf_name) == nullptr && folder_->find(bare) != nullptr) {
    tensor.folder_name = bare;
  }
  return tensor;
}

void LayoutBuilder::embedding(const std::string& hf, const std::string& gguf, int64_t rows,
                              int64_t width) {
  table(hf, gguf, rows, width);
  layout_.embedding = layout_.others.back().hf_name;
}

void LayoutBuilder::head(const std::string& hf, const std::string& gguf, int64_t rows,
                         int64_t width, bool is_tied) {
  table(hf, gguf, rows, width);
  layout_.others.back().optional = is_tied;
  layout_.head = layout_.others.back().hf_name;
  layout_.tied_head = is_tied;
}

void LayoutBuilder::head_bias(const std::string& hf, int64_t rows) {
  layout_.others.push_back(make(hf, "", "", {1, rows}));
  layout_.others.back().optional = true;
  layout_.head_bias = hf;
}

void LayoutBuilder::table(const std::string& hf, const std::string& gguf, int64_t rows,
                          int64_t width) {
  layout_.others.push_back(make(hf, gguf, ".weight", {rows, width}));
}

void LayoutBuilder::linear(const std::string& hf, const std::string& gguf, int64_t in,
                           int64_t out) {
  linear(hf, gguf, in, out, LinearOptions());
}

void LayoutBuilder::linear(const std::string& hf, const std::string& gguf, int64_t in, int64_t out,
                           const LinearOptions& options) {
  ModelTensor weight = make(hf, gguf, ".weight", {out, in});
  weight.gguf_rows = options.gguf_rows;
  weight.is_conv1d = options.is_conv1d;
  layout_.linears.push_back({{hf, in, out}, std::move(weight)});
  if (options.bias == BiasUse::kNone) return;
  ModelTensor bias = make(hf, gguf, ".bias", {out});
  bias.gguf_rows = options.gguf_rows;
  bias.optional = options.bias == BiasUse::kOptional;
  layout_.others.push_back(std::move(bias));
}

void LayoutBuilder::rms_norm(const std::string& hf, const std::string& gguf, int64_t width,
                             float gguf_offset) {
  layout_.others.push_back(make(hf, gguf, ".weight", {width}));
  layout_.others.back().gguf_offset = gguf_offset;
}

void LayoutBuilder::layer_norm(const std::string& hf, const std::string& gguf, int64_t width) {
  layout_.others.push_back(make(hf, gguf, ".weight", {width}));
  layout_.others.push_back(make(hf, gguf, ".bias", {width}));
}

ModelLayout LayoutBuilder::take() { return std::move(layout_); }

std::vector<int64_t> interleaved_rows(int64_t num_heads, int64_t head_dim) {
  std::vector<int64_t> order;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t row = 0; row < head_dim; ++row) {
      const int64_t half = row / (head_dim / 2);
      const int64_t pair = row % (head_dim / 2);
      order.push_back(head * head_dim + 2 * pair + half);
    }
  }
  return order;
}

std::vector<int64_t> rows_by_head(int64_t num_heads, int64_t head_dim) {
  std::vector<int64_t> order;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t part = 0; part < 3; ++part) {
      for (int64_t row = 0; row < head_dim; ++row) {
        order.push_back((part * num_heads + head) * head_dim + row);
      }
    }
  }
  return order;
}

}  // namespace quarry
