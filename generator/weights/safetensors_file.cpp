#include "generator/weights/safetensors_file.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>

#include "data/core/json.h"
#include "generator/weights/printable.h"

namespace quarry {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation

struct Dtype {
  const char* name;
  int64_t bytes;
  std::optional<WeightType> type;
};

constexpr Dtype kDtypes[] = {
    {"F64", 8, std::nullopt},       {"F32", 4, WeightType::kF32}, {"F16", 2, WeightType::kF16},
    {"BF16", 2, WeightType::kBF16}, {"I64", 8, WeightType::kI64}, {"I32", 4, WeightType::kI32},
    {"I16", 2, std::nullopt},       {"I8", 1, WeightType::kI8},   {"U64", 8, std::nullopt},
    {"U32", 4, std::nullopt},       {"U16", 2, std::nullopt},     {"U8", 1, WeightType::kU8},
    {"BOOL", 1, std::nullopt},      {"F8_E4M3", 1, std::nullopt}, {"F8_E5M2", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt},   {"C64", 8, std::nullopt},
};

const Dtype* find_dtype(const std::string& name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

// The JSON object at the front of a file. nlohmann's DOM keeps the last of two equal keys, so
// duplicates are looked for while parsing.
Json parse_header(std::string_view text, const std::string& source) {
  parse_json(text, source, ErrorCode::kCorruptData);  // depth, syntax
  std::set<std::string> names;
  std::set<std::string> fields;  // of the last name
  std::string last;
  const Json header = Json::parse(text, [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (event != Json::parse_event_t::key || depth > 2) return true;
    const auto key = parsed.get<std::string>();
    if (depth == 1) {
      QUARRY_CHECK(names.insert(key).second, ErrorCode::kCorruptData, source, ": tensor ",
                   printable(key), " is there twice");
      fields.clear();
      last = key;
    } else {
      QUARRY_CHECK(fields.insert(key).second, ErrorCode::kCorruptData, source, ": tensor ",
                   printable(last), " has ", printable(key), " twice");
    }
    return true;
  });
  QUARRY_CHECK(header.is_object(), ErrorCode::kCorruptData, source, ": is a JSON ",
               header.type_name(), ", wanted an object");
  return header;
}

// A whole number >= 0 that fits int64.
int64_t read_size(const Json& value, const std::string& what) {
  QUARRY_CHECK(value.is_number_unsigned() && value.get<uint64_t>() <= uint64_t{INT64_MAX},
               ErrorCode::kCorruptData, what, " is ", printable(dump_json(value)),
               ", wanted a whole number");
  return static_cast<int64_t>(value.get<uint64_t>());
}

struct Entry {
  std::string name;
  const Dtype* dtype;
  std::vector<int64_t> shape;
  int64_t begin;
  int64_t end;
};

Entry read_entry(const std::string& name, const Json& value, const std::string& file,
                 int64_t data_bytes) {
  const std::string what = file + ": tensor " + printable(name);
  QUARRY_CHECK(value.is_object() && value.contains("dtype") && value["dtype"].is_string() &&
                   value.contains("shape") && value["shape"].is_array() &&
                   value.contains("data_offsets") && value["data_offsets"].is_array() &&
                   value["data_offsets"].size() == 2,
               ErrorCode::kCorruptData, what, " lacks a dtype, a shape or two data_offsets");
  const std::string dtype_name = value["dtype"].get<std::string>();
  Entry entry{name, find_dtype(dtype_name), {}, 0, 0};
  QUARRY_CHECK(entry.dtype != nullptr, ErrorCode::kCorruptData, what, " has dtype ",
               printable(dtype_name), ", which safetensors does not define");
  int64_t bytes = entry.dtype->bytes;
  for (const Json& item : value["shape"]) {
    const int64_t extent = read_size(item, what + ": extent");
    QUARRY_CHECK(extent == 0 || bytes <= INT64_MAX / extent, ErrorCode::kCorruptData, what,
                 " has a shape whose size overflows");
    bytes *= extent;
    entry.shape.push_back(extent);
  }
  entry.begin = read_size(value["data_offsets"][0], what + ": data offset");
  entry.end = read_size(value["data_offsets"][1], what + ": data offset");
  QUARRY_CHECK(entry.begin <= entry.end && entry.end <= data_bytes, ErrorCode::kCorruptData, what,
               " lies at bytes ", entry.begin, " to ", entry.end, ", but the file holds ",
               data_bytes, " bytes of tensor data (truncated file?)");
  QUARRY_CHECK(entry.end - entry.begin == bytes, ErrorCode::kCorruptData, what, " takes ",
               entry.end - entry.begin, " bytes, its dtype ", dtype_name, " and shape want ",
               bytes);
  return entry;
}

void check_layout(std::vector<Entry>* entries, const std::string& file) {
  std::sort(entries->begin(), entries->end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t at = 0;
  for (const Entry& entry : *entries) {
    QUARRY_CHECK(entry.begin == at, ErrorCode::kCorruptData, file, ": tensor ",
                 printable(entry.name), " begins at byte ", entry.begin, " of the data, wanted ",
                 at, entry.begin < at ? " (tensors overlap)" : " (a gap)");
    at = entry.end;
  }
}

}  // namespace

std::unique_ptr<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  std::unique_ptr<SafetensorsFile> source(new SafetensorsFile());
  source->description_ = path.string();
  std::filesystem::path file = path;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    file = path / "model.safetensors";
    if (!std::filesystem::exists(file, ignored)) file = path / "model.safetensors.index.json";
    QUARRY_CHECK(std::filesystem::exists(file, ignored), ErrorCode::kNotFound, path.string(),
                 ": holds neither model.safetensors nor model.safetensors.index.json");
  }
  if (file.extension() == ".json") {
    source->open_index(file);
  } else {
    source->add_file(file);
  }
  return source;
}

