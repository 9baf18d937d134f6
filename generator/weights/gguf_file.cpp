#include "generator/weights/gguf_file.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "data/core/error.h"
#include "generator/weights/printable.h"

namespace quarry {

using gguf::ValueType;

// Reads the header front to back. Every read checks what is left before it touches a byte.
class GgufFile::Cursor {
 public:
  Cursor(const MappedFile& file, const std::string& description)
      : data_(file.data()), size_(file.size()), description_(description) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return size_ - position_; }

  template <typename T>
  T read(const std::string& what) {
    require(sizeof(T), what);
    T value;
    std::memcpy(&value, data_ + position_, sizeof(T));
    position_ += sizeof(T);
    return value;
  }

  std::string_view read_string(const std::string& what, uint64_t longest) {
    const auto length = read<uint64_t>(what + " length");
    QUARRY_CHECK(length <= longest, ErrorCode::kCorruptData, description_, ": ", what, " is ",
                 length, " bytes long, at most ", longest, " accepted");
    require(length, what);
    const std::string_view text(reinterpret_cast<const char*>(data_ + position_), length);
    position_ += length;
    return text;
  }

  // Skips `count` items of `bytes_each` bytes.
  void skip(uint64_t count, uint64_t bytes_each, const std::string& what) {
    QUARRY_CHECK(count <= remaining() / bytes_each, ErrorCode::kCorruptData, description_, ": ",
                 what, " claims ", count, " elements of ", bytes_each, " bytes, but only ",
                 remaining(), " bytes are left in the file");
    position_ += count * bytes_each;
  }

 private:
  void require(uint64_t bytes, const std::string& what) const {
    QUARRY_CHECK(bytes <= remaining(), ErrorCode::kCorruptData, description_, ": ends inside ",
                 what, ": ", bytes, " bytes wanted at offset ", position_, ", ", remaining(),
                 " left (truncated file?)");
  }

  const uint8_t* data_;
  uint64_t size_;
  uint64_t position_ = 0;
  const std::string& description_;
};

std::unique_ptr<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  return std::unique_ptr<GgufFile>(new GgufFile(path));
}

GgufFile::GgufFile(const std::filesystem::path& path)
    : file_(path), description_(file_.path().string()) {
  read_header();
}

void GgufFile::read_header() {
  Cursor cursor(file_, description_);
  QUARRY_CHECK(file_.size() > 0, ErrorCode::kCorruptData, description_, ": the file is empty");
  QUARRY_CHECK(
      file_.size() >= 4 && std::memcmp(file_.data(), "GGUF", 4) == 0, ErrorCode::kCorruptData,
      description_, ": not a GGUF file: it begins with ",
      printable({reinterpret_cast<const char*>(file_.data()), std::min<size_t>(file_.size(), 4)}),
      ", not with 'GGUF'");
  cursor.skip(4, 1, "magic");
  version_ = cursor.read<uint32_t>("version");
  QUARRY_CHECK((version_ & 0xffffu) != 0 || version_ == 0, ErrorCode::kInvalidArgument,
               description_, ": big-endian GGUF is not supported");
  QUARRY_CHECK(version_ >= gguf::kOldestVersion && version_ <= gguf::kNewestVersion,
               ErrorCode::kInvalidArgument, description_, ": GGUF version ", version_,
               " is not supported, only 2 and 3");
  const auto num_tensors = cursor.read<uint64_t>("tensor count");
  const auto num_values = cursor.read<uint64_t>("metadata count");
  QUARRY_CHECK(num_values <= cursor.remaining() / gguf::kMinMetadataBytes, ErrorCode::kCorruptData,
               description_, ": claims ", num_values, " metadata entries, more than its ",
               file_.size(), " bytes can hold");
  QUARRY_CHECK(num_tensors <= cursor.remaining() / gguf::kMinTensorBytes, ErrorCode::kCorruptData,
               description_, ": claims ", num_tensors, " tensors, more than its ", file_.size(),
               " bytes can hold");
  for (uint64_t i = 0; i < num_values; ++i) read_metadata(cursor);

  const int64_t parts = find_int("split.count").value_or(1);
  QUARRY_CHECK(parts <= 1, ErrorCode::kInvalidArgument, description_, ": part ",
               find_int("split.no").value_or(0) + 1, " of a model split into ", parts,
               " files; merge them first (llama-gguf-split --merge)");
  if (const Value* value = find_value("general.alignment"); value != nullptr) {
    if (value->type != ValueType::kUint32) throw_type("general.alignment", *value, "uint32");
    alignment_ = load<uint32_t>(value->offset);
    QUARRY_CHECK(alignment_ > 0 && alignment_ <= gguf::kLargestAlignment &&
                     (alignment_ & (alignment_ - 1)) == 0,
                 ErrorCode::kCorruptData, description_, ": general.alignment is ", alignment_,
                 ", not a power of two up to ", gguf::kLargestAlignment);
  }

  read_tensor_list(cursor, num_tensors);
  const uint64_t padding = (alignment_ - cursor.position() % alignment_) % alignment_;
  if (num_tensors > 0) cursor.skip(padding, 1, "padding before the tensor data");
  place_tensors(cursor.position());
}

