#include "data/core/json.h"

#include "data/core/mapped_file.h"

namespace quarry {
namespace {

// Depth is measured before parsing: nlohmann's DOM is built iteratively but destroyed recursively.
int max_depth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, ErrorCode code) {
  const int depth = max_depth(text);
  QUARRY_CHECK(depth <= kMaxJsonDepth, code, source, ": JSON nested ", depth,
               " levels deep, at most ", kMaxJsonDepth, " accepted");
  // nlohmann takes a zero for the end and leaves what follows unread.
  const size_t zero = text.find('\0');
  QUARRY_CHECK(zero == std::string_view::npos, code, source, ": not valid JSON at byte ", zero,
               ": a zero");
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& e) {
    throw_error(code, source, ": not valid JSON at byte ", e.byte, ": ", e.what());
  } catch (const Json::exception& e) {  // a number beyond double's range
    throw_error(code, source, ": not valid JSON: ", e.what());
  }
}

Json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  const MappedFile file(path);
  QUARRY_CHECK(file.size() <= max_bytes, ErrorCode::kCorruptData, path.string(), ": ", file.size(),
               " bytes of JSON, at most ", max_bytes, " accepted");
  return parse_json({reinterpret_cast<const char*>(file.data()), file.size()}, path.string(),
                    ErrorCode::kCorruptData);
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string dump_json(const OrderedJson& value, int indent) {
  return value.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace quarry
