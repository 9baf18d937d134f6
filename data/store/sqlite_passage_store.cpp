#include "data/store/sqlite_passage_store.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "data/core/error.h"
#include "data/store/lexical_query.h"
#include "data/store/lexical_rank.h"
#include "data/store/schema.h"

namespace quarry {
namespace {

Sqlite::Access access_for(PassageStore::Mode mode) {
  return mode == PassageStore::Mode::kReadOnly ? Sqlite::Access::kRead : Sqlite::Access::kWrite;
}

// Least text that is greater than every text with this prefix; empty: there is none.
std::string prefix_end(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

}  // namespace

SqlitePassageStore::SqlitePassageStore(const std::filesystem::path& path, Mode mode,
                                       std::unique_ptr<WriterLock> lock)
    : lock_(std::move(lock)), database_(path, access_for(mode)) {
  if (mode == Mode::kReadWrite) {
    database_.execute("PRAGMA synchronous=FULL; PRAGMA cache_size=-32768");
    if (database_.query_int("PRAGMA application_id") == kStoreApplicationId) {
      migrate_store(database_);
    }
  } else {
    database_.execute("PRAGMA cache_size=-65536");
  }
  check_store_format(database_);
  manifest_ = parse_manifest(
      database_.query_text("SELECT value FROM settings WHERE key='manifest'"), path.string());
  select_passage_ = database_.prepare(
      "SELECT p.document_id, d.uri, d.title, p.heading, p.start_byte, p.end_byte, p.text "
      "FROM passages p JOIN documents d ON d.id = p.document_id WHERE p.id = ?1");
  select_metadata_ = database_.prepare("SELECT key, value FROM metadata WHERE document_id = ?1");
  select_vector_ = database_.prepare("SELECT vector FROM vectors WHERE passage_id = ?1");
  select_content_hash_ = database_.prepare("SELECT content_hash FROM documents WHERE uri = ?1");
  search_ = database_.prepare(
      concat("SELECT rowid, rank FROM passage_fts WHERE passage_fts MATCH ?1 AND rank MATCH '",
             kLexicalRankFunction, "()' ORDER BY rank LIMIT ?2"));
  if (mode == Mode::kReadWrite) prepare_writes();
}

SqlitePassageStore::~SqlitePassageStore() {
  try {
    rollback();
    if (lock_ != nullptr) database_.execute("PRAGMA wal_checkpoint(TRUNCATE)");
  } catch (const Error&) {
    // What was committed is in the log and the next open finds it there.
  }
}

void SqlitePassageStore::prepare_writes() {
  writes_ = std::make_unique<Statements>();
  Statements& s = *writes_;
  s.insert_document = database_.prepare(
      "INSERT INTO documents(uri, title, format, content_hash, text_bytes, text) "
      "VALUES(?1, ?2, ?3, ?4, ?5, ?6)");
  s.insert_metadata = database_.prepare("INSERT INTO metadata VALUES(?1, ?2, ?3)");
  s.insert_passage = database_.prepare(
      "INSERT INTO passages(document_id, ordinal, start_byte, end_byte, heading, text) "
      "VALUES(?1, ?2, ?3, ?4, ?5, ?6)");
  s.insert_vector = database_.prepare("INSERT INTO vectors VALUES(?1, ?2)");
  s.insert_fts = database_.prepare(
      "INSERT INTO passage_fts(rowid, title, heading, text) VALUES(?1, ?2, ?3, ?4)");
  s.find_document = database_.prepare("SELECT id, text_bytes FROM documents WHERE uri = ?1");
  s.delete_fts = database_.prepare(
      "INSERT INTO passage_fts(passage_fts, rowid, title, heading, text) "
      "SELECT 'delete', id, title, heading, text FROM passage_columns WHERE document_id = ?1");
  s.insert_removed = database_.prepare(
      "INSERT INTO removed SELECT id, (SELECT generation FROM state) FROM passages "
      "WHERE document_id = ?1");
  s.delete_vectors = database_.prepare(
      "DELETE FROM vectors WHERE passage_id IN (SELECT id FROM passages WHERE document_id = ?1)");
  s.delete_passages = database_.prepare("DELETE FROM passages WHERE document_id = ?1");
  s.delete_metadata = database_.prepare("DELETE FROM metadata WHERE document_id = ?1");
  s.delete_document = database_.prepare("DELETE FROM documents WHERE id = ?1");
  s.add_to_state = database_.prepare(
      "UPDATE state SET documents = documents + ?1, passages = passages + ?2, "
      "text_bytes = text_bytes + ?3");
}

StoreStats SqlitePassageStore::stats() const {
  SqliteStatement select =
      database_.prepare("SELECT documents, passages, text_bytes, generation FROM state");
  QUARRY_CHECK(select.step(), ErrorCode::kCorruptData, database_.path().string(),
               ": damaged: the row of counters is missing");
  StoreStats stats;
  stats.documents = select.column_int(0);
  stats.passages = select.column_int(1);
  stats.text_bytes = select.column_int(2);
  stats.generation = select.column_int(3);
  return stats;
}

void SqlitePassageStore::begin() {
  QUARRY_CHECK(writes_ != nullptr, ErrorCode::kInvalidArgument, database_.path().string(),
               ": opened for reading only");
  QUARRY_CHECK(!database_.in_transaction(), ErrorCode::kInternal, "begin() within a transaction");
  database_.execute("BEGIN IMMEDIATE; UPDATE state SET generation = generation + 1");
}

void SqlitePassageStore::require_transaction(const char* action) const {
  QUARRY_CHECK(writes_ != nullptr && database_.in_transaction(), ErrorCode::kInternal,
               database_.path().string(), ": ", action, " outside begin() and commit()");
}

void SqlitePassageStore::put_document(const Document& document,
                                      const std::vector<Passage>& passages, const float* vectors) {
  require_transaction("put_document");
  remove_document(document.uri);
  const int64_t document_id = insert_document_row(document);
  int64_t ordinal = 0;
  for (const Passage& passage : passages) {
    insert_passage_row(document, document_id, ordinal, passage, vectors + ordinal * manifest_.dim);
    ++ordinal;
  }
  writes_->add_to_state.bind(1, int64_t{1})
      .bind(2, ordinal)
      .bind(3, static_cast<int64_t>(document.text.size()))
      .run();
}

int64_t SqlitePassageStore::insert_document_row(const Document& document) {
  writes_->insert_document.bind(1, document.uri)
      .bind(2, document.title)
      .bind(3, document.format)
      .bind(4, document.content_hash)
      .bind(5, static_cast<int64_t>(document.text.size()))
      .bind(6, document.text)
      .run();
  const int64_t document_id = database_.last_insert_id();
  for (const auto& [key, value] : document.metadata) {
    writes_->insert_metadata.bind(1, document_id).bind(2, key).bind(3, value).run();
  }
  return document_id;
}

void SqlitePassageStore::insert_passage_row(const Document& document, int64_t document_id,
                                            int64_t ordinal, const Passage& passage,
                                            const float* vector) {
  const auto text_size = static_cast<int64_t>(document.text.size());
  QUARRY_CHECK(
      passage.start >= 0 && passage.start <= passage.end && passage.end <= text_size &&
          std::string_view(document.text)
                  .substr(static_cast<size_t>(passage.start),
                          static_cast<size_t>(passage.end - passage.start)) == passage.text,
      ErrorCode::kInternal, document.uri, ": passage ", ordinal, " is not the text at [",
      passage.start, ", ", passage.end, ") of ", text_size, " bytes");
  writes_->insert_passage.bind(1, document_id)
      .bind(2, ordinal)
      .bind(3, passage.start)
      .bind(4, passage.end)
      .bind(5, passage.heading)
      .bind(6, passage.text)
      .run();
  const int64_t id = database_.last_insert_id();
  writes_->insert_vector.bind(1, id)
      .bind_blob(2, vector, static_cast<size_t>(manifest_.dim) * sizeof(float))
      .run();
  writes_->insert_fts.bind(1, id)
      .bind(2, document.title)
      .bind(3, passage.heading)
      .bind(4, passage.text)
      .run();
}

bool SqlitePassageStore::remove_document(const std::string& uri) {
  require_transaction("remove_document");
  int64_t document_id = 0;
  int64_t text_bytes = 0;
  {
    const SqliteScope scope(writes_->find_document);
    if (!writes_->find_document.bind(1, uri).step()) return false;
    document_id = writes_->find_document.column_int(0);
    text_bytes = writes_->find_document.column_int(1);
  }
  SqliteStatement count = database_.prepare("SELECT count(*) FROM passages WHERE document_id = ?1");
  count.bind(1, document_id).step();
  const int64_t passages = count.column_int(0);
  count.reset();
  // The full-text entries are taken back by their columns, so they go before the rows.
  for (SqliteStatement* statement :
       {&writes_->delete_fts, &writes_->insert_removed, &writes_->delete_vectors,
        &writes_->delete_passages, &writes_->delete_metadata, &writes_->delete_document}) {
    statement->bind(1, document_id).run();
  }
  writes_->add_to_state.bind(1, int64_t{-1}).bind(2, -passages).bind(3, -text_bytes).run();
  return true;
}

void SqlitePassageStore::commit() {
  require_transaction("commit");
  database_.execute("COMMIT");
}

void SqlitePassageStore::rollback() {
  if (database_.in_transaction()) database_.execute("ROLLBACK");
}

std::optional<std::string> SqlitePassageStore::setting(const std::string& key) const {
  SqliteStatement select = database_.prepare("SELECT value FROM settings WHERE key = ?1");
  if (!select.bind(1, key).step()) return std::nullopt;
  return select.column_text(0);
}

void SqlitePassageStore::put_setting(const std::string& key, const std::string& value) {
  require_transaction("put_setting");
  SqliteStatement insert = database_.prepare("INSERT OR REPLACE INTO settings VALUES(?1, ?2)");
  insert.bind(1, key).bind(2, value).run();
}

std::optional<std::string> SqlitePassageStore::content_hash(const std::string& uri) const {
  const SqliteScope scope(select_content_hash_);
  if (!select_content_hash_.bind(1, uri).step()) return std::nullopt;
  return select_content_hash_.column_text(0);
}

std::vector<std::pair<std::string, std::string>> SqlitePassageStore::list_documents(
    const std::string& prefix) const {
  const std::string end = prefix_end(prefix);
  SqliteStatement select =
      database_.prepare(std::string("SELECT uri, content_hash FROM documents WHERE uri >= ?1") +
                        (end.empty() ? "" : " AND uri < ?2") + " ORDER BY uri");
  select.bind(1, prefix);
  if (!end.empty()) select.bind(2, end);
  std::vector<std::pair<std::string, std::string>> documents;
  while (select.step()) documents.emplace_back(select.column_text(0), select.column_text(1));
  return documents;
}

std::optional<Document> SqlitePassageStore::document(const std::string& uri) const {
  SqliteStatement select = database_.prepare(
      "SELECT id, title, format, content_hash, text FROM documents WHERE uri = ?1");
  if (!select.bind(1, uri).step()) return std::nullopt;
  Document document;
  document.id = select.column_int(0);
  document.uri = uri;
  document.title = select.column_text(1);
  document.format = select.column_text(2);
  document.content_hash = select.column_text(3);
  document.text = select.column_text(4);
  document.metadata = metadata_of(document.id);
  return document;
}

Metadata SqlitePassageStore::metadata_of(int64_t document_id) const {
  const SqliteScope scope(select_metadata_);
  select_metadata_.bind(1, document_id);
  Metadata metadata;
  while (select_metadata_.step()) {
    metadata[select_metadata_.column_text(0)] = select_metadata_.column_text(1);
  }
  return metadata;
}

std::vector<Passage> SqlitePassageStore::passages(const std::vector<int64_t>& ids) const {
  std::vector<Passage> found;
  found.reserve(ids.size());
  for (const int64_t id : ids) {
    const SqliteScope scope(select_passage_);
    if (!select_passage_.bind(1, id).step()) continue;
    Passage passage;
    passage.id = id;
    passage.document_id = select_passage_.column_int(0);
    passage.document_uri = select_passage_.column_text(1);
    passage.title = select_passage_.column_text(2);
    passage.heading = select_passage_.column_text(3);
    passage.start = select_passage_.column_int(4);
    passage.end = select_passage_.column_int(5);
    passage.text = select_passage_.column_text(6);
    passage.metadata = metadata_of(passage.document_id);
    found.push_back(std::move(passage));
  }
  return found;
}

std::vector<int64_t> SqlitePassageStore::passages_of(const std::string& uri) const {
  SqliteStatement select = database_.prepare(
      "SELECT p.id FROM documents d JOIN passages p ON p.document_id = d.id WHERE d.uri = ?1"
      " ORDER BY p.ordinal");
  select.bind(1, uri);
  std::vector<int64_t> ids;
  while (select.step()) ids.push_back(select.column_int(0));
  return ids;
}

std::vector<PassageStore::Scored> SqlitePassageStore::search_text(const std::string& query,
                                                                  int64_t limit) const {
  const std::string match = lexical_query(query);
  if (match.empty() || limit <= 0) return {};
  const SqliteScope scope(search_);
  search_.bind(1, match).bind(2, limit);
  std::vector<Scored> hits;
  while (search_.step()) hits.push_back({search_.column_int(0), -search_.column_double(1)});
  return hits;
}

std::vector<int64_t> SqlitePassageStore::passages_where(const Metadata& filter) const {
  QUARRY_CHECK(filter.size() <= kMaxFilterConditions, ErrorCode::kInvalidArgument, "a filter of ",
               filter.size(), " conditions is too long: at most ", kMaxFilterConditions);
  std::string sql = "SELECT p.id FROM documents d JOIN passages p ON p.document_id = d.id WHERE 1";
  std::vector<std::string> values;
  const auto parameter = [&values](const std::string& value) {
    values.push_back(value);
    return "?" + std::to_string(values.size());
  };
  for (const auto& [key, value] : filter) {
    if (key == "uri_prefix") {
      sql += " AND d.uri >= " + parameter(value);
      const std::string end = prefix_end(value);
      if (!end.empty()) sql += " AND d.uri < " + parameter(end);
    } else if (key == "format") {
      sql += " AND d.format = " + parameter(value);
    } else {
      sql += " AND d.id IN (SELECT document_id FROM metadata WHERE key = " + parameter(key);
      sql += " AND value = " + parameter(value) + ")";
    }
  }
  SqliteStatement select = database_.prepare(sql + " ORDER BY p.id");
  for (size_t i = 0; i < values.size(); ++i) select.bind(static_cast<int>(i) + 1, values[i]);
  std::vector<int64_t> ids;
  while (select.step()) ids.push_back(select.column_int(0));
  return ids;
}

int64_t SqlitePassageStore::documents_with(const std::string& key) const {
  SqliteStatement select =
      database_.prepare("SELECT count(DISTINCT document_id) FROM metadata WHERE key = ?1");
  select.bind(1, key);
  return select.step() ? select.column_int(0) : 0;
}

void SqlitePassageStore::copy_vector(std::string_view blob, int64_t id, float* out) const {
  const size_t bytes = static_cast<size_t>(manifest_.dim) * sizeof(float);
  QUARRY_CHECK(blob.size() == bytes, ErrorCode::kCorruptData, database_.path().string(),
               ": vector of passage ", id, " has ", blob.size(), " bytes, wanted ", bytes);
  std::memcpy(out, blob.data(), bytes);
}

void SqlitePassageStore::for_each_vector(
    int64_t after_id, const std::function<void(int64_t id, const float* vector)>& visit) const {
  SqliteStatement select = database_.prepare(
      "SELECT passage_id, vector FROM vectors WHERE passage_id > ?1 ORDER BY passage_id");
  select.bind(1, after_id);
  std::vector<float> vector(static_cast<size_t>(manifest_.dim));
  while (select.step()) {
    const int64_t id = select.column_int(0);
    copy_vector(select.column_bytes(1), id, vector.data());
    visit(id, vector.data());
  }
}

std::vector<float> SqlitePassageStore::vectors(const std::vector<int64_t>& ids) const {
  std::vector<float> rows(ids.size() * static_cast<size_t>(manifest_.dim));
  float* row = rows.data();
  for (const int64_t id : ids) {
    const SqliteScope scope(select_vector_);
    QUARRY_CHECK(select_vector_.bind(1, id).step(), ErrorCode::kNotFound, database_.path().string(),
                 ": no vector for passage ", id);
    copy_vector(select_vector_.column_bytes(0), id, row);
    row += manifest_.dim;
  }
  return rows;
}

std::vector<int64_t> SqlitePassageStore::removed_since(int64_t generation) const {
  SqliteStatement select =
      database_.prepare("SELECT passage_id FROM removed WHERE generation > ?1 ORDER BY passage_id");
  select.bind(1, generation);
  std::vector<int64_t> ids;
  while (select.step()) ids.push_back(select.column_int(0));
  return ids;
}

std::vector<std::string> SqlitePassageStore::verify() const {
  return verify_store(database_, manifest_);
}

}  // namespace quarry
