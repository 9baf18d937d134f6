#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "generator/quant/quant_state.h"
#include "generator/quant/weight_type.h"

namespace quarry {

// One tensor inside a mapped file. `shape` is in row-major order, outermost first, as PyTorch shows
// it (GGUF's reversed order is already undone): a Linear's weight is [out_features, in_features].
struct TensorView {
  std::string name;
  WeightType type = WeightType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;  // into the mapping; may be unaligned
  int64_t bytes = 0;
  std::shared_ptr<const QuantState> state = nullptr;  // of a type that needs_quant_state()

  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

// Decodes rows [begin, end) of a tensor of any type to float32, a row being what the last extent
// counts. REQUIRES: whole blocks in a row, but for types with a state.
void decode_rows(const TensorView& tensor, int64_t begin, int64_t end, float* destination);
// The whole tensor.
void decode_tensor(const TensorView& tensor, float* destination);

// Named tensors of a model, whatever the file format. Views stay valid while the source lives.
// Immutable after construction.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Null when there is no such tensor.
  virtual const TensorView* find(const std::string& name) const = 0;
  // Throws kCorruptData, naming the file and the tensor.
  virtual const TensorView& get(const std::string& name) const = 0;
  virtual const std::vector<TensorView>& tensors() const = 0;
  // Lets the system drop what it read of this tensor's data, of which a copy was made; the view
  // stays valid.
  virtual void forget(const TensorView& /*tensor*/) const {}
  // For messages: the file or folder.
  virtual const std::string& description() const = 0;
};

}  // namespace quarry
