#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace quarry {

enum class VectorIndexKind {
  kFlat,  // every vector compared: exact
  kHnsw,  // a graph walked: approximate, sublinear in the number of vectors
};

const char* vector_index_kind_name(VectorIndexKind kind);  // "flat", "hnsw"
// Throws kInvalidArgument naming the value and the choices.
VectorIndexKind parse_vector_index_kind(const std::string& text);

// Passages from which a graph is worth its building time and its memory (some 280 bytes a vector).
constexpr int64_t kHnswFromPassages = 50000;

struct VectorNeighbor {
  int64_t id = 0;
  float score = 0.0F;  // inner product
};

// Of what a snapshot file holds: enough to know whether it belongs to a store and what it lacks.
struct VectorSnapshotInfo {
  int64_t generation = 0;  // of the store, when the snapshot was in step with it
  int64_t last_id = 0;     // highest passage id ever added
  std::string embedder_hash;
  std::string store_created_at;
};

// Unit vectors by id, searched by inner product. Const methods may run in many threads at once; the
// others need the object alone. Ids are >= 0.
class VectorIndex {
 public:
  virtual ~VectorIndex() = default;
  virtual VectorIndexKind kind() const = 0;
  virtual int64_t dim() const = 0;
  virtual int64_t size() const = 0;
  virtual bool contains(int64_t id) const = 0;

  // `vectors` [ids.size(), dim] row-major. Throws kInvalidArgument for an id that is there already.
  virtual void add(const std::vector<int64_t>& ids, const float* vectors) = 0;
  // Ids that are not there are ignored. A graph keeps removed nodes as way stations; when they pass
  // a fifth of all nodes it is built anew, which takes as long as adding every vector.
  virtual void remove(const std::vector<int64_t>& ids) = 0;

  // The top_k best of each query, best first, ties by id; fewer when the index holds fewer.
  // `queries` [count, dim] row-major. Throws kInvalidArgument for top_k < 1.
  virtual std::vector<std::vector<VectorNeighbor>> search(const float* queries, int64_t count,
                                                          int64_t top_k) const = 0;
  // The same for one query among `eligible` only (unknown ids are ignored). Exact for either kind:
  // costs one inner product an eligible id.
  virtual std::vector<VectorNeighbor> search_among(const float* query,
                                                   const std::vector<int64_t>& eligible,
                                                   int64_t top_k) const = 0;
  // Inner product with one vector. Throws kNotFound.
  virtual float score(const float* query, int64_t id) const = 0;

  // Writes a snapshot: to a temporary file, synced, renamed. Throws kUnavailable.
  virtual void save(const std::filesystem::path& path, const VectorSnapshotInfo& info) const = 0;
};

// An empty index over FAISS: IndexFlatIP, or IndexHNSWFlat with M = 32 (Malkov and Yashunin 2016,
// arXiv:1603.09320).
std::unique_ptr<VectorIndex> make_vector_index(VectorIndexKind kind, int64_t dim);

struct VectorSnapshot {
  VectorSnapshotInfo info;
  std::unique_ptr<VectorIndex> index;
};

// Reads what save() wrote. Nothing reaches FAISS, which trusts sizes in files, before the checksum
// has been verified. Throws kNotFound, kCorruptData.
VectorSnapshot load_vector_index(const std::filesystem::path& path);

}  // namespace quarry
