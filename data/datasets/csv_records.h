#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace quarry {

// Calls visit(fields, "file:line") for every record of a CSV file (RFC 4180) or, by the suffix
// .tsv, of a tab-separated one; the header is the first. Quoted fields may hold line ends; the line
// is the one that a record begins on. Blank lines between records are skipped. Throws as
// for_each_line, and kCorruptData for text after a closing quote, a quote that is never closed and
// a record whose number of fields is not the header's.
void for_each_csv_record(const std::filesystem::path& path,
                         const std::function<void(const std::vector<std::string>& fields,
                                                  const std::string& where)>& visit);

}  // namespace quarry
