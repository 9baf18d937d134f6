#pragma once

#include <memory>
#include <string>

#include "api/http/context.h"
#include "api/http/fields.h"
#include "generator/decode/engine.h"

namespace quarry::http {

// What the answer is held to: OpenAI's `response_format` of type text, json_object or json_schema,
// or vLLM's `guided_json` (a schema, as JSON or as its text) and `guided_regex`; at most one of
// them. Null: nothing. `body` is the text that `fields` come from: the order of a schema's
// properties is that of the answer's members. Throws 400 naming the field and what is wrong.
std::shared_ptr<Constraint> read_constraint(const ServerContext& context, const Fields& fields,
                                            const std::string& body);

}  // namespace quarry::http
