#include "data/text/jinja/evaluator.h"

#include <iterator>
#include <memory>
#include <unordered_map>

#include "data/text/jinja/builtins.h"
#include "data/text/jinja/lexer.h"

namespace quarry::jinja {
namespace {

constexpr int64_t kMaxSteps = 2'000'000;
constexpr size_t kMaxOutputBytes = size_t{64} << 20;
constexpr int kMaxCallDepth = 64;
// Of expressions and statements within each other, through macros too: what the stack can bear.
constexpr int kMaxDepth = 1500;

struct Scope {
  std::unordered_map<std::string, Value> variables;
  std::shared_ptr<Scope> parent;
};
using ScopePtr = std::shared_ptr<Scope>;

enum class Flow { kNext, kBreak, kContinue };

class Evaluator {
 public:
  explicit Evaluator(std::vector<std::pair<std::string, Value>> variables)
      : scope_(std::make_shared<Scope>()) {
    for (auto& [name, value] : variables) scope_->variables[name] = std::move(value);
  }

  ~Evaluator() {
    for (const Value& written : written_namespaces_) written.mutable_dict().items.clear();
  }
  Evaluator(const Evaluator&) = delete;
  Evaluator& operator=(const Evaluator&) = delete;

  std::string run(const Block& block) {
    try {
      std::string output;
      execute(block, output);
      return output;
    } catch (const Fault& fault) {
      throw_at_line(line_, fault.what());
    }
  }

 private:
  void count_step(int line) {
    line_ = line;
    if (++steps_ > kMaxSteps) fault("runs longer than ", kMaxSteps, " steps");
  }

  struct DepthGuard {
    explicit DepthGuard(Evaluator& owner) : evaluator(owner) {
      if (++evaluator.depth_ > kMaxDepth) fault("nested deeper than ", kMaxDepth, " levels");
    }
    ~DepthGuard() { --evaluator.depth_; }
    Evaluator& evaluator;
  };

  void emit(std::string& output, const std::string& text) const {
    if (output.size() + text.size() > kMaxOutputBytes) {
      fault("writes more than ", kMaxOutputBytes, " bytes");
    }
    output += text;
  }

  // Runs `body` in a scope of its own under `parent`.
  template <typename Body>
  void in_scope(ScopePtr parent, const Body& body) {
    const ScopePtr outer = scope_;
    scope_ = std::make_shared<Scope>();
    scope_->parent = std::move(parent);
    struct Restore {
      ScopePtr& scope;
      const ScopePtr& outer;
      ~Restore() { scope = outer; }
    } restore{scope_, outer};
    body();
  }

  // --- statements ---

