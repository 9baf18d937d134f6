#include "generator/models/cuda_decoder.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <utility>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/kernels/cuda_twins.h"
#include "generator/kernels/device_buffer.h"
#include "generator/models/cuda_linear.h"
#include "generator/models/cuda_pages.h"
#include "generator/models/decoder.h"
#include "generator/nn/kv_cache.h"

namespace quarry {
namespace {

using kernels::cuda::DeviceBuffer;
using kernels::cuda::DeviceMatrix;

static_assert(kKvPageTokens == kernels::cuda::kPageKeys, "attention reads the pages of a cache");

struct DeviceNorm {
  explicit DeviceNorm(const nn::RmsNorm* norm)
      : weight(norm == nullptr ? DeviceBuffer() : kernels::cuda::on_device(norm->factors())),
        epsilon(norm == nullptr ? 0.0f : norm->epsilon()),
        is_there(norm != nullptr) {}
  DeviceBuffer weight;
  float epsilon;
  bool is_there;
};

struct DeviceLayer {
  explicit DeviceLayer(const GatedStack::Layer& layer)
      : attention_norm(layer.attention_norm),
        qkv(*layer.qkv),
        q_norm(layer.head_norm == nullptr ? nullptr : &layer.head_norm->q()),
        k_norm(layer.head_norm == nullptr ? nullptr : &layer.head_norm->k()),
        o(*layer.o),
        after_attention_norm(layer.after_attention_norm),
        mlp_norm(layer.mlp_norm),
        gate_up(*layer.gate_up),
        down(*layer.down),
        after_mlp_norm(layer.after_mlp_norm),
        rope(layer.rope),
        window(layer.window) {}
  DeviceNorm attention_norm;
  DeviceLinear qkv;
  DeviceNorm q_norm;
  DeviceNorm k_norm;
  DeviceLinear o;
  DeviceNorm after_attention_norm;
  DeviceNorm mlp_norm;
  DeviceLinear gate_up;
  DeviceLinear down;
  DeviceNorm after_mlp_norm;
  nn::RopeTable* rope;
  int64_t window;
};

// The launches of a step that differ from those of another in nothing but what lies in buffers.
struct StepShape {
  int64_t rows;
  int64_t logit_rows;
  int64_t sequences;
  int64_t tiles;
  int64_t splits;
  int64_t split_rows;
  std::vector<std::pair<int64_t, int64_t>> spans;  // rows of adapters
  std::vector<std::weak_ptr<const DeviceAdapter>> adapters;

  bool same_as(const StepShape& other) const {
    const auto same_adapter = [](const std::weak_ptr<const DeviceAdapter>& a,
                                 const std::weak_ptr<const DeviceAdapter>& b) {
      return !a.owner_before(b) && !b.owner_before(a);
    };
    return rows == other.rows && logit_rows == other.logit_rows && sequences == other.sequences &&
           tiles == other.tiles && splits == other.splits && split_rows == other.split_rows &&
           spans == other.spans &&
           std::equal(adapters.begin(), adapters.end(), other.adapters.begin(),
                      other.adapters.end(), same_adapter);
  }
};

// Steps that came before: one that comes again is captured, and replayed from then on.
struct KnownStep {
  StepShape shape;
  std::unique_ptr<kernels::cuda::DeviceGraph> graph;  // null: seen once
};
constexpr size_t kMostKnownSteps = 32;
constexpr int64_t kMostCapturedRows = 64;

struct DeviceRope {
  int64_t num_positions = 0;
  DeviceBuffer cosines;
  DeviceBuffer sines;
};

void check_sizes(const CausalLmConfig& config, const Decoder* decoder) {
  const bool has_stack = decoder != nullptr && decoder->gated_stack().has_value();
  QUARRY_CHECK(has_stack, ErrorCode::kInvalidArgument, "models of the family '",
               config.architecture, "' do not run on a GPU");
  QUARRY_CHECK(decoder->modules().precision != kernels::Precision::kExact,
               ErrorCode::kInvalidArgument, "exact products are not made on a GPU");
  const bool suits = config.head_dim % 8 == 0 && config.head_dim <= 256 &&
                     config.hidden_size % 4 == 0 && config.intermediate_size % 4 == 0;
  QUARRY_CHECK(suits, ErrorCode::kInvalidArgument, "heads of ", config.head_dim,
               " values in a model of width ", config.hidden_size, " and ",
               config.intermediate_size,
               " do not run on a GPU; wanted a multiple of 8 up to 256 and multiples of 4");
}

class CudaDecoder final : public CausalLm {
 public:
  // Takes `model` as its last act.
  explicit CudaDecoder(std::unique_ptr<CausalLm>& model)
      : host_(dynamic_cast<const Decoder*>(model.get())), config_(model->config()) {
    check_sizes(config_, host_);
    stack_ = *host_->gated_stack();
    for (const GatedStack::Layer& layer : stack_.layers) {
      layers_.emplace_back(layer);
      for (const nn::Linear* linear : {layer.qkv, layer.o, layer.gate_up, layer.down}) {
        QUARRY_CHECK(!linear->has_outlier_product(), ErrorCode::kInvalidArgument,
                     "the product of LLM.int8 with its outliers is not made on a GPU");
        linears_.push_back(linear);
      }
    }
    final_norm_ = std::make_unique<DeviceNorm>(stack_.final_norm);
    head_ = std::make_unique<DeviceMatrix>(*host_->modules().head);
    head_bias_ = kernels::cuda::on_device(host_->modules().head_bias);
    model_ = std::move(model);
  }

