#include "generator/decode/constraint/json_schema.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "generator/decode/constraint/json_grammar.h"
#include "generator/decode/constraint/regex_parser.h"
#include "generator/decode/constraint/schema_fields.h"

namespace quarry {
namespace {

constexpr int kDeepestSchema = 256;
// Of members beside which others are allowed.
constexpr size_t kLongestName = 256;

std::string format_pattern(const std::string& format) {
  const std::string date =
      R"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|[12]\d)))";
  const std::string time =
      R"(([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d))";
  if (format == "date") return date;
  if (format == "time") return time;
  if (format == "date-time") return date + "T" + time;
  if (format == "uuid") return "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}";
  return "";
}

Expr quoted(Expr inside) {
  return sequence_expr({bytes_expr("\""), std::move(inside), bytes_expr("\"")});
}

class SchemaCompiler {
 public:
  explicit SchemaCompiler(const OrderedJson& root) : root_(root) {}

  Grammar compile() {
    rules_.emplace_back();
    rule_of_ref_["#"] = 0;
    open_refs_ = {"#"};
    Expr expr = compile(root_, "#");
    rules_[0] = std::move(expr);
    return {std::move(rules_)};
  }

 private:
  Expr compile(const OrderedJson& schema, const std::string& path);
  Expr compile_whole(const OrderedJson& schema, const std::string& keyword,
                     const std::string& path);
  Expr compile_ref(const OrderedJson& ref, const std::string& path);
  Expr compile_values(const OrderedJson& schema, const OrderedJson& values,
                      const std::string& path) const;
  Expr compile_type(const OrderedJson& schema, const std::string& type, const std::string& path);
  Expr compile_object(const OrderedJson& schema, const std::string& path);
  Expr compile_array(const OrderedJson& schema, const std::string& path);
  Expr compile_string(const OrderedJson& schema, const std::string& path);
  Expr compile_number(const OrderedJson& schema, const std::string& path) const;
  Expr compile_inside(const OrderedJson& schema, const std::string& path);
  size_t value_rule();
  size_t character_rule();
  size_t add_rule(Expr expr);

