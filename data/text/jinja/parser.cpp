#include "data/text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>

#include "data/text/jinja/lexer.h"

namespace quarry::jinja {
namespace {

// Deepest nesting of expressions and blocks; deeper templates are refused, not crashed on.
constexpr int kMaxDepth = 100;
// Most operands, filters and subscripts of one tag: each makes its tree deeper.
constexpr int kMaxLinks = 3000;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block run() {
    Block block = parse_block({});
    return block;
  }

 private:
  // --- tokens ---
  const Token& current() const { return tokens_[position_]; }
  const Token& peek() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  Token take() {
    Token token = tokens_[position_];
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool at(TokenKind kind, std::string_view text) const {
    return current().kind == kind && current().text == text;
  }
  bool at_operator(std::string_view text) const { return at(TokenKind::kOperator, text); }
  bool at_name(std::string_view text) const { return at(TokenKind::kName, text); }
  bool take_operator(std::string_view text) {
    const bool found = at_operator(text);
    if (found) take();
    return found;
  }
  bool take_name(std::string_view text) {
    const bool found = at_name(text);
    if (found) take();
    return found;
  }
  static std::string describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kText:
        return "text";
      case TokenKind::kBlockBegin:
        return "\"{%\"";
      case TokenKind::kBlockEnd:
        return "\"%}\"";
      case TokenKind::kVariableBegin:
        return "\"{{\"";
      case TokenKind::kVariableEnd:
        return "\"}}\"";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return "\"" + token.text + "\"";
    }
  }
  [[noreturn]] void fail_expected(const std::string& wanted) const {
    throw_at_line(current().line, "expected " + wanted + ", found " + describe(current()));
  }
  void expect_operator(std::string_view text) {
    if (!take_operator(text)) fail_expected("\"" + std::string(text) + "\"");
  }
  std::string expect_name() {
    if (current().kind != TokenKind::kName) fail_expected("a name");
    return take().text;
  }
  void expect(TokenKind kind, const char* wanted) {
    if (current().kind != kind) fail_expected(wanted);
    take();
  }
  void expect_block_end() { expect(TokenKind::kBlockEnd, "\"%}\""); }

  struct DepthGuard {
    explicit DepthGuard(Parser& owner) : parser(owner) {
      if (++parser.depth_ > kMaxDepth) {
        throw_at_line(parser.current().line,
                      "nested deeper than " + std::to_string(kMaxDepth) + " levels");
      }
    }
    ~DepthGuard() { --parser.depth_; }
    Parser& parser;
  };

  // --- statements ---

  // Statements up to a tag whose name is in `ends` (its name is the current token then), or to the
  // end of the template when there are none.
  Block parse_block(std::initializer_list<std::string_view> ends) {
    const DepthGuard guard(*this);
    Block block;
    while (current().kind != TokenKind::kEnd) {
      const Token token = take();
      links_ = 0;
      if (token.kind == TokenKind::kText) {
        Statement& statement = add(block, StatementKind::kText, token.line);
        statement.text = token.text;
      } else if (token.kind == TokenKind::kVariableBegin) {
        Statement& statement = add(block, StatementKind::kOutput, token.line);
        statement.expression = parse_tuple(true);
        expect(TokenKind::kVariableEnd, "\"}}\"");
      } else {
        if (std::find(ends.begin(), ends.end(), current().text) != ends.end()) return block;
        parse_tag(block);
      }
    }
    if (ends.size() > 0) {
      throw_at_line(current().line, "expected \"{% " + std::string(*(ends.end() - 1)) +
                                        " %}\", found the end of the template");
    }
    return block;
  }

  static Statement& add(Block& block, StatementKind kind, int line) {
    Statement& statement = block.emplace_back();
    statement.kind = kind;
    statement.line = line;
    return statement;
  }

