#include "retriever/vector_index.h"

#include <faiss/IndexFlat.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIDMap.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>
#include <faiss/utils/distances.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "retriever/snapshot_file.h"

namespace quarry {
namespace {

constexpr int64_t kMaxDim = 65536;
constexpr int64_t kRemovedNode = -1;
constexpr int kHnswLinks = 32;               // M: more links, better recall, more memory
constexpr int kHnswBuildBreadth = 100;       // efConstruction
constexpr int64_t kHnswSearchBreadth = 128;  // efSearch, raised to twice the neighbours asked for
constexpr double kMaxRemovedShare = 0.2;
constexpr int64_t kSnapshotFormat = 1;

// Turns FAISS's exceptions into ours, and gives it our number of threads.
template <typename Body>
auto with_faiss(ErrorCode code, const std::string& what, const Body& body) -> decltype(body()) {
  const LibraryThreads threads(num_threads());
  try {
    return body();
  } catch (const faiss::FaissException& error) {
    throw_error(code, what, ": FAISS: ", error.what());
  }
}

bool better(const VectorNeighbor& a, const VectorNeighbor& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

std::unique_ptr<faiss::Index> make_faiss_index(VectorIndexKind kind, int64_t dim) {
  if (kind == VectorIndexKind::kFlat) return std::make_unique<faiss::IndexFlatIP>(dim);
  auto graph = std::make_unique<faiss::IndexHNSWFlat>(static_cast<int>(dim), kHnswLinks,
                                                      faiss::METRIC_INNER_PRODUCT);
  graph->hnsw.efConstruction = kHnswBuildBreadth;
  graph->hnsw.efSearch = kHnswSearchBreadth;
  return graph;
}

class FaissVectorIndex : public VectorIndex {
 public:
  FaissVectorIndex(VectorIndexKind kind, std::unique_ptr<faiss::Index> index,
                   std::vector<int64_t> ids)
      : kind_(kind), index_(std::move(index)), ids_(std::move(ids)) {
    index_positions();
  }

  VectorIndexKind kind() const override { return kind_; }
  int64_t dim() const override { return index_->d; }
  int64_t size() const override { return static_cast<int64_t>(position_of_.size()); }
  bool contains(int64_t id) const override { return position_of_.count(id) > 0; }

  void add(const std::vector<int64_t>& ids, const float* vectors) override {
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool fresh =
          ids[i] >= 0 && position_of_.emplace(ids[i], static_cast<int64_t>(ids_.size() + i)).second;
      if (fresh) continue;
      for (size_t j = 0; j < i; ++j) position_of_.erase(ids[j]);
      throw_error(ErrorCode::kInvalidArgument, "vector index: id ", ids[i],
                  ids[i] < 0 ? " is negative" : " is there already");
    }
    with_faiss(ErrorCode::kInternal, "vector index: adding",
               [&] { index_->add(static_cast<int64_t>(ids.size()), vectors); });
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }

  void remove(const std::vector<int64_t>& ids) override {
    std::vector<int64_t> positions;
    for (const int64_t id : ids) {
      const auto found = position_of_.find(id);
      if (found == position_of_.end()) continue;
      positions.push_back(found->second);
      ids_[static_cast<size_t>(found->second)] = kRemovedNode;
      position_of_.erase(found);
    }
    if (positions.empty()) return;
    if (kind_ == VectorIndexKind::kFlat) {
      // Shifts the vectors behind each removed one down, as the ids below.
      const faiss::IDSelectorBatch selector(positions.size(), positions.data());
      with_faiss(ErrorCode::kInternal, "vector index: removing",
                 [&] { index_->remove_ids(selector); });
      drop_removed_ids();
    } else if (removed_nodes() > kMaxRemovedShare * static_cast<double>(ids_.size())) {
      rebuild_graph();
    }
  }

  std::vector<std::vector<VectorNeighbor>> search(const float* queries, int64_t count,
                                                  int64_t top_k) const override {
    check_top_k(top_k);
    std::vector<std::vector<VectorNeighbor>> results(static_cast<size_t>(count));
    if (size() == 0 || count == 0) return results;
    const auto total = static_cast<int64_t>(ids_.size());
    const int64_t wanted = std::min(top_k, size());
    // Removed nodes are found too and dropped afterwards; asking for all of them more would be
    // safe, asking for their share more is enough but for luck, hence the second round.
    const int64_t removed = total - size();
    for (int64_t fetch = std::min(total, wanted + 2 * wanted * removed / total + (removed > 0));;
         fetch = total) {
      search_round(queries, count, fetch, wanted, results);
      const bool enough = std::all_of(results.begin(), results.end(), [&](const auto& found) {
        return static_cast<int64_t>(found.size()) == wanted;
      });
      // A graph may leave nodes unreached, so that even `total` finds fewer.
      if (enough || removed == 0 || fetch == total) return results;
    }
  }

  std::vector<VectorNeighbor> search_among(const float* query, const std::vector<int64_t>& eligible,
                                           int64_t top_k) const override {
    check_top_k(top_k);
    std::vector<VectorNeighbor> found(eligible.size());
    parallel_for(static_cast<int64_t>(eligible.size()), 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t id = eligible[static_cast<size_t>(i)];
        const auto position = position_of_.find(id);
        VectorNeighbor& out = found[static_cast<size_t>(i)];
        out.id = position == position_of_.end() ? kRemovedNode : id;
        if (out.id >= 0) out.score = inner_product(query, position->second);
      }
    });
    found.erase(std::remove_if(found.begin(), found.end(),
                               [](const VectorNeighbor& neighbor) { return neighbor.id < 0; }),
                found.end());
    const size_t kept = std::min(found.size(), static_cast<size_t>(top_k));
    std::partial_sort(found.begin(), found.begin() + static_cast<int64_t>(kept), found.end(),
                      better);
    found.resize(kept);
    return found;
  }