void GgufFile::read_metadata(Cursor& cursor) {
  const std::string number = "metadata entry " + std::to_string(keys_.size());
  const std::string key(cursor.read_string(number + ": key", gguf::kMaxKeyBytes));
  const std::string what = "metadata " + printable(key);
  QUARRY_CHECK(values_.count(key) == 0, ErrorCode::kCorruptData, description_, ": ", what,
               " is there twice");
  const uint64_t begin = cursor.position();
  const auto type_number = cursor.read<uint32_t>(what + ": type");
  QUARRY_CHECK(gguf::value_type_name(type_number) != nullptr, ErrorCode::kCorruptData, description_,
               ": ", what, " has value type ", type_number, ", which GGUF does not define");
  const auto type = static_cast<ValueType>(type_number);
  Value value{type, type, 1, 0, begin, 0};
  if (value.type == ValueType::kArray) {
    const auto element_number = cursor.read<uint32_t>(what + ": element type");
    value.element_type = static_cast<ValueType>(element_number);
    QUARRY_CHECK(
        gguf::value_type_name(element_number) != nullptr && value.element_type != ValueType::kArray,
        ErrorCode::kCorruptData, description_, ": ", what, " is an array of value type ",
        element_number, ", which is not supported");
    value.count = cursor.read<uint64_t>(what + ": count");
  }
  value.offset = cursor.position();
  if (value.element_type == ValueType::kString) {
    // Each string takes at least its length field, so a count beyond the file fails early.
    QUARRY_CHECK(value.count <= cursor.remaining() / sizeof(uint64_t), ErrorCode::kCorruptData,
                 description_, ": ", what, " claims ", value.count, " strings, but only ",
                 cursor.remaining(), " bytes are left in the file");
    for (uint64_t i = 0; i < value.count; ++i) cursor.read_string(what, file_.size());
  } else {
    cursor.skip(value.count, static_cast<uint64_t>(gguf::scalar_bytes(value.element_type)), what);
  }
  value.end = cursor.position();
  keys_.push_back(key);
  values_.emplace(key, value);
}

void GgufFile::read_tensor_list(Cursor& cursor, uint64_t count) {
  tensors_.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    TensorView tensor;
    tensor.name = cursor.read_string("tensor " + std::to_string(i) + ": name", gguf::kMaxKeyBytes);
    const std::string what = "tensor " + printable(tensor.name);
    QUARRY_CHECK(tensor_index_.emplace(tensor.name, tensors_.size()).second,
                 ErrorCode::kCorruptData, description_, ": ", what, " is there twice");
    const auto num_dimensions = cursor.read<uint32_t>(what + ": dimensions");
    QUARRY_CHECK(num_dimensions >= 1 && num_dimensions <= gguf::kMaxDimensions,
                 ErrorCode::kCorruptData, description_, ": ", what, " has ", num_dimensions,
                 " dimensions, 1 to ", gguf::kMaxDimensions, " accepted");
    // The product is bounded so that elements * 8 bytes cannot pass int64.
    constexpr uint64_t kMaxElements = uint64_t{1} << 59;
    uint64_t elements = 1;
    for (uint32_t d = 0; d < num_dimensions; ++d) {
      const auto extent = cursor.read<uint64_t>(what + ": shape");
      QUARRY_CHECK(extent >= 1 && extent <= kMaxElements / elements, ErrorCode::kCorruptData,
                   description_, ": ", what, " has extent ", extent, " in dimension ", d,
                   ": zero or too large");
      elements *= extent;
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(extent));
    }
    const auto type_number = cursor.read<uint32_t>(what + ": type");
    const std::optional<WeightType> type = gguf::weight_type(type_number);
    QUARRY_CHECK(type.has_value(), ErrorCode::kInvalidArgument, description_, ": ", what,
                 " has type ", gguf::ggml_type_name(type_number), " (", type_number,
                 "), which is not supported");
    tensor.type = *type;
    const WeightTypeTraits& traits = weight_type_traits(tensor.type);
    QUARRY_CHECK(tensor.shape.back() % traits.block_size == 0, ErrorCode::kCorruptData,
                 description_, ": ", what, " has rows of ", tensor.shape.back(),
                 " elements, not a multiple of ", traits.name, "'s block of ", traits.block_size);
    tensor.bytes = weight_bytes(tensor.type, static_cast<int64_t>(elements));
    tensor_offsets_.push_back(cursor.read<uint64_t>(what + ": offset"));
    tensors_.push_back(std::move(tensor));
  }
}

void GgufFile::place_tensors(uint64_t data_begin) {
  const uint64_t available = file_.size() - data_begin;
  std::vector<size_t> order(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    TensorView& tensor = tensors_[i];
    const uint64_t offset = tensor_offsets_[i];
    const auto bytes = static_cast<uint64_t>(tensor.bytes);
    const std::string what = "tensor " + printable(tensor.name);
    QUARRY_CHECK(offset % alignment_ == 0, ErrorCode::kCorruptData, description_, ": ", what,
                 " begins at offset ", offset, ", not a multiple of the alignment ", alignment_);
    QUARRY_CHECK(offset <= available && bytes <= available - offset, ErrorCode::kCorruptData,
                 description_, ": ", what, " takes ", bytes, " bytes at offset ", offset,
                 ", but the file holds ", available, " bytes of tensor data (truncated file?)");
    tensor.data = file_.data() + data_begin + offset;
    order[i] = i;
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return tensors_[a].data < tensors_[b].data; });
  for (size_t i = 1; i < order.size(); ++i) {
    const TensorView& before = tensors_[order[i - 1]];
    const TensorView& after = tensors_[order[i]];
    QUARRY_CHECK(before.data + before.bytes <= after.data, ErrorCode::kCorruptData, description_,
                 ": tensors ", printable(before.name), " and ", printable(after.name),
                 " overlap in the file");
  }
  tensor_offsets_.clear();
}

const TensorView* GgufFile::find(const std::string& name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const TensorView& GgufFile::get(const std::string& name) const {
  const TensorView* tensor = find(name);
  QUARRY_CHECK(tensor != nullptr, ErrorCode::kCorruptData, description_, ": holds no tensor ",
               printable(name), " (", tensors_.size(), " others)");
  return *tensor;
}

}  // namespace quarry
