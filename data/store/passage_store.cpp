#include "data/store/passage_store.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>

#include "data/core/error.h"
#include "data/core/sync_to_disk.h"
#include "data/store/schema.h"
#include "data/store/sqlite_passage_store.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts = {};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

// The schema and the manifest in a file of its own, complete before it gets its name: a crash
// leaves no store or a whole one.
void write_empty_store(const fs::path& path, const StoreManifest& manifest) {
  fs::path fresh = path;
  fresh += ".new";
  for (const char* suffix : {"", "-journal", "-wal", "-shm"}) fs::remove(fresh.string() + suffix);
  {
    Sqlite database(fresh, Sqlite::Access::kCreate);
    migrate_store(database);
    SqliteStatement insert = database.prepare("INSERT INTO settings VALUES('manifest', ?1)");
    const std::string json = dump_manifest(manifest);
    insert.bind(1, json).run();
    const std::string mode = database.query_text("PRAGMA journal_mode=WAL");
    QUARRY_CHECK(mode == "wal", ErrorCode::kUnavailable, path.string(),
                 ": this file system cannot hold a write-ahead log (journal mode is ", mode, ")");
  }
  sync_file(fresh);
  fs::rename(fresh, path);
  sync_folder(path.parent_path());
}

}  // namespace

std::unique_ptr<PassageStore> PassageStore::create(const fs::path& path,
                                                   const StoreManifest& manifest) {
  const fs::path folder = folder_of(path);
  QUARRY_CHECK(fs::is_directory(folder), ErrorCode::kNotFound, folder.string(), ": no such folder");
  auto lock = std::make_unique<WriterLock>(folder);
  QUARRY_CHECK(!fs::exists(fs::symlink_status(path)), ErrorCode::kInvalidArgument, path.string(),
               ": already there");
  StoreManifest stamped = manifest;
  if (stamped.created_at.empty()) stamped.created_at = utc_now();
  try {
    write_empty_store(path, stamped);
  } catch (const fs::filesystem_error& error) {
    throw_error(ErrorCode::kUnavailable, path.string(),
                ": cannot create: ", error.code().message());
  }
  return std::make_unique<SqlitePassageStore>(path, Mode::kReadWrite, std::move(lock));
}

std::unique_ptr<PassageStore> PassageStore::open(const fs::path& path, Mode mode) {
  std::error_code failure;
  const fs::file_status status = fs::status(path, failure);
  QUARRY_CHECK(fs::exists(status), ErrorCode::kNotFound, path.string(),
               ": no index here; make one with `quarry index build`");
  QUARRY_CHECK(fs::is_regular_file(status), ErrorCode::kCorruptData, path.string(),
               ": not a regular file");
  // SQLite takes an empty file for an empty database and would create one for writing.
  QUARRY_CHECK(fs::file_size(path) >= 512, ErrorCode::kCorruptData, path.string(),
               ": damaged or not a store: ", fs::file_size(path), " bytes");
  std::array<char, 16> magic{};
  std::ifstream file(path, std::ios::binary);
  file.read(magic.data(), magic.size());
  QUARRY_CHECK(file && std::memcmp(magic.data(), "SQLite format 3", 16) == 0,
               ErrorCode::kCorruptData, path.string(),
               ": damaged or not a store: does not begin as an SQLite file");
  std::unique_ptr<WriterLock> lock;
  if (mode == Mode::kReadWrite) lock = std::make_unique<WriterLock>(folder_of(path));
  return std::make_unique<SqlitePassageStore>(path, mode, std::move(lock));
}

}  // namespace quarry
