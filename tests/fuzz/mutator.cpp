#include "tests/fuzz/mutator.h"

#include <algorithm>
#include <cstring>

#include "data/core/error.h"

namespace quarry::fuzz {
namespace {

constexpr uint64_t kMaxInserted = 4096;

uint64_t edge_integer(Dice& dice) {
  static const std::vector<uint64_t> kEdges = {
      0,
      1,
      2,
      7,
      31,
      32,
      255,
      256,
      0x7fff,
      0x8000,
      0xffff,
      0x10000,
      0x100000,
      0xffffff,
      0x7fffffff,
      0x80000000,
      0xffffffff,
      0x100000000,
      uint64_t{1} << 40,
      uint64_t{1} << 59,
      uint64_t{1} << 62,
      uint64_t{INT64_MAX},
      uint64_t{1} << 63,
      UINT64_MAX - 7,
      UINT64_MAX,
  };
  return dice.pick(kEdges);
}

// A place in the file, three times of four in its header.
size_t place(const std::string& bytes, size_t header_bytes, Dice& dice) {
  const size_t limit = std::min(header_bytes, bytes.size());
  if (limit > 0 && dice.chance(75)) return dice.below(limit);
  return dice.below(bytes.size() + 1);
}

size_t length_at(const std::string& bytes, size_t at, Dice& dice) {
  const size_t longest = dice.chance(80) ? 64 : kMaxInserted;
  return std::min(bytes.size() - at, 1 + dice.below(longest));
}

void put_integer(std::string& bytes, size_t at, uint64_t width, uint64_t value) {
  if (at >= bytes.size()) return;
  std::memcpy(bytes.data() + at, &value, std::min<size_t>(width, bytes.size() - at));
}

void change_number(std::string& bytes, const NumberField& field, Dice& dice) {
  if (field.offset + field.bytes > bytes.size()) return;
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + field.offset, field.bytes);
  switch (dice.below(5)) {
    case 0:
      ++value;
      break;
    case 1:
      --value;
      break;
    case 2:
      value ^= uint64_t{1} << dice.below(8 * field.bytes);
      break;
    case 3:
      value = dice.below(64);
      break;
    default:
      value = edge_integer(dice);
  }
  put_integer(bytes, field.offset, field.bytes, value);
}

void change_bytes(std::string& bytes, size_t header_bytes, Dice& dice) {
  const size_t at = place(bytes, header_bytes, dice);
  const size_t length = length_at(bytes, at, dice);
  switch (dice.below(10)) {
    case 0:
      if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << dice.below(8)));
      break;
    case 1:
      if (at < bytes.size()) bytes[at] = static_cast<char>(dice.below(256));
      break;
    case 2:
      put_integer(bytes, at, uint64_t{1} << dice.below(4), edge_integer(dice));
      break;
    case 3:
      bytes.resize(at);
      break;
    case 4:
      bytes.insert(place(bytes, header_bytes, dice), bytes.substr(at, length));
      break;
    case 5:
      bytes.insert(at, std::string(1 + dice.below(64), static_cast<char>(dice.below(256))));
      break;
    case 6:
      bytes.erase(at, length);
      break;
    case 7: {
      const size_t other = place(bytes, header_bytes, dice);
      const size_t both = std::min({length, bytes.size() - other});
      for (size_t i = 0; i < both; ++i) std::swap(bytes[at + i], bytes[other + i]);
      break;
    }
    case 8:
      bytes.replace(at, length, std::string(length, dice.chance(50) ? '\0' : '\xff'));
      break;
    default:
      for (size_t i = 0; i < length; ++i) bytes[at + i] = static_cast<char>(dice.below(256));
  }
}

// --- JSON ---

std::string edge_text(Dice& dice) {
  static const std::vector<std::string> kTexts = {
      "",
      " ",
      "\xE2\x96\x81",
      "\xEF\xBF\xBD",
      std::string(1, '\0'),
      "##",
      "<0x00>",
      "<unk>",
      ".*",
      "(a+)+$",
      "\\p{L}",
      "\\C",
      "[^",
      "(?=a)",
      "../x",
      "\xF0\x9F\x98\x80",
      "a",
      "{{",
      std::string(300, 'x'),
      std::string(5000, 'y'),
  };
  return dice.pick(kTexts);
}