  float score(const float* query, int64_t id) const override {
    const auto position = position_of_.find(id);
    QUARRY_CHECK(position != position_of_.end(), ErrorCode::kNotFound, "vector index: no vector ",
                 id);
    return inner_product(query, position->second);
  }

  void save(const std::filesystem::path& path, const VectorSnapshotInfo& info) const override {
    const Json header = {{"format", kSnapshotFormat},
                         {"kind", vector_index_kind_name(kind_)},
                         {"dim", dim()},
                         {"count", size()},
                         {"generation", info.generation},
                         {"last_id", info.last_id},
                         {"embedder_hash", info.embedder_hash},
                         {"store_created_at", info.store_created_at}};
    write_snapshot_file(path, header, [&](std::FILE* file) {
      faiss::IndexIDMap with_ids;  // borrows index_
      with_ids.index = index_.get();
      with_ids.id_map.assign(ids_.begin(), ids_.end());
      with_ids.d = index_->d;
      with_ids.ntotal = index_->ntotal;
      with_ids.metric_type = index_->metric_type;
      with_faiss(ErrorCode::kUnavailable, path.string() + ": cannot write",
                 [&] { faiss::write_index(&with_ids, file); });
    });
  }

 private:
  static void check_top_k(int64_t top_k) {
    QUARRY_CHECK(top_k >= 1, ErrorCode::kInvalidArgument, "top_k is ", top_k,
                 ", wanted at least 1");
  }

  const faiss::IndexFlat& storage() const {
    const auto* graph = dynamic_cast<const faiss::IndexHNSW*>(index_.get());
    return *static_cast<const faiss::IndexFlat*>(graph != nullptr ? graph->storage : index_.get());
  }

  float inner_product(const float* query, int64_t position) const {
    const float* vector = storage().get_xb() + position * index_->d;
    return faiss::fvec_inner_product(query, vector, static_cast<size_t>(index_->d));
  }

  double removed_nodes() const { return static_cast<double>(ids_.size() - position_of_.size()); }