  const CausalLmConfig& config() const override { return config_; }
  std::unique_ptr<KvCache> make_cache() const override {
    return std::make_unique<KvCache>(config_.num_layers, config_.num_kv_heads, config_.head_dim,
                                     config_.max_seq_len, KvCache::ElementType::kHalf, pages_);
  }
  const std::vector<LinearSlot>& linear_slots() const override { return model_->linear_slots(); }
  const std::vector<TensorSlot>& tensor_slots() const override { return model_->tensor_slots(); }
  std::vector<float> tensor_values(const std::string& name) const override {
    return model_->tensor_values(name);
  }
  void check_adapter(const LoraAdapter& adapter) const override {
    device_adapter(adapter, linears_);
  }
  std::vector<float> target_losses(const TokenTree& tree, const LoraAdapter* adapter,
                                   GradientOptions::Compute compute) const override {
    return model_->target_losses(tree, adapter, compute);
  }
  std::vector<float> accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                          const GradientOptions& options,
                                          LoraGradients& gradients) const override {
    return model_->accumulate_gradients(tree, adapter, options, gradients);
  }

  void forward_into(const std::vector<SequenceChunk>& chunks,
                    std::vector<float>& logits) const override;

 private:
  // A step on the device.
  struct Step {
    int64_t rows = 0;
    std::vector<AdapterRows> adapters;
    kernels::cuda::AttentionPlan plan;
    // Where they lie in table_.
    int64_t positions = 0;
    int64_t logit_rows = 0;
    int64_t slots = 0;  // of each row: where its keys and values go
    int64_t sequences = 0;
    int64_t tiles = 0;
    int64_t pages = 0;
  };
  std::vector<const void*> places() const;  // where kernels find and leave things
  StepShape shape_of(const Step& step, int64_t logit_rows) const;
  void run(const std::vector<SequenceChunk>& chunks, std::vector<float>& logits) const;
  // All kernels of a step, up to its logits in logits_.
  void run_step(const Step& step, int64_t logit_rows) const;
  void run_captured(const Step& step, int64_t logit_rows) const;
  Step begin_step(const DecoderPass& pass, const std::vector<int32_t>& logit_rows) const;
  void embed(const DecoderPass& pass) const;
  void run_layer(const DeviceLayer& layer, int64_t number, const Step& step) const;
  void attend(const DeviceLayer& layer, int64_t number, const Step& step, float* qkv,
              float* out) const;
  void norm(const DeviceNorm& norm, const float* x, int64_t rows, float* out) const {
    kernels::cuda::rms_norm(x, norm.weight.as<float>(), norm.epsilon, rows, config_.hidden_size,
                            out, work_.stream.get());
  }
  void grow_rope(nn::RopeTable* rope, int64_t num_positions) const;
  template <typename T>
  const T* table(int64_t place) const {
    return at_place<T>(table_, place);
  }

  std::unique_ptr<CausalLm> model_;
  const Decoder* host_;  // model_
  const CausalLmConfig config_;
  GatedStack stack_;
  std::vector<DeviceLayer> layers_;
  std::vector<const nn::Linear*> linears_;
  std::unique_ptr<DeviceNorm> final_norm_;
  std::unique_ptr<DeviceMatrix> head_;
  DeviceBuffer head_bias_;
  std::shared_ptr<DevicePages> pages_ = std::make_shared<DevicePages>();

