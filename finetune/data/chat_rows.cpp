// Conversations as JSON Lines: {"messages": [{"role", "content"}, ...]}. A message with "weight": 0
// (OpenAI's field) is not learned.
#include "finetune/data/row_fields.h"

namespace quarry {
namespace {

constexpr const char* kRoles = "system, user, assistant or tool";

void add_message(const Json& message, const std::string& where, TrainingRow& row) {
  if (!message.is_object()) {
    row_error(where, "messages", message.type_name(), "objects with role and content");
  }
  const std::string role = required_text(message, "role", where, kRoles);
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    row_error(where, "role", "\"" + role + "\"", kRoles);
  }
  const bool is_answer = role == "assistant";
  std::string content = is_answer ? required_text(message, "content", where, "the answer to learn")
                                  : optional_text(message, "content", where);
  const bool off = message.contains("weight") && message["weight"].is_number() &&
                   message["weight"].get<double>() == 0.0;
  row.messages.push_back({role, std::move(content)});
  row.learned.push_back(is_answer && !off ? 1 : 0);
}

// What follows the last learned message is never read: it is cut off.
void choose_targets(ChatTargets targets, const std::string& where, TrainingRow& row) {
  size_t last = row.learned.size();
  while (last > 0 && row.learned[last - 1] == 0) --last;
  if (last == 0) {
    row_error(where, "messages", "no assistant message to learn: every label is masked",
              "at least one");
  }
  if (last == 1) row_error(where, "messages", "an assistant message first", "a user message first");
  row.messages.resize(last);
  row.learned.resize(last);
  if (targets == ChatTargets::kLastTurn) row.learned.assign(last, 0);
  row.learned.back() = 1;
  row.learned.front() = 0;  // nothing to answer
}

}  // namespace

void read_chat_rows(const std::filesystem::path& path, const TrainingReadOptions& options,
                    TrainingSet& set) {
  for_each_row(path, [&](const Json& row, const std::string& where) {
    TrainingRow result;
    result.kind = TrainingRow::Kind::kChat;
    result.id = row_id(row, where);
    result.where = where;
    const auto messages = row.find("messages");
    if (messages == row.end()) row_error(where, "messages", "no such field", "a list of messages");
    if (!messages->is_array()) {
      row_error(where, "messages", messages->type_name(), "a list of messages");
    }
    for (const Json& message : *messages) add_message(message, where, result);
    choose_targets(options.chat_targets, where, result);
    set.rows.push_back(std::move(result));
  });
}

}  // namespace quarry
