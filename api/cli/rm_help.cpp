#include "api/cli/rm_help.h"

#include "data/core/error.h"

namespace quarry::cli {
namespace {

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

// The pattern that matches this path below its root and nothing else.
std::string pattern_of(const std::string& below_root) {
  std::string pattern = "/";
  for (const char c : below_root) {
    if (c == '*' || c == '?' || c == '[' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace

std::string rm_help(const std::string& index, const ReturningDocuments& returning) {
  const Source& source = returning.source;
  const std::string back = concat(returning.target, " is still there below ", source.path,
                                  ": the next `quarry index build` of it brings it back");
  if (returning.below_root.empty()) return back;  // a record, or the source itself
  std::string command =
      concat("quarry index build ", shell_quoted(index), " ", shell_quoted(source.path));
  for (const std::string& pattern : source.include) {
    command += " --include " + shell_quoted(pattern);
  }
  for (const std::string& pattern : source.exclude) {
    command += " --exclude " + shell_quoted(pattern);
  }
  return concat(back, "; to leave it out: ", command, " --exclude ",
                shell_quoted(pattern_of(returning.below_root)));
}

}  // namespace quarry::cli