  const OrderedJson& root_;
  std::vector<Expr> rules_;
  std::map<std::string, size_t> rule_of_ref_;
  // Being compiled, with nothing of the text between them and this place.
  std::set<std::string> open_refs_;
  int depth_ = 0;
  std::optional<size_t> value_rule_;
  std::optional<size_t> character_rule_;
};

Expr SchemaCompiler::compile(const OrderedJson& schema, const std::string& path) {
  if (schema.is_boolean()) {
    if (!schema.get<bool>()) fail_schema(path, "false allows nothing");
    return rule_expr(value_rule());
  }
  if (!schema.is_object()) {
    fail_schema(path, concat("found ", shown_json(schema), ", expected an object, true or false"));
  }
  if (++depth_ > kDeepestSchema) {
    fail_schema(path, concat("schemas nest deeper than ", kDeepestSchema));
  }
  const char* whole = check_keywords(schema, path);
  Expr expr;
  if (whole != nullptr) {
    expr = compile_whole(schema, whole, path);
  } else {
    std::vector<Expr> choices;
    for (const std::string& type : types_of(schema, path)) {
      choices.push_back(compile_type(schema, type, path));
    }
    expr = choices.empty() ? rule_expr(value_rule()) : choice_expr(std::move(choices));
  }
  --depth_;
  return expr;
}

// References in it may come back to the schemas around it.
Expr SchemaCompiler::compile_inside(const OrderedJson& schema, const std::string& path) {
  std::set<std::string> outside;
  outside.swap(open_refs_);
  Expr expr = compile(schema, path);
  outside.swap(open_refs_);
  return expr;
}

Expr SchemaCompiler::compile_whole(const OrderedJson& schema, const std::string& keyword,
                                   const std::string& path) {
  const OrderedJson& value = schema.at(keyword);
  if (keyword == "$ref") return compile_ref(value, path);
  if (keyword == "const") return compile_values(schema, OrderedJson::array({value}), path);
  if (!value.is_array() || value.empty()) {
    fail_schema(path, concat("\"", keyword, "\" is ", shown_json(value),
                             ", expected a list that is not empty"));
  }
  if (keyword == "enum") return compile_values(schema, value, path);
  if (keyword == "allOf" && value.size() > 1) {
    fail_schema(path,
                concat("\"allOf\" of ", value.size(), " schemas is not supported, only of 1"));
  }
  std::vector<Expr> choices;
  for (size_t i = 0; i < value.size(); ++i) {
    choices.push_back(compile(value[i], concat(path, "/", keyword, "/", i)));
  }
  return choice_expr(std::move(choices));
}

Expr SchemaCompiler::compile_ref(const OrderedJson& ref, const std::string& path) {
  const std::string name = ref.is_string() ? ref.get<std::string>() : "";
  if (name.empty() || name[0] != '#') {
    fail_schema(path, concat("\"$ref\" is ", shown_json(ref),
                             ", expected a place in this schema, \"#/...\""));
  }
  const auto known = rule_of_ref_.find(name);
  if (known != rule_of_ref_.end()) {
    if (open_refs_.count(name) > 0) {
      fail_schema(path, concat("\"$ref\" ", name, " comes back to itself without a value between"));
    }
    return rule_expr(known->second);
  }
  const OrderedJson* target = nullptr;
  try {
    target = &root_.at(OrderedJson::json_pointer(name.substr(1)));
  } catch (const OrderedJson::exception&) {
    fail_schema(path, concat("\"$ref\" ", name, " is not in the schema"));
  }
  const size_t rule = add_rule(Expr());
  rule_of_ref_[name] = rule;
  open_refs_.insert(name);
  Expr expr = compile(*target, name);
  open_refs_.erase(name);
  rules_[rule] = std::move(expr);
  return rule_expr(rule);
}

// enum and const; `type` beside them leaves out values of other types.
Expr SchemaCompiler::compile_values(const OrderedJson& schema, const OrderedJson& values,
                                    const std::string& path) const {
  const std::vector<std::string> types = types_of(schema, path);
  std::vector<Expr> choices;
  for (const OrderedJson& value : values) {
    const bool fits =
        types.empty() || std::any_of(types.begin(), types.end(), [&value](const std::string& type) {
          return is_of_type(value, type);
        });
    if (fits) choices.push_back(bytes_expr(dump_json(value)));
  }
  if (choices.empty()) fail_schema(path, "no value of \"enum\" or \"const\" is of the \"type\"");
  return choice_expr(std::move(choices));
}

Expr SchemaCompiler::compile_type(const OrderedJson& schema, const std::string& type,
                                  const std::string& path) {
  if (type == "object") return compile_object(schema, path);
  if (type == "array") return compile_array(schema, path);
  if (type == "string") return compile_string(schema, path);
  if (type == "number") return compile_number(schema, path);
  if (type == "boolean") return choice_expr({bytes_expr("true"), bytes_expr("false")});
  if (type == "null") return bytes_expr("null");
  const IntegerBounds bounds = read_integer_bounds(schema, path);
  return json_integer(bounds.least, bounds.most);
}

Expr SchemaCompiler::compile_object(const OrderedJson& schema, const std::string& path) {
  const OrderedJson* given = find_keyword(schema, "properties");
  const OrderedJson properties = given == nullptr ? OrderedJson::object() : *given;
  if (!properties.is_object()) fail_schema(path, "\"properties\" is not an object");
  const OrderedJson* additional = find_keyword(schema, "additionalProperties");
  const bool is_open = additional == nullptr ? given == nullptr : *additional != false;
  // What members beyond the properties hold.
  const auto other_value = [&] {
    return additional == nullptr ? rule_expr(value_rule())
                                 : compile_inside(*additional, path + "/additionalProperties");
  };
  ListExpr members(json_comma(), Expr::Gaps::kAnywhere);
  const auto add_member = [&](const std::string& name, Expr value, bool required) {
    members.add(
        sequence_expr({bytes_expr(dump_json(OrderedJson(name))), json_colon(), std::move(value)}),
        {required, false});
  };
  std::vector<std::string> required;
  if (const OrderedJson* list = find_keyword(schema, "required")) {
    const bool good = list->is_array() && std::all_of(list->begin(), list->end(),
                                                      [](const auto& x) { return x.is_string(); });
    if (!good) fail_schema(path, "\"required\" is not a list of names");
    required = list->get<std::vector<std::string>>();
  }
  std::vector<std::string> names;
  for (const auto& [name, member] : properties.items()) {
    const bool is_required = std::find(required.begin(), required.end(), name) != required.end();
    add_member(name, compile_inside(member, path + "/properties/" + name), is_required);
    names.push_back(name);
  }
  for (const std::string& name : required) {
    if (std::find(names.begin(), names.end(), name) != names.end()) continue;
    if (!is_open) {
      fail_schema(path, concat("\"required\" names \"", name, "\", which \"properties\" does not"));
    }
    add_member(name, other_value(), true);
    names.push_back(name);
  }
  if (is_open) {
    for (const std::string& name : names) {
      if (name.size() > kLongestName) {
        fail_schema(path, concat("a name of ", name.size(), " bytes, at most ", kLongestName,
                                 " beside \"additionalProperties\""));
      }
    }
    const Expr key = names.empty() ? json_string() : json_other_key(names);
    members.add(sequence_expr({key, json_colon(), other_value()}), {false, true});
  }
  return sequence_expr({bytes_expr("{"), members.take(), bytes_expr("}")});
}

Expr SchemaCompiler::compile_array(const OrderedJson& schema, const std::string& path) {
  const OrderedJson* unique = find_keyword(schema, "uniqueItems");
  if (unique != nullptr && *unique != false) {
    fail_schema(path, "the keyword \"uniqueItems\" is not supported");
  }
  const OrderedJson* given = find_keyword(schema, "prefixItems");
  const OrderedJson prefix = given == nullptr ? OrderedJson::array() : *given;
  if (!prefix.is_array()) fail_schema(path, "\"prefixItems\" is not a list");
  const OrderedJson* items = find_keyword(schema, "items");
  if (items != nullptr && items->is_array()) {
    fail_schema(path, "\"items\" is a list: use \"prefixItems\"");
  }
  const bool is_open = items == nullptr ? given == nullptr : *items != false;
  const auto num_first = static_cast<int64_t>(prefix.size());
  const int64_t least = read_count(schema, "minItems", path).value_or(0);
  std::optional<int64_t> most = read_count(schema, "maxItems", path);
  if (!is_open) most = std::min(most.value_or(num_first), num_first);
  if (most && *most < least) {
    fail_schema(path,
                concat("\"minItems\" is ", least, ", but a list has at most ", *most, " items"));
  }
  ListExpr list(json_comma(), Expr::Gaps::kAtTheEnd);
  for (int64_t i = 0; i < num_first && i < most.value_or(num_first); ++i) {
    list.add(compile_inside(prefix[static_cast<size_t>(i)], concat(path, "/prefixItems/", i)),
             {i < least, false});
  }
  if (is_open && most.value_or(num_first + 1) > num_first) {
    const Expr item = rule_expr(
        items == nullptr ? value_rule() : add_rule(compile_inside(*items, path + "/items")));
    const int64_t num_single = most.value_or(least);
    for (int64_t i = num_first; i < num_single; ++i) list.add(item, {i < least, false});
    if (!most) list.add(item, {false, true});
  }
  return sequence_expr({bytes_expr("["), list.take(), bytes_expr("]")});
}

Expr SchemaCompiler::compile_string(const OrderedJson& schema, const std::string& path) {
  const OrderedJson* pattern = find_keyword(schema, "pattern");
  const OrderedJson* format = find_keyword(schema, "format");
  const std::optional<int64_t> least = read_count(schema, "minLength", path);
  const std::optional<int64_t> most = read_count(schema, "maxLength", path);
  if ((pattern != nullptr) + (format != nullptr) + (least || most) > 1) {
    fail_schema(path, "only one of \"pattern\", \"format\" and a length is supported");
  }
  RegexOptions options;
  options.form = TextForm::kJsonString;
  if (pattern != nullptr) {
    if (!pattern->is_string()) fail_schema(path, "\"pattern\" is not a string");
    options.match = RegexOptions::Match::kSearch;
    return naming_source("JSON schema at " + path,
                         [&] { return quoted(parse_regex(pattern->get<std::string>(), options)); });
  }
  if (format != nullptr) {
    const std::string found = format->is_string() ? format_pattern(format->get<std::string>()) : "";
    if (found.empty()) {
      fail_schema(path, concat("\"format\" is ", shown_json(*format),
                               ", supported are date, time, date-time and uuid"));
    }
    return quoted(parse_regex(found, options));
  }
  if (!least && !most) return json_string();
  if (most && *most < least.value_or(0)) {
    fail_schema(path, concat("\"maxLength\" is ", *most, ", \"minLength\" ", *least));
  }
  return quoted(
      repeat_expr(rule_expr(character_rule()), least.value_or(0), most.value_or(kUnbounded)));
}

Expr SchemaCompiler::compile_number(const OrderedJson& schema, const std::string& path) const {
  for (const char* keyword : {"maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
    if (schema.contains(keyword)) {
      fail_schema(path, concat("\"", keyword, "\" is supported only with \"type\": \"integer\""));
    }
  }
  const std::optional<double> minimum = read_number(schema, "minimum", path);
  if (minimum && *minimum != 0.0) {
    fail_schema(
        path, concat("\"minimum\" is ", *minimum, ", of \"type\": \"number\" only 0 is supported"));
  }
  return json_number(!minimum);
}

size_t SchemaCompiler::value_rule() {
  if (!value_rule_) {
    value_rule_ = add_rule(Expr());
    rules_[*value_rule_] = json_any_value(*value_rule_);
  }
  return *value_rule_;
}

size_t SchemaCompiler::character_rule() {
  if (!character_rule_) character_rule_ = add_rule(json_character());
  return *character_rule_;
}

size_t SchemaCompiler::add_rule(Expr expr) {
  rules_.push_back(std::move(expr));
  return rules_.size() - 1;
}

}  // namespace

Grammar compile_json_schema(const OrderedJson& schema) { return SchemaCompiler(schema).compile(); }

}  // namespace quarry
