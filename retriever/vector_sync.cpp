#include "retriever/vector_sync.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "data/core/error.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// Vectors handed to FAISS at a time: bounds what is held twice while loading.
constexpr size_t kAddBatch = 8192;

VectorIndexKind wanted_kind(const PassageStore& store, const VectorSyncOptions& options) {
  if (options.kind) return *options.kind;
  return store.stats().passages < kHnswFromPassages ? VectorIndexKind::kFlat
                                                    : VectorIndexKind::kHnsw;
}

void add_tail(const PassageStore& store, SyncedVectors& vectors) {
  const auto dim = static_cast<size_t>(vectors.index->dim());
  std::vector<int64_t> ids;
  std::vector<float> batch;
  const auto flush = [&] {
    if (ids.empty()) return;
    vectors.index->add(ids, batch.data());
    vectors.changed = true;
    ids.clear();
    batch.clear();
  };
  store.for_each_vector(vectors.info.last_id, [&](int64_t id, const float* vector) {
    ids.push_back(id);
    batch.insert(batch.end(), vector, vector + dim);
    vectors.info.last_id = id;
    if (ids.size() == kAddBatch) flush();
  });
  flush();
}

// The snapshot, or nothing and a line that says why not.
std::optional<VectorSnapshot> usable_snapshot(const fs::path& file, const PassageStore& store,
                                              VectorIndexKind kind, bool kind_is_wanted) {
  std::string reason;
  try {
    VectorSnapshot snapshot = load_vector_index(file);
    const StoreManifest& manifest = store.manifest();
    if (snapshot.info.store_created_at != manifest.created_at ||
        snapshot.info.generation > store.stats().generation) {
      reason = "it belongs to another index";
    } else if (snapshot.info.embedder_hash != manifest.embedder_hash ||
               snapshot.index->dim() != manifest.dim) {
      reason = "it was made with another embedder";
    } else if (kind_is_wanted && snapshot.index->kind() != kind) {
      reason = concat("it is ", vector_index_kind_name(snapshot.index->kind()), ", wanted ",
                      vector_index_kind_name(kind));
    } else {
      return snapshot;
    }
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kNotFound) {
      spdlog::debug("{}: no vector snapshot yet; making it from the store", file.string());
      return std::nullopt;
    }
    reason = error.what();
  }
  spdlog::warn("{}: made anew from the store, because: {}", file.string(), reason);
  return std::nullopt;
}

SyncedVectors rebuild(const PassageStore& store, VectorIndexKind kind) {
  SyncedVectors vectors;
  const StoreManifest& manifest = store.manifest();
  vectors.index = make_vector_index(kind, manifest.dim);
  vectors.info.generation = store.stats().generation;
  vectors.info.embedder_hash = manifest.embedder_hash;
  vectors.info.store_created_at = manifest.created_at;
  vectors.changed = true;
  add_tail(store, vectors);
  return vectors;
}

}  // namespace

void refresh_vectors(const PassageStore& store, SyncedVectors& vectors) {
  // Read the generation first: what commits after it is met again by the next refresh. Ids are
  // never used twice, so meeting a passage or a removal early does no harm.
  const int64_t generation = store.stats().generation;
  if (generation == vectors.info.generation) return;
  vectors.index->remove(store.removed_since(vectors.info.generation));
  add_tail(store, vectors);
  vectors.info.generation = generation;
  vectors.changed = true;
}

SyncedVectors open_vectors(const fs::path& index_folder, const PassageStore& store,
                           const VectorSyncOptions& options) {
  const VectorIndexKind kind = wanted_kind(store, options);
  std::optional<VectorSnapshot> snapshot =
      usable_snapshot(index_folder / kVectorFileName, store, kind, options.kind.has_value());
  if (!snapshot) return rebuild(store, kind);
  SyncedVectors vectors;
  vectors.index = std::move(snapshot->index);
  vectors.info = snapshot->info;
  refresh_vectors(store, vectors);
  // The two can only differ while a writer commits, or when the snapshot lies.
  const StoreStats stats = store.stats();
  if (stats.generation == vectors.info.generation && stats.passages != vectors.index->size()) {
    spdlog::warn("{}: made anew from the store, because: it holds {} vectors for {} passages",
                 (index_folder / kVectorFileName).string(), vectors.index->size(), stats.passages);
    return rebuild(store, kind);
  }
  return vectors;
}

void sync_vector_index(const fs::path& index_folder, const VectorSyncOptions& options) {
  const auto store =
      PassageStore::open(index_folder / kStoreFileName, PassageStore::Mode::kReadOnly);
  VectorSyncOptions chosen = options;
  // A build is the moment to go from flat to a graph; later opens take what they find.
  if (!chosen.kind && wanted_kind(*store, options) == VectorIndexKind::kHnsw) {
    chosen.kind = VectorIndexKind::kHnsw;
  }
  const SyncedVectors vectors = open_vectors(index_folder, *store, chosen);
  if (vectors.changed) vectors.index->save(index_folder / kVectorFileName, vectors.info);
}

}  // namespace quarry