OrderedJson edge_value(Dice& dice) {
  switch (dice.below(12)) {
    case 0:
      return nullptr;
    case 1:
      return dice.chance(50);
    case 2:
      return OrderedJson::array();
    case 3:
      return OrderedJson::object();
    case 4:
      return edge_text(dice);
    case 5:
      return -1 - static_cast<int64_t>(dice.below(3));
    case 6:
      return INT64_MIN;
    case 7:
      return std::vector<double>{0.5, -0.0, 1e-320, 1e300, -1e308, 3e38, 16777216.5}[dice.below(7)];
    case 8: {
      OrderedJson nested = dice.below(3);
      for (uint64_t depth = dice.below(200); depth > 0; --depth) {
        nested = dice.chance(50) ? OrderedJson::array({nested}) : OrderedJson{{"type", nested}};
      }
      return nested;
    }
    default:
      return edge_integer(dice);
  }
}

// A walk from the root that may end anywhere.
OrderedJson& random_node(OrderedJson& root, Dice& dice) {
  OrderedJson* node = &root;
  while (node->is_structured() && !node->empty() && !dice.chance(15)) {
    auto child = node->begin();
    std::advance(child, static_cast<ptrdiff_t>(dice.below(node->size())));
    node = &*child;
  }
  return *node;
}

void change_text(std::string& text, Dice& dice) {
  const size_t at = dice.below(text.size() + 1);
  switch (dice.below(5)) {
    case 0:
      text.insert(at, edge_text(dice));
      break;
    case 1:
      text.erase(at, 1 + dice.below(4));
      break;
    case 2:
      if (at < text.size()) text[at] = static_cast<char>(1 + dice.below(127));
      break;
    case 3:
      text = edge_text(dice);
      break;
    default: {
      const std::string once = text.substr(0, 16);
      for (uint64_t i = dice.below(200); i > 0; --i) text += once;
    }
  }
}

void change_object(OrderedJson::object_t& members, const OrderedJson& other, Dice& dice) {
  auto member = members.begin() + static_cast<ptrdiff_t>(dice.below(members.size()));
  switch (dice.below(4)) {
    case 0:
      members.erase(member);
      break;
    case 1: {
      // The same name twice, which ordered_map itself never makes.
      const std::string key = member->first;
      members.emplace_back(key, other);
      break;
    }
    case 2:
      members.emplace_back(edge_text(dice), other);
      break;
    default:
      member->second = other;
  }
}

void change_array(OrderedJson& array, const OrderedJson& other, Dice& dice) {
  const auto at = array.begin() + static_cast<ptrdiff_t>(dice.below(array.size()));
  switch (dice.below(4)) {
    case 0:
      array.erase(at);
      break;
    case 1: {
      const OrderedJson copy = *at;
      array.insert(at, copy);
      break;
    }
    case 2:
      array.insert(at, other);
      break;
    default: {
      auto with = array.begin() + static_cast<ptrdiff_t>(dice.below(array.size()));
      std::swap(*at, *with);
    }
  }
}

void change_value(OrderedJson& root, Dice& dice) {
  const OrderedJson other =
      dice.chance(60) ? edge_value(dice) : OrderedJson(random_node(root, dice));
  OrderedJson& node = random_node(root, dice);
  if (node.is_object() && !node.empty()) {
    change_object(node.get_ref<OrderedJson::object_t&>(), other, dice);
  } else if (node.is_array() && !node.empty()) {
    change_array(node, other, dice);
  } else if (node.is_string() && dice.chance(60)) {
    change_text(node.get_ref<std::string&>(), dice);
  } else if (node.is_number_integer() && dice.chance(50)) {
    const auto value = node.get<int64_t>();
    const std::vector<int64_t> nearby = {value / 2, value - (value > INT64_MIN ? 1 : 0),
                                         value + (value < INT64_MAX ? 1 : 0)};
    node = dice.chance(70) ? dice.pick(nearby) : static_cast<int64_t>(dice.below(4096));
  } else {
    node = other;
  }
}

