#include "generator/models/cuda_linear.h"

#include "data/core/error.h"
#include "generator/nn/lora.h"

namespace quarry {
namespace {

DevicePair stack_pairs(const LoraAdapter& adapter, const nn::Linear& linear) {
  std::vector<float> a;
  std::vector<float> b;
  DevicePair pair;
  for (size_t p = 0; p < linear.num_projections(); ++p) {
    const LoraWeights* found = adapter.find(linear.path(p));
    if (found == nullptr) continue;
    LoraWeights plain;  // of one that is still in training, without its start
    if (found->start != nullptr) {
      plain = to_plain_lora(*found);
      plain.pack();
    }
    const LoraWeights* weights = found->start == nullptr ? found : &plain;
    a.insert(a.end(), weights->a.begin(), weights->a.end());
    for (int64_t r = 0; r < weights->rank; ++r) {
      const auto row = b.insert(b.end(), static_cast<size_t>(linear.out_features()), 0.0f);
      const auto from = weights->scaled_b.begin() + r * linear.width(p);
      std::copy(from, from + linear.width(p), row + linear.offset(p));
    }
    pair.rank += weights->rank;
  }
  QUARRY_CHECK(pair.rank <= kernels::cuda::kMaxSpanRank, ErrorCode::kInvalidArgument,
               "an adapter of rank ", pair.rank, " on ", linear.path(0),
               " and what is computed with it: a GPU runs at most ", kernels::cuda::kMaxSpanRank);
  pair.a = kernels::cuda::on_device(a);
  pair.b = kernels::cuda::on_device(b);
  return pair;
}

}  // namespace

DeviceLinear::DeviceLinear(const nn::Linear& linear)
    : host(&linear), bias(kernels::cuda::on_device(linear.bias())) {
  for (size_t i = 0; i < linear.num_matrices(); ++i) {
    matrices.push_back(std::make_unique<kernels::cuda::DeviceMatrix>(linear.matrix(i)));
  }
}

std::shared_ptr<const DeviceAdapter> device_adapter(const LoraAdapter& adapter,
                                                    const std::vector<const nn::Linear*>& linears) {
  QUARRY_CHECK(adapter.full().empty(), ErrorCode::kInvalidArgument, "the adapter has a '",
               adapter.full().begin()->first,
               "' of its own (modules_to_save or biases), which does not run on a GPU");
  const auto form = adapter.on_device([&] {
    auto pairs = std::make_shared<DeviceAdapter>();
    for (const nn::Linear* linear : linears) {
      pairs->emplace(linear->path(0), stack_pairs(adapter, *linear));
    }
    return std::shared_ptr<const void>(pairs);
  });
  return std::static_pointer_cast<const DeviceAdapter>(form);
}

void multiply(const kernels::cuda::DeviceMatrix& matrix, const float* x, int64_t rows, float* y,
              int64_t ldy, DeviceWork& work) {
  if (rows <= kernels::cuda::kGemvRows) {
    return kernels::cuda::gemv(matrix, x, rows, matrix.k(), y, ldy, work.stream.get());
  }
  void* scratch = work.reserve(kernels::cuda::gemm_scratch_bytes(rows, matrix.k()));
  kernels::cuda::gemm(matrix, x, rows, matrix.k(), y, ldy, scratch, work.stream.get());
}

void multiply(const DeviceLinear& linear, const std::vector<AdapterRows>& adapters, const float* x,
              int64_t rows, float* y, DeviceWork& work) {
  const int64_t in = linear.host->in_features();
  const int64_t out = linear.host->out_features();
  for (size_t i = 0; i < linear.matrices.size(); ++i) {
    multiply(*linear.matrices[i], x, rows, y + linear.host->matrix_offset(i), out, work);
  }
  if (linear.bias.bytes() > 0) {
    kernels::cuda::add_bias(linear.bias.as<float>(), rows, out, y, work.stream.get());
  }
  std::vector<kernels::cuda::LoraSpan> spans;
  for (const AdapterRows& part : adapters) {
    const auto found = part.adapter->find(linear.host->path(0));
    QUARRY_CHECK(found != part.adapter->end(), ErrorCode::kInvalidArgument,
                 "the adapter runs on the GPU with another model, which has no ",
                 linear.host->path(0));
    const DevicePair& pair = found->second;
    if (pair.rank == 0) continue;
    spans.push_back({part.begin, part.end, pair.rank, pair.a.as<float>(), pair.b.as<float>()});
  }
  if (spans.empty()) return;
  void* scratch = work.reserve(kernels::cuda::lora_scratch_bytes(spans));
  kernels::cuda::add_lora(spans, x, in, in, y, out, out, scratch, work.stream.get());
}

void* DeviceWork::reserve(int64_t bytes) {
  int64_t size = int64_t{1} << 20;
  while (size < bytes) size *= 2;  // seldom in another place
  scratch.grow(size);
  return scratch.as<void>();
}

void StepTable::upload(kernels::cuda::DeviceBuffer& buffer) const {
  const auto bytes = static_cast<int64_t>(bytes_.size());
  constexpr int64_t kGrain = int64_t{1} << 18;  // seldom in another place
  buffer.grow((bytes + kGrain - 1) / kGrain * kGrain);
  buffer.upload(bytes_.data(), bytes);
}

}  // namespace quarry