  void parse_tag(Block& block) {
    const int line = current().line;
    const std::string name = expect_name();
    if (name == "if") {
      parse_if(add(block, StatementKind::kIf, line));
    } else if (name == "for") {
      parse_for(add(block, StatementKind::kFor, line));
    } else if (name == "set") {
      parse_set(add(block, StatementKind::kSet, line));
    } else if (name == "macro") {
      parse_macro(add(block, StatementKind::kMacro, line));
    } else if (name == "generation") {
      expect_block_end();
      add(block, StatementKind::kBlock, line).body = parse_block({"endgeneration"});
      take();
      expect_block_end();
    } else if (name == "break" || name == "continue") {
      if (loop_depth_ == 0) throw_at_line(line, "\"" + name + "\" outside a loop");
      add(block, name == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
      expect_block_end();
    } else {
      throw_at_line(line, "tag \"" + name +
                              "\" is not supported; known: if, for, set, macro, generation, break, "
                              "continue, raw");
    }
  }

  void parse_if(Statement& statement) {
    ExpressionPtr condition = parse_tuple(false);
    while (true) {
      expect_block_end();
      Block body = parse_block({"elif", "else", "endif"});
      statement.branches.emplace_back(std::move(condition), std::move(body));
      const std::string tag = take().text;
      links_ = 0;
      if (tag == "elif") {
        condition = parse_tuple(false);
        continue;
      }
      expect_block_end();
      if (tag == "else") {
        statement.otherwise = parse_block({"endif"});
        take();
        expect_block_end();
      }
      return;
    }
  }

  std::vector<std::string> parse_targets() {
    std::vector<std::string> targets;
    const bool parenthesis = take_operator("(");
    do {
      if (at_operator(")") || at_name("in")) break;
      targets.push_back(expect_name());
    } while (take_operator(","));
    if (parenthesis) expect_operator(")");
    return targets;
  }

  void parse_for(Statement& statement) {
    statement.targets = parse_targets();
    if (!take_name("in")) fail_expected("\"in\"");
    statement.expression = parse_tuple(false);
    if (take_name("if")) statement.condition = parse_expression();
    if (at_name("recursive")) throw_at_line(current().line, "recursive loops are not supported");
    expect_block_end();
    ++loop_depth_;
    statement.body = parse_block({"else", "endfor"});
    --loop_depth_;
    const bool has_else = take().text == "else";
    expect_block_end();
    if (has_else) {
      statement.otherwise = parse_block({"endfor"});
      take();
      expect_block_end();
    }
  }

  void parse_set(Statement& statement) {
    if (peek().kind == TokenKind::kOperator && peek().text == ".") {
      statement.targets.push_back(expect_name());
      take();
      statement.attribute = expect_name();
    } else {
      statement.targets = parse_targets();
    }
    if (take_operator("=")) {
      statement.expression = parse_tuple(true);
      expect_block_end();
      return;
    }
    statement.kind = StatementKind::kSetBlock;
    if (at_operator("|")) {
      auto input = make(ExpressionKind::kName);
      input->name = kBlockText;
      statement.expression = parse_filters(std::move(input));
    }
    expect_block_end();
    const int outer_loops = loop_depth_;
    loop_depth_ = 0;
    statement.body = parse_block({"endset"});
    loop_depth_ = outer_loops;
    take();
    expect_block_end();
  }

  void parse_macro(Statement& statement) {
    statement.text = expect_name();
    expect_operator("(");
    while (!at_operator(")")) {
      statement.targets.push_back(expect_name());
      statement.defaults.push_back(take_operator("=") ? parse_expression() : nullptr);
      if (!take_operator(",")) break;
    }
    expect_operator(")");
    expect_block_end();
    const int outer_loops = loop_depth_;
    loop_depth_ = 0;
    statement.body = parse_block({"endmacro"});
    loop_depth_ = outer_loops;
    take();
    expect_block_end();
  }

  // --- expressions, loosest binding first ---

  void count_link() {
    if (++links_ > kMaxLinks) {
      throw_at_line(current().line,
                    "a tag has more than " + std::to_string(kMaxLinks) + " operands");
    }
  }

  ExpressionPtr make(ExpressionKind kind) const {
    auto expression = std::make_unique<Expression>();
    expression->kind = kind;
    expression->line = current().line;
    return expression;
  }

  ExpressionPtr binary(ExpressionPtr left, std::string name, ExpressionPtr right) {
    count_link();
    auto expression = make(ExpressionKind::kBinary);
    expression->name = std::move(name);
    expression->line = left->line;
    expression->children.push_back(std::move(left));
    expression->children.push_back(std::move(right));
    return expression;
  }

  // One expression, or several with commas: a tuple. `conditional` allows "a if b else c".
  ExpressionPtr parse_tuple(bool conditional) {
    ExpressionPtr first = conditional ? parse_expression() : parse_or();
    if (!at_operator(",")) return first;
    auto tuple = make(ExpressionKind::kTuple);
    tuple->children.push_back(std::move(first));
    while (take_operator(",")) {
      if (current().kind == TokenKind::kVariableEnd || current().kind == TokenKind::kBlockEnd)
        break;
      tuple->children.push_back(conditional ? parse_expression() : parse_or());
    }
    return tuple;
  }

  ExpressionPtr parse_expression() {
    const DepthGuard guard(*this);
    ExpressionPtr value = parse_or();
    while (take_name("if")) {
      auto conditional = make(ExpressionKind::kConditional);
      conditional->children.push_back(parse_or());
      conditional->children.push_back(std::move(value));
      conditional->children.push_back(take_name("else") ? parse_expression() : nullptr);
      value = std::move(conditional);
    }
    return value;
  }

  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (take_name("or")) left = binary(std::move(left), "or", parse_and());
    return left;
  }

  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (take_name("and")) left = binary(std::move(left), "and", parse_not());
    return left;
  }

  ExpressionPtr parse_not() {
    if (!at_name("not")) return parse_compare();
    const DepthGuard guard(*this);
    auto expression = make(ExpressionKind::kNot);
    take();
    expression->children.push_back(parse_not());
    return expression;
  }

  ExpressionPtr parse_compare() {
    ExpressionPtr first = parse_sum();
    ExpressionPtr chain;
    while (true) {
      std::string name;
      for (const char* symbol : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (at_operator(symbol)) name = symbol;
      }
      if (!name.empty()) {
        take();
      } else if (take_name("in")) {
        name = "in";
      } else if (at_name("not") && peek().kind == TokenKind::kName && peek().text == "in") {
        take();
        take();
        name = "not in";
      } else {
        break;
      }
      if (!chain) {
        chain = make(ExpressionKind::kCompare);
        chain->children.push_back(std::move(first));
      }
      chain->operators.push_back(name);
      chain->children.push_back(parse_sum());
    }
    return chain ? std::move(chain) : std::move(first);
  }

  ExpressionPtr parse_sum() {
    ExpressionPtr left = parse_concat();
    while (at_operator("+") || at_operator("-")) {
      const std::string name = take().text;
      left = binary(std::move(left), name, parse_concat());
    }
    return left;
  }

  ExpressionPtr parse_concat() {
    ExpressionPtr left = parse_product();
    while (take_operator("~")) left = binary(std::move(left), "~", parse_product());
    return left;
  }

  ExpressionPtr parse_product() {
    ExpressionPtr left = parse_power();
    while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
      const std::string name = take().text;
      left = binary(std::move(left), name, parse_power());
    }
    return left;
  }

  ExpressionPtr parse_power() {
    ExpressionPtr left = parse_unary(true);
    while (take_operator("**")) left = binary(std::move(left), "**", parse_unary(true));
    return left;
  }

  ExpressionPtr parse_unary(bool with_filters) {
    const DepthGuard guard(*this);
    ExpressionPtr expression;
    if (at_operator("-") || at_operator("+")) {
      expression = make(ExpressionKind::kUnary);
      expression->name = take().text;
      expression->children.push_back(parse_unary(false));
    } else {
      expression = parse_primary();
    }
    expression = parse_postfix(std::move(expression));
    return with_filters ? parse_filters(std::move(expression)) : std::move(expression);
  }

  ExpressionPtr literal(Value value) {
    auto expression = make(ExpressionKind::kLiteral);
    take();
    expression->value = std::move(value);
    return expression;
  }

  ExpressionPtr parse_primary() {
    const Token& token = current();
    if (token.kind == TokenKind::kInteger) return literal(token.integer);
    if (token.kind == TokenKind::kFloat) return literal(token.number);
    if (token.kind == TokenKind::kString) {
      ExpressionPtr text = literal(token.text);
      while (current().kind == TokenKind::kString) {
        text->value = text->value.string() + take().text;
      }
      return text;
    }
    if (token.kind == TokenKind::kName) return parse_name();
    if (at_operator("(")) return parse_parenthesis();
    if (at_operator("[")) return parse_sequence(ExpressionKind::kList, "]");
    if (at_operator("{")) return parse_dict();
    fail_expected("an expression");
  }

  ExpressionPtr parse_name() {
    const std::string& name = current().text;
    if (name == "true" || name == "True") return literal(true);
    if (name == "false" || name == "False") return literal(false);
    if (name == "none" || name == "None") return literal(None{});
    for (const char* keyword : {"in", "is", "if", "else", "and", "or", "not", "elif"}) {
      if (name == keyword) fail_expected("an expression");
    }
    auto expression = make(ExpressionKind::kName);
    expression->name = take().text;
    return expression;
  }

  ExpressionPtr parse_sequence(ExpressionKind kind, std::string_view close) {
    auto expression = make(kind);
    take();
    while (!at_operator(close)) {
      expression->children.push_back(parse_expression());
      if (!take_operator(",")) break;
    }
    expect_operator(close);
    return expression;
  }

  // "(a)" is a; "()", "(a,)" and "(a, b)" are tuples.
  ExpressionPtr parse_parenthesis() {
    const size_t before = position_;
    ExpressionPtr tuple = parse_sequence(ExpressionKind::kTuple, ")");
    const Token& last = tokens_[position_ - 2];
    const bool trailing_comma =
        position_ - before > 2 && last.kind == TokenKind::kOperator && last.text == ",";
    if (tuple->children.size() == 1 && !trailing_comma) return std::move(tuple->children.front());
    return tuple;
  }

  ExpressionPtr parse_dict() {
    auto dict = make(ExpressionKind::kDict);
    take();
    while (!at_operator("}")) {
      dict->children.push_back(parse_expression());
      expect_operator(":");
      dict->children.push_back(parse_expression());
      if (!take_operator(",")) break;
    }
    expect_operator("}");
    return dict;
  }

  ExpressionPtr parse_postfix(ExpressionPtr value) {
    while (true) {
      count_link();
      if (at_operator(".")) {
        auto attribute = make(ExpressionKind::kAttribute);
        take();
        if (current().kind == TokenKind::kInteger) {
          attribute->kind = ExpressionKind::kItem;
          attribute->children.push_back(std::move(value));
          attribute->children.push_back(literal(current().integer));
        } else {
          attribute->children.push_back(std::move(value));
          attribute->name = expect_name();
        }
        value = std::move(attribute);
      } else if (at_operator("[")) {
        value = parse_subscript(std::move(value));
      } else if (at_operator("(")) {
        auto call = make(ExpressionKind::kCall);
        call->children.push_back(std::move(value));
        parse_arguments(*call);
        value = std::move(call);
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_subscript(ExpressionPtr value) {
    auto subscript = make(ExpressionKind::kItem);
    take();
    subscript->children.push_back(std::move(value));
    const auto at_separator = [this] { return at_operator(":") || at_operator("]"); };
    subscript->children.push_back(at_separator() ? nullptr : parse_expression());
    if (at_operator(":")) subscript->kind = ExpressionKind::kSlice;
    while (take_operator(":")) {
      subscript->children.push_back(at_separator() ? nullptr : parse_expression());
    }
    const bool is_slice = subscript->kind == ExpressionKind::kSlice;
    if (subscript->children.size() > 4 || (!is_slice && !subscript->children[1])) {
      fail_expected("an index");
    }
    if (is_slice) subscript->children.resize(4);
    expect_operator("]");
    return subscript;
  }

  void parse_arguments(Expression& call) {
    expect_operator("(");
    while (!at_operator(")")) {
      const bool named = current().kind == TokenKind::kName &&
                         peek().kind == TokenKind::kOperator && peek().text == "=";
      if (named) {
        const std::string name = take().text;
        take();
        call.named.emplace_back(name, parse_expression());
      } else {
        if (!call.named.empty()) fail_expected("a named argument");
        call.positional.push_back(parse_expression());
      }
      if (!take_operator(",")) break;
    }
    expect_operator(")");
  }

  // "| name(arguments)", "is name" and calls of their results, any number of times.
  ExpressionPtr parse_filters(ExpressionPtr value) {
    while (true) {
      count_link();
      if (at_operator("|")) {
        take();
        auto filter = make(ExpressionKind::kFilter);
        filter->name = expect_name();
        filter->children.push_back(std::move(value));
        if (at_operator("(")) parse_arguments(*filter);
        value = std::move(filter);
      } else if (at_name("is")) {
        take();
        value = parse_test(std::move(value));
      } else if (at_operator("(")) {
        value = parse_postfix(std::move(value));
      } else {
        return value;
      }
    }
  }

  ExpressionPtr parse_test(ExpressionPtr value) {
    const bool negated = take_name("not");
    auto test = make(ExpressionKind::kTest);
    test->name = expect_name();
    test->children.push_back(std::move(value));
    if (at_operator("(")) {
      parse_arguments(*test);
    } else if (starts_test_argument()) {
      test->positional.push_back(parse_postfix(parse_primary()));
    }
    if (!negated) return test;
    auto expression = make(ExpressionKind::kNot);
    expression->children.push_back(std::move(test));
    return expression;
  }

  bool starts_test_argument() const {
    const Token& token = current();
    if (token.kind == TokenKind::kName) {
      for (const char* word : {"else", "and", "or", "if", "in", "not", "is", "recursive"}) {
        if (token.text == word) return false;
      }
      return true;
    }
    return token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
           token.kind == TokenKind::kFloat || at_operator("[") || at_operator("{");
  }

  std::vector<Token> tokens_;
  size_t position_ = 0;
  int depth_ = 0;
  int loop_depth_ = 0;
  int links_ = 0;  // in this tag so far
};

}  // namespace

Block parse(const std::string& source) { return Parser(tokenize(source)).run(); }

}  // namespace quarry::jinja
