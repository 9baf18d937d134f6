#include "finetune/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/quant/dynamic_map.h"

namespace quarry {
namespace {

constexpr int64_t kNormChunk = 1 << 16;
constexpr int64_t kParallelGrain = 1 << 14;

constexpr const char* kStepName = "step";
constexpr const char* kMomentNames[] = {".exp_avg", ".exp_avg_sq"};
constexpr const char* kMaximaSuffix = ".maxima";

int64_t num_blocks(int64_t size) { return (size + kDynamicMapBlock - 1) / kDynamicMapBlock; }

// One moment of one parameter: float32 values, or codes with one maximum a block.
struct Moment {
  std::vector<float> values;
  std::vector<uint8_t> codes;
  std::vector<float> maxima;
};

struct ParameterState {
  int64_t size = 0;
  bool is_8bit = false;
  Moment moments[2];  // first, second
};

ParameterState fresh_state(int64_t size, bool is_8bit) {
  ParameterState state;
  state.size = size;
  state.is_8bit = is_8bit;
  const DynamicMap* maps[] = {&signed_dynamic_map(), &unsigned_dynamic_map()};
  for (int k = 0; k < 2; ++k) {
    Moment& moment = state.moments[k];
    if (is_8bit) {
      moment.codes.assign(static_cast<size_t>(size), nearest_code(*maps[k], 0));
      moment.maxima.assign(static_cast<size_t>(num_blocks(size)), 0);
    } else {
      moment.values.assign(static_cast<size_t>(size), 0);
    }
  }
  return state;
}

// What one step does to every element.
struct StepFactors {
  float decay = 1;    // of the parameter itself
  float weight1 = 0;  // 1 - beta1
  float beta2 = 0;
  float weight2 = 0;          // 1 - beta2
  float step_size = 0;        // learning rate / (1 - beta1^t)
  float root_correction = 1;  // sqrt(1 - beta2^t)
  float epsilon = 0;
};

void update(const StepFactors& f, float* p, const float* g, float* m, float* v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    m[i] += f.weight1 * (g[i] - m[i]);
    v[i] = f.beta2 * v[i] + f.weight2 * g[i] * g[i];
    const float denominator = std::sqrt(v[i]) / f.root_correction + f.epsilon;
    p[i] = p[i] * f.decay - f.step_size * (m[i] / denominator);
  }
}

void update_8bit_block(const StepFactors& f, float* p, const float* g, ParameterState& state,
                       int64_t block) {
  const DynamicMap& signed_map = signed_dynamic_map();
  const DynamicMap& unsigned_map = unsigned_dynamic_map();
  const int64_t begin = block * kDynamicMapBlock;
  const int64_t n = std::min(kDynamicMapBlock, state.size - begin);
  uint8_t* m_codes = state.moments[0].codes.data() + begin;
  uint8_t* v_codes = state.moments[1].codes.data() + begin;
  float& m_maximum = state.moments[0].maxima[static_cast<size_t>(block)];
  float& v_maximum = state.moments[1].maxima[static_cast<size_t>(block)];
  float m[kDynamicMapBlock];
  float v[kDynamicMapBlock];
  for (int64_t i = 0; i < n; ++i) {
    m[i] = signed_map.values[m_codes[i]] * m_maximum;
    v[i] = unsigned_map.values[v_codes[i]] * v_maximum;
  }
  update(f, p + begin, g + begin, m, v, n);
  m_maximum = quantize_dynamic_block(signed_map, m, n, m_codes);
  v_maximum = quantize_dynamic_block(unsigned_map, v, n, v_codes);
  for (int64_t i = 0; i < n; ++i) {
    if (v[i] > 0 && v_codes[i] == 0) v_codes[i] = 1;
  }
}

template <typename Value>
StateTensor to_tensor(const std::string& name, WeightType type, const std::vector<Value>& values) {
  StateTensor tensor;
  tensor.name = name;
  tensor.type = type;
  tensor.shape = {static_cast<int64_t>(values.size())};
  tensor.bytes.resize(values.size() * sizeof(Value));
  if (!values.empty()) std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

template <typename Value>
std::vector<Value> from_tensor(const StateTensor& tensor, WeightType type) {
  QUARRY_CHECK(tensor.type == type && tensor.shape.size() == 1 && tensor.shape[0] >= 0 &&
                   tensor.bytes.size() == static_cast<size_t>(tensor.shape[0]) * sizeof(Value),
               ErrorCode::kCorruptData, "optimizer state: ", tensor.name, " has type ",
               weight_type_traits(tensor.type).name, ", ", tensor.shape.size(), " axes and ",
               tensor.bytes.size(), " bytes, wanted one axis of ", weight_type_traits(type).name);
  std::vector<Value> values(static_cast<size_t>(tensor.shape[0]));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

class AdamW : public Optimizer {
 public:
  AdamW(bool use_8bit, const AdamWOptions& options) : use_8bit_(use_8bit), options_(options) {
    const auto is_beta = [](double beta) { return beta >= 0 && beta < 1; };
    QUARRY_CHECK(is_beta(options.beta1) && is_beta(options.beta2), ErrorCode::kInvalidArgument,
                 "AdamW: betas are ", options.beta1, " and ", options.beta2,
                 ", wanted at least 0 and below 1");
    QUARRY_CHECK(options.epsilon > 0 && options.weight_decay >= 0, ErrorCode::kInvalidArgument,
                 "AdamW: epsilon is ", options.epsilon, " and weight_decay ", options.weight_decay,
                 ", wanted a positive number and at least 0");
  }

  void step(const std::vector<ParameterView>& parameters, double learning_rate) override {
    check(parameters);
    ++num_steps_;
    const auto t = static_cast<double>(num_steps_);
    StepFactors factors;
    factors.weight1 = static_cast<float>(1 - options_.beta1);
    factors.beta2 = static_cast<float>(options_.beta2);
    factors.weight2 = static_cast<float>(1 - options_.beta2);
    factors.root_correction = static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t)));
    factors.epsilon = static_cast<float>(options_.epsilon);
    for (const ParameterView& parameter : parameters) {
      const double rate = learning_rate * parameter.learning_rate_scale;
      factors.step_size = static_cast<float>(rate / (1 - std::pow(options_.beta1, t)));
      factors.decay = static_cast<float>(parameter.decay ? 1 - rate * options_.weight_decay : 1.0);
      apply(factors, parameter);
    }
  }

