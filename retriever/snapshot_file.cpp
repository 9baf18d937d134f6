#include "retriever/snapshot_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>

#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/sync_to_disk.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "QUARRYV1";
constexpr size_t kDigestBytes = 64;
constexpr size_t kFooterBytes = 8 + kDigestBytes + kMagic.size();

void append(std::FILE* file, std::string_view bytes, const fs::path& path) {
  QUARRY_CHECK(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size(),
               ErrorCode::kUnavailable, path.string(), ": cannot write: ", std::strerror(errno));
}

void write_whole(const fs::path& path, const fs::path& target, const Json& header,
                 const std::function<void(std::FILE*)>& write_payload) {
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "wb"), close);
  QUARRY_CHECK(file != nullptr, ErrorCode::kUnavailable, target.string(),
               ": cannot write: ", std::strerror(errno));
  write_payload(file.get());
  const std::string json = dump_json(header);
  append(file.get(), json, target);
  std::string size(8, '\0');
  for (size_t i = 0; i < 8; ++i) size[i] = static_cast<char>((json.size() >> (8 * i)) & 0xFFU);
  append(file.get(), size, target);
  QUARRY_CHECK(std::fflush(file.get()) == 0, ErrorCode::kUnavailable, target.string(),
               ": cannot write: ", std::strerror(errno));
  append(file.get(), sha256_file_hex(path), target);
  append(file.get(), kMagic, target);
  QUARRY_CHECK(std::fflush(file.get()) == 0 && ::fsync(fileno(file.get())) == 0,
               ErrorCode::kUnavailable, target.string(), ": cannot write: ", std::strerror(errno));
}

}  // namespace

void write_snapshot_file(const fs::path& path, const Json& header,
                         const std::function<void(std::FILE*)>& write_payload) {
  // One name a process: two that rebuild at once do not write into each other's file.
  const fs::path fresh = concat(path.string(), ".tmp", ::getpid());
  std::error_code failure;
  try {
    write_whole(fresh, path, header, write_payload);
    fs::rename(fresh, path, failure);
    QUARRY_CHECK(!failure, ErrorCode::kUnavailable, path.string(),
                 ": cannot replace: ", failure.message());
  } catch (...) {
    fs::remove(fresh, failure);
    throw;
  }
  sync_folder(path.parent_path());
}

SnapshotFile read_snapshot_file(const fs::path& path) {
  SnapshotFile snapshot;
  snapshot.file = MappedFile(path);
  const std::string_view bytes(reinterpret_cast<const char*>(snapshot.file.data()),
                               snapshot.file.size());
  QUARRY_CHECK(bytes.size() >= kFooterBytes, ErrorCode::kCorruptData, path.string(),
               ": truncated: ", bytes.size(), " bytes, the footer alone has ", kFooterBytes);
  QUARRY_CHECK(bytes.substr(bytes.size() - kMagic.size()) == kMagic, ErrorCode::kCorruptData,
               path.string(), ": does not end in ", kMagic);
  const size_t covered = bytes.size() - kMagic.size() - kDigestBytes;
  QUARRY_CHECK(bytes.substr(covered, kDigestBytes) == sha256_hex(bytes.substr(0, covered)),
               ErrorCode::kCorruptData, path.string(), ": checksum does not match");
  uint64_t json_size = 0;
  for (size_t i = 8; i-- > 0;) {
    json_size = json_size << 8U | static_cast<unsigned char>(bytes[covered - 8 + i]);
  }
  QUARRY_CHECK(json_size <= covered - 8, ErrorCode::kCorruptData, path.string(), ": header of ",
               json_size, " bytes in a file of ", bytes.size());
  snapshot.payload_bytes = covered - 8 - json_size;
  snapshot.header = parse_json(bytes.substr(snapshot.payload_bytes, json_size),
                               path.string() + ": header", ErrorCode::kCorruptData);
  return snapshot;
}

}  // namespace quarry
