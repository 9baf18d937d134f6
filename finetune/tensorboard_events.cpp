#include "finetune/tensorboard_events.h"

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <limits>

#include "data/core/error.h"
#include "data/core/mapped_file.h"

namespace quarry {
namespace {

// Field numbers of tensorflow/core/util/event.proto and framework/summary.proto.
constexpr int kEventWallTime = 1;     // double
constexpr int kEventStep = 2;         // int64
constexpr int kEventFileVersion = 3;  // string
constexpr int kEventSummary = 5;      // message
constexpr int kSummaryValue = 1;      // repeated message
constexpr int kValueTag = 1;          // string
constexpr int kValueSimple = 2;       // float

constexpr int kWireVarint = 0;
constexpr int kWire64 = 1;
constexpr int kWireBytes = 2;
constexpr int kWire32 = 5;

constexpr const char* kFileVersion = "brain.Event:2";
constexpr size_t kHeaderBytes = 12;  // length, its checksum
constexpr size_t kFooterBytes = 4;   // checksum of the data

std::array<uint32_t, 256> make_crc_table() {
  constexpr uint32_t kReversedPolynomial = 0x82F63B78;
  std::array<uint32_t, 256> table;
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) {
      value = (value >> 1) ^ ((value & 1) != 0 ? kReversedPolynomial : 0);
    }
    table[i] = value;
  }
  return table;
}

// TFRecord's disguise of a checksum, for data that themselves hold checksums.
uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8;
}

