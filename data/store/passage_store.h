#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/types.h"

namespace quarry {

// What an index is made with; fixed at creation.
struct StoreManifest {
  int64_t format_version = 0;
  std::string embedder_name;
  std::string embedder_path;  // absolute, of its model when the index was made; empty: unknown
  std::string embedder_hash;  // content hash of the embedder's model
  int64_t dim = 0;
  bool unit_length = false;  // every vector has length 1; stores made before this was kept: false
  int64_t chunk_tokens = 0;
  int64_t chunk_overlap_tokens = 0;
  std::string created_at;
};

// What the embedder's model is loaded by: its folder while that is there, else its name.
std::string embedder_model(const StoreManifest& manifest);

// What there is to say, behind the index's name, when it was made with another embedder than the
// one given: both by name and hash, and what can be done.
std::string other_embedder_text(const StoreManifest& manifest, const std::string& given_name,
                                const std::string& given_hash);

struct StoreStats {
  int64_t documents = 0;
  int64_t passages = 0;
  int64_t text_bytes = 0;
  int64_t generation = 0;  // grows by one with every committed transaction
};

constexpr size_t kMaxFilterConditions = 100;

// Documents, their passages, full text (FTS5) and vectors in one SQLite file: the truth of an
// index. Every write is one transaction and that commit is the only commit point. One object, one
// thread; open several objects on the same file for several readers. One writer process at a time
// (file lock; a second one gets kUnavailable naming the first).
class PassageStore {
 public:
  enum class Mode { kReadOnly, kReadWrite };

  // Makes a new, empty store. Throws kInvalidArgument when `path` exists.
  static std::unique_ptr<PassageStore> create(const std::filesystem::path& path,
                                              const StoreManifest& manifest);
  // Throws kNotFound; kCorruptData for a file that is not a store, a newer format or a damaged
  // page.
  static std::unique_ptr<PassageStore> open(const std::filesystem::path& path, Mode mode);
  virtual ~PassageStore() = default;

  virtual const StoreManifest& manifest() const = 0;
  virtual StoreStats stats() const = 0;

  // A document with its passages and one vector per passage ([passages, dim] row-major).
  // Replaces the document of the same uri. Everything given between begin() and commit() becomes
  // visible at commit, or not at all.
  virtual void begin() = 0;
  virtual void put_document(const Document& document, const std::vector<Passage>& passages,
                            const float* vectors) = 0;
  virtual bool remove_document(const std::string& uri) = 0;
  virtual void commit() = 0;  // durable when it returns
  virtual void rollback() = 0;

  // Small values kept with the index (folders it was built from, calibration ...). Written within
  // begin() and commit().
  virtual std::optional<std::string> setting(const std::string& key) const = 0;
  virtual void put_setting(const std::string& key, const std::string& value) = 0;

  // Content hash of one document; nothing when the store does not hold it.
  virtual std::optional<std::string> content_hash(const std::string& uri) const = 0;
  // uri -> content hash of every document whose uri starts with `prefix`, in uri order.
  virtual std::vector<std::pair<std::string, std::string>> list_documents(
      const std::string& prefix) const = 0;
  virtual std::optional<Document> document(const std::string& uri) const = 0;

  // Passages by id, in the order asked; ids that are gone are left out.
  virtual std::vector<Passage> passages(const std::vector<int64_t>& ids) const = 0;

  // Ids of a document's passages, in their order in it; none when the store does not hold it.
  virtual std::vector<int64_t> passages_of(const std::string& uri) const = 0;

  // BM25 over title, heading and text (SQLite FTS5, porter stemmer). `query` is plain text: no
  // operator has a meaning; very common English words count only when there is nothing else. Higher
  // is better, > 0; best first.
  struct Scored {
    int64_t passage_id;
    double score;
  };
  virtual std::vector<Scored> search_text(const std::string& query, int64_t limit) const = 0;

  // Ids of passages whose document metadata has every given key with the given value; "uri_prefix"
  // and "format" are understood as keys too. Throws kInvalidArgument for more than
  // kMaxFilterConditions.
  virtual std::vector<int64_t> passages_where(const Metadata& filter) const = 0;
  // Number of documents whose metadata has this key.
  virtual int64_t documents_with(const std::string& key) const = 0;

  // Calls visit for every passage with id > after_id in id order: for rebuilding or topping up the
  // vector index. Vector has dim floats and lives during the call only.
  virtual void for_each_vector(
      int64_t after_id,
      const std::function<void(int64_t id, const float* vector)>& visit) const = 0;
  // Vectors of the given passages, in order ([ids, dim]); throws kNotFound for a missing id.
  virtual std::vector<float> vectors(const std::vector<int64_t>& ids) const = 0;
  // Ids ever removed after generation `generation`, so that a vector snapshot can drop them.
  virtual std::vector<int64_t> removed_since(int64_t generation) const = 0;

  // Reads everything and reports each problem found (empty: sound): SQLite's own check, FTS against
  // passages, spans against document text, vectors' size and length.
  virtual std::vector<std::string> verify() const = 0;
};

}  // namespace quarry
