#include "tests/fuzz/file_facts.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "tests/fuzz/small_json.h"

namespace quarry::fuzz {
namespace {

// Anything that makes the file unsound.
struct Unsound {};

void require(bool condition) {
  if (!condition) throw Unsound();
}

uint64_t times(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  require(!__builtin_mul_overflow(a, b, &product));
  return product;
}

uint64_t plus(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  require(!__builtin_add_overflow(a, b, &sum));
  return sum;
}

// Tensors lie inside the file and none over another.
void check_places(const FileFacts& facts, uint64_t file_bytes) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  std::set<std::string> names;
  for (const TensorFacts& tensor : facts.tensors) {
    require(names.insert(tensor.name).second);
    require(tensor.begin >= facts.data_begin && tensor.begin <= tensor.end);
    require(tensor.end <= file_bytes);
    if (tensor.begin < tensor.end) ranges.emplace_back(tensor.begin, tensor.end);
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) require(ranges[i - 1].second <= ranges[i].first);
}

struct BlockType {
  const char* name;
  uint64_t elements;
  uint64_t bytes;
};
const std::map<uint32_t, BlockType>& gguf_types() {
  static const std::map<uint32_t, BlockType> types = {
      {0, {"F32", 1, 4}},       {1, {"F16", 1, 2}},       {2, {"Q4_0", 32, 18}},
      {3, {"Q4_1", 32, 20}},    {6, {"Q5_0", 32, 22}},    {7, {"Q5_1", 32, 24}},
      {8, {"Q8_0", 32, 34}},    {12, {"Q4_K", 256, 144}}, {13, {"Q5_K", 256, 176}},
      {14, {"Q6_K", 256, 210}}, {24, {"I8", 1, 1}},       {26, {"I32", 1, 4}},
      {27, {"I64", 1, 8}},      {30, {"BF16", 1, 2}},
  };
  return types;
}

class GgufReader {
 public:
  explicit GgufReader(std::string_view file) : file_(file) {}

  FileFacts read() {
    require(file_.substr(0, 4) == "GGUF");
    at_ = 4;
    const uint64_t version = number(4);
    require(version == 2 || version == 3);
    const uint64_t num_tensors = number(8);
    const uint64_t num_values = number(8);
    std::set<std::string> keys;
    for (uint64_t i = 0; i < num_values; ++i) require(keys.insert(value()).second);
    for (uint64_t i = 0; i < num_tensors; ++i) tensor();
    require(alignment_ > 0 && (alignment_ & (alignment_ - 1)) == 0);
    facts_.data_begin = (at_ + alignment_ - 1) / alignment_ * alignment_;
    for (TensorFacts& tensor : facts_.tensors) {
      require(tensor.begin % alignment_ == 0);
      tensor.begin = plus(tensor.begin, facts_.data_begin);
      tensor.end = plus(tensor.end, facts_.data_begin);
    }
    check_places(facts_, file_.size());
    return std::move(facts_);
  }

 private:
  uint64_t number(uint64_t bytes) {
    require(bytes <= file_.size() - at_);
    uint64_t value = 0;
    std::memcpy(&value, file_.data() + at_, bytes);
    facts_.numbers.push_back({at_, bytes});
    at_ += bytes;
    return value;
  }
  std::string text() {
    const uint64_t length = number(8);
    require(length <= file_.size() - at_);
    at_ += length;
    return std::string(file_.substr(at_ - length, length));
  }
  void skip(uint64_t bytes) {
    require(bytes <= file_.size() - at_);
    at_ += bytes;
  }
  void scalar(uint64_t type, uint64_t count) {
    static constexpr uint64_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    require(type < std::size(kBytes) && type != 9);
    if (type == 8) {
      for (uint64_t i = 0; i < count; ++i) text();
    } else {
      skip(times(count, kBytes[type]));
    }
  }
  std::string value() {
    std::string key = text();
    const uint64_t type = number(4);
    if (type == 9) {
      const uint64_t element = number(4);
      scalar(element, number(8));
    } else if (type == 4) {
      const uint64_t found = number(4);
      if (key == "general.alignment") alignment_ = found;
    } else {
      require(key != "general.alignment");
      scalar(type, 1);
    }
    return key;
  }
  void tensor() {
    TensorFacts tensor;
    tensor.name = text();
    const uint64_t dimensions = number(4);
    require(dimensions >= 1 && dimensions <= 4);
    uint64_t elements = 1;
    for (uint64_t d = 0; d < dimensions; ++d) {
      const uint64_t extent = number(8);
      require(extent >= 1 && extent <= uint64_t{INT64_MAX});
      elements = times(elements, extent);
      tensor.shape.push_back(static_cast<int64_t>(extent));
    }
    const auto innermost = static_cast<uint64_t>(tensor.shape.front());
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    const auto type = gguf_types().find(static_cast<uint32_t>(number(4)));
    require(type != gguf_types().end());
    const BlockType& block = type->second;
    tensor.type = block.name;
    require(innermost % block.elements == 0);
    tensor.begin = number(8);
    tensor.end = plus(tensor.begin, times(elements / block.elements, block.bytes));
    facts_.tensors.push_back(std::move(tensor));
  }

