#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "finetune/state_tensor.h"

namespace quarry {

// A flat float32 parameter and the gradient of the loss with respect to it. Borrowed.
struct ParameterView {
  std::string name;  // unique; the key of its state
  float* value = nullptr;
  const float* gradient = nullptr;
  int64_t size = 0;
  double learning_rate_scale = 1;  // of this parameter (LoRA+ trains B faster than A)
  bool decay = true;               // whether weight decay applies
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;  // decoupled: p -= learning_rate * weight_decay * p
};

// Updates parameters in place. The set of parameters is fixed by the first step (or by load()).
// Results do not depend on the number of threads. One thread at a time.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // One update of every parameter. Gradients are read, never changed. Throws kInvalidArgument,
  // before anything changes: a name given twice, a parameter that the state does not know or knows
  // by another size, a parameter of the state that is missing.
  virtual void step(const std::vector<ParameterView>& parameters, double learning_rate) = 0;
  virtual int64_t num_steps() const = 0;
  // Bytes of state that `parameters` need.
  virtual int64_t state_bytes(const std::vector<ParameterView>& parameters) const = 0;
  // The whole state: load() of it continues bit for bit.
  virtual std::vector<StateTensor> save() const = 0;
  // Replaces the state. Throws kCorruptData naming the tensor, and then changes nothing.
  virtual void load(const std::vector<StateTensor>& state) = 0;
};

enum class OptimizerKind {
  kAdamW,      // 8 bytes of state per parameter
  kAdamW8bit,  // 2.03 bytes per parameter of tensors of at least kMinElementsFor8bit
};

// Smaller tensors keep float32 moments, as in bitsandbytes: they cost little and often are norms.
constexpr int64_t kMinElementsFor8bit = 4096;

// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) in float32, as torch.optim.AdamW computes
// it. 8bit: moments kept as codes of dynamic maps (generator/quant/dynamic_map.h) in blocks of 256,
// each with a float32 maximum (Dettmers et al. 2022, arXiv:2110.02861); smaller tensors stay
// float32. A second moment that is not zero never becomes zero by rounding: the next step would
// divide by epsilon.
std::unique_ptr<Optimizer> make_optimizer(OptimizerKind kind, const AdamWOptions& options = {});

struct GradientView {
  float* value = nullptr;
  int64_t size = 0;
};

// Euclidean norm of all gradients together, summed in double in a fixed order.
double gradient_norm(const std::vector<GradientView>& gradients);

// Scales the gradients by max_norm / (norm + 1e-6) when their norm is above max_norm, as
// torch.nn.utils.clip_grad_norm_ does; max_norm 0 clips nothing. A norm that is not finite leaves
// them alone. Returns the norm before clipping.
double clip_gradients(const std::vector<GradientView>& gradients, double max_norm);

}  // namespace quarry
