#include "generator/quant/weight_options.h"

#include "data/core/error.h"

namespace quarry {
namespace {

struct Name {
  LoadIn load_in;
  const char* name;
};
constexpr Name kNames[] = {{LoadIn::kAsIs, "as-is"}, {LoadIn::kNF4, "nf4"},
                           {LoadIn::kFP4, "fp4"},    {LoadIn::kInt8, "int8"},
                           {LoadIn::kBF16, "bf16"},  {LoadIn::kF32, "f32"}};

}  // namespace

LoadIn parse_load_in(const std::string& name) {
  std::string known;
  for (const Name& entry : kNames) {
    if (name == entry.name) return entry.load_in;
    known += concat(known.empty() ? "" : ", ", entry.name);
  }
  throw_error(ErrorCode::kInvalidArgument, "weights cannot be loaded in '", name, "', wanted ",
              known);
}

const char* load_in_name(LoadIn load_in) {
  for (const Name& entry : kNames) {
    if (load_in == entry.load_in) return entry.name;
  }
  return "?";
}

}  // namespace quarry