  int64_t num_steps() const override { return num_steps_; }

  int64_t state_bytes(const std::vector<ParameterView>& parameters) const override {
    int64_t bytes = 0;
    for (const ParameterView& p : parameters) {
      bytes += is_8bit(p.size) ? 2 * p.size + 8 * num_blocks(p.size) : 8 * p.size;
    }
    return bytes;
  }

  std::vector<StateTensor> save() const override {
    std::vector<StateTensor> tensors = {
        to_tensor(kStepName, WeightType::kI64, std::vector<int64_t>{num_steps_})};
    for (const auto& [name, state] : states_) {
      for (int k = 0; k < 2; ++k) {
        const std::string key = name + kMomentNames[k];
        const Moment& moment = state.moments[k];
        if (state.is_8bit) {
          tensors.push_back(to_tensor(key, WeightType::kI8, moment.codes));
          tensors.push_back(to_tensor(key + kMaximaSuffix, WeightType::kF32, moment.maxima));
        } else {
          tensors.push_back(to_tensor(key, WeightType::kF32, moment.values));
        }
      }
    }
    return tensors;
  }

  void load(const std::vector<StateTensor>& tensors) override {
    std::map<std::string, const StateTensor*> by_name;
    for (const StateTensor& tensor : tensors) {
      QUARRY_CHECK(by_name.emplace(tensor.name, &tensor).second, ErrorCode::kCorruptData,
                   "optimizer state: ", tensor.name, " is there twice");
    }
    const auto take = [&by_name](const std::string& name) -> const StateTensor& {
      const auto found = by_name.find(name);
      QUARRY_CHECK(found != by_name.end(), ErrorCode::kCorruptData, "optimizer state: ", name,
                   " is missing");
      const StateTensor& tensor = *found->second;
      by_name.erase(found);
      return tensor;
    };
    const auto steps = from_tensor<int64_t>(take(kStepName), WeightType::kI64);
    QUARRY_CHECK(steps.size() == 1 && steps[0] >= 0, ErrorCode::kCorruptData,
                 "optimizer state: step holds ", steps.size(), " values, wanted one from 0");
    std::map<std::string, ParameterState> states;
    while (!by_name.empty()) {
      // "x.exp_avg" sorts before "x.exp_avg.maxima" and "x.exp_avg_sq".
      const std::string first = by_name.begin()->first;
      QUARRY_CHECK(ends_with(first, kMomentNames[0]), ErrorCode::kCorruptData,
                   "optimizer state: ", first, " belongs to no parameter");
      const std::string name = first.substr(0, first.size() - std::strlen(kMomentNames[0]));
      states[name] = read_state(name, by_name.begin()->second->type == WeightType::kI8, take);
    }
    states_ = std::move(states);
    num_steps_ = steps[0];
  }

 private:
  bool is_8bit(int64_t size) const { return use_8bit_ && size >= kMinElementsFor8bit; }

