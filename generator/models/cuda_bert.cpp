#include "generator/models/cuda_bert.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "data/core/error.h"
#include "generator/models/cuda_linear.h"

namespace quarry {
namespace {

namespace cuda = kernels::cuda;
using cuda::DeviceBuffer;

std::vector<float> values_of(const nn::Tensor& tensor) {
  const float* values = tensor.data_ptr<float>();
  return {values, values + tensor.numel()};
}

struct DeviceLayerNorm {
  DeviceLayerNorm(const nn::Tensor& w, const nn::Tensor& b)
      : weight(cuda::on_device(values_of(w))), bias(cuda::on_device(values_of(b))) {}
  DeviceBuffer weight;
  DeviceBuffer bias;
};

struct DeviceBertLayer {
  explicit DeviceBertLayer(const BertLayer& layer)
      : qkv(layer.qkv),
        attention_output(layer.attention_output),
        attention_norm(layer.attention_norm_weight, layer.attention_norm_bias),
        intermediate(layer.intermediate),
        output(layer.output),
        output_norm(layer.output_norm_weight, layer.output_norm_bias) {}
  DeviceLinear qkv;
  DeviceLinear attention_output;
  DeviceLayerNorm attention_norm;
  DeviceLinear intermediate;
  DeviceLinear output;
  DeviceLayerNorm output_norm;
};

void check_sizes(const BertStack& stack) {
  const BertConfig& config = stack.config();
  QUARRY_CHECK(!stack.is_exact(), ErrorCode::kInvalidArgument,
               "exact products are not made on a GPU");
  const int64_t head_dim = config.hidden_size / config.num_heads;
  const bool suits =
      head_dim % 8 == 0 && config.hidden_size % 4 == 0 && config.intermediate_size % 4 == 0;
  QUARRY_CHECK(suits, ErrorCode::kInvalidArgument, "heads of ", head_dim,
               " values in an encoder of width ", config.hidden_size, " and ",
               config.intermediate_size, " do not run on a GPU; wanted multiples of 8 and of 4");
}

class CudaBert final : public BertDevice {
 public:
  explicit CudaBert(const BertStack& stack) : config_(stack.config()) {
    check_sizes(stack);
    for (const BertLayer& layer : stack.layers()) {
      layers_.emplace_back(layer);
      linears_.insert(linears_.end(),
                      {&layer.qkv, &layer.attention_output, &layer.intermediate, &layer.output});
    }
  }

  void run(const TextBatch& batch, const LoraAdapter* adapter, float* x) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<AdapterRows> adapters;
    if (adapter != nullptr) {
      adapters.push_back({0, batch.num_rows(), device_adapter(*adapter, linears_)});
    }
    const Step step = begin_step(batch);
    const int64_t bytes = batch.num_rows() * config_.hidden_size * 4;
    x_.upload(x, bytes);
    for (const DeviceBertLayer& layer : layers_) {
      run_layer(layer, batch.num_rows(), step, adapters);
    }
    x_.download(x, bytes);
  }

 private:
  struct Step {
    cuda::AttentionPlan plan;
    // Where they lie in table_.
    int64_t slots = 0;
    int64_t sequences = 0;
    int64_t tiles = 0;
    int64_t pages = 0;
  };

  int64_t part() const { return cuda::kPageKeys * config_.hidden_size; }  // halves of a page's keys

