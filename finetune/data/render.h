#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/types.h"
#include "finetune/data/sequence.h"
#include "finetune/data/training_set.h"
#include "generator/models/causal_lm.h"
#include "generator/prompt.h"

namespace quarry {

struct RenderOptions {
  RagTemplate form = default_rag_template();
  // Tokens of prompt and completion, of each of the two where an encoder reads the prompt; 0: the
  // model's context.
  int64_t max_seq_len = 0;
  int64_t preferred_prompt_tokens = RagPromptOptions().preferred_max_tokens;  // as `ask` cuts
};

struct Rendered {
  std::vector<TrainingSequence> sequences;  // none when too long; `group` is not set
  std::vector<Citation> citations;  // of a question: its passages as they stand in the prompt
  std::string too_long;             // why no sequence was made; else empty
};

// Rows -> tokens, by the template code that serving uses. Targets are the completion's tokens and
// the token that the chat template puts behind an assistant's message. Texts of rows never become
// special tokens. Immutable: safe to call from many threads.
class SequenceRenderer {
 public:
  // `generator` is borrowed; its model's weights are not used. Throws kInvalidArgument when
  // max_seq_len is past the model's context and when no end-of-turn token can be found.
  SequenceRenderer(const LoadedGenerator& generator, const RenderOptions& options);

  // The prompt is what build_rag_prompt makes of the question and these passages, cut to leave room
  // for the reply, which is never cut; without passages the question is a plain user message.
  Rendered question(const TrainingRow& row, const std::vector<Hit>& passages,
                    const std::string& reply) const;
  // Rows of kChat and kRaw. One sequence, or one for each learned turn ("id#2" ...) when the
  // template shows a turn differently once others follow. Throws kInvalidArgument naming the row
  // when no token counts in the loss.
  Rendered messages(const TrainingRow& row) const;

  const RenderOptions& options() const { return options_; }  // max_seq_len resolved
  const Tokenizer& tokenizer() const { return *generator_.tokenizer; }
  int32_t end_of_turn() const { return end_of_turn_; }

 private:
  const CausalLmConfig& config() const { return generator_.model->config(); }
  std::vector<int32_t> decoder_tokens(const std::string& text) const;
  std::vector<int32_t> completion_tokens(const std::string& text) const;
  Rendered chat(const TrainingRow& row) const;
  Rendered raw(const TrainingRow& row) const;
  void check_length(const std::string& id, Rendered& rendered) const;

  const LoadedGenerator& generator_;
  RenderOptions options_;
  std::string
      answer_opening_;       // what the template puts before an answer: "<|im_start|>assistant\n"
  std::string answer_lead_;  // and between that and the answer's text: often nothing
  int32_t end_of_turn_ = -1;
};

// Whether a prompt holds all passages uncut.
bool is_whole(const std::vector<Citation>& citations, const std::vector<Hit>& passages);

}  // namespace quarry
