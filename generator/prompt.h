#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/text/chat_template.h"
#include "data/types.h"
#include "generator/models/causal_lm.h"

namespace quarry {

// One way to put a question and its passages into a chat. Tuning fits an adapter to one form, so
// name and version go with the adapter. A form that changed in any byte gets a new version.
struct RagTemplate {
  std::string name;
  int version = 1;
  std::string system;
  std::string passages_heading;       // before the first passage
  std::string question_heading;       // before the question, which comes last
  std::string ending;                 // after the question
  std::string not_in_documents = {};  // what a tuned model says when the passages lack the answer
};

const std::vector<RagTemplate>& rag_templates();
const RagTemplate& default_rag_template();
// Throws kNotFound, naming those that exist.
const RagTemplate& find_rag_template(const std::string& name);

struct RagPromptOptions {
  int64_t max_tokens = 0;               // of the whole prompt; never passed
  int64_t preferred_max_tokens = 1536;  // passages stop here: prefill is what a CPU waits for
  int64_t min_passage_tokens = 256;     // room for passages whatever the question's length
};

struct RagPrompt {
  std::vector<int32_t> tokens;
  std::vector<Citation> citations;  // the passages that fitted, as cut, numbered as in the prompt
};

// The tokens of a chat that ends where the answer begins. Texts of the messages never become
// special tokens: those in a message's content are broken up. Without a chat template, "role:
// content" lines; for an encoder the contents alone, between the tokens that its tokenizer puts
// around a text. Throws kInvalidArgument when the template refuses the messages.
std::vector<int32_t> render_chat(const LoadedGenerator& generator,
                                 const std::vector<ChatMessage>& messages);

// The conversation with the passages of `hits` put before its last user message. What does not fit
// is left out: oldest turns first, then passages from the end; the last one that stays is cut at a
// sentence. Throws kInvalidArgument: no user message; a question that does not fit by itself,
// naming both lengths.
RagPrompt build_rag_prompt(const LoadedGenerator& generator, const RagTemplate& form,
                           const std::vector<ChatMessage>& messages, const std::vector<Hit>& hits,
                           const RagPromptOptions& options);

}  // namespace quarry