  // Used by the one thread that runs forward(); they grow to the largest step.
  mutable std::map<nn::RopeTable*, DeviceRope> ropes_;
  mutable DeviceWork work_;
  mutable std::deque<KnownStep> known_steps_;      // the one used last in front
  mutable std::vector<const void*> known_places_;  // places() as known_steps_ have them
  mutable DeviceBuffer table_;
  mutable DeviceBuffer x_;       // [T, E]: between the layers
  mutable DeviceBuffer h_;       // [T, max(E, H D)]
  mutable DeviceBuffer wide_;    // [T, max((H + 2 K) D, 2 F)]
  mutable DeviceBuffer inner_;   // [T, max(E, F)]
  mutable DeviceBuffer logits_;  // [rows, V]
  mutable std::vector<float> embedded_;
};

void CudaDecoder::grow_rope(nn::RopeTable* rope, int64_t num_positions) const {
  DeviceRope& table = ropes_[rope];
  if (num_positions <= table.num_positions) return;
  constexpr int64_t kFewest = 512;
  DeviceRope grown;
  grown.num_positions =
      std::min(config_.max_seq_len, std::max({num_positions, 2 * table.num_positions, kFewest}));
  grown.cosines = kernels::cuda::on_device(rope->cosines(grown.num_positions));
  grown.sines = kernels::cuda::on_device(rope->sines(grown.num_positions));
  table = std::move(grown);
}

CudaDecoder::Step CudaDecoder::begin_step(const DecoderPass& pass,
                                          const std::vector<int32_t>& logit_rows) const {
  Step step;
  step.rows = static_cast<int64_t>(pass.tokens.size());
  for (const nn::AdapterSpan& span : pass.adapters) {
    step.adapters.push_back({span.begin, span.end, device_adapter(*span.adapter, linears_)});
  }
  std::vector<kernels::cuda::AttentionSequence> sequences;
  std::vector<const uint16_t*> pages;
  std::vector<const uint16_t*> slots;
  const int64_t width = config_.num_kv_heads * config_.head_dim;
  for (const nn::SequenceSpan& sequence : pass.sequences) {
    QUARRY_CHECK(sequence.cache->page_memory() == pages_, ErrorCode::kInvalidArgument,
                 "a cache of another model or another device");
    const int64_t held = sequence.cache->length();
    const int64_t num_keys = held + sequence.num_tokens;
    sequences.push_back({sequence.num_tokens, num_keys});
    const uint16_t* const* first = sequence.cache->half_pages(0).k_pages;
    pages.insert(pages.end(), first, first + (num_keys + kKvPageTokens - 1) / kKvPageTokens);
    for (int64_t token = held; token < num_keys; ++token) {
      slots.push_back(first[token / kKvPageTokens] + token % kKvPageTokens * width);
    }
  }
  step.plan = kernels::cuda::plan_attention(sequences, config_.num_heads / config_.num_kv_heads);
  // Here, since a replay reserves nothing.
  work_.reserve(
      kernels::cuda::attention_scratch_bytes(step.plan, config_.num_kv_heads, config_.head_dim));
  StepTable table;
  step.positions = table.add(pass.positions);
  step.logit_rows = table.add(logit_rows);
  step.slots = table.add(slots);
  step.sequences = table.add(step.plan.sequences);
  step.tiles = table.add(step.plan.tiles);
  step.pages = table.add(pages);  // last: their number changes nothing in the places of the others
  table.upload(table_);

  const int64_t heads_width = config_.num_heads * config_.head_dim;
  x_.grow(step.rows * config_.hidden_size * 4);
  h_.grow(step.rows * std::max(config_.hidden_size, heads_width) * 4);
  wide_.grow(step.rows * std::max(heads_width + 2 * width, 2 * config_.intermediate_size) * 4);
  inner_.grow(step.rows * std::max(config_.hidden_size, config_.intermediate_size) * 4);
  logits_.grow(static_cast<int64_t>(logit_rows.size()) * config_.vocab_size * 4);
  const int32_t last = *std::max_element(pass.positions.begin(), pass.positions.end());
  for (const DeviceLayer& layer : layers_) grow_rope(layer.rope, last + 1);
  return step;
}

void CudaDecoder::embed(const DecoderPass& pass) const {
  const nn::Embedding& embedding = host_->modules().embeddings.front();
  const int64_t width = config_.hidden_size;
  const auto rows = static_cast<int64_t>(pass.tokens.size());
  embedded_.resize(static_cast<size_t>(rows * width));
  constexpr int64_t kRowGrain = 16;
  parallel_for(rows, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* values = embedded_.data() + row * width;
      embedding.decode(pass.tokens[static_cast<size_t>(row)], values);
      for (int64_t i = 0; i < width; ++i) values[i] *= stack_.embedding_scale;
    }
  });
  x_.upload(embedded_.data(), rows * width * 4);
}

