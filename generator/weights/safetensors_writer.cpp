#include <algorithm>
#include <set>

#include "data/core/json.h"
#include "generator/weights/printable.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

// Checks one tensor and returns its bytes.
int64_t checked_bytes(const TensorToWrite& tensor, const std::string& file) {
  const WeightTypeTraits& traits = weight_type_traits(tensor.type);
  QUARRY_CHECK(traits.block_size == 1, ErrorCode::kInvalidArgument, file, ": tensor ",
               printable(tensor.name), " has type ", traits.name,
               ", which safetensors cannot hold");
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) {
    QUARRY_CHECK(extent >= 0, ErrorCode::kInvalidArgument, file, ": tensor ",
                 printable(tensor.name), " has extent ", extent);
    count *= extent;
  }
  return weight_bytes(tensor.type, count);
}

}  // namespace

void write_tensor_data(const TensorToWrite& tensor, AtomicFile& file) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  const auto bytes = static_cast<size_t>(weight_bytes(tensor.type, count));
  if (bytes == 0) return;
  if (!tensor.make_data) {
    file.write(tensor.data, bytes);
    return;
  }
  const std::string made = tensor.make_data();
  QUARRY_CHECK(made.size() == bytes, ErrorCode::kInvalidArgument, "tensor ", printable(tensor.name),
               " was made with ", made.size(), " bytes, its shape wants ", bytes);
  file.write(made.data(), made.size());
}

void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata, FileAccess access) {
  std::vector<const TensorToWrite*> order;
  std::set<std::string> names;
  for (const TensorToWrite& tensor : tensors) {
    QUARRY_CHECK(tensor.name != "__metadata__" && names.insert(tensor.name).second,
                 ErrorCode::kInvalidArgument, path.string(), ": tensor name ",
                 printable(tensor.name), " is taken");
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const TensorToWrite* a, const TensorToWrite* b) {
    const int64_t wide_a = weight_type_traits(a->type).bytes_per_block;
    const int64_t wide_b = weight_type_traits(b->type).bytes_per_block;
    return wide_a != wide_b ? wide_a > wide_b : a->name < b->name;
  });

  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t at = 0;
  for (const TensorToWrite* tensor : order) {
    const int64_t end = at + checked_bytes(*tensor, path.string());
    header[tensor->name] = {{"dtype", weight_type_traits(tensor->type).name},
                            {"shape", tensor->shape},
                            {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = dump_json(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');

  const uint64_t header_bytes = text.size();
  AtomicFile file(path, access);
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(text.data(), text.size());
  for (const TensorToWrite* tensor : order) write_tensor_data(*tensor, file);
  file.commit();
}

}  // namespace quarry
