#include "data/text/sentencepiece_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "data/core/error.h"

namespace quarry {
namespace {

// The library's own arrays of matches at one place, on its stack.
constexpr int kMaxCharsmapMatches = 32;
constexpr int kMaxUserDefinedMatches = 64;

// Fields of ModelProto, SentencePiece and NormalizerSpec.
constexpr uint64_t kPieces = 1;
constexpr uint64_t kNormalizerSpec = 3;
constexpr uint64_t kDenormalizerSpec = 5;
constexpr uint64_t kPieceText = 1;
constexpr uint64_t kPieceScore = 2;
constexpr uint64_t kPieceType = 3;
constexpr uint64_t kCharsmap = 2;
constexpr uint64_t kUserDefined = 4;

// One field of a protobuf message.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;      // varint and fixed
  std::string_view bytes;  // length-delimited
  bool is_bytes = false;
  bool is_fixed32 = false;
};

// Reads the fields of a message front to back.
class Message {
 public:
  Message(std::string_view bytes, const std::string& source) : bytes_(bytes), source_(source) {}

  bool next(Field& field) {
    if (at_ == bytes_.size()) return false;
    const uint64_t key = varint();
    field = Field();
    field.number = key >> 3;
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2: {
        const uint64_t size = varint();
        require(size <= bytes_.size() - at_);
        field.bytes = bytes_.substr(at_, size);
        field.is_bytes = true;
        at_ += size;
        break;
      }
      case 5:
        field.value = fixed(4);
        field.is_fixed32 = true;
        break;
      default:
        require(false);
    }
    return true;
  }

 private:
  void require(bool condition) const {
    QUARRY_CHECK(condition, ErrorCode::kCorruptData, source_,
                 ": not a sentencepiece model: not a whole protobuf message (truncated?)");
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      require(at_ < bytes_.size());
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    require(false);
    return 0;
  }
  uint64_t fixed(size_t size) {
    require(size <= bytes_.size() - at_);
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) {
      value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_[at_ + i])) << (8 * i);
    }
    at_ += size;
    return value;
  }

  std::string_view bytes_;
  const std::string& source_;
  size_t at_ = 0;
};

// A double array of Darts (https://github.com/s-yata/darts-clone): node n with offset o has its
// children at n ^ o ^ byte, and its value, if any, at n ^ o.
class DoubleArray {
 public:
  DoubleArray(std::string_view bytes, size_t text_bytes, const std::string& source)
      : units_(bytes.size() / sizeof(uint32_t)), text_bytes_(text_bytes), source_(source) {
    require(!units_.empty(), "it has no units");
    std::memcpy(units_.data(), bytes.data(), units_.size() * sizeof(uint32_t));
  }

  // Every walk stays in the array, ends, and passes no more values than the library has room for.
  void check() {
    link_children();
    matches_.assign(units_.size(), kUnknown);
    struct Step {
      size_t node;
      bool is_done;
    };
    std::vector<Step> steps = {{0, false}};
    while (!steps.empty()) {
      const Step step = steps.back();
      steps.pop_back();
      if (step.is_done) {
        finish(step.node);
        continue;
      }
      if (matches_[step.node] >= 0) continue;
      require(matches_[step.node] == kUnknown, "it runs in a circle");
      matches_[step.node] = kOpen;
      const size_t base = base_of(step.node);
      require((base | 0xFF) < units_.size(), "a node lies outside");
      check_value(step.node);
      steps.push_back({step.node, true});
      for (size_t child = first_[base]; child != kNone; child = next_[child]) {
        steps.push_back({child, false});
      }
    }
  }

 private:
  static constexpr int kUnknown = -1;
  static constexpr int kOpen = -2;
  static constexpr size_t kNone = SIZE_MAX;

  void require(bool condition, const char* reason) const {
    QUARRY_CHECK(condition, ErrorCode::kCorruptData, source_,
                 ": not a sentencepiece model: precompiled_charsmap is damaged: ", reason);
  }
  size_t base_of(size_t node) const {
    const uint32_t unit = units_[node];
    return node ^ (static_cast<size_t>(unit >> 10) << ((unit & (1U << 9)) >> 6));
  }
  bool has_value(size_t node) const { return ((units_[node] >> 8) & 1) != 0; }
  void check_value(size_t node) const {
    if (!has_value(node)) return;
    require((units_[base_of(node)] & 0x7FFFFFFF) < text_bytes_, "a value lies outside its texts");
  }

