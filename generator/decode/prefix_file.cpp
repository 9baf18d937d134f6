#include "generator/decode/prefix_file.h"

#include <cstring>
#include <deque>
#include <memory>
#include <utility>

#include "data/core/cpu_isa.h"
#include "data/core/error.h"
#include "data/core/hash.h"
#include "data/core/json.h"
#include "generator/weights/printable.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

constexpr const char* kFormat = "quarry prefix cache 1";
constexpr const char* kBase = "base";
constexpr int64_t kNodeFields = 4;

using Metadata = std::map<std::string, std::string>;

const char* precision_name(kernels::Precision precision) {
  if (precision == kernels::Precision::kExact) return "exact";
  return precision == kernels::Precision::kFast8 ? "fast8" : "fast";
}

const char* element_name(KvCache::ElementType type) {
  if (type == KvCache::ElementType::kFloat) return "float32";
  return type == KvCache::ElementType::kHalf ? "float16" : "bfloat16";
}

std::string adapter_hash(const PrefixCache::Adapter& adapter) {
  return adapter == nullptr ? kBase : adapter->content_hash();
}

// The tables of a file as they stand in it.
struct Tables {
  std::vector<int32_t> nodes;
  std::vector<int32_t> tokens;
};

std::string_view bytes_of(const std::vector<int32_t>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}

std::string page_name(size_t index) { return concat("page.", index); }

// Over everything but itself; pages by their own hashes.
std::string checksum(Metadata metadata, const Tables& tables, const std::string& page_hashes) {
  metadata.erase("checksum");
  return sha256_hex(concat(dump_json(Json(metadata)), sha256_hex(bytes_of(tables.nodes)),
                           sha256_hex(bytes_of(tables.tokens)), page_hashes));
}