// A literal that a JSON library may read in its own way.
std::string change_literal(std::string text, Dice& dice) {
  static const std::vector<std::string> kLiterals = {"-1",
                                                     "-0",
                                                     "00",
                                                     "1.0",
                                                     "1e3",
                                                     "1e999",
                                                     "18446744073709551615",
                                                     "18446744073709551616",
                                                     "0.5",
                                                     "1.",
                                                     "[]",
                                                     "{}",
                                                     "null",
                                                     "\"\\ud800\"",
                                                     "NaN",
                                                     "-9223372036854775809",
                                                     "9223372036854775808",
                                                     "4294967297"};
  const size_t start = dice.below(text.size() + 1);
  const size_t begin = text.find_first_of("0123456789", start);
  if (begin == std::string::npos) return text;
  const size_t end = std::min(text.find_first_not_of("0123456789", begin), text.size());
  return text.replace(begin, end - begin, dice.pick(kLiterals));
}

// --- weights ---

void change_tensor_data(const SeedFile& seed, std::string& bytes, Dice& dice) {
  for (uint64_t i = 1 + dice.below(8); i > 0; --i) {
    const TensorFacts& tensor = dice.pick(seed.facts->tensors);
    if (tensor.begin == tensor.end) continue;
    const size_t at = tensor.begin + dice.below(tensor.end - tensor.begin);
    const uint64_t run = std::min<uint64_t>(tensor.end - at, 1 + dice.below(16));
    for (uint64_t k = 0; k < run; ++k) bytes[at + k] = static_cast<char>(dice.below(256));
  }
}

void change_safetensors_header(std::string& bytes, Dice& dice) {
  uint64_t header_bytes = 0;
  if (bytes.size() < 8) return;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > bytes.size() - 8) return;
  std::string header = mutate_json(bytes.substr(8, header_bytes), dice);
  bytes.replace(8, header_bytes, header);
  const uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
}

void change_once(const SeedFile& seed, std::string& bytes, Dice& dice) {
  const size_t header_bytes = seed.facts ? seed.facts->data_begin : seed.bytes.size();
  switch (seed.kind) {
    case FileKind::kGguf:
      if (dice.chance(60)) return change_number(bytes, dice.pick(seed.facts->numbers), dice);
      break;
    case FileKind::kSafetensors:
      if (dice.chance(70)) return change_safetensors_header(bytes, dice);
      if (dice.chance(20)) return change_number(bytes, seed.facts->numbers.front(), dice);
      break;
    case FileKind::kJson:
      if (dice.chance(85)) {
        bytes = mutate_json(bytes, dice);
        return;
      }
      break;
    case FileKind::kText:
    case FileKind::kBinary:
      break;
  }
  change_bytes(bytes, header_bytes, dice);
}

}  // namespace

SeedFile make_seed_file(FileKind kind, std::string bytes) {
  SeedFile seed;
  seed.kind = kind;
  if (kind == FileKind::kGguf) seed.facts = gguf_facts(bytes);
  if (kind == FileKind::kSafetensors) seed.facts = safetensors_facts(bytes);
  QUARRY_CHECK(seed.facts || (kind != FileKind::kGguf && kind != FileKind::kSafetensors),
               ErrorCode::kInternal, "a seed file of weights is not sound");
  seed.bytes = std::move(bytes);
  return seed;
}

std::string mutate_json(const std::string& text, Dice& dice) {
  if (dice.chance(15)) return change_literal(text, dice);
  OrderedJson root = OrderedJson::parse(text, nullptr, false);
  if (root.is_discarded()) return change_literal(text, dice);
  change_value(root, dice);
  return dump_json(root);
}

MutatedFile mutate(const SeedFile& seed, Dice& dice) {
  MutatedFile mutated;
  mutated.bytes = seed.bytes;
  if (seed.facts && !seed.facts->tensors.empty() && dice.chance(10)) {
    mutated.is_data_only = true;
    change_tensor_data(seed, mutated.bytes, dice);
    return mutated;
  }
  uint64_t changes = 1;
  while (changes < 4 && dice.chance(35)) ++changes;
  for (; changes > 0; --changes) change_once(seed, mutated.bytes, dice);
  return mutated;
}

}  // namespace quarry::fuzz
