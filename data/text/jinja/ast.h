#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/text/jinja/value.h"

namespace quarry::jinja {

// Name under which the filters of {% set x | filter %} find the block's text.
constexpr char kBlockText[] = " block text";

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  kLiteral,      // value
  kName,         // name
  kList,         // children
  kTuple,        // children
  kDict,         // children: key, value, key, value ...
  kAttribute,    // children[0] . name
  kItem,         // children[0] [ children[1] ]
  kSlice,        // children[0] [ children[1] : children[2] : children[3] ], null when left out
  kCall,         // children[0] ( arguments )
  kFilter,       // children[0] | name ( arguments )
  kTest,         // children[0] is name ( arguments )
  kNot,          // not children[0]
  kUnary,        // name ("-", "+") children[0]
  kBinary,       // children[0] name children[1]: arithmetic, "~", "and", "or"
  kCompare,      // children[0] operators[0] children[1] operators[1] ...
  kConditional,  // children[1] if children[0] else children[2] (may be null)
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kLiteral;
  int line = 1;
  std::string name;
  Value value;
  std::vector<ExpressionPtr> children;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, ExpressionPtr>> named;  // arguments of a call
  std::vector<ExpressionPtr> positional;
};

struct Statement;
using Block = std::vector<Statement>;

enum class StatementKind {
  kText,      // text
  kOutput,    // expression
  kIf,        // branches; `otherwise`
  kFor,       // targets in expression if condition: body, else otherwise
  kSet,       // targets = expression, or targets[0].text = expression
  kSetBlock,  // targets[0] = rendered body, through expression when it is not null
  kMacro,     // text (parameters, defaults): body
  kBlock,     // body, as it stands (generation tags)
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 1;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<std::string> targets;
  std::string attribute;                // of a namespace, for kSet
  std::vector<ExpressionPtr> defaults;  // of parameters, null when there is none
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block body;
  Block otherwise;
};

}  // namespace quarry::jinja
