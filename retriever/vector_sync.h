#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "data/store/passage_store.h"
#include "retriever/vector_index.h"

namespace quarry {

// Files of an index folder.
constexpr const char* kStoreFileName = "quarry.db";
constexpr const char* kVectorFileName = "vectors.faiss";

struct VectorSyncOptions {
  // Empty: flat below kHnswFromPassages, a graph from there on.
  std::optional<VectorIndexKind> kind;
};

// The vector index of a store, in step with it as of `info.generation`.
struct SyncedVectors {
  std::unique_ptr<VectorIndex> index;
  VectorSnapshotInfo info;
  bool changed = false;  // the snapshot file, if any, does not hold this
};

// Loads the folder's snapshot and brings it up to the store: removed passages are dropped, those
// after the last one are added. A snapshot that is missing, damaged, of another store, embedder or
// kind is made anew from the store, with a line in the log. Throws what the store throws.
SyncedVectors open_vectors(const std::filesystem::path& index_folder, const PassageStore& store,
                           const VectorSyncOptions& options = VectorSyncOptions());

// Brings vectors that open_vectors returned up to the store's present generation.
void refresh_vectors(const PassageStore& store, SyncedVectors& vectors);

// Writes the folder's snapshot anew when it is not in step with its store: for the end of a build,
// so that the next open has nothing to do. Throws as PassageStore::open, and kUnavailable.
void sync_vector_index(const std::filesystem::path& index_folder,
                       const VectorSyncOptions& options = VectorSyncOptions());

}  // namespace quarry
