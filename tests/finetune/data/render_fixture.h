#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "finetune/data/render.h"
#include "tests/generator/decode/fake_model.h"

namespace quarry {

// Byte tokenizer with the special tokens <|start|> and <|end|>, context 4096.
inline constexpr const char* kTestChatTemplate =
    "{% for message in messages %}{{'<|start|>' + message['role'] + '\n' + message['content'] + "
    "'<|end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|start|>assistant\n'}}{% endif %}";

inline std::shared_ptr<LoadedGenerator> chat_generator(
    const std::string& chat_template = kTestChatTemplate) {
  auto generator = fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters));
  generator->chat_template = std::make_unique<ChatTemplate>(chat_template, "", "<|end|>");
  return generator;
}

inline Hit hit_of(const std::string& title, const std::string& text) {
  Hit hit;
  hit.passage.title = title;
  hit.passage.text = text;
  return hit;
}

// The sequence as text: specials as "<|end|>" and "<|start|>".
inline std::string text_of(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) {
    if (token == fake::kEnd) text += "<|end|>";
    if (token == fake::kStart) text += "<|start|>";
    text += fake::ByteTokenizer().token_bytes(token);
  }
  return text;
}

// Tokens that are targets, or those that are not.
inline std::vector<int32_t> tokens_of(const TrainingSequence& sequence, uint8_t is_target) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < sequence.tokens.size(); ++i) {
    if (sequence.is_target[i] == is_target) tokens.push_back(sequence.tokens[i]);
  }
  return tokens;
}
inline std::string targets_of(const TrainingSequence& sequence) {
  return text_of(tokens_of(sequence, 1));
}
inline std::string prompt_of(const TrainingSequence& sequence) {
  return text_of(tokens_of(sequence, 0));
}

}  // namespace quarry
