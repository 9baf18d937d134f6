#pragma once

#include "data/core/json.h"
#include "generator/decode/constraint/expr.h"

namespace quarry {

// The JSON texts that satisfy a schema, in one spelling: members in the order of `properties`,
// those not required may be left out; what is allowed unsaid is left out as well (with
// `properties`, members beyond them unless additionalProperties says so; with `prefixItems`, items
// beyond them unless `items` does). anyOf and oneOf: any of the alternatives. Values and lists nest
// up to Automaton::kMostCalls deep, recursive $refs included.
//
// Supported: type, properties, required, additionalProperties, items, prefixItems, minItems,
// maxItems, enum, const, anyOf, oneOf, allOf of one, $ref into this schema, pattern (ECMAScript,
// without look-around), minLength, maxLength, format date, time, date-time and uuid, minimum,
// maximum and their exclusive forms for integers, minimum 0 for numbers. Ignored: title,
// description, default, examples, $schema, $id, $comment, deprecated, readOnly, writeOnly. Throws
// kInvalidArgument naming the place and the keyword for anything else.
Grammar compile_json_schema(const OrderedJson& schema);

}  // namespace quarry
