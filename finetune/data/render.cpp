#include "finetune/data/render.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "data/core/error.h"

namespace quarry {
namespace {

// Texts that the chat template is probed with.
constexpr const char* kProbeQuestion = "Quarryquestion";
constexpr const char* kProbeAnswer = "Quarryanswer";

bool starts_with(const std::vector<int32_t>& tokens, const std::vector<int32_t>& start) {
  return tokens.size() >= start.size() && std::equal(start.begin(), start.end(), tokens.begin());
}

// Appends tokens that all count in the loss, or none of them does.
void append(TrainingSequence& sequence, const std::vector<int32_t>& tokens, uint8_t is_target) {
  sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
  sequence.is_target.resize(sequence.tokens.size(), is_target);
}

TrainingSequence sequence_of(const CausalLmConfig& config, const std::string& id,
                             const std::vector<int32_t>& prompt,
                             const std::vector<int32_t>& completion) {
  TrainingSequence sequence;
  sequence.id = id;
  if (config.has_encoder()) {
    sequence.source = prompt;
    append(sequence, {config.decoder_prompt.front()}, 0);
  } else {
    append(sequence, prompt, 0);
  }
  append(sequence, completion, 1);
  if (!sequence.is_target.empty()) sequence.is_target[0] = 0;
  return sequence;
}

struct AnswerFrame {
  std::string opening;  // what ends a prompt
  std::string lead;     // between that and the answer
  std::string trail;    // behind the answer
};

AnswerFrame probe(const ChatTemplate* chat_template) {
  if (chat_template == nullptr) return {"assistant:", " ", ""};  // render_chat's plain lines
  const std::vector<ChatMessage> asked = {{"user", kProbeQuestion}};
  const std::vector<ChatMessage> answered = {{"user", kProbeQuestion}, {"assistant", kProbeAnswer}};
  const std::string prompt = chat_template->render(asked, true);
  const std::string bare = chat_template->render(asked, false);
  const std::string full = chat_template->render(answered, false);
  const size_t at = full.rfind(kProbeAnswer);
  QUARRY_CHECK(at != std::string::npos, ErrorCode::kInvalidArgument,
               "the chat template leaves out what an assistant says: no answer can be learned");
  AnswerFrame frame;
  frame.trail = full.substr(at + std::string(kProbeAnswer).size());
  if (prompt.compare(0, bare.size(), bare) == 0) frame.opening = prompt.substr(bare.size());
  if (at >= prompt.size() && full.compare(0, prompt.size(), prompt) == 0) {
    frame.lead = full.substr(prompt.size(), at - prompt.size());
  }
  return frame;
}

// The first token of the text behind an answer that is special or stops generation; else the
// model's end of text.
int32_t find_end_of_turn(const LoadedGenerator& generator, const std::string& trail) {
  const std::vector<int32_t>& stops = generator.stop_tokens;
  for (const int32_t id : generator.tokenizer->encode(trail, Tokenizer::SpecialTokens::kParse)) {
    if (generator.tokenizer->is_special(id)) return id;
    if (std::find(stops.begin(), stops.end(), id) != stops.end()) return id;
  }
  QUARRY_CHECK(!stops.empty(), ErrorCode::kInvalidArgument, generator.name,
               ": the chat template ends an answer with \"", trail,
               "\", which holds no special token, and the model names no end-of-text token: an "
               "answer would never end");
  return stops.front();
}

}  // namespace

SequenceRenderer::SequenceRenderer(const LoadedGenerator& generator, const RenderOptions& options)
    : generator_(generator), options_(options) {
  const int64_t context = generator.model->config().max_seq_len;
  if (options_.max_seq_len == 0) options_.max_seq_len = context;
  QUARRY_CHECK(options_.max_seq_len >= 2 && options_.max_seq_len <= context,
               ErrorCode::kInvalidArgument, "max_seq_len is ", options_.max_seq_len,
               ", wanted 2 to ", context, ", the context of ", generator.name);
  AnswerFrame frame = probe(generator.chat_template.get());
  end_of_turn_ = find_end_of_turn(generator, frame.trail);
  answer_opening_ = std::move(frame.opening);
  answer_lead_ = std::move(frame.lead);
}

// A decoder's text stands alone, between the tokens that its tokenizer puts around a text.
std::vector<int32_t> SequenceRenderer::decoder_tokens(const std::string& text) const {
  std::vector<int32_t> tokens = generator_.tokenizer->encode(text, Tokenizer::SpecialTokens::kAdd);
  const std::vector<int32_t>& stops = generator_.stop_tokens;
  const bool ends =
      !tokens.empty() && std::find(stops.begin(), stops.end(), tokens.back()) != stops.end();
  if (!ends) tokens.push_back(end_of_turn_);
  return tokens;
}

// A tokenizer can see a text's beginning differently when something stands before it (a sentence
// piece's leading blank), so the answer is encoded behind what ends the prompt, where that works.
std::vector<int32_t> SequenceRenderer::completion_tokens(const std::string& text) const {
  if (config().has_encoder()) return decoder_tokens(text);
  const Tokenizer& tokenizer = *generator_.tokenizer;
  const std::string answer = answer_lead_ + text;
  const auto is_special = [&tokenizer](int32_t id) { return tokenizer.is_special(id); };
  const std::vector<int32_t> opening =
      tokenizer.encode(answer_opening_, Tokenizer::SpecialTokens::kParse);
  std::vector<int32_t> tokens =
      tokenizer.encode(answer_opening_ + answer, Tokenizer::SpecialTokens::kParse);
  const bool continues = starts_with(tokens, opening);
  if (continues)
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<int64_t>(opening.size()));
  if (!continues || std::any_of(tokens.begin(), tokens.end(), is_special)) {
    tokens = tokenizer.encode(answer, Tokenizer::SpecialTokens::kNone);
  }
  tokens.push_back(end_of_turn_);
  return tokens;
}

