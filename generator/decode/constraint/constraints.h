#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "generator/decode/constraint/constraint.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// Makes constraints for one model and keeps the latest ones, so that requests that want the same
// share what is found out. Thread-safe.
class Constraints {
 public:
  static constexpr size_t kMostKept = 8;
  static constexpr size_t kMostSchemaBytes = size_t{128} << 10;
  static constexpr size_t kMostPatternBytes = size_t{16} << 10;

  // `generator` is borrowed and may be null: then all throw kUnavailable.
  explicit Constraints(const LoadedGenerator* generator);

  // Texts that match the whole pattern (regex_parser.h). Throws kInvalidArgument.
  std::shared_ptr<Constraint> regex(const std::string& pattern);
  // JSON texts that satisfy the schema (json_schema.h). Throws kInvalidArgument naming the place
  // and the keyword.
  std::shared_ptr<Constraint> json_schema(const std::string& schema);
  // Any JSON object.
  std::shared_ptr<Constraint> json_object();

 private:
  std::shared_ptr<Constraint> find(const std::string& key);
  std::shared_ptr<const TokenTrie> tokens();
  std::shared_ptr<Constraint> make(const std::string& key, const Grammar& grammar);

  const LoadedGenerator* const generator_;
  std::mutex mutex_;                         // guards what follows
  std::shared_ptr<const TokenTrie> tokens_;  // made for the first constraint
  // By kind and text, the latest used first.
  std::list<std::pair<std::string, std::shared_ptr<Constraint>>> kept_;
};

}  // namespace quarry