  // Each text has pages of its own, of the keys and values of one layer after the other.
  Step begin_step(const TextBatch& batch) const {
    Step step;
    std::vector<cuda::AttentionSequence> texts;
    int64_t num_pages = 0;
    for (size_t i = 0; i + 1 < batch.starts.size(); ++i) {
      const int64_t length = batch.starts[i + 1] - batch.starts[i];
      if (length == 0) continue;
      texts.push_back({length, length});
      num_pages += (length + cuda::kPageKeys - 1) / cuda::kPageKeys;
    }
    pages_.grow(num_pages * 2 * part() * 2);
    std::vector<uint16_t*> pages;
    std::vector<uint16_t*> slots;
    for (const cuda::AttentionSequence& text : texts) {
      for (int64_t key = 0; key < text.num_keys; ++key) {
        if (key % cuda::kPageKeys == 0) {
          const auto number = static_cast<int64_t>(pages.size());
          pages.push_back(pages_.as<uint16_t>() + number * 2 * part());
        }
        slots.push_back(pages.back() + key % cuda::kPageKeys * config_.hidden_size);
      }
    }
    step.plan = cuda::plan_attention(texts, 1);
    StepTable table;
    step.slots = table.add(slots);
    step.sequences = table.add(step.plan.sequences);
    step.tiles = table.add(step.plan.tiles);
    step.pages = table.add(pages);
    table.upload(table_);
    const int64_t rows = batch.num_rows();
    x_.grow(rows * config_.hidden_size * 4);
    h_.grow(rows * config_.hidden_size * 4);
    wide_.grow(rows * std::max(3 * config_.hidden_size, config_.intermediate_size) * 4);
    return step;
  }

  void attend(const Step& step, int64_t rows, const float* qkv, float* out) const {
    const int64_t width = config_.hidden_size;
    cuda::PagedAttention shape;
    shape.num_heads = shape.num_kv_heads = config_.num_heads;
    shape.head_dim = width / config_.num_heads;
    shape.ldq = 3 * width;
    shape.ldo = width;
    shape.scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    shape.causal = false;
    shape.sequences = at_place<cuda::PagedSequence>(table_, step.sequences);
    shape.tiles = at_place<cuda::AttentionTile>(table_, step.tiles);
    shape.pages = at_place<const uint16_t*>(table_, step.pages);
    shape.v_offset = part();
    cuda::store_key_values(qkv + width, qkv + 2 * width, 3 * width, rows, width,
                           at_place<uint16_t*>(table_, step.slots), 0, part(), work_.stream.get());
    void* scratch =
        work_.reserve(cuda::attention_scratch_bytes(step.plan, shape.num_kv_heads, shape.head_dim));
    cuda::attention(step.plan, shape, qkv, out, scratch, work_.stream.get());
  }

  // x = norm(x + h)
  void add_norm(const DeviceLayerNorm& norm, const float* h, int64_t rows) const {
    float* x = x_.as<float>();
    cuda::add(h, rows * config_.hidden_size, x, work_.stream.get());
    cuda::layer_norm(x, norm.weight.as<float>(), norm.bias.as<float>(), config_.norm_epsilon, rows,
                     config_.hidden_size, x, work_.stream.get());
  }

  void run_layer(const DeviceBertLayer& layer, int64_t rows, const Step& step,
                 const std::vector<AdapterRows>& adapters) const {
    float* x = x_.as<float>();
    float* h = h_.as<float>();
    float* wide = wide_.as<float>();
    multiply(layer.qkv, adapters, x, rows, wide, work_);
    attend(step, rows, wide, h);
    multiply(layer.attention_output, adapters, h, rows, wide, work_);
    add_norm(layer.attention_norm, wide, rows);
    multiply(layer.intermediate, adapters, x, rows, wide, work_);
    cuda::gelu(wide, rows * config_.intermediate_size, work_.stream.get());
    multiply(layer.output, adapters, wide, rows, h, work_);
    add_norm(layer.output_norm, h, rows);
  }

  const BertConfig config_;
  std::vector<DeviceBertLayer> layers_;
  std::vector<const nn::Linear*> linears_;

  // One batch at a time; buffers grow to the largest.
  mutable std::mutex mutex_;
  mutable DeviceWork work_;
  mutable DeviceBuffer table_;
  mutable DeviceBuffer pages_;
  mutable DeviceBuffer x_;     // [T, E]
  mutable DeviceBuffer h_;     // [T, E]
  mutable DeviceBuffer wide_;  // [T, max(3 E, F)]
};

}  // namespace

std::unique_ptr<BertDevice> make_cuda_bert(const BertStack& stack) {
  return std::make_unique<CudaBert>(stack);
}

}  // namespace quarry
