#include "data/text/chat_template.h"

#include <utility>

#include "data/text/jinja/evaluator.h"
#include "data/text/jinja/parser.h"
#include "data/text/utf8.h"

namespace quarry {

struct ChatTemplate::Impl {
  jinja::Block block;
  std::string bos_token;
  std::string eos_token;
};

ChatTemplate::ChatTemplate(std::string source, std::string bos_token, std::string eos_token)
    : impl_(std::make_unique<Impl>()) {
  QUARRY_CHECK(is_valid_utf8(source), ErrorCode::kInvalidArgument,
               "chat template: text is not valid UTF-8");
  impl_->block = jinja::parse(source);
  impl_->bos_token = std::move(bos_token);
  impl_->eos_token = std::move(eos_token);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages,
                                 bool add_generation_prompt) const {
  OrderedJson list = OrderedJson::array();
  for (const ChatMessage& message : messages) {
    list.push_back(OrderedJson{{"role", message.role}, {"content", message.content}});
  }
  return render(list, add_generation_prompt, OrderedJson::object());
}

std::string ChatTemplate::render(const OrderedJson& messages, bool add_generation_prompt,
                                 const OrderedJson& extra_variables) const {
  QUARRY_CHECK(messages.is_array(), ErrorCode::kInvalidArgument,
               "chat template: messages are of JSON type ", messages.type_name(),
               ", wanted an array");
  QUARRY_CHECK(extra_variables.is_object() || extra_variables.is_null(),
               ErrorCode::kInvalidArgument, "chat template: extra variables are of JSON type ",
               extra_variables.type_name(), ", wanted an object");
  std::vector<std::pair<std::string, jinja::Value>> variables = {
      {"bos_token", impl_->bos_token},
      {"eos_token", impl_->eos_token},
      {"tools", jinja::None{}},
      {"documents", jinja::None{}},
      {"messages", jinja::from_json(messages)},
      {"add_generation_prompt", add_generation_prompt}};
  if (extra_variables.is_object()) {
    for (const auto& [name, value] : extra_variables.items()) {
      variables.emplace_back(name, jinja::from_json(value));
    }
  }
  return jinja::render(impl_->block, std::move(variables));
}

}  // namespace quarry