  std::string_view file_;
  uint64_t at_ = 0;
  uint64_t alignment_ = 32;
  FileFacts facts_;
};

const std::map<std::string, uint64_t>& safetensors_types() {
  static const std::map<std::string, uint64_t> bytes = {
      {"F64", 8},  {"F32", 4},     {"F16", 2},     {"BF16", 2},    {"I64", 8}, {"I32", 4},
      {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},     {"U16", 2}, {"U8", 1},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"C64", 8},
  };
  return bytes;
}

// A whole number as JSON writes it.
int64_t whole(const SmallJson& json) {
  const std::string& digits = json.number;
  require(json.kind == SmallJson::Kind::kNumber && !digits.empty() && digits.size() <= 19);
  require(digits.find_first_not_of("0123456789") == std::string::npos);
  uint64_t value = 0;
  for (const char digit : digits) value = value * 10 + static_cast<uint64_t>(digit - '0');
  require(value <= uint64_t{INT64_MAX});
  return static_cast<int64_t>(value);
}

// The one member of that name.
const SmallJson& member(const SmallJson& object, const char* name) {
  const SmallJson* found = nullptr;
  for (const auto& [key, value] : object.members) {
    if (key != name) continue;
    require(found == nullptr);
    found = &value;
  }
  require(found != nullptr);
  return *found;
}

TensorFacts safetensors_tensor(const std::string& name, const SmallJson& json,
                               uint64_t data_begin) {
  require(json.kind == SmallJson::Kind::kObject);
  TensorFacts tensor;
  tensor.name = name;
  const SmallJson& type = member(json, "dtype");
  require(type.kind == SmallJson::Kind::kString);
  tensor.type = type.text;
  const auto size = safetensors_types().find(tensor.type);
  require(size != safetensors_types().end());
  uint64_t bytes = size->second;
  const SmallJson& shape = member(json, "shape");
  require(shape.kind == SmallJson::Kind::kArray);
  for (const SmallJson& extent : shape.items) {
    tensor.shape.push_back(whole(extent));
    bytes = times(bytes, static_cast<uint64_t>(tensor.shape.back()));
  }
  const SmallJson& offsets = member(json, "data_offsets");
  require(offsets.kind == SmallJson::Kind::kArray && offsets.items.size() == 2);
  tensor.begin = plus(data_begin, static_cast<uint64_t>(whole(offsets.items[0])));
  tensor.end = plus(data_begin, static_cast<uint64_t>(whole(offsets.items[1])));
  require(tensor.begin <= tensor.end && tensor.end - tensor.begin == bytes);
  return tensor;
}

FileFacts read_safetensors(std::string_view file) {
  require(file.size() >= 8);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), 8);
  require(header_bytes <= file.size() - 8);
  FileFacts facts;
  facts.numbers.push_back({0, 8});
  facts.data_begin = 8 + header_bytes;
  const std::optional<SmallJson> header = parse_small_json(file.substr(8, header_bytes));
  require(header && header->kind == SmallJson::Kind::kObject);
  for (const auto& [name, value] : header->members) {
    if (name == "__metadata__") continue;
    facts.tensors.push_back(safetensors_tensor(name, value, facts.data_begin));
  }
  check_places(facts, file.size());
  // No gaps either.
  uint64_t bytes = 0;
  uint64_t last = facts.data_begin;
  for (const TensorFacts& tensor : facts.tensors) {
    bytes += tensor.end - tensor.begin;
    last = std::max(last, tensor.end);
  }
  require(bytes == last - facts.data_begin);
  return facts;
}

}  // namespace

std::optional<FileFacts> gguf_facts(std::string_view file) {
  try {
    return GgufReader(file).read();
  } catch (const Unsound&) {
    return std::nullopt;
  }
}

std::optional<FileFacts> safetensors_facts(std::string_view file) {
  try {
    return read_safetensors(file);
  } catch (const Unsound&) {
    return std::nullopt;
  }
}

bool is_read(const std::string& type) {
  for (const auto& [number, block] : gguf_types()) {
    if (type == block.name) return true;
  }
  return type == "U8";
}

}  // namespace quarry::fuzz