// Reads one file; every check throws kCorruptData or says what was found and what was wanted.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const PrefixOrigin& origin)
      : file_(SafetensorsFile::open(path)), origin_(origin) {}

  void check() {
    check_metadata();
    read_tables();
    check_sizes();
    std::string hashes;
    for (size_t i = 0; file_->find(page_name(i)) != nullptr; ++i) {
      const TensorView& page = file_->get(page_name(i));
      hashes += sha256_hex({reinterpret_cast<const char*>(page.data), as_size(page.bytes)});
    }
    const std::string found = file_->metadata().at("checksum");
    const std::string wanted = checksum(file_->metadata(), tables_, hashes);
    QUARRY_CHECK(found == wanted, ErrorCode::kCorruptData, file_->description(),
                 ": is damaged: its checksum is ", printable(found), ", its content makes ",
                 wanted);
  }

  // What belongs to one of `adapters`, in at most `max_bytes` of memory. After check().
  std::vector<PrefixCache::Entry> entries(const std::vector<PrefixCache::Adapter>& adapters,
                                          int64_t max_bytes) const {
    const std::vector<const PrefixCache::Adapter*> served = served_adapters(adapters);
    std::vector<PrefixCache::Entry> entries;
    std::vector<int64_t> places(num_nodes(), -1);  // in entries
    std::map<int32_t, std::shared_ptr<KvPage>> pages;
    const int32_t* tokens = tables_.tokens.data();
    for (size_t i = 0; i < num_nodes(); ++i) {
      const Node node = node_at(i);
      const int32_t* end = tokens + node.num_tokens;
      const PrefixCache::Adapter* adapter = served[as_size(node.adapter)];
      const auto num_pages = static_cast<int64_t>(pages.size());
      const bool has_room =
          pages.count(node.page) > 0 || (num_pages + 1) * origin_.page_bytes <= max_bytes;
      if (!has_room) break;
      if (adapter != nullptr) {
        std::shared_ptr<KvPage>& page = pages[node.page];
        if (page == nullptr) page = copy_page(node.page);
        places[i] = static_cast<int64_t>(entries.size());
        const int64_t parent = node.parent < 0 ? -1 : places[as_size(node.parent)];
        entries.push_back({*adapter, parent, {tokens, end}, page});
      }
      tokens = end;
    }
    return entries;
  }

 private:
  static size_t as_size(int64_t value) { return static_cast<size_t>(value); }
  struct Node {
    int32_t parent;
    int32_t adapter;
    int32_t num_tokens;
    int32_t page;
  };
  size_t num_nodes() const { return tables_.nodes.size() / kNodeFields; }
  Node node_at(size_t index) const {
    const int32_t* fields = tables_.nodes.data() + index * kNodeFields;
    return {fields[0], fields[1], fields[2], fields[3]};
  }

  void expect(const std::string& key, const std::string& wanted) const {
    const auto it = file_->metadata().find(key);
    const std::string found = it == file_->metadata().end() ? "missing" : printable(it->second);
    QUARRY_CHECK(it != file_->metadata().end() && it->second == wanted, ErrorCode::kInvalidArgument,
                 file_->description(), ": was made otherwise: ", key, " is ", found, ", wanted '",
                 wanted, "'");
  }

  void check_metadata() {
    expect("format", kFormat);
    for (const auto& [key, wanted] : origin_.facts) expect(key, wanted);
    for (const char* key : {"adapters", "checksum"}) {
      QUARRY_CHECK(file_->metadata().count(key) == 1, ErrorCode::kCorruptData, file_->description(),
                   ": has no ", key);
    }
    const Json list =
        parse_json(file_->metadata().at("adapters"), file_->description(), ErrorCode::kCorruptData);
    QUARRY_CHECK(list.is_array(), ErrorCode::kCorruptData, file_->description(),
                 ": adapters are no list");
    for (const Json& hash : list) {
      QUARRY_CHECK(hash.is_string(), ErrorCode::kCorruptData, file_->description(),
                   ": an adapter is no hash");
      adapters_.push_back(hash.get<std::string>());
    }
  }

  std::vector<int32_t> read_int32(const std::string& name) const {
    const TensorView& tensor = file_->get(name);
    QUARRY_CHECK(tensor.type == WeightType::kI32, ErrorCode::kCorruptData, file_->description(),
                 ": ", name, " is ", weight_type_traits(tensor.type).name, ", wanted I32");
    std::vector<int32_t> values(as_size(tensor.num_elements()));
    if (!values.empty()) std::memcpy(values.data(), tensor.data, as_size(tensor.bytes));
    return values;
  }

  void read_tables() {
    tables_.nodes = read_int32("nodes");
    tables_.tokens = read_int32("tokens");
    QUARRY_CHECK(tables_.nodes.size() % kNodeFields == 0, ErrorCode::kCorruptData,
                 file_->description(), ": ", tables_.nodes.size(), " numbers of nodes");
  }

  void check_sizes() const {
    int64_t num_tokens = 0;
    for (size_t i = 0; i < num_nodes(); ++i) {
      const Node node = node_at(i);
      const bool is_sane = node.parent >= -1 && node.parent < static_cast<int64_t>(i) &&
                           node.adapter >= 0 && as_size(node.adapter) < adapters_.size() &&
                           node.num_tokens >= 1 && node.num_tokens <= kKvPageTokens &&
                           node.page >= 0;
      QUARRY_CHECK(
          is_sane && (node.parent < 0 || node_at(as_size(node.parent)).adapter == node.adapter),
          ErrorCode::kCorruptData, file_->description(), ": node ", i, " follows ", node.parent,
          ", of adapter ", node.adapter, ", with ", node.num_tokens, " tokens in page ", node.page);
      const TensorView& page = file_->get(page_name(as_size(node.page)));
      QUARRY_CHECK(page.type == WeightType::kU8 && page.bytes == origin_.page_bytes,
                   ErrorCode::kCorruptData, file_->description(), ": ", page.name, " has ",
                   page.bytes, " bytes, wanted ", origin_.page_bytes);
      num_tokens += node.num_tokens;
    }
    QUARRY_CHECK(num_tokens == static_cast<int64_t>(tables_.tokens.size()), ErrorCode::kCorruptData,
                 file_->description(), ": holds ", tables_.tokens.size(), " tokens, its nodes ",
                 num_tokens);
  }

  // Of each adapter in the file the one that is served; null: none.
  std::vector<const PrefixCache::Adapter*> served_adapters(
      const std::vector<PrefixCache::Adapter>& adapters) const {
    std::map<std::string, const PrefixCache::Adapter*> by_hash;
    for (const PrefixCache::Adapter& adapter : adapters) {
      by_hash.emplace(adapter_hash(adapter), &adapter);
    }
    std::vector<const PrefixCache::Adapter*> served;
    for (const std::string& hash : adapters_) {
      const auto it = by_hash.find(hash);
      served.push_back(it == by_hash.end() ? nullptr : it->second);
    }
    return served;
  }

  std::shared_ptr<KvPage> copy_page(int32_t number) const {
    auto page = std::make_shared<KvPage>(origin_.page_bytes, origin_.page_memory);
    page->write(file_->get(page_name(as_size(number))).data);
    return page;
  }

  const std::unique_ptr<SafetensorsFile> file_;
  const PrefixOrigin& origin_;
  std::vector<std::string> adapters_;
  Tables tables_;
};

}  // namespace

