#include "api/http/constraint.h"

#include "data/core/error.h"
#include "generator/decode/constraint/constraints.h"

namespace quarry::http {
namespace {

Constraints& constraints_of(const ServerContext& context) {
  return context.pipeline.engine().constraints();
}

template <typename Make>
std::shared_ptr<Constraint> make_constraint(const char* param, const Make& make) {
  try {
    return make();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    throw bad_request(param, concat("'", param, "': ", error.what()));
  }
}

std::shared_ptr<Constraint> read_response_format(const ServerContext& context, const Fields& fields,
                                                 const std::string& body) {
  const Json* format = fields.find("response_format");
  if (format == nullptr) return nullptr;
  const Json type = format->is_object() ? format->value("type", Json()) : Json();
  if (type == "text") return nullptr;
  if (type == "json_object") return constraints_of(context).json_object();
  if (type != "json_schema") {
    fields.fail("response_format", "an object whose type is text, json_object or json_schema");
  }
  const Json* given = Fields(*format, "response_format.").find("json_schema");
  if (given == nullptr || !given->is_object() || !given->contains("schema")) {
    throw bad_request("response_format", "'response_format.json_schema.schema' is missing");
  }
  const std::string_view text = find_member_text(
      find_member_text(find_member_text(body, "response_format"), "json_schema"), "schema");
  return make_constraint("response_format",
                         [&] { return constraints_of(context).json_schema(std::string(text)); });
}

std::shared_ptr<Constraint> read_guided_json(const ServerContext& context, const Fields& fields,
                                             const std::string& body) {
  const Json* given = fields.find("guided_json");
  if (given == nullptr) return nullptr;
  if (!given->is_object() && !given->is_string()) {
    fields.fail("guided_json", "a JSON schema, an object or its text");
  }
  const std::string text = given->is_string() ? given->get<std::string>()
                                              : std::string(find_member_text(body, "guided_json"));
  return make_constraint("guided_json", [&] { return constraints_of(context).json_schema(text); });
}

std::shared_ptr<Constraint> read_guided_regex(const ServerContext& context, const Fields& fields) {
  const std::optional<std::string> pattern = fields.string("guided_regex");
  if (!pattern) return nullptr;
  return make_constraint("guided_regex", [&] { return constraints_of(context).regex(*pattern); });
}

}  // namespace

std::shared_ptr<Constraint> read_constraint(const ServerContext& context, const Fields& fields,
                                            const std::string& body) {
  std::shared_ptr<Constraint> constraint;
  for (std::shared_ptr<Constraint> found :
       {read_response_format(context, fields, body), read_guided_json(context, fields, body),
        read_guided_regex(context, fields)}) {
    if (found == nullptr) continue;
    if (constraint != nullptr) {
      throw bad_request("response_format",
                        "more than one of 'response_format', 'guided_json' and 'guided_regex' "
                        "says what the answer is held to");
    }
    constraint = std::move(found);
  }
  return constraint;
}

}  // namespace quarry::http
