#pragma once

#include <string>
#include <vector>

#include "generator/nn/workspace.h"
#include "generator/weights/tensor_source.h"

namespace quarry::nn {

// The tensor `name`, checked to hold numbers we can compute with in exactly `shape`. Throws
// kCorruptData naming the file, the tensor, the shape found and the shape wanted.
const TensorView& get_checked(const TensorSource& source, const std::string& name,
                              const std::vector<int64_t>& shape);
// The same, or null when the source has no such tensor.
const TensorView* find_checked(const TensorSource& source, const std::string& name,
                               const std::vector<int64_t>& shape);
// A vector [width] (a norm's weight) as float32.
Tensor load_vector(const TensorSource& source, const std::string& name, int64_t width);

}  // namespace quarry::nn
