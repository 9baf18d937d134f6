#pragma once

#include <memory>

#include "data/store/passage_store.h"
#include "data/store/sqlite.h"
#include "data/store/writer_lock.h"

namespace quarry {

// The PassageStore over SQLite; callers use the interface.
class SqlitePassageStore : public PassageStore {
 public:
  SqlitePassageStore(const std::filesystem::path& path, Mode mode,
                     std::unique_ptr<WriterLock> lock);
  ~SqlitePassageStore() override;

  const StoreManifest& manifest() const override { return manifest_; }
  StoreStats stats() const override;
  void begin() override;
  void put_document(const Document& document, const std::vector<Passage>& passages,
                    const float* vectors) override;
  bool remove_document(const std::string& uri) override;
  void commit() override;
  void rollback() override;
  std::optional<std::string> setting(const std::string& key) const override;
  void put_setting(const std::string& key, const std::string& value) override;
  std::optional<std::string> content_hash(const std::string& uri) const override;
  std::vector<std::pair<std::string, std::string>> list_documents(
      const std::string& prefix) const override;
  std::optional<Document> document(const std::string& uri) const override;
  std::vector<Passage> passages(const std::vector<int64_t>& ids) const override;
  std::vector<int64_t> passages_of(const std::string& uri) const override;
  std::vector<Scored> search_text(const std::string& query, int64_t limit) const override;
  std::vector<int64_t> passages_where(const Metadata& filter) const override;
  int64_t documents_with(const std::string& key) const override;
  void for_each_vector(
      int64_t after_id,
      const std::function<void(int64_t id, const float* vector)>& visit) const override;
  std::vector<float> vectors(const std::vector<int64_t>& ids) const override;
  std::vector<int64_t> removed_since(int64_t generation) const override;
  std::vector<std::string> verify() const override;

 private:
  // Prepared once; reset after each use.
  struct Statements {
    SqliteStatement insert_document, insert_metadata, insert_passage, insert_vector, insert_fts;
    SqliteStatement find_document, delete_fts, insert_removed, delete_vectors, delete_passages;
    SqliteStatement delete_metadata, delete_document, add_to_state;
  };

  void prepare_writes();
  void require_transaction(const char* action) const;
  int64_t insert_document_row(const Document& document);
  void insert_passage_row(const Document& document, int64_t document_id, int64_t ordinal,
                          const Passage& passage, const float* vector);
  Metadata metadata_of(int64_t document_id) const;
  void copy_vector(std::string_view blob, int64_t id, float* out) const;

  std::unique_ptr<WriterLock> lock_;  // null when read-only; released after database_ is closed
  // The interface's reading methods are const; SQLite's handles are not.
  mutable Sqlite database_;
  StoreManifest manifest_;
  mutable SqliteStatement select_passage_, select_metadata_, select_vector_, search_,
      select_content_hash_;
  std::unique_ptr<Statements> writes_;
};

// Throws kCorruptData when a field is missing or of the wrong type; `source` names the file.
StoreManifest parse_manifest(const std::string& json, const std::string& source);
std::string dump_manifest(const StoreManifest& manifest);

// What PassageStore::verify does, over an open connection.
std::vector<std::string> verify_store(Sqlite& database, const StoreManifest& manifest);

}  // namespace quarry
