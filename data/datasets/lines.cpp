#include "data/datasets/lines.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;

// Where the first sequence begins that is not well-formed; npos: all is.
size_t find_invalid_utf8(const std::string& text) {
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    bool valid = true;
    next_code_point(text, at, valid);
    if (!valid) return begin;
  }
  return std::string::npos;
}

void check_utf8(const std::string& line, const std::string& where, bool is_first) {
  const std::string mark = line.substr(0, 2);
  QUARRY_CHECK(!is_first || (mark != "\xFF\xFE" && mark != "\xFE\xFF"), ErrorCode::kCorruptData,
               where, ": found the byte order mark of UTF-16 or UTF-32, wanted UTF-8");
  QUARRY_CHECK(line.find('\0') == std::string::npos, ErrorCode::kCorruptData, where,
               ": found a NUL byte, as in UTF-16 or in no text, wanted UTF-8");
  const size_t at = find_invalid_utf8(line);
  if (at == std::string::npos) return;
  char byte[8];
  std::snprintf(byte, sizeof(byte), "0x%02X", static_cast<unsigned char>(line[at]));
  throw_error(ErrorCode::kCorruptData, where, ": byte ", at + 1, " is ", byte,
              ", which is not UTF-8, wanted UTF-8");
}

std::string scalar_text(const Json& value, const char* field, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  QUARRY_CHECK(value.is_number_integer(), ErrorCode::kCorruptData, where, ": \"", field, "\" is ",
               value.type_name(), ", wanted text");
  return value.dump();
}

}  // namespace

void for_each_line(const fs::path& path,
                   const std::function<void(const std::string&, const std::string&)>& visit) {
  std::error_code failure;
  QUARRY_CHECK(fs::exists(path, failure), ErrorCode::kNotFound, path.string(), ": no such file");
  QUARRY_CHECK(fs::is_regular_file(path, failure), ErrorCode::kInvalidArgument, path.string(),
               ": not a file");
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  QUARRY_CHECK(file != nullptr, ErrorCode::kUnavailable, path.string(), ": cannot be read");
  std::string line;
  int64_t number = 0;
  const auto finish = [&] {
    ++number;
    const std::string where = concat(path.string(), ":", number);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (number == 1 && line.compare(0, 3, "\xEF\xBB\xBF") == 0) line.erase(0, 3);
    check_utf8(line, where, number == 1);
    visit(line, where);
    line.clear();
  };
  std::vector<char> buffer(size_t{1} << 16);
  bool open_line = false;
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    for (size_t i = 0; i < count; ++i) {
      if (buffer[i] == '\n') {
        finish();
        open_line = false;
        continue;
      }
      open_line = true;
      line.push_back(buffer[i]);
      QUARRY_CHECK(line.size() <= kMaxDatasetLineBytes, ErrorCode::kCorruptData, path.string(), ":",
                   number + 1, ": line is longer than ", kMaxDatasetLineBytes, " bytes");
    }
  }
  QUARRY_CHECK(std::ferror(file.get()) == 0, ErrorCode::kUnavailable, path.string(),
               ": cannot be read");
  if (open_line) finish();
}

void for_each_json_line(const fs::path& path,
                        const std::function<void(const Json&, const std::string&)>& visit) {
  for_each_line(path, [&visit](const std::string& line, const std::string& where) {
    if (line.find_first_not_of(" \t") == std::string::npos) return;
    const Json row = parse_json(line, where, ErrorCode::kCorruptData);
    QUARRY_CHECK(row.is_object(), ErrorCode::kCorruptData, where, ": found ", row.type_name(),
                 ", wanted an object");
    visit(row, where);
  });
}

std::string text_field(const Json& row, const char* field, const std::string& where) {
  const auto found = row.find(field);
  QUARRY_CHECK(found != row.end(), ErrorCode::kCorruptData, where, ": no field \"", field, "\"");
  return scalar_text(*found, field, where);
}

std::vector<std::string> text_list_field(const Json& row, const char* field,
                                         const std::string& where) {
  const auto found = row.find(field);
  std::vector<std::string> texts;
  if (found == row.end() || found->is_null()) return texts;
  if (!found->is_array()) return {scalar_text(*found, field, where)};
  for (const Json& value : *found) texts.push_back(scalar_text(value, field, where));
  return texts;
}

std::vector<fs::path> dataset_files(const fs::path& path, const std::string& part,
                                    const std::string& suffix) {
  std::error_code failure;
  QUARRY_CHECK(fs::exists(path, failure), ErrorCode::kNotFound, path.string(),
               ": no such file or folder");
  if (!fs::is_directory(path, failure)) return {path};
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    const bool fits = name.size() >= suffix.size() && name.find(part) != std::string::npos &&
                      name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
    if (fits && entry.is_regular_file()) files.push_back(entry.path());
  }
  QUARRY_CHECK(!files.empty(), ErrorCode::kNotFound, path.string(), ": no file *", part, "*",
               suffix, " in this folder");
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace quarry
