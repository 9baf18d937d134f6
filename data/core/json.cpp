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

// nlohmann's "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ..."
// without its own name for it, and with no more of the text than one can read.
std::string reason(const std::exception& error) {
  constexpr size_t kLongest = 300;
  std::string what = error.what();
  const size_t name_end = what.find("] ");
  if (name_end != std::string::npos) what.erase(0, name_end + 2);
  if (what.size() <= kLongest) return what;
  size_t cut = kLongest;
  while (cut > 0 && (static_cast<unsigned char>(what[cut]) & 0xC0) == 0x80) --cut;
  return what.substr(0, cut) + " ...";
}

template <typename AnyJson>
AnyJson parse(std::string_view text, const std::string& source, ErrorCode code) {
  const int depth = max_depth(text);
  QUARRY_CHECK(depth <= kMaxJsonDepth, code, source, ": JSON nested ", depth,
               " levels deep, at most ", kMaxJsonDepth, " accepted");
  // nlohmann takes a zero for the end and leaves what follows unread.
  const size_t zero = text.find('\0');
  QUARRY_CHECK(zero == std::string_view::npos, code, source, ": not valid JSON at byte ", zero,
               ": a zero");
  try {
    return AnyJson::parse(text);
  } catch (const typename AnyJson::parse_error& e) {
    throw_error(code, source, ": not valid JSON at byte ", e.byte, ": ", reason(e));
  } catch (const typename AnyJson::exception& e) {  // a number beyond double's range
    throw_error(code, source, ": not valid JSON: ", reason(e));
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& source, ErrorCode code) {
  return parse<Json>(text, source, code);
}

OrderedJson parse_ordered_json(std::string_view text, const std::string& source, ErrorCode code) {
  return parse<OrderedJson>(text, source, code);
}

std::string_view find_member_text(std::string_view object, std::string_view name) {
  std::string_view found;
  std::string_view string;  // the latest of the object itself
  bool is_wanted = false;   // between a name and the end of its value
  size_t value_start = 0;
  int depth = 0;
  for (size_t i = 0; i < object.size(); ++i) {
    const char c = object[i];
    if (c == '"') {
      const size_t start = i++;
      for (; object[i] != '"'; ++i) {
        if (object[i] == '\\') ++i;
      }
      if (depth == 1) string = object.substr(start + 1, i - start - 1);
    } else if (c == ':' && depth == 1) {
      is_wanted = string == name;
      value_start = i + 1;
    } else if (depth == 1 && (c == ',' || c == '}')) {
      if (is_wanted) found = object.substr(value_start, i - value_start);
      is_wanted = false;
      if (c == '}') --depth;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return found;
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
