#include "generator/decode/constraint/constraints.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/core/json.h"
#include "generator/decode/constraint/json_schema.h"
#include "generator/decode/constraint/regex_parser.h"

namespace quarry {

Constraints::Constraints(const LoadedGenerator* generator) : generator_(generator) {}

std::shared_ptr<Constraint> Constraints::regex(const std::string& pattern) {
  QUARRY_CHECK(pattern.size() <= kMostPatternBytes, ErrorCode::kInvalidArgument,
               "the regular expression has ", pattern.size(), " bytes, at most ", kMostPatternBytes,
               " are accepted");
  const std::string key = "regex " + pattern;
  if (std::shared_ptr<Constraint> known = find(key)) return known;
  Grammar grammar;
  grammar.rules.push_back(parse_regex(pattern, RegexOptions()));
  return make(key, grammar);
}

std::shared_ptr<Constraint> Constraints::json_schema(const std::string& schema) {
  QUARRY_CHECK(schema.size() <= kMostSchemaBytes, ErrorCode::kInvalidArgument,
               "the JSON schema has ", schema.size(), " bytes, at most ", kMostSchemaBytes,
               " are accepted");
  const std::string key = "schema " + schema;
  if (std::shared_ptr<Constraint> known = find(key)) return known;
  return make(key, compile_json_schema(
                       parse_ordered_json(schema, "JSON schema", ErrorCode::kInvalidArgument)));
}

std::shared_ptr<Constraint> Constraints::json_object() {
  return json_schema(R"({"type":"object"})");
}

std::shared_ptr<Constraint> Constraints::find(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(kept_.begin(), kept_.end(),
                                  [&key](const auto& entry) { return entry.first == key; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->second;
}

std::shared_ptr<const TokenTrie> Constraints::tokens() {
  QUARRY_CHECK(generator_ != nullptr, ErrorCode::kUnavailable, "no generator is loaded");
  const std::lock_guard<std::mutex> lock(mutex_);
  if (tokens_ == nullptr) {
    const CausalLmConfig& config = generator_->model->config();
    tokens_ = std::make_shared<const TokenTrie>(*generator_->tokenizer, config.vocab_size,
                                                generator_->stop_tokens, config.has_encoder());
  }
  return tokens_;
}

std::shared_ptr<Constraint> Constraints::make(const std::string& key, const Grammar& grammar) {
  auto constraint = std::make_shared<Constraint>(grammar, tokens());
  const std::lock_guard<std::mutex> lock(mutex_);
  kept_.emplace_front(key, constraint);
  if (kept_.size() > kMostKept) kept_.pop_back();
  return constraint;
}

}  // namespace quarry