Rendered SequenceRenderer::question(const TrainingRow& row, const std::vector<Hit>& passages,
                                    const std::string& reply) const {
  const std::vector<int32_t> completion = completion_tokens(reply);
  const std::vector<ChatMessage> messages = {{"user", row.question}};
  Rendered rendered;
  if (passages.empty()) {
    rendered.sequences = {
        sequence_of(config(), row.id, render_chat(generator_, messages), completion)};
    check_length(row.id, rendered);
    return rendered;
  }
  RagPromptOptions prompt_options;
  prompt_options.max_tokens = std::numeric_limits<int32_t>::max();
  const int64_t room =
      options_.max_seq_len - (config().has_encoder() ? 0 : static_cast<int64_t>(completion.size()));
  const auto bare = static_cast<int64_t>(
      build_rag_prompt(generator_, options_.form, messages, {}, prompt_options).tokens.size());
  if (bare > room) {
    rendered.too_long =
        concat("the question takes ", bare, " tokens without any passage and the reply ",
               completion.size(), ", more than max_seq_len, which is ", options_.max_seq_len);
    return rendered;
  }
  prompt_options.max_tokens = room;
  prompt_options.preferred_max_tokens = options_.preferred_prompt_tokens;
  RagPrompt prompt =
      build_rag_prompt(generator_, options_.form, messages, passages, prompt_options);
  rendered.citations = std::move(prompt.citations);
  rendered.sequences = {sequence_of(config(), row.id, prompt.tokens, completion)};
  check_length(row.id, rendered);
  return rendered;
}

Rendered SequenceRenderer::messages(const TrainingRow& row) const {
  Rendered rendered = row.kind == TrainingRow::Kind::kRaw ? raw(row) : chat(row);
  const bool learns = std::any_of(
      rendered.sequences.begin(), rendered.sequences.end(), [](const TrainingSequence& sequence) {
        return std::count(sequence.is_target.begin(), sequence.is_target.end(), 1) > 0;
      });
  QUARRY_CHECK(learns, ErrorCode::kInvalidArgument, row.where, ": every label of row ", row.id,
               " is masked: no token would count in the loss");
  check_length(row.id, rendered);
  return rendered;
}

// A learned turn is its prompt as serving renders it, then the answer. When the prompt of the next
// one continues exactly that, both lie in one sequence.
Rendered SequenceRenderer::chat(const TrainingRow& row) const {
  Rendered rendered;
  std::vector<TrainingSequence>& sequences = rendered.sequences;
  for (size_t turn = 0; turn < row.messages.size(); ++turn) {
    if (row.learned[turn] == 0) continue;
    const std::vector<ChatMessage> before(row.messages.begin(),
                                          row.messages.begin() + static_cast<int64_t>(turn));
    const std::vector<int32_t> prompt = render_chat(generator_, before);
    const std::vector<int32_t> completion = completion_tokens(row.messages[turn].content);
    if (!config().has_encoder() && !sequences.empty() &&
        starts_with(prompt, sequences.back().tokens)) {
      TrainingSequence& sequence = sequences.back();
      const auto known = static_cast<int64_t>(sequence.tokens.size());
      append(sequence, {prompt.begin() + known, prompt.end()}, 0);
      append(sequence, completion, 1);
      continue;
    }
    const std::string id = sequences.empty() ? row.id : concat(row.id, "#", sequences.size() + 1);
    sequences.push_back(sequence_of(config(), id, prompt, completion));
  }
  return rendered;
}

Rendered SequenceRenderer::raw(const TrainingRow& row) const {
  const Tokenizer& tokenizer = *generator_.tokenizer;
  const std::string& text = row.messages[1].content;
  std::vector<int32_t> completion;
  if (config().has_encoder()) {
    completion = decoder_tokens(text);
  } else {
    completion = tokenizer.encode(text, Tokenizer::SpecialTokens::kNone);
    completion.push_back(generator_.stop_tokens.empty() ? end_of_turn_
                                                        : generator_.stop_tokens.front());
  }
  Rendered rendered;
  rendered.sequences = {sequence_of(
      config(), row.id, tokenizer.encode(row.messages[0].content, Tokenizer::SpecialTokens::kAdd),
      completion)};
  return rendered;
}

void SequenceRenderer::check_length(const std::string& id, Rendered& rendered) const {
  for (const TrainingSequence& sequence : rendered.sequences) {
    const auto size =
        static_cast<int64_t>(std::max(sequence.source.size(), sequence.tokens.size()));
    if (size <= options_.max_seq_len) continue;
    rendered.too_long = concat(id, " takes ", size, " tokens, more than max_seq_len, which is ",
                               options_.max_seq_len);
  }
  if (!rendered.too_long.empty()) rendered.sequences.clear();
}

bool is_whole(const std::vector<Citation>& citations, const std::vector<Hit>& passages) {
  return std::equal(citations.begin(), citations.end(), passages.begin(), passages.end(),
                    [](const Citation& citation, const Hit& hit) {
                      return citation.hit.passage.text.size() == hit.passage.text.size();
                    });
}

}  // namespace quarry
