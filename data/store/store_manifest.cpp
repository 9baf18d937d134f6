#include <filesystem>

#include "data/core/json.h"
#include "data/store/schema.h"
#include "data/store/sqlite_passage_store.h"

namespace quarry {
namespace {

template <typename Value>
Value field(const Json& json, const char* name, const std::string& source) {
  const auto found = json.find(name);
  QUARRY_CHECK(found != json.end(), ErrorCode::kCorruptData, source, ": manifest lacks '", name,
               "'");
  try {
    return found->get<Value>();
  } catch (const Json::exception&) {
    throw_error(ErrorCode::kCorruptData, source, ": manifest field '", name,
                "' has the wrong type: ", dump_json(*found));
  }
}

}  // namespace

StoreManifest parse_manifest(const std::string& json, const std::string& source) {
  const Json root = parse_json(json, source + ": manifest", ErrorCode::kCorruptData);
  QUARRY_CHECK(root.is_object(), ErrorCode::kCorruptData, source, ": manifest is not an object");
  StoreManifest manifest;
  manifest.format_version = kStoreFormatVersion;
  manifest.embedder_name = field<std::string>(root, "embedder_name", source);
  if (root.contains("embedder_path")) {
    manifest.embedder_path = field<std::string>(root, "embedder_path", source);
  }
  manifest.embedder_hash = field<std::string>(root, "embedder_hash", source);
  manifest.dim = field<int64_t>(root, "dim", source);
  if (root.contains("unit_length")) {
    manifest.unit_length = field<bool>(root, "unit_length", source);
  }
  manifest.chunk_tokens = field<int64_t>(root, "chunk_tokens", source);
  manifest.chunk_overlap_tokens = field<int64_t>(root, "chunk_overlap_tokens", source);
  manifest.created_at = field<std::string>(root, "created_at", source);
  QUARRY_CHECK(manifest.dim >= 1 && manifest.dim <= 65536, ErrorCode::kCorruptData, source,
               ": manifest says vectors have ", manifest.dim, " dimensions, wanted 1 to 65536");
  return manifest;
}

std::string dump_manifest(const StoreManifest& manifest) {
  OrderedJson json;
  json["embedder_name"] = manifest.embedder_name;
  if (!manifest.embedder_path.empty()) json["embedder_path"] = manifest.embedder_path;
  json["embedder_hash"] = manifest.embedder_hash;
  json["dim"] = manifest.dim;
  json["unit_length"] = manifest.unit_length;
  json["chunk_tokens"] = manifest.chunk_tokens;
  json["chunk_overlap_tokens"] = manifest.chunk_overlap_tokens;
  json["created_at"] = manifest.created_at;
  return dump_json(json);
}

std::string embedder_model(const StoreManifest& manifest) {
  std::error_code failure;
  const std::filesystem::path path = manifest.embedder_path;
  const auto has = [&](const char* file) { return std::filesystem::exists(path / file, failure); };
  const bool is_there = !path.empty() && (has("config.json") || has("modules.json"));
  return is_there ? path.string() : manifest.embedder_name;
}

std::string other_embedder_text(const StoreManifest& manifest, const std::string& given_name,
                                const std::string& given_hash) {
  constexpr size_t kShownHash = 12;
  return concat("made with the embedder ", manifest.embedder_name, " (",
                manifest.embedder_hash.substr(0, kShownHash), "), not with ", given_name, " (",
                given_hash.substr(0, kShownHash),
                "): use the first, with its adapter if any, or build a new index");
}

}  // namespace quarry