  void index_positions() {
    position_of_.clear();
    position_of_.reserve(ids_.size());
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (ids_[i] >= 0) position_of_.emplace(ids_[i], static_cast<int64_t>(i));
    }
  }

  void drop_removed_ids() {
    ids_.erase(std::remove(ids_.begin(), ids_.end(), kRemovedNode), ids_.end());
    index_positions();
  }

  void rebuild_graph() {
    auto fresh = make_faiss_index(kind_, index_->d);
    std::vector<float> vectors;
    vectors.reserve(position_of_.size() * static_cast<size_t>(index_->d));
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (ids_[i] < 0) continue;
      const float* vector = storage().get_xb() + static_cast<int64_t>(i) * index_->d;
      vectors.insert(vectors.end(), vector, vector + index_->d);
    }
    with_faiss(ErrorCode::kInternal, "vector index: rebuilding",
               [&] { fresh->add(size(), vectors.data()); });
    index_ = std::move(fresh);
    drop_removed_ids();
  }

  void search_round(const float* queries, int64_t count, int64_t fetch, int64_t wanted,
                    std::vector<std::vector<VectorNeighbor>>& results) const {
    std::vector<float> scores(static_cast<size_t>(count * fetch));
    std::vector<faiss::Index::idx_t> positions(scores.size());
    faiss::SearchParametersHNSW breadth;
    breadth.efSearch = static_cast<int>(std::max(kHnswSearchBreadth, 2 * fetch));
    const bool graph = kind_ == VectorIndexKind::kHnsw;
    with_faiss(ErrorCode::kInternal, "vector index: searching", [&] {
      index_->search(count, queries, fetch, scores.data(), positions.data(),
                     graph ? &breadth : nullptr);
    });
    for (int64_t q = 0; q < count; ++q) {
      std::vector<VectorNeighbor>& found = results[static_cast<size_t>(q)];
      found.clear();
      for (auto i = static_cast<size_t>(q * fetch); i < static_cast<size_t>((q + 1) * fetch); ++i) {
        const int64_t id =
            positions[i] < 0 ? kRemovedNode : ids_[static_cast<size_t>(positions[i])];
        if (id >= 0) found.push_back({id, scores[i]});
      }
      std::sort(found.begin(), found.end(), better);
      if (static_cast<int64_t>(found.size()) > wanted) found.resize(static_cast<size_t>(wanted));
    }
  }

  VectorIndexKind kind_;
  std::unique_ptr<faiss::Index> index_;  // positions 0, 1, 2, ...
  std::vector<int64_t> ids_;             // by position; kRemovedNode in graphs
  std::unordered_map<int64_t, int64_t> position_of_;
};

