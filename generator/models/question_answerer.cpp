// Extractive question answering: the span of a context whose first and last token have the highest
// logits together (Devlin et al. 2018, arXiv:1810.04805, section 4.2).
#include <algorithm>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/models/encoder_head.h"
#include "generator/models/text_heads.h"
#include "generator/models/token_spans.h"

namespace quarry {
namespace {

using Ids = std::vector<int32_t>;

// Tokens of the context that the model reads beside the question.
int64_t room_for_context(const EncoderHead& head, const Ids& question) {
  const int64_t room = head.max_tokens - num_template_tokens(head.pair_template()) -
                       static_cast<int64_t>(question.size());
  QUARRY_CHECK(room > 0, ErrorCode::kInvalidArgument, "the question has ", question.size(),
               " tokens, of the ", head.max_tokens,
               " that the model reads it leaves none for a context");
  return room;
}

// One reading of a context: its tokens [begin, begin + length of the second text).
struct Window {
  size_t input = 0;
  int64_t begin = 0;
};

void add_windows(const EncoderHead& head, const Ids& question, const Ids& context, size_t input,
                 int64_t overlap, std::vector<EncoderInput>& encoded,
                 std::vector<Window>& windows) {
  const int64_t room = room_for_context(head, question);
  const int64_t step = room - std::min(overlap, room - 1);
  const auto size = static_cast<int64_t>(context.size());
  for (int64_t begin = 0; begin < size; begin += step) {
    const int64_t end = std::min(size, begin + room);
    encoded.push_back(join_pair(head.pair_template(), question,
                                Ids(context.begin() + begin, context.begin() + end)));
    windows.push_back({input, begin});
    if (end == size) return;
  }
}

// Tokens of the best answer in a context, both included.
struct Best {
  int64_t first = -1;
  int64_t last = -1;
  double score = 0.0;
  double no_answer = 0.0;
};

// logits [T, 2]: start, end.
void consider(const EncoderInput& encoded, int64_t window_begin, const float* logits,
              int64_t max_answer_tokens, Best& best) {
  const double no_answer = double{logits[0]} + double{logits[1]};
  best.no_answer = best.first < 0 ? no_answer : std::min(best.no_answer, no_answer);
  const auto begin = static_cast<int64_t>(encoded.second_begin);
  const auto end = static_cast<int64_t>(encoded.second_end);
  for (int64_t first = begin; first < end; ++first) {
    const int64_t stop = std::min(end, first + max_answer_tokens);
    for (int64_t last = first; last < stop; ++last) {
      const double score = double{logits[2 * first]} + double{logits[2 * last + 1]};
      if (best.first >= 0 && score <= best.score) continue;
      best.first = window_begin + first - begin;
      best.last = window_begin + last - begin;
      best.score = score;
    }
  }
}

}  // namespace

std::vector<QuestionAnswerer::Tokens> QuestionAnswerer::logits(
    const std::vector<QuestionContext>& inputs) const {
  std::vector<EncoderInput> encoded;
  for (const QuestionContext& input : inputs) {
    const Ids question = tokenizer().encode(input.question, Tokenizer::SpecialTokens::kNone);
    Ids context = tokenizer().encode(input.context, Tokenizer::SpecialTokens::kNone);
    const auto room = static_cast<size_t>(room_for_context(*head_, question));
    context.resize(std::min(context.size(), room));
    encoded.push_back(join_pair(head_->pair_template(), question, context));
  }
  std::vector<Tokens> results(inputs.size());
  head_->run(encoded, EncoderHead::Rows::kAll, nullptr, [&](size_t input, const float* logits) {
    Tokens& result = results[input];
    result.context_begin = static_cast<int64_t>(encoded[input].second_begin);
    result.context_end = static_cast<int64_t>(encoded[input].second_end);
    result.ids = encoded[input].ids;
    for (size_t t = 0; t < result.ids.size(); ++t) {
      result.start_logits.push_back(logits[2 * t]);
      result.end_logits.push_back(logits[2 * t + 1]);
    }
  });
  return results;
}

std::vector<std::optional<AnswerSpan>> QuestionAnswerer::answer(
    const std::vector<QuestionContext>& inputs, const AnswerSpanOptions& options) const {
  QUARRY_CHECK(options.max_answer_tokens >= 1, ErrorCode::kInvalidArgument, "max_answer_tokens is ",
               options.max_answer_tokens, ", wanted 1 or more");
  QUARRY_CHECK(options.overlap_tokens >= 0, ErrorCode::kInvalidArgument, "overlap_tokens is ",
               options.overlap_tokens, ", wanted 0 or more");
  std::vector<EncoderInput> encoded;
  std::vector<Window> windows;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Ids question = tokenizer().encode(inputs[i].question, Tokenizer::SpecialTokens::kNone);
    const Ids context = tokenizer().encode(inputs[i].context, Tokenizer::SpecialTokens::kNone);
    add_windows(*head_, question, context, i, options.overlap_tokens, encoded, windows);
  }
  std::vector<std::vector<float>> logits(windows.size());
  head_->run(encoded, EncoderHead::Rows::kAll, nullptr, [&](size_t window, const float* rows) {
    logits[window].assign(rows, rows + 2 * encoded[window].ids.size());
  });
  std::vector<Best> best(inputs.size());
  for (size_t w = 0; w < windows.size(); ++w) {
    consider(encoded[w], windows[w].begin, logits[w].data(), options.max_answer_tokens,
             best[windows[w].input]);
  }
  std::vector<std::optional<AnswerSpan>> answers(inputs.size());
  parallel_for(static_cast<int64_t>(inputs.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      if (best[i].first < 0) continue;
      const std::string& context = inputs[i].context;
      const std::vector<ByteSpan> spans = token_spans(tokenizer(), context);
      AnswerSpan answer;
      answer.span = {spans[static_cast<size_t>(best[i].first)].start,
                     spans[static_cast<size_t>(best[i].last)].end};
      answer.text = context.substr(static_cast<size_t>(answer.span.start),
                                   static_cast<size_t>(answer.span.end - answer.span.start));
      answer.score = best[i].score;
      answer.no_answer_score = best[i].no_answer;
      answers[i] = std::move(answer);
    }
  });
  return answers;
}

}  // namespace quarry