  template <typename Take>
  ParameterState read_state(const std::string& name, bool codes, const Take& take) const {
    ParameterState state;
    state.is_8bit = codes;
    for (int k = 0; k < 2; ++k) {
      const std::string key = name + kMomentNames[k];
      Moment& moment = state.moments[k];
      int64_t size = 0;
      if (codes) {
        moment.codes = from_tensor<uint8_t>(take(key), WeightType::kI8);
        moment.maxima = from_tensor<float>(take(key + kMaximaSuffix), WeightType::kF32);
        size = static_cast<int64_t>(moment.codes.size());
        QUARRY_CHECK(static_cast<int64_t>(moment.maxima.size()) == num_blocks(size),
                     ErrorCode::kCorruptData, "optimizer state: ", key, kMaximaSuffix, " holds ",
                     moment.maxima.size(), " values, wanted ", num_blocks(size));
      } else {
        moment.values = from_tensor<float>(take(key), WeightType::kF32);
        size = static_cast<int64_t>(moment.values.size());
      }
      QUARRY_CHECK(k == 0 || size == state.size, ErrorCode::kCorruptData, "optimizer state: ", key,
                   " holds ", size, " values, wanted ", state.size);
      state.size = size;
    }
    QUARRY_CHECK(codes == is_8bit(state.size), ErrorCode::kCorruptData, "optimizer state: ", name,
                 " was kept in ", codes ? 8 : 32, " bits, this optimizer wants ", codes ? 32 : 8,
                 ": go on with the optimizer that the checkpoint was made with");
    return state;
  }

  // Makes states at the first step; afterwards the parameters must be those of the states.
  void check(const std::vector<ParameterView>& parameters) {
    std::set<std::string> names;
    const bool is_first = num_steps_ == 0 && states_.empty();
    for (const ParameterView& p : parameters) {
      QUARRY_CHECK(names.insert(p.name).second, ErrorCode::kInvalidArgument,
                   "optimizer: parameter ", p.name, " is given twice");
      QUARRY_CHECK(p.size >= 0, ErrorCode::kInvalidArgument, "optimizer: parameter ", p.name,
                   " has ", p.size, " values");
      const auto found = states_.find(p.name);
      QUARRY_CHECK(is_first || (found != states_.end() && found->second.size == p.size),
                   ErrorCode::kInvalidArgument, "optimizer: parameter ", p.name, " has ", p.size,
                   " values, its state ",
                   found == states_.end() ? std::string("does not exist")
                                          : concat("holds ", found->second.size));
    }
    for (const auto& [name, state] : states_) {
      QUARRY_CHECK(names.count(name) == 1, ErrorCode::kInvalidArgument, "optimizer: parameter ",
                   name, " of the state is missing");
    }
    if (!is_first) return;
    for (const ParameterView& p : parameters)
      states_[p.name] = fresh_state(p.size, is_8bit(p.size));
  }

  void apply(const StepFactors& factors, const ParameterView& p) {
    ParameterState& state = states_.at(p.name);
    if (state.is_8bit) {
      parallel_for(num_blocks(p.size), kParallelGrain / kDynamicMapBlock,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t block = begin; block < end; ++block) {
                       update_8bit_block(factors, p.value, p.gradient, state, block);
                     }
                   });
      return;
    }
    float* m = state.moments[0].values.data();
    float* v = state.moments[1].values.data();
    parallel_for(p.size, kParallelGrain, [&](int64_t begin, int64_t end) {
      update(factors, p.value + begin, p.gradient + begin, m + begin, v + begin, end - begin);
    });
  }

  bool use_8bit_;
  AdamWOptions options_;
  int64_t num_steps_ = 0;
  std::map<std::string, ParameterState> states_;
};

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, const AdamWOptions& options) {
  return std::make_unique<AdamW>(kind == OptimizerKind::kAdamW8bit, options);
}

double gradient_norm(const std::vector<GradientView>& gradients) {
  double total = 0;
  for (const GradientView& gradient : gradients) {
    const int64_t chunks = (gradient.size + kNormChunk - 1) / kNormChunk;
    std::vector<double> sums(static_cast<size_t>(chunks), 0);
    parallel_for(chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        const int64_t stop = std::min((chunk + 1) * kNormChunk, gradient.size);
        double sum = 0;
        for (int64_t i = chunk * kNormChunk; i < stop; ++i) {
          sum += static_cast<double>(gradient.value[i]) * gradient.value[i];
        }
        sums[static_cast<size_t>(chunk)] = sum;
      }
    });
    for (const double sum : sums) total += sum;
  }
  return std::sqrt(total);
}

double clip_gradients(const std::vector<GradientView>& gradients, double max_norm) {
  QUARRY_CHECK(max_norm >= 0, ErrorCode::kInvalidArgument, "max_grad_norm is ", max_norm,
               ", wanted at least 0");
  const double norm = gradient_norm(gradients);
  if (max_norm == 0 || !std::isfinite(norm) || norm <= max_norm) return norm;
  const auto scale = static_cast<float>(max_norm / (norm + 1e-6));
  for (const GradientView& gradient : gradients) {
    parallel_for(gradient.size, kParallelGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) gradient.value[i] *= scale;
    });
  }
  return norm;
}

}  // namespace quarry
