#include "finetune/data/treebank_text.h"

#include <string_view>
#include <vector>

namespace quarry {
namespace {

struct Rule {
  std::string_view from;
  std::string_view to;
};

// In this order. A rule reads the text that the rules before it left.
constexpr Rule kRules[] = {
    {"`` ", "\""}, {"``", "\""},      {" ''", "\""},     {"''", "\""},      {" -- ", " \u2013 "},
    {" - ", "-"},  {"( ", "("},       {" )", ")"},       {"[ ", "["},       {" ]", "]"},
    {" ,", ","},   {" . ", ". "},     {" ;", ";"},       {" : ", ": "},     {" ? ", "? "},
    {" ! ", "! "}, {" %", "%"},       {" 's ", "'s "},   {" 's,", "'s,"},   {" 's.", "'s."},
    {" ' ", "' "}, {" n't ", "n't "}, {" 're ", "'re "}, {" 'll ", "'ll "}, {" 've ", "'ve "}};

std::string replaced(const std::string& text, const Rule& rule) {
  std::string out;
  out.reserve(text.size());
  size_t begin = 0;
  for (size_t at = 0; (at = text.find(rule.from, begin)) != std::string::npos;) {
    out.append(text, begin, at - begin).append(rule.to);
    begin = at + rule.from.size();
  }
  return out.append(text, begin, std::string::npos);
}

}  // namespace

std::string from_treebank_tokens(const std::string& text) {
  std::string out = text + " ";  // so that rules that want a blank behind see the last token
  for (const Rule& rule : kRules) out = replaced(out, rule);
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace quarry
