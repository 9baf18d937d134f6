#include "data/store/sqlite.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "data/core/error.h"
#include "data/store/lexical_rank.h"

namespace quarry {
namespace {

constexpr int kBusyTimeoutMs = 10000;

// file: URI of a path, with what a URI gives a meaning escaped.
std::string file_uri(const std::filesystem::path& path, const char* query) {
  std::string uri = "file:";
  for (const char c : std::filesystem::absolute(path).string()) {
    if (c == '%' || c == '?' || c == '#') {
      static const char kHex[] = "0123456789ABCDEF";
      uri += {'%', kHex[(c >> 4) & 15], kHex[c & 15]};
    } else {
      uri += c;
    }
  }
  return uri + query;
}

bool is_full_disk(int primary, int system_errno) {
  return primary == SQLITE_FULL ||
         (primary == SQLITE_IOERR &&
          (system_errno == ENOSPC || system_errno == EFBIG || system_errno == EDQUOT));
}

}  // namespace

SqliteStatement::SqliteStatement(SqliteStatement&& other) noexcept
    : database_(std::exchange(other.database_, nullptr)),
      statement_(std::exchange(other.statement_, nullptr)) {}

SqliteStatement& SqliteStatement::operator=(SqliteStatement&& other) noexcept {
  std::swap(database_, other.database_);
  std::swap(statement_, other.statement_);
  return *this;
}

SqliteStatement::~SqliteStatement() { sqlite3_finalize(statement_); }

SqliteStatement& SqliteStatement::bind(int index, std::string_view text) {
  const char* data = text.data() == nullptr ? "" : text.data();
  database_->check(
      sqlite3_bind_text64(statement_, index, data, text.size(), SQLITE_STATIC, SQLITE_UTF8),
      "binding text");
  return *this;
}

SqliteStatement& SqliteStatement::bind(int index, int64_t value) {
  database_->check(sqlite3_bind_int64(statement_, index, value), "binding a number");
  return *this;
}

SqliteStatement& SqliteStatement::bind_blob(int index, const void* data, size_t bytes) {
  database_->check(sqlite3_bind_blob64(statement_, index, data, bytes, SQLITE_STATIC),
                   "binding bytes");
  return *this;
}

bool SqliteStatement::step() {
  const int result = sqlite3_step(statement_);
  if (result == SQLITE_ROW) return true;
  database_->check(result, sqlite3_stmt_readonly(statement_) != 0 ? "reading" : "writing");
  return false;
}

void SqliteStatement::run() {
  const SqliteScope scope(*this);
  while (step()) {
  }
}

void SqliteStatement::reset() {
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

int64_t SqliteStatement::column_int(int index) const {
  return sqlite3_column_int64(statement_, index);
}

double SqliteStatement::column_double(int index) const {
  return sqlite3_column_double(statement_, index);
}

std::string_view SqliteStatement::column_bytes(int index) const {
  const void* data = sqlite3_column_blob(statement_, index);
  const int bytes = sqlite3_column_bytes(statement_, index);
  if (data == nullptr || bytes <= 0) return {};
  return {static_cast<const char*>(data), static_cast<size_t>(bytes)};
}

Sqlite::Sqlite(const std::filesystem::path& path, Access access) : path_(path) {
  const int common = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
  if (access == Access::kRead) {
    // A write-ahead log can only be shared in a folder that we may write to; elsewhere nobody
    // changes the file and it is read as it lies.
    const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
    const bool immutable = ::access(folder.c_str(), W_OK) != 0;
    open(file_uri(path, immutable ? "?immutable=1" : ""), common | SQLITE_OPEN_READONLY);
  } else {
    open(file_uri(path, ""),
         common | SQLITE_OPEN_READWRITE | (access == Access::kCreate ? SQLITE_OPEN_CREATE : 0));
  }
}

void Sqlite::open(const std::string& uri, int flags) {
  const int result = sqlite3_open_v2(uri.c_str(), &handle_, flags, nullptr);
  try {
    check(result, "opening");
    sqlite3_extended_result_codes(handle_, 1);
    sqlite3_busy_timeout(handle_, kBusyTimeoutMs);
    // The file may be damaged or made by somebody else: no schema of its own may run code.
    sqlite3_db_config(handle_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    sqlite3_db_config(handle_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    check(register_lexical_rank(handle_), "adding the rank function");
    execute("PRAGMA cell_size_check=ON; PRAGMA foreign_keys=OFF; PRAGMA temp_store=MEMORY");
  } catch (...) {
    sqlite3_close_v2(handle_);
    handle_ = nullptr;
    throw;
  }
}

Sqlite::~Sqlite() { sqlite3_close_v2(handle_); }

void Sqlite::execute(const std::string& sql) {
  check(sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr), "running a statement");
}

SqliteStatement Sqlite::prepare(const std::string& sql) {
  SqliteStatement statement;
  statement.database_ = this;
  check(sqlite3_prepare_v3(handle_, sql.c_str(), static_cast<int>(sql.size()),
                           SQLITE_PREPARE_PERSISTENT, &statement.statement_, nullptr),
        "preparing a statement");
  return statement;
}

int64_t Sqlite::query_int(const std::string& sql) {
  SqliteStatement statement = prepare(sql);
  return statement.step() ? statement.column_int(0) : 0;
}

std::string Sqlite::query_text(const std::string& sql) {
  SqliteStatement statement = prepare(sql);
  return statement.step() ? statement.column_text(0) : std::string();
}

void Sqlite::check(int result, const char* action) {
  const int primary = result & 0xff;
  if (primary == SQLITE_OK || primary == SQLITE_ROW || primary == SQLITE_DONE) return;
  const char* message = handle_ != nullptr ? sqlite3_errmsg(handle_) : sqlite3_errstr(result);
  const int system_errno = handle_ != nullptr ? sqlite3_system_errno(handle_) : 0;
  const std::string file = path_.string();
  if (is_full_disk(primary, system_errno)) {
    throw_error(ErrorCode::kUnavailable, file, ": disk full while ", action,
                ": free some space and run again; what was committed before is safe");
  }
  switch (primary) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      throw_error(ErrorCode::kUnavailable, file, ": in use by another process: ", message);
    case SQLITE_IOERR:
      throw_error(ErrorCode::kUnavailable, file, ": input/output error while ", action, ": ",
                  system_errno != 0 ? std::strerror(system_errno) : message,
                  ": the disk is full, over its quota or failing; what was committed is safe");
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_PERM:
    case SQLITE_AUTH:
    case SQLITE_NOMEM:
    case SQLITE_PROTOCOL:
    case SQLITE_INTERRUPT:
      throw_error(ErrorCode::kUnavailable, file, ": ", action, " failed: ", message);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
    case SQLITE_ERROR:  // our statements are fixed: only a damaged schema makes them wrong
    case SQLITE_SCHEMA:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_TOOBIG:
      throw_error(ErrorCode::kCorruptData, file, ": damaged or not a store (", action,
                  "): ", message);
    default:
      throw_error(ErrorCode::kInternal, file, ": ", action, " failed with SQLite code ", result,
                  ": ", message);
  }
}

}  // namespace quarry
