#pragma once

#include <string>

#include "generator/decode/constraint/code_points.h"
#include "generator/decode/constraint/expr.h"

namespace quarry {

struct RegexOptions {
  TextForm form = TextForm::kPlain;
  // Where a match may lie: it is the whole text, or any part of it unless ^ and $ say otherwise.
  enum class Match { kWhole, kSearch } match = Match::kWhole;
};

// The texts that match a pattern: literals, ., classes, (groups), |, * + ? {m} {m,} {m,n} (a lazy
// "?" behind them changes nothing), \d \w \s and their opposites (ASCII, as in ECMAScript), \n \t
// \r \f \v \0 \xHH \uHHHH \u{H...}, and ^ $ at the ends of alternatives that stand in no group.
// "." is any character but a newline. Throws kInvalidArgument naming the place and the reason for
// anything else: look-around, references back, \b, \p, flags.
Expr parse_regex(const std::string& pattern, const RegexOptions& options);

}  // namespace quarry
