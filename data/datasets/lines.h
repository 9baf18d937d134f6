#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

// Longest line that a dataset file may have.
constexpr size_t kMaxDatasetLineBytes = size_t{16} << 20;

// Calls visit(line, "file:number") for every line of a text file, without its line end; a byte
// order mark is dropped. Throws kNotFound, kCorruptData for a line that is too long or not UTF-8.
void for_each_line(
    const std::filesystem::path& path,
    const std::function<void(const std::string& line, const std::string& where)>& visit);

// The same for JSON Lines; blank lines are skipped. Throws kCorruptData for a line that is not an
// object.
void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const Json& row, const std::string& where)>& visit);

// A field that must be there and be text or a whole number. Throws kCorruptData naming `where`, the
// field and what was found.
std::string text_field(const Json& row, const char* field, const std::string& where);
// A text, or a list of texts; missing or null: empty.
std::vector<std::string> text_list_field(const Json& row, const char* field,
                                         const std::string& where);

// Regular files of a folder whose name contains `part` and ends with `suffix`, sorted by name; the
// path itself when it is a file. Throws kNotFound when there is none.
std::vector<std::filesystem::path> dataset_files(const std::filesystem::path& path,
                                                 const std::string& part,
                                                 const std::string& suffix);

}  // namespace quarry
