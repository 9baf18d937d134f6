#include "data/store/schema.h"

#include <array>

#include "data/core/error.h"

namespace quarry {
namespace {

// Version 1. Ids are never used twice (AUTOINCREMENT), so a vector index can lag behind and be
// topped up by id. Passages keep their text beside the document's, so that showing a hit does not
// read a large document; FTS5 stores only its index and reads the columns through the view.
constexpr const char* kVersion1 = R"sql(
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE state(
  id INTEGER PRIMARY KEY CHECK (id = 1),
  generation INTEGER NOT NULL, documents INTEGER NOT NULL,
  passages INTEGER NOT NULL, text_bytes INTEGER NOT NULL);
INSERT INTO state VALUES(1, 0, 0, 0, 0);
CREATE TABLE documents(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  uri TEXT NOT NULL UNIQUE, title TEXT NOT NULL, format TEXT NOT NULL,
  content_hash TEXT NOT NULL, text_bytes INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX documents_by_format ON documents(format);
CREATE TABLE metadata(
  document_id INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY(document_id, key)) WITHOUT ROWID;
CREATE INDEX metadata_by_value ON metadata(key, value);
CREATE TABLE passages(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  document_id INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  start_byte INTEGER NOT NULL, end_byte INTEGER NOT NULL,
  heading TEXT NOT NULL, text TEXT NOT NULL,
  UNIQUE(document_id, ordinal));
CREATE TABLE vectors(passage_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE removed(passage_id INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX removed_by_generation ON removed(generation);
CREATE VIEW passage_columns AS
  SELECT passages.id AS id, passages.document_id AS document_id, documents.title AS title,
         passages.heading AS heading, passages.text AS text
  FROM passages JOIN documents ON documents.id = passages.document_id;
CREATE VIRTUAL TABLE passage_fts USING fts5(
  title, heading, text, content='passage_columns', content_rowid='id',
  tokenize='porter unicode61');
)sql";

constexpr std::array<const char*, kStoreFormatVersion> kMigrations = {kVersion1};

}  // namespace

void migrate_store(Sqlite& database) {
  const int64_t found = database.query_int("PRAGMA user_version");
  if (found >= kStoreFormatVersion) return;
  database.execute("BEGIN IMMEDIATE");
  try {
    for (int64_t version = found; version < kStoreFormatVersion; ++version) {
      database.execute(kMigrations[static_cast<size_t>(version)]);
    }
    database.execute(concat("PRAGMA application_id=", kStoreApplicationId,
                            "; PRAGMA user_version=", kStoreFormatVersion));
    database.execute("COMMIT");
  } catch (...) {
    if (database.in_transaction()) database.execute("ROLLBACK");
    throw;
  }
}

void check_store_format(Sqlite& database) {
  const std::string file = database.path().string();
  const int64_t application = database.query_int("PRAGMA application_id");
  QUARRY_CHECK(application == kStoreApplicationId, ErrorCode::kCorruptData, file,
               ": not a Quarry store (application id ", application, ", wanted ",
               kStoreApplicationId, ")");
  const int64_t version = database.query_int("PRAGMA user_version");
  QUARRY_CHECK(version <= kStoreFormatVersion, ErrorCode::kCorruptData, file, ": format version ",
               version, " is newer than this program's ", kStoreFormatVersion);
  QUARRY_CHECK(version == kStoreFormatVersion, ErrorCode::kCorruptData, file, ": format version ",
               version, " is older than this program's ", kStoreFormatVersion,
               ": run `quarry index build` on it once to bring it up to date");
}

}  // namespace quarry
