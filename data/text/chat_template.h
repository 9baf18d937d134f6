#pragma once

#include <memory>
#include <string>
#include <vector>

#include "data/core/json.h"

namespace quarry {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant"
  std::string content;
};

// A model's Jinja chat template, rendered as Hugging Face transformers renders it
// (ImmutableSandboxedEnvironment, trim_blocks and lstrip_blocks on). Immutable after construction.
class ChatTemplate {
 public:
  // Throws kInvalidArgument with line and reason when `source` is not a template we can run.
  // `bos_token` and `eos_token` are the texts that templates may print.
  ChatTemplate(std::string source, std::string bos_token, std::string eos_token);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // Throws kInvalidArgument when the template itself refuses the messages (raise_exception).
  std::string render(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;
  // The same over any JSON messages and extra variables (tools, documents ...).
  std::string render(const OrderedJson& messages, bool add_generation_prompt,
                     const OrderedJson& extra_variables) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quarry