void CudaDecoder::attend(const DeviceLayer& layer, int64_t number, const Step& step, float* qkv,
                         float* out) const {
  namespace cuda = kernels::cuda;
  const nn::AttentionHeads& heads = stack_.heads;
  const int64_t q_width = heads.num_heads * heads.head_dim;
  const int64_t kv_width = heads.num_kv_heads * heads.head_dim;
  const int64_t ld = q_width + 2 * kv_width;
  if (layer.q_norm.is_there) {
    cuda::head_norm(qkv, layer.q_norm.weight.as<float>(), layer.q_norm.epsilon, step.rows,
                    heads.num_heads, heads.head_dim, ld, work_.stream.get());
    cuda::head_norm(qkv + q_width, layer.k_norm.weight.as<float>(), layer.k_norm.epsilon, step.rows,
                    heads.num_kv_heads, heads.head_dim, ld, work_.stream.get());
  }
  const DeviceRope& rope = ropes_[layer.rope];
  cuda::rope(qkv, table<int32_t>(step.positions), step.rows, heads.num_heads + heads.num_kv_heads,
             heads.head_dim, layer.rope->rotary_dim(), ld, rope.cosines.as<float>(),
             rope.sines.as<float>(), kernels::RopePairing::kHalf, work_.stream.get());
  const int64_t part = kKvPageTokens * kv_width;
  cuda::PagedAttention shape;
  shape.num_heads = heads.num_heads;
  shape.num_kv_heads = heads.num_kv_heads;
  shape.head_dim = heads.head_dim;
  shape.ldq = ld;
  shape.ldo = q_width;
  shape.scale =
      heads.scale != 0.0f ? heads.scale : 1.0f / std::sqrt(static_cast<float>(heads.head_dim));
  shape.window = layer.window;
  shape.sequences = table<cuda::PagedSequence>(step.sequences);
  shape.tiles = table<cuda::AttentionTile>(step.tiles);
  shape.pages = table<const uint16_t*>(step.pages);
  shape.k_offset = 2 * number * part;
  shape.v_offset = (2 * number + 1) * part;
  cuda::store_key_values(qkv + q_width, qkv + q_width + kv_width, ld, step.rows, kv_width,
                         table<uint16_t*>(step.slots), shape.k_offset, shape.v_offset,
                         work_.stream.get());
  cuda::attention(step.plan, shape, qkv, out, work_.scratch.as<void>(), work_.stream.get());
}

void CudaDecoder::run_layer(const DeviceLayer& layer, int64_t number, const Step& step) const {
  namespace cuda = kernels::cuda;
  float* x = x_.as<float>();
  float* h = h_.as<float>();
  float* wide = wide_.as<float>();
  float* inner = inner_.as<float>();
  const int64_t values = step.rows * config_.hidden_size;

  norm(layer.attention_norm, x, step.rows, h);
  multiply(layer.qkv, step.adapters, h, step.rows, wide, work_);
  attend(layer, number, step, wide, h);
  multiply(layer.o, step.adapters, h, step.rows, inner, work_);
  if (layer.after_attention_norm.is_there) {
    norm(layer.after_attention_norm, inner, step.rows, inner);
  }
  cuda::add(inner, values, x, work_.stream.get());

  norm(layer.mlp_norm, x, step.rows, h);
  multiply(layer.gate_up, step.adapters, h, step.rows, wide, work_);
  const auto gate =
      stack_.gate == GatedStack::Gate::kSilu ? cuda::Gate::kSilu : cuda::Gate::kGeluTanh;
  cuda::gated_product(gate, wide, step.rows, config_.intermediate_size, inner, work_.stream.get());
  multiply(layer.down, step.adapters, inner, step.rows, h, work_);
  if (layer.after_mlp_norm.is_there) norm(layer.after_mlp_norm, h, step.rows, h);
  cuda::add(h, values, x, work_.stream.get());
}