// Lets FAISS read from the mapped file, never past the payload.
class PayloadReader : public faiss::IOReader {
 public:
  PayloadReader(const uint8_t* data, size_t bytes) : data_(data), left_(bytes) {}
  size_t operator()(void* out, size_t size, size_t count) override {
    if (size == 0) return 0;
    const size_t items = std::min(count, left_ / size);
    if (items == 0) return 0;
    std::memcpy(out, data_, items * size);
    data_ += items * size;
    left_ -= items * size;
    return items;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

int64_t header_int(const Json& header, const char* field, const std::string& path) {
  const auto found = header.find(field);
  QUARRY_CHECK(found != header.end() && found->is_number_integer(), ErrorCode::kCorruptData, path,
               ": header lacks the number \"", field, "\"");
  return found->get<int64_t>();
}

std::string header_text(const Json& header, const char* field, const std::string& path) {
  const auto found = header.find(field);
  QUARRY_CHECK(found != header.end() && found->is_string(), ErrorCode::kCorruptData, path,
               ": header lacks the text \"", field, "\"");
  return found->get<std::string>();
}

// Takes the index out of the id map that it was read in, when it is one that we write.
std::unique_ptr<VectorIndex> unwrap(std::unique_ptr<faiss::Index> read, VectorIndexKind kind,
                                    int64_t dim, int64_t count, const std::string& path) {
  auto* with_ids = dynamic_cast<faiss::IndexIDMap*>(read.get());
  QUARRY_CHECK(with_ids != nullptr && with_ids->index != nullptr, ErrorCode::kCorruptData, path,
               ": holds no FAISS IndexIDMap");
  std::unique_ptr<faiss::Index> inner(with_ids->index);
  with_ids->own_fields = false;
  const auto* graph = dynamic_cast<const faiss::IndexHNSWFlat*>(inner.get());
  const auto* flat =
      dynamic_cast<const faiss::IndexFlat*>(graph != nullptr ? graph->storage : inner.get());
  QUARRY_CHECK(flat != nullptr && (graph != nullptr) == (kind == VectorIndexKind::kHnsw),
               ErrorCode::kCorruptData, path, ": holds no FAISS ", vector_index_kind_name(kind),
               " index");
  const int64_t total = inner->ntotal;
  QUARRY_CHECK(inner->d == dim && flat->d == dim && flat->ntotal == total &&
                   inner->metric_type == faiss::METRIC_INNER_PRODUCT &&
                   static_cast<int64_t>(with_ids->id_map.size()) == total &&
                   flat->codes.size() == static_cast<size_t>(total * dim) * sizeof(float),
               ErrorCode::kCorruptData, path, ": sizes disagree: ", inner->d, "-d, ", total,
               " vectors, ", with_ids->id_map.size(), " ids; the header says ", dim, "-d");
  auto index = std::make_unique<FaissVectorIndex>(
      kind, std::move(inner),
      std::vector<int64_t>(with_ids->id_map.begin(), with_ids->id_map.end()));
  QUARRY_CHECK(index->size() == count, ErrorCode::kCorruptData, path, ": holds ", index->size(),
               " distinct ids, the header says ", count);
  return index;
}

}  // namespace

const char* vector_index_kind_name(VectorIndexKind kind) {
  return kind == VectorIndexKind::kFlat ? "flat" : "hnsw";
}

VectorIndexKind parse_vector_index_kind(const std::string& text) {
  if (text == "flat") return VectorIndexKind::kFlat;
  if (text == "hnsw") return VectorIndexKind::kHnsw;
  throw_error(ErrorCode::kInvalidArgument, "vector index \"", text,
              "\" is unknown: use flat or hnsw");
}

std::unique_ptr<VectorIndex> make_vector_index(VectorIndexKind kind, int64_t dim) {
  QUARRY_CHECK(dim >= 1 && dim <= kMaxDim, ErrorCode::kInvalidArgument, "vector index: ", dim,
               " dimensions, wanted 1 to ", kMaxDim);
  return std::make_unique<FaissVectorIndex>(kind, make_faiss_index(kind, dim),
                                            std::vector<int64_t>());
}

VectorSnapshot load_vector_index(const std::filesystem::path& path) {
  const SnapshotFile snapshot = read_snapshot_file(path);
  const std::string name = path.string();
  const int64_t format = header_int(snapshot.header, "format", name);
  QUARRY_CHECK(format == kSnapshotFormat, ErrorCode::kCorruptData, name, ": snapshot format ",
               format, ", this program reads ", kSnapshotFormat);
  VectorSnapshot result;
  result.info.generation = header_int(snapshot.header, "generation", name);
  result.info.last_id = header_int(snapshot.header, "last_id", name);
  result.info.embedder_hash = header_text(snapshot.header, "embedder_hash", name);
  result.info.store_created_at = header_text(snapshot.header, "store_created_at", name);
  const auto kind = parse_vector_index_kind(header_text(snapshot.header, "kind", name));
  PayloadReader reader(snapshot.file.data(), snapshot.payload_bytes);
  std::unique_ptr<faiss::Index> read = with_faiss(ErrorCode::kCorruptData, name, [&] {
    return std::unique_ptr<faiss::Index>(faiss::read_index(&reader));
  });
  result.index = unwrap(std::move(read), kind, header_int(snapshot.header, "dim", name),
                        header_int(snapshot.header, "count", name), name);
  return result;
}

}  // namespace quarry