std::vector<std::string> SafetensorsFile::add_file(const std::filesystem::path& path) {
  MappedFile mapped(path);
  const std::string file = path.string();
  QUARRY_CHECK(mapped.size() >= 8, ErrorCode::kCorruptData, file, ": ", mapped.size(),
               " bytes long, too short for a safetensors file");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, mapped.data(), sizeof(header_bytes));
  QUARRY_CHECK(header_bytes <= kMaxHeaderBytes && header_bytes <= mapped.size() - 8,
               ErrorCode::kCorruptData, file, ": claims a header of ", header_bytes,
               " bytes, the file has ", mapped.size(), " (truncated, or not a safetensors file)");
  const std::string_view text(reinterpret_cast<const char*>(mapped.data()) + 8, header_bytes);
  const Json header = parse_header(text, file + ": header");
  const uint8_t* data = mapped.data() + 8 + header_bytes;
  const auto data_bytes = static_cast<int64_t>(mapped.size() - 8 - header_bytes);

  std::vector<Entry> entries;
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(read_entry(name, value, file, data_bytes));
      continue;
    }
    QUARRY_CHECK(value.is_object(), ErrorCode::kCorruptData, file,
                 ": __metadata__ is not an object of strings");
    for (const auto& [key, text_value] : value.items()) {
      QUARRY_CHECK(text_value.is_string(), ErrorCode::kCorruptData, file, ": __metadata__ ",
                   printable(key), " is not a string");
      metadata_.emplace(key, text_value.get<std::string>());
    }
  }
  check_layout(&entries, file);

  std::vector<std::string> names;
  for (const Entry& entry : entries) {
    names.push_back(entry.name);
    QUARRY_CHECK(tensor_index_.count(entry.name) == 0 && unreadable_.count(entry.name) == 0,
                 ErrorCode::kCorruptData, file, ": tensor ", printable(entry.name),
                 " is in another shard as well");
    if (!entry.dtype->type) {
      unreadable_.emplace(entry.name, entry.dtype->name);
      continue;
    }
    tensor_index_.emplace(entry.name, tensors_.size());
    tensors_.push_back(
        {entry.name, *entry.dtype->type, entry.shape, data + entry.begin, entry.end - entry.begin});
  }
  files_.push_back(std::move(mapped));
  return names;
}

void SafetensorsFile::open_index(const std::filesystem::path& path) {
  const Json index = read_json_file(path, kMaxHeaderBytes);
  const std::string file = path.string();
  QUARRY_CHECK(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
               ErrorCode::kCorruptData, file, ": has no object \"weight_map\"");
  std::map<std::string, std::set<std::string>> tensors_of_shard;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    QUARRY_CHECK(shard.is_string(), ErrorCode::kCorruptData, file, ": weight_map ",
                 printable(tensor), " is not a file name");
    const std::string name = shard.get<std::string>();
    // A name with a path in it could point anywhere on the disk.
    QUARRY_CHECK(!name.empty() && name.find('/') == std::string::npos && name != "." &&
                     name != ".." && name.find('\0') == std::string::npos,
                 ErrorCode::kCorruptData, file, ": weight_map names the shard ", printable(name),
                 ", wanted a plain file name");
    tensors_of_shard[name].insert(tensor);
  }
  for (const auto& [shard, wanted] : tensors_of_shard) {
    const std::filesystem::path shard_path = path.parent_path() / shard;
    std::error_code ignored;
    QUARRY_CHECK(std::filesystem::exists(shard_path, ignored), ErrorCode::kNotFound, file,
                 ": shard ", printable(shard), " is missing");
    const std::vector<std::string> names = add_file(shard_path);
    const std::set<std::string> found(names.begin(), names.end());
    for (const std::string& name : wanted) {
      QUARRY_CHECK(found.count(name) != 0, ErrorCode::kCorruptData, file, ": tensor ",
                   printable(name), " is not in its shard ", printable(shard));
    }
    for (const std::string& name : found) {
      QUARRY_CHECK(wanted.count(name) != 0, ErrorCode::kCorruptData, file, ": shard ",
                   printable(shard), " holds tensor ", printable(name),
                   ", which the index does not place there");
    }
  }
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto it = tensor_index_.find(name);
  if (it != tensor_index_.end()) return &tensors_[it->second];
  const auto unreadable = unreadable_.find(name);
  QUARRY_CHECK(unreadable == unreadable_.end(), ErrorCode::kInvalidArgument, description_,
               ": tensor ", printable(name), " has dtype ", unreadable->second,
               ", which is not supported");
  return nullptr;
}

void SafetensorsFile::forget(const TensorView& tensor) const {
  for (const MappedFile& file : files_) {
    if (tensor.data >= file.data() && tensor.data < file.data() + file.size()) {
      file.forget(tensor.data, static_cast<size_t>(tensor.bytes));
    }
  }
}

const TensorView& SafetensorsFile::get(const std::string& name) const {
  const TensorView* tensor = find(name);
  QUARRY_CHECK(tensor != nullptr, ErrorCode::kCorruptData, description_, ": holds no tensor ",
               printable(name), " (", tensors_.size(), " others)");
  return *tensor;
}

}  // namespace quarry