void CudaDecoder::run_step(const Step& step, int64_t logit_rows) const {
  for (size_t i = 0; i < layers_.size(); ++i) {
    run_layer(layers_[i], static_cast<int64_t>(i), step);
  }
  float* h = h_.as<float>();
  float* logits = logits_.as<float>();
  kernels::cuda::gather_rows(x_.as<float>(), table<int32_t>(step.logit_rows), logit_rows,
                             config_.hidden_size, h, work_.stream.get());
  norm(*final_norm_, h, logit_rows, h);
  multiply(*head_, h, logit_rows, logits, config_.vocab_size, work_);
  if (head_bias_.bytes() > 0) {
    kernels::cuda::add_bias(head_bias_.as<float>(), logit_rows, config_.vocab_size, logits,
                            work_.stream.get());
  }
}

std::vector<const void*> CudaDecoder::places() const {
  std::vector<const void*> places;
  for (const DeviceBuffer* buffer :
       {&table_, &x_, &h_, &wide_, &inner_, &work_.scratch, &logits_}) {
    places.push_back(buffer->as<void>());
  }
  for (const auto& [host, rope] : ropes_) {
    places.insert(places.end(), {rope.cosines.as<void>(), rope.sines.as<void>()});
  }
  return places;
}

StepShape CudaDecoder::shape_of(const Step& step, int64_t logit_rows) const {
  StepShape shape = {step.rows,
                     logit_rows,
                     static_cast<int64_t>(step.plan.sequences.size()),
                     static_cast<int64_t>(step.plan.tiles.size()),
                     step.plan.most_splits,
                     step.plan.most_split_rows,
                     {},
                     {}};
  for (const AdapterRows& part : step.adapters) {
    shape.spans.emplace_back(part.begin, part.end);
    shape.adapters.push_back(part.adapter);
  }
  return shape;
}

void CudaDecoder::run_captured(const Step& step, int64_t logit_rows) const {
  StepShape shape = shape_of(step, logit_rows);
  if (places() != known_places_) known_steps_.clear();
  const auto known = std::find_if(known_steps_.begin(), known_steps_.end(),
                                  [&](const KnownStep& one) { return one.shape.same_as(shape); });
  if (known == known_steps_.end()) {
    run_step(step, logit_rows);
    if (places() != known_places_) known_steps_.clear();
    known_places_ = places();
    known_steps_.push_front({std::move(shape), nullptr});
    if (known_steps_.size() > kMostKnownSteps) known_steps_.pop_back();
    return;
  }
  if (known->graph == nullptr) {
    known->graph =
        kernels::cuda::DeviceGraph::capture(work_.stream, [&] { run_step(step, logit_rows); });
  }
  if (known->graph == nullptr) return run_step(step, logit_rows);
  known->graph->launch(work_.stream);
  std::rotate(known_steps_.begin(), known, known + 1);
}

void CudaDecoder::forward_into(const std::vector<SequenceChunk>& chunks,
                               std::vector<float>& logits) const {
  if (chunks.empty()) return logits.clear();
  try {
    run(chunks, logits);
  } catch (const Error& error) {
    // Whoever tries again finds what free pages took.
    if (error.code() == ErrorCode::kUnavailable) pages_->trim();
    throw;
  }
}

void CudaDecoder::run(const std::vector<SequenceChunk>& chunks, std::vector<float>& logits) const {
  std::vector<int64_t> output_rows;
  const DecoderPass pass = plan_chunks(chunks, config_, output_rows);
  std::vector<int32_t> logit_rows;
  for (const int64_t row : output_rows) {
    logit_rows.push_back(static_cast<int32_t>(pass.logit_rows[static_cast<size_t>(row)]));
  }
  const auto num_logits = static_cast<int64_t>(logit_rows.size());
  const Step step = begin_step(pass, logit_rows);
  embed(pass);
  if (step.rows <= kMostCapturedRows) {
    run_captured(step, num_logits);
  } else {
    run_step(step, num_logits);
  }
  logits.resize(static_cast<size_t>(num_logits * config_.vocab_size));
  logits_.download(logits.data(), num_logits * config_.vocab_size * 4);
  for (const nn::SequenceSpan& sequence : pass.sequences) {
    sequence.cache->advance(sequence.num_tokens);
  }
}

}  // namespace

std::unique_ptr<CausalLm> make_cuda_decoder(std::unique_ptr<CausalLm>&& model) {
  return std::make_unique<CudaDecoder>(model);
}

}  // namespace quarry