template <typename Value>
void put_raw(std::string& out, Value value) {
  char bytes[sizeof(Value)];
  std::memcpy(bytes, &value, sizeof(Value));
  out.append(bytes, sizeof(Value));
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, int field, int wire) {
  put_varint(out, static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}

void put_bytes(std::string& out, int field, std::string_view bytes) {
  put_key(out, field, kWireBytes);
  put_varint(out, bytes.size());
  out.append(bytes);
}

std::string event_head(double wall_time, int64_t step) {
  std::string event;
  put_key(event, kEventWallTime, kWire64);
  put_raw(event, wall_time);
  put_key(event, kEventStep, kWireVarint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

std::string framed(const std::string& data) {
  std::string record;
  put_raw(record, static_cast<uint64_t>(data.size()));
  put_raw(record, masked_crc32c(record));
  record += data;
  put_raw(record, masked_crc32c(data));
  return record;
}

template <typename Value>
Value raw_at(std::string_view bytes, size_t at) {
  Value value;
  std::memcpy(&value, bytes.data() + at, sizeof(Value));
  return value;
}

// One field of a protobuf message.
struct Field {
  int number = 0;
  int wire = 0;
  uint64_t integer = 0;    // varint
  std::string_view bytes;  // of every other wire type
};

bool take_varint(std::string_view& message, uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (message.empty()) return false;
    const auto byte = static_cast<unsigned char>(message[0]);
    message.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// Removes the first field from the message; false when it is malformed.
bool take_field(std::string_view& message, Field& field) {
  uint64_t key = 0;
  if (!take_varint(message, key) || key >> 3 > std::numeric_limits<int>::max()) return false;
  field.number = static_cast<int>(key >> 3);
  field.wire = static_cast<int>(key & 7);
  uint64_t size = 0;
  switch (field.wire) {
    case kWireVarint:
      return take_varint(message, field.integer);
    case kWire64:
      size = 8;
      break;
    case kWire32:
      size = 4;
      break;
    case kWireBytes:
      if (!take_varint(message, size)) return false;
      break;
    default:
      return false;
  }
  if (size > message.size()) return false;
  field.bytes = message.substr(0, size);
  message.remove_prefix(size);
  return true;
}

bool read_value(std::string_view message, ScalarEvent& event) {
  std::string tag;
  bool has_scalar = false;
  float value = 0;
  for (Field field; !message.empty();) {
    if (!take_field(message, field)) return false;
    if (field.number == kValueTag && field.wire == kWireBytes) tag = std::string(field.bytes);
    if (field.number == kValueSimple && field.wire == kWire32) {
      has_scalar = true;
      value = raw_at<float>(field.bytes, 0);
    }
  }
  if (has_scalar) event.values.emplace_back(tag, value);
  return true;
}

bool read_event(std::string_view message, ScalarEvent& event) {
  for (Field field; !message.empty();) {
    if (!take_field(message, field)) return false;
    if (field.number == kEventWallTime && field.wire == kWire64) {
      event.wall_time = raw_at<double>(field.bytes, 0);
    } else if (field.number == kEventStep && field.wire == kWireVarint) {
      event.step = static_cast<int64_t>(field.integer);
    } else if (field.number == kEventSummary && field.wire == kWireBytes) {
      std::string_view summary = field.bytes;
      for (Field value; !summary.empty();) {
        if (!take_field(summary, value)) return false;
        if (value.number == kSummaryValue && value.wire == kWireBytes &&
            !read_value(value.bytes, event)) {
          return false;
        }
      }
    }
  }
  return true;
}

// Calls visit(event) for each whole record until it returns false. Returns the offset of the record
// that it stopped at, or the end of the last whole one.
size_t for_each_event(const std::filesystem::path& path,
                      const std::function<bool(const ScalarEvent&)>& visit) {
  const MappedFile file(path);
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  size_t at = 0;
  while (bytes.size() - at >= kHeaderBytes) {
    const auto length = raw_at<uint64_t>(bytes, at);
    QUARRY_CHECK(raw_at<uint32_t>(bytes, at + 8) == masked_crc32c(bytes.substr(at, 8)),
                 ErrorCode::kCorruptData, path.string(), ": the record at byte ", at,
                 " has a length whose checksum is wrong");
    const size_t left = bytes.size() - at - kHeaderBytes;
    if (left < kFooterBytes || length > left - kFooterBytes) break;
    const std::string_view data = bytes.substr(at + kHeaderBytes, length);
    QUARRY_CHECK(raw_at<uint32_t>(bytes, at + kHeaderBytes + length) == masked_crc32c(data),
                 ErrorCode::kCorruptData, path.string(), ": the record at byte ", at,
                 " has a wrong checksum");
    ScalarEvent event;
    QUARRY_CHECK(read_event(data, event), ErrorCode::kCorruptData, path.string(),
                 ": the record at byte ", at, " is not an Event message");
    if (!visit(event)) break;
    at += kHeaderBytes + length + kFooterBytes;
  }
  return at;
}

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = make_crc_table();
  uint32_t crc = 0xFFFFFFFF;
  for (const char c : bytes) {
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFF];
  }
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& path) : path_(path) {
  std::error_code error;
  const bool is_new =
      !std::filesystem::exists(path, error) || std::filesystem::file_size(path, error) == 0;
  out_.open(path, std::ios::binary | std::ios::app);
  QUARRY_CHECK(out_, ErrorCode::kUnavailable, path.string(),
               ": cannot open it for writing: ", std::strerror(errno));
  if (!is_new) return;
  std::string event = event_head(seconds_since_1970(), 0);
  put_bytes(event, kEventFileVersion, kFileVersion);
  out_ << framed(event) << std::flush;
  QUARRY_CHECK(out_, ErrorCode::kUnavailable, path.string(),
               ": cannot write: ", std::strerror(errno));
}

void TensorboardWriter::append(const ScalarEvent& event) {
  std::string summary;
  for (const auto& [tag, value] : event.values) {
    std::string entry;
    put_bytes(entry, kValueTag, tag);
    put_key(entry, kValueSimple, kWire32);
    put_raw(entry, value);
    put_bytes(summary, kSummaryValue, entry);
  }
  std::string message = event_head(event.wall_time, event.step);
  put_bytes(message, kEventSummary, summary);
  out_ << framed(message) << std::flush;
  QUARRY_CHECK(out_, ErrorCode::kUnavailable, path_.string(),
               ": cannot write: ", std::strerror(errno));
}

std::vector<ScalarEvent> read_scalar_events(const std::filesystem::path& path) {
  std::vector<ScalarEvent> events;
  for_each_event(path, [&](const ScalarEvent& event) {
    if (!event.values.empty()) events.push_back(event);
    return true;
  });
  return events;
}

void truncate_events(const std::filesystem::path& path, int64_t step) {
  const size_t end =
      for_each_event(path, [&](const ScalarEvent& event) { return event.step <= step; });
  std::error_code error;
  std::filesystem::resize_file(path, end, error);
  QUARRY_CHECK(!error, ErrorCode::kUnavailable, path.string(), ": cannot cut it to ", end,
               " bytes: ", error.message());
}

}  // namespace quarry