  Flow execute(const Block& block, std::string& output) {
    for (const Statement& statement : block) {
      const Flow flow = execute(statement, output);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow execute(const Statement& statement, std::string& output) {
    count_step(statement.line);
    const DepthGuard guard(*this);
    switch (statement.kind) {
      case StatementKind::kText:
        emit(output, statement.text);
        return Flow::kNext;
      case StatementKind::kOutput:
        emit(output, to_text(evaluate(*statement.expression)));
        return Flow::kNext;
      case StatementKind::kIf:
        return execute_if(statement, output);
      case StatementKind::kFor:
        execute_for(statement, output);
        return Flow::kNext;
      case StatementKind::kSet:
        execute_set(statement);
        return Flow::kNext;
      case StatementKind::kSetBlock:
        execute_set_block(statement);
        return Flow::kNext;
      case StatementKind::kMacro:
        scope_->variables[statement.text] = make_macro(statement);
        return Flow::kNext;
      case StatementKind::kBlock:
        return execute(statement.body, output);
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  Flow execute_if(const Statement& statement, std::string& output) {
    for (const auto& [condition, body] : statement.branches) {
      if (truthy(evaluate(*condition))) return execute(body, output);
    }
    return execute(statement.otherwise, output);
  }

  void assign(const std::vector<std::string>& targets, Value value) {
    if (targets.size() == 1) {
      scope_->variables[targets.front()] = std::move(value);
      return;
    }
    const std::vector<Value> items = iterate(value);
    if (items.size() != targets.size()) {
      fault("cannot unpack ", items.size(), " values into ", targets.size(), " names");
    }
    for (size_t i = 0; i < targets.size(); ++i) scope_->variables[targets[i]] = items[i];
  }

  void execute_for(const Statement& statement, std::string& output) {
    std::vector<Value> items = iterate(evaluate(*statement.expression));
    if (statement.condition) {
      std::vector<Value> kept;
      for (Value& item : items) {
        in_scope(scope_, [&] {
          assign(statement.targets, item);
          if (truthy(evaluate(*statement.condition))) kept.push_back(std::move(item));
        });
      }
      items.swap(kept);
    }
    if (items.empty()) {
      execute(statement.otherwise, output);
      return;
    }
    const Value loop = make_loop();
    Flow flow = Flow::kNext;
    const ScopePtr outer = scope_;
    for (size_t i = 0; i < items.size() && flow != Flow::kBreak; ++i) {
      count_step(statement.line);  // an empty body is work too
      in_scope(outer, [&] {
        update_loop(loop.mutable_dict(), items, i);
        scope_->variables["loop"] = loop;
        assign(statement.targets, items[i]);
        flow = execute(statement.body, output);
      });
    }
  }

  static Value make_loop() {
    Value loop{Dict{}};
    // Not a strong reference: the dictionary would hold itself.
    const Dict* state = &loop.as_dict();
    loop.mutable_dict().items.emplace_back(
        "cycle", Callable([state](const Arguments& arguments) {
          if (arguments.positional.empty()) fault("cycle() wants at least one value");
          const auto index =
              static_cast<size_t>(state->find(std::string_view("index0"))->integer());
          return arguments.positional[index % arguments.positional.size()];
        }));
    return loop;
  }

  static void update_loop(Dict& loop, const std::vector<Value>& items, size_t i) {
    const auto index = static_cast<int64_t>(i);
    const auto count = static_cast<int64_t>(items.size());
    const Value values[] = {
        index + 1,
        index,
        count - index,
        count - index - 1,
        index == 0,
        index + 1 == count,
        count,
        i > 0 ? items[i - 1] : Value(Undefined{"there is no previous item"}),
        i + 1 < items.size() ? items[i + 1] : Value(Undefined{"there is no next item"})};
    static constexpr const char* kNames[] = {"index", "index0", "revindex", "revindex0", "first",
                                             "last",  "length", "previtem", "nextitem"};
    for (size_t k = 0; k < std::size(values); ++k) {
      if (loop.items.size() <= k + 1) {  // entry 0 is cycle()
        loop.items.emplace_back(kNames[k], values[k]);
      } else {
        loop.items[k + 1].second = values[k];
      }
    }
  }

  void execute_set(const Statement& statement) {
    Value value = evaluate(*statement.expression);
    if (statement.attribute.empty()) {
      assign(statement.targets, std::move(value));
      return;
    }
    const Value target = look_up(statement.targets.front());
    if (!target.is_dict() || !target.as_dict().is_namespace) {
      fault("cannot assign attribute on non-namespace object \"", statement.targets.front(), "\"");
    }
    if (value.is_list() || value.is_dict() || value.is_callable()) {
      written_namespaces_.push_back(target);
    }
    target.mutable_dict().set(statement.attribute, std::move(value));
  }

  void execute_set_block(const Statement& statement) {
    std::string text;
    Value value;
    in_scope(scope_, [&] {
      execute(statement.body, text);
      value = text;
      if (statement.expression) {
        scope_->variables[kBlockText] = value;
        value = evaluate(*statement.expression);
      }
    });
    assign(statement.targets, std::move(value));
  }

  Value make_macro(const Statement& statement) {
    // Weak: the scope holds the macro. A macro that outlives its scope sees what the template's
    // outermost level sees.
    const std::weak_ptr<Scope> home = scope_;
    ScopePtr root = scope_;
    while (root->parent) root = root->parent;
    const std::weak_ptr<Scope> outermost = root;
    return Callable([this, &statement, home, outermost](const Arguments& arguments) {
      ScopePtr parent = home.lock();
      if (!parent) parent = outermost.lock();
      return call_macro(statement, parent, arguments);
    });
  }

  Value call_macro(const Statement& statement, const ScopePtr& parent, const Arguments& arguments) {
    if (arguments.positional.size() > statement.targets.size()) {
      fault("macro '", statement.text, "' takes not more than ", statement.targets.size(),
            " arguments");
    }
    for (const auto& [name, value] : arguments.named) {
      bool known = false;
      for (const std::string& target : statement.targets) known = known || target == name;
      if (!known) fault("macro '", statement.text, "' takes no keyword argument '", name, "'");
    }
    if (call_depth_ >= kMaxCallDepth) fault("macros are called deeper than ", kMaxCallDepth);
    ++call_depth_;
    std::string text;
    in_scope(parent, [&] {
      for (size_t i = 0; i < statement.targets.size(); ++i) {
        const Value* given = arguments.get(i, statement.targets[i]);
        Value value = Undefined{"parameter '" + statement.targets[i] + "' was not provided"};
        if (given != nullptr) {
          value = *given;
        } else if (statement.defaults[i]) {
          value = evaluate(*statement.defaults[i]);
        }
        scope_->variables[statement.targets[i]] = std::move(value);
      }
      execute(statement.body, text);
    });
    --call_depth_;
    return text;
  }

  // --- expressions ---

  Value look_up(const std::string& name) const {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
      const auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return found->second;
    }
    return find_global(name);
  }

  Value evaluate(const Expression& expression) {
    count_step(expression.line);
    const DepthGuard guard(*this);
    const auto child = [&](size_t i) { return evaluate(*expression.children[i]); };
    switch (expression.kind) {
      case ExpressionKind::kLiteral:
        return expression.value;
      case ExpressionKind::kName:
        return look_up(expression.name);
      case ExpressionKind::kList:
        return Value::list(evaluate_all(expression.children));
      case ExpressionKind::kTuple:
        return Value::tuple(evaluate_all(expression.children));
      case ExpressionKind::kDict:
        return evaluate_dict(expression);
      case ExpressionKind::kAttribute:
        return get_attribute(child(0), expression.name);
      case ExpressionKind::kItem: {
        const Value object = child(0);
        return get_item(object, child(1));
      }
      case ExpressionKind::kSlice:
        return evaluate_slice(expression);
      case ExpressionKind::kCall:
        return evaluate_call(expression);
      case ExpressionKind::kFilter:
        return evaluate_filter(expression);
      case ExpressionKind::kTest: {
        const Value value = child(0);
        return apply_test(expression.name, value, evaluate_arguments(expression));
      }
      case ExpressionKind::kNot:
        return !truthy(child(0));
      case ExpressionKind::kUnary:
        return expression.name == "-" ? negate(child(0)) : negate(negate(child(0)));
      case ExpressionKind::kBinary:
        return evaluate_binary(expression);
      case ExpressionKind::kCompare:
        return evaluate_compare(expression);
      case ExpressionKind::kConditional:
        if (truthy(child(0))) return child(1);
        if (expression.children[2]) return child(2);
        return Undefined{"the inline if-expression evaluated to false and no else was defined"};
    }
    return Value();
  }

  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& expressions) {
    std::vector<Value> values;
    values.reserve(expressions.size());
    for (const ExpressionPtr& expression : expressions) values.push_back(evaluate(*expression));
    return values;
  }

  Arguments evaluate_arguments(const Expression& expression) {
    Arguments arguments;
    arguments.positional = evaluate_all(expression.positional);
    for (const auto& [name, value] : expression.named) {
      arguments.named.emplace_back(name, evaluate(*value));
    }
    return arguments;
  }

  Value evaluate_dict(const Expression& expression) {
    Dict dict;
    for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
      const Value key = evaluate(*expression.children[i]);
      if (key.is_dict() || (key.is_list() && !key.as_list().is_tuple)) {
        fault("unhashable type: '", type_name(key), "'");
      }
      dict.set(key, evaluate(*expression.children[i + 1]));
    }
    return Value(std::move(dict));
  }

  Value evaluate_slice(const Expression& expression) {
    const Value object = evaluate(*expression.children[0]);
    Value bounds[3];
    const Value* given[3] = {nullptr, nullptr, nullptr};
    for (size_t i = 0; i < 3; ++i) {
      if (!expression.children[i + 1]) continue;
      bounds[i] = evaluate(*expression.children[i + 1]);
      if (!bounds[i].is_none()) given[i] = &bounds[i];
    }
    return get_slice(object, given[0], given[1], given[2]);
  }

  Value evaluate_call(const Expression& expression) {
    const Value callee = evaluate(*expression.children[0]);
    const Arguments arguments = evaluate_arguments(expression);
    line_ = expression.line;
    if (callee.is_undefined()) fault(callee.undefined().reason);
    if (!callee.is_callable()) fault("'", type_name(callee), "' object is not callable");
    return callee.callable()(arguments);
  }

  Value evaluate_filter(const Expression& expression) {
    const Value value = evaluate(*expression.children[0]);
    const Arguments arguments = evaluate_arguments(expression);
    line_ = expression.line;
    return apply_filter(expression.name, value, arguments);
  }

  Value evaluate_binary(const Expression& expression) {
    Value left = evaluate(*expression.children[0]);
    if (expression.name == "and") {
      return truthy(left) ? evaluate(*expression.children[1]) : left;
    }
    if (expression.name == "or") {
      return truthy(left) ? left : evaluate(*expression.children[1]);
    }
    const Value right = evaluate(*expression.children[1]);
    line_ = expression.line;
    return apply_binary(expression.name, left, right);
  }

  Value evaluate_compare(const Expression& expression) {
    Value left = evaluate(*expression.children[0]);
    for (size_t i = 0; i < expression.operators.size(); ++i) {
      Value right = evaluate(*expression.children[i + 1]);
      line_ = expression.line;
      const std::string& name = expression.operators[i];
      bool holds = false;
      if (name == "==" || name == "!=") {
        holds = equal(left, right) == (name == "==");
      } else if (name == "in" || name == "not in") {
        holds = contains(right, left) == (name == "in");
      } else {
        const int order = compare(left, right);
        holds = name == "<"    ? order < 0
                : name == "<=" ? order <= 0
                : name == ">"  ? order > 0
                               : order >= 0;
      }
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  ScopePtr scope_;
  std::vector<Value> written_namespaces_;  // emptied at the end: they may hold themselves
  int64_t steps_ = 0;
  int call_depth_ = 0;
  int depth_ = 0;
  int line_ = 1;
};

}  // namespace

std::string render(const Block& block, std::vector<std::pair<std::string, Value>> variables) {
  return Evaluator(std::move(variables)).run(block);
}

}  // namespace quarry::jinja