PrefixOrigin prefix_origin(const LoadedGenerator& generator) {
  const std::unique_ptr<KvCache> cache = generator.model->make_cache();
  const GeneratorOptions& options = generator.options;
  PrefixOrigin origin;
  origin.page_bytes = cache->page_bytes();
  origin.page_memory = cache->page_memory();
  origin.facts = {
      {"model", generator.content_hash},
      {"precision", precision_name(options.precision)},
      {"load_in", load_in_name(options.weights.load_in)},
      {"llm_int8", concat(options.weights.llm_int8_threshold)},
      {"instructions",
       origin.page_memory == nullptr ? cpu_isa_name(cpu_isa()) : origin.page_memory->name()},
      {"elements", element_name(cache->element_type())},
      {"page", concat(cache->num_layers(), " layers of 2 x ", kKvPageTokens, " x ",
                      cache->kv_width(), ", layout ", kKvPageLayoutVersion)},
  };
  return origin;
}

void write_prefixes(const std::filesystem::path& path, const PrefixOrigin& origin,
                    const PrefixCache& prefixes) {
  const std::vector<PrefixCache::Entry> entries = prefixes.entries();
  Tables tables;
  std::map<PrefixCache::Adapter, int32_t> adapters;
  Json hashes = Json::array();
  std::map<const KvPage*, int32_t> pages;
  std::deque<std::vector<char>> copies;  // of pages that are not in the CPU's memory
  std::string page_hashes;
  std::vector<TensorToWrite> tensors;
  for (const PrefixCache::Entry& entry : entries) {
    const auto [adapter, is_new] =
        adapters.emplace(entry.adapter, static_cast<int32_t>(adapters.size()));
    if (is_new) hashes.push_back(adapter_hash(entry.adapter));
    const auto [page, is_new_page] =
        pages.emplace(entry.page.get(), static_cast<int32_t>(pages.size()));
    if (is_new_page) {
      const int64_t bytes = entry.page->bytes();
      const auto* data = reinterpret_cast<const char*>(entry.page->data());
      if (origin.page_memory != nullptr) {
        copies.emplace_back(static_cast<size_t>(bytes));
        entry.page->read(copies.back().data());
        data = copies.back().data();
      }
      page_hashes += sha256_hex({data, static_cast<size_t>(bytes)});
      tensors.push_back({page_name(tensors.size()), WeightType::kU8, {bytes}, data});
    }
    tables.nodes.insert(tables.nodes.end(),
                        {static_cast<int32_t>(entry.parent), adapter->second,
                         static_cast<int32_t>(entry.tokens.size()), page->second});
    tables.tokens.insert(tables.tokens.end(), entry.tokens.begin(), entry.tokens.end());
  }
  Metadata metadata = origin.facts;
  metadata["format"] = kFormat;
  metadata["adapters"] = dump_json(hashes);
  metadata["checksum"] = checksum(metadata, tables, page_hashes);
  const auto num_nodes = static_cast<int64_t>(entries.size());
  tensors.push_back({"nodes", WeightType::kI32, {num_nodes, kNodeFields}, tables.nodes.data()});
  tensors.push_back({"tokens",
                     WeightType::kI32,
                     {static_cast<int64_t>(tables.tokens.size())},
                     tables.tokens.data()});
  write_safetensors(path, tensors, metadata, FileAccess::kOwner);
}

std::string read_prefixes(const std::filesystem::path& path, const PrefixOrigin& origin,
                          const std::vector<PrefixCache::Adapter>& adapters,
                          PrefixCache& prefixes) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return "";
  try {
    Reader reader(path, origin);
    reader.check();
    prefixes.restore(reader.entries(adapters, prefixes.max_bytes()));
    return "";
  } catch (const std::exception& error) {
    return error.what();
  }
}

}  // namespace quarry
