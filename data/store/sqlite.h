#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace quarry {

// A prepared SQL statement. Bind, step until false, then reset() to use it again. Indices of
// parameters start at 1, of columns at 0, as in SQLite.
class SqliteStatement {
 public:
  SqliteStatement() = default;
  SqliteStatement(SqliteStatement&& other) noexcept;
  SqliteStatement& operator=(SqliteStatement&& other) noexcept;
  SqliteStatement(const SqliteStatement&) = delete;
  SqliteStatement& operator=(const SqliteStatement&) = delete;
  ~SqliteStatement();

  // The bytes are not copied: they must live until the next reset().
  SqliteStatement& bind(int index, std::string_view text);
  SqliteStatement& bind(int index, int64_t value);
  SqliteStatement& bind_blob(int index, const void* data, size_t bytes);

  // True while there is a row. Throws as Sqlite::check does.
  bool step();
  // step() for statements without rows, then reset().
  void run();
  // Ends the query and unbinds.
  void reset();

  int64_t column_int(int index) const;
  double column_double(int index) const;
  // Text or blob bytes; valid until the next step() or reset().
  std::string_view column_bytes(int index) const;
  std::string column_text(int index) const { return std::string(column_bytes(index)); }

 private:
  friend class Sqlite;
  class Sqlite* database_ = nullptr;  // borrowed
  sqlite3_stmt* statement_ = nullptr;
};

// Resets a cached statement when the scope ends, also by an exception.
class SqliteScope {
 public:
  explicit SqliteScope(SqliteStatement& statement) : statement_(statement) {}
  SqliteScope(const SqliteScope&) = delete;
  SqliteScope& operator=(const SqliteScope&) = delete;
  ~SqliteScope() { statement_.reset(); }

 private:
  SqliteStatement& statement_;
};

// One connection to a database file. One thread at a time. Every failure of SQLite becomes an Error
// that names the file:
//   full disk, locked, read-only, I/O            kUnavailable
//   damaged page, not a database, wrong schema   kCorruptData
class Sqlite {
 public:
  enum class Access { kRead, kWrite, kCreate };

  Sqlite(const std::filesystem::path& path, Access access);
  Sqlite(const Sqlite&) = delete;
  Sqlite& operator=(const Sqlite&) = delete;
  ~Sqlite();

  void execute(const std::string& sql);
  // `sql` is one of our own statements: a failure to prepare it means a damaged schema.
  SqliteStatement prepare(const std::string& sql);
  int64_t query_int(const std::string& sql);
  std::string query_text(const std::string& sql);
  int64_t last_insert_id() const { return sqlite3_last_insert_rowid(handle_); }
  bool in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }
  const std::filesystem::path& path() const { return path_; }

  // Throws the Error that belongs to a result code other than OK, ROW and DONE.
  void check(int result, const char* action);

 private:
  void open(const std::string& uri, int flags);

  std::filesystem::path path_;
  sqlite3* handle_ = nullptr;
};

}  // namespace quarry