  // Lists of the units by the base that they are children of: their place without their label.
  void link_children() {
    first_.assign(units_.size() + 256, kNone);
    next_.assign(units_.size(), kNone);
    for (size_t unit = 0; unit < units_.size(); ++unit) {
      if ((units_[unit] & 0x80000000U) != 0) continue;  // a value
      const size_t base = unit ^ (units_[unit] & 0xFF);
      next_[unit] = first_[base];
      first_[base] = unit;
    }
  }

  void finish(size_t node) {
    int most = 0;
    for (size_t child = first_[base_of(node)]; child != kNone; child = next_[child]) {
      require(matches_[child] >= 0, "it runs in a circle");
      most = std::max(most, matches_[child]);
    }
    matches_[node] = most + (has_value(node) ? 1 : 0);
    require(matches_[node] <= kMaxCharsmapMatches, "too many of its entries begin one another");
  }

  std::vector<uint32_t> units_;
  size_t text_bytes_;
  const std::string& source_;
  std::vector<size_t> first_;
  std::vector<size_t> next_;
  std::vector<int> matches_;  // most values below each node and in it
};

// uint32 size of the double array, the array, texts that each end in a zero.
void check_charsmap(std::string_view charsmap, const std::string& source) {
  if (charsmap.empty()) return;
  uint32_t array_bytes = 0;
  const bool has_size = charsmap.size() > sizeof(array_bytes);
  if (has_size) std::memcpy(&array_bytes, charsmap.data(), sizeof(array_bytes));
  QUARRY_CHECK(
      has_size && array_bytes < charsmap.size() - sizeof(array_bytes) && charsmap.back() == '\0',
      ErrorCode::kCorruptData, source, ": not a sentencepiece model: precompiled_charsmap of ",
      charsmap.size(), " bytes claims a double array of ", array_bytes,
      " and texts that end in zero");
  const std::string_view array = charsmap.substr(sizeof(array_bytes), array_bytes);
  const size_t text_bytes = charsmap.size() - sizeof(array_bytes) - array_bytes;
  DoubleArray(array, text_bytes, source).check();
}

void check_normalizer(std::string_view spec, const std::string& source) {
  Message message(spec, source);
  for (Field field; message.next(field);) {
    if (field.number == kCharsmap && field.is_bytes) check_charsmap(field.bytes, source);
  }
}

void check_user_defined(const std::set<std::string_view>& pieces, const std::string& source) {
  for (const std::string_view piece : pieces) {
    int matches = 0;
    for (size_t size = 1; size <= piece.size(); ++size) {
      matches += static_cast<int>(pieces.count(piece.substr(0, size)));
    }
    QUARRY_CHECK(matches <= kMaxUserDefinedMatches, ErrorCode::kCorruptData, source,
                 ": not a sentencepiece model: ", matches,
                 " user-defined pieces begin one another, at most ", kMaxUserDefinedMatches,
                 " accepted");
  }
}

}  // namespace

void check_sentencepiece_model(std::string_view model_proto, const std::string& source) {
  std::set<std::string_view> user_defined;
  Message model(model_proto, source);
  for (Field part; model.next(part);) {
    if (!part.is_bytes) continue;
    if (part.number == kNormalizerSpec || part.number == kDenormalizerSpec) {
      check_normalizer(part.bytes, source);
    }
    if (part.number != kPieces) continue;
    std::string_view text;
    uint64_t type = 0;
    Message piece(part.bytes, source);
    for (Field field; piece.next(field);) {
      if (field.number == kPieceText && field.is_bytes) text = field.bytes;
      if (field.number == kPieceType && !field.is_bytes) type = field.value;
      if (field.number != kPieceScore || !field.is_fixed32) continue;
      const auto bits = static_cast<uint32_t>(field.value);
      float score = 0.0F;
      std::memcpy(&score, &bits, sizeof(score));
      QUARRY_CHECK(std::isfinite(score), ErrorCode::kCorruptData, source,
                   ": not a sentencepiece model: a piece has the score ", score);
    }
    if (type == kUserDefined) user_defined.insert(text);
  }
  check_user_defined(user_defined, source);
}

}  // namespace quarry
