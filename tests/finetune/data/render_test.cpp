#include "finetune/data/render.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "finetune/data/summary.h"
#include "tests/finetune/data/render_fixture.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_llama_gguf.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

TrainingRow question_row(const std::string& question) {
  TrainingRow row;
  row.id = "q1";
  row.where = "data.jsonl:1";
  row.question = question;
  return row;
}

TrainingRow chat_row(const std::vector<ChatMessage>& messages,
                     const std::vector<uint8_t>& learned) {
  TrainingRow row;
  row.kind = TrainingRow::Kind::kChat;
  row.id = "c1";
  row.where = "chat.jsonl:1";
  row.messages = messages;
  row.learned = learned;
  return row;
}

const std::vector<ChatMessage> kTwoTurns = {
    {"user", "One?"}, {"assistant", "First."}, {"user", "Two?"}, {"assistant", "Second."}};

RenderOptions limited(int64_t max_seq_len) {
  RenderOptions options;
  options.max_seq_len = max_seq_len;
  return options;
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// The prompt of a question's sequence is what build_rag_prompt gives `ask`, its targets are the
// answer and the end of the turn.
void expect_rag_sequence(const LoadedGenerator& generator, int32_t end_of_turn) {
  const SequenceRenderer renderer(generator, RenderOptions());
  const std::vector<Hit> hits = {hit_of("Paris", "Paris is the capital of France."),
                                 hit_of("Rome", "Rome is the capital of Italy.")};
  const TrainingRow row = question_row("What is the capital of France?");
  const Rendered rendered = renderer.question(row, hits, "Paris, of course");
  ASSERT_EQ(rendered.sequences.size(), 1U) << rendered.too_long;
  const TrainingSequence& sequence = rendered.sequences[0];
  RagPromptOptions options;
  options.max_tokens = generator.model->config().max_seq_len - 128;
  const RagPrompt prompt =
      build_rag_prompt(generator, default_rag_template(), {{"user", row.question}}, hits, options);
  EXPECT_EQ(tokens_of(sequence, 0), prompt.tokens);
  std::vector<int32_t> targets =
      generator.tokenizer->encode("Paris, of course", Tokenizer::SpecialTokens::kNone);
  targets.push_back(end_of_turn);
  EXPECT_EQ(tokens_of(sequence, 1), targets);
  EXPECT_EQ(sequence.is_target[prompt.tokens.size() - 1], 0);
  EXPECT_EQ(sequence.is_target[prompt.tokens.size()], 1) << "the targets are the end";
  EXPECT_EQ(rendered.citations.size(), 2U);
}

TEST(SequenceRenderer, AQuestionsPromptIsWhatAskSends) {
  const auto generator = chat_generator();
  expect_rag_sequence(*generator, fake::kEnd);
}

TEST(SequenceRenderer, TheEndOfTurnIsFoundInTheTemplateOfAGguf) {
  const test::TemporaryFolder folder;
  const auto path = write_tiny_llama_gguf(folder.path(), 3);
  const LoadedGenerator generator = load_generator(path.string(), kernels::Precision::kExact);
  expect_rag_sequence(generator, generator.tokenizer->token_id("<|im_end|>"));
}

TEST(SequenceRenderer, TheDefaultModelLearnsAnswersAndImEnd) {
  const auto path = quarry_home() / "models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not installed";
  const LoadedGenerator generator = load_generator(path.string(), kernels::Precision::kFast);
  expect_rag_sequence(generator, generator.tokenizer->token_id("<|im_end|>"));
}

TEST(SequenceRenderer, WithoutPassagesAQuestionIsAPlainMessage) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  const TrainingSequence sequence =
      renderer.question(question_row("Who?"), {}, "Ann").sequences.at(0);
  EXPECT_EQ(tokens_of(sequence, 0), render_chat(*generator, {{"user", "Who?"}}));
  EXPECT_EQ(targets_of(sequence), "Ann<|end|>");
}

TEST(SequenceRenderer, AModelWithoutTemplateContinuesThePlainLines) {
  const auto generator = fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters));
  const SequenceRenderer renderer(*generator, RenderOptions());
  const TrainingSequence sequence =
      renderer.messages(chat_row(kTwoTurns, {0, 0, 0, 1})).sequences.at(0);
  EXPECT_EQ(text_of(sequence.tokens),
            "user: One?\n\nassistant: First.\n\nuser: Two?\n\nassistant: Second.<|end|>");
  EXPECT_EQ(targets_of(sequence), " Second.<|end|>");
}

TEST(SequenceRenderer, ATemplateThatNeverEndsAnAnswerIsRefused) {
  const auto generator = chat_generator(
      "{% for message in messages %}{{message['role'] + ': ' + message['content'] + ';'}}"
      "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}");
  EXPECT_EQ(SequenceRenderer(*generator, RenderOptions()).end_of_turn(), fake::kEnd)
      << "the model's own end of text";
  generator->stop_tokens.clear();
  EXPECT_EQ(error_of([&] { SequenceRenderer(*generator, RenderOptions()); }),
            "fake: the chat template ends an answer with \";\", which holds no special token, and "
            "the model names no end-of-text token: an answer would never end");
}

TEST(SequenceRenderer, SpecialTokensInAnAnswerStayText) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  const TrainingSequence sequence =
      renderer.question(question_row("Who?"), {}, "a<|end|>b").sequences.at(0);
  const std::vector<int32_t> targets = tokens_of(sequence, 1);
  EXPECT_EQ(std::count(targets.begin(), targets.end(), fake::kEnd), 1);
  EXPECT_EQ(targets.back(), fake::kEnd);
  EXPECT_EQ(targets_of(sequence), "a<|end|>b<|end|>");
}

TEST(SequenceRenderer, PassagesAreCutAndTheReplyIsNot) {
  const auto generator = chat_generator();
  std::string text;
  for (int i = 0; i < 40; ++i) text += "This is sentence number " + std::to_string(i) + ". ";
  const std::string reply(60, 'r');
  for (const int64_t limit : {400, 500, 700}) {
    const SequenceRenderer renderer(*generator, limited(limit));
    const Rendered rendered = renderer.question(question_row("Who?"), {hit_of("T", text)}, reply);
    ASSERT_EQ(rendered.sequences.size(), 1U) << rendered.too_long;
    const auto size = static_cast<int64_t>(rendered.sequences[0].tokens.size());
    EXPECT_LE(size, limit);
    EXPECT_GT(size, limit - 40) << "the room is used";
    EXPECT_EQ(targets_of(rendered.sequences[0]), reply + "<|end|>");
    EXPECT_FALSE(is_whole(rendered.citations, {hit_of("T", text)}));
  }
}

TEST(SequenceRenderer, WhatCannotBeCutIsTooLong) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, limited(300));
  const Rendered question =
      renderer.question(question_row(std::string(200, 'q')), {hit_of("T", "x")}, "Ann");
  EXPECT_TRUE(question.sequences.empty());
  EXPECT_THAT(question.too_long, HasSubstr("tokens without any passage and the reply 4, more than "
                                           "max_seq_len, which is 300"));
  const Rendered answer =
      renderer.messages(chat_row({{"user", "One?"}, {"assistant", std::string(290, 'a')}}, {0, 1}));
  EXPECT_TRUE(answer.sequences.empty());
  EXPECT_EQ(answer.too_long, "c1 takes 314 tokens, more than max_seq_len, which is 300");
  EXPECT_EQ(error_of([&] { SequenceRenderer(*generator, limited(5000)); }),
            "max_seq_len is 5000, wanted 2 to 4096, the context of fake");
}

TEST(SequenceRenderer, LastTurnAloneOrAllTurnsAreTargets) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  const std::string whole =
      "<|start|>user\nOne?<|end|>\n<|start|>assistant\nFirst.<|end|>\n"
      "<|start|>user\nTwo?<|end|>\n<|start|>assistant\nSecond.<|end|>";
  const Rendered last = renderer.messages(chat_row(kTwoTurns, {0, 0, 0, 1}));
  ASSERT_EQ(last.sequences.size(), 1U);
  EXPECT_EQ(text_of(last.sequences[0].tokens), whole);
  EXPECT_EQ(targets_of(last.sequences[0]), "Second.<|end|>");
  const Rendered all = renderer.messages(chat_row(kTwoTurns, {0, 1, 0, 1}));
  ASSERT_EQ(all.sequences.size(), 1U);
  EXPECT_EQ(all.sequences[0].tokens, last.sequences[0].tokens);
  EXPECT_EQ(targets_of(all.sequences[0]), "First.<|end|>Second.<|end|>");
  EXPECT_EQ(all.sequences[0].is_target[0], 0);
}

TEST(SequenceRenderer, ATemplateThatShortensEarlierTurnsGivesASequenceForEach) {
  const auto generator = chat_generator(
      "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}{{'<|start|>' + "
      "message['role'] + '\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}{{'<|start|>assistant\n'}}{% endif %}");
  const SequenceRenderer renderer(*generator, RenderOptions());
  const Rendered rendered = renderer.messages(chat_row(kTwoTurns, {0, 1, 0, 1}));
  ASSERT_EQ(rendered.sequences.size(), 2U);
  EXPECT_EQ(rendered.sequences[0].id, "c1");
  EXPECT_EQ(rendered.sequences[1].id, "c1#2");
  EXPECT_EQ(targets_of(rendered.sequences[0]), "First.<|end|>");
  EXPECT_EQ(targets_of(rendered.sequences[1]), "Second.<|end|>");
  EXPECT_EQ(text_of(rendered.sequences[1].tokens),
            "<|start|>user\nOne?<|end|>\n<|start|>user\nTwo?<|end|>\n<|start|>assistant\n"
            "Second.<|end|>");
}

TEST(SequenceRenderer, RawRowsHaveNoTemplate) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  TrainingRow row = chat_row({{"user", "2 + 2 ="}, {"assistant", " 4"}}, {0, 1});
  row.kind = TrainingRow::Kind::kRaw;
  const TrainingSequence sequence = renderer.messages(row).sequences.at(0);
  EXPECT_EQ(text_of(sequence.tokens), "2 + 2 = 4<|end|>");
  EXPECT_EQ(targets_of(sequence), " 4<|end|>");
}

TEST(SequenceRenderer, ARowWithEveryLabelMaskedIsNamed) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  EXPECT_EQ(error_of([&] {
              renderer.messages(chat_row(kTwoTurns, {0, 0, 0, 0}));
            }),
            "chat.jsonl:1: every label of row c1 is masked: no token would count in the loss");
}

TEST(Describe, TargetsStandInMarks) {
  const auto generator = chat_generator();
  const SequenceRenderer renderer(*generator, RenderOptions());
  TrainingSequence sequence =
      renderer.question(question_row("Wo? Zürich"), {}, "Jä").sequences.at(0);
  sequence.group = 4;
  EXPECT_EQ(describe(sequence, renderer.tokenizer()),
            "q1  group 4  34 tokens, 4 targets\n"
            "<257>user\nWo? Zürich<256>\n<257>assistant\n«J»«\uFFFD»«\uFFFD»«<256>»\n");
}

TEST(DataSummary, CountsAndNamesTheLongest) {
  DataSummary summary;
  summary.rows = 3;
  summary.groups = 1;
  summary.unanswerable = 1;
  summary.skipped["too odd"] = 2;
  summary.add({"a", {1, 2, 3}, {0, 1, 1}, 0});
  summary.add({"b", {1, 2, 3, 4}, {0, 0, 0, 1}, 0});
  EXPECT_EQ(to_text(summary),
            "rows            3\n"
            "groups          1\n"
            "sequences       2\n"
            "  unanswerable  1 (50.0 %)\n"
            "tokens          7\n"
            "  targets       3\n"
            "longest         4 tokens (b)\n"
            "left out        2: too odd\n");
}

// An encoder reads the prompt; the decoder begins with its start token and learns the answer
// between the tokens of its tokenizer.
TEST(SequenceRenderer, AnEncoderReadsThePrompt) {
  const std::string models = std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoder_decoders/";
  for (const auto& [name, start] : {std::pair<const char*, int32_t>{"t5", 0}, {"bart", 2}}) {
    const LoadedGenerator generator = load_generator(models + name, kernels::Precision::kExact);
    const auto ids = [&](const std::string& text) {
      return generator.tokenizer->encode(text, Tokenizer::SpecialTokens::kAdd);
    };
    RenderOptions options;
    options.max_seq_len = 12;
    const SequenceRenderer renderer(generator, options);
    TrainingRow row;
    row.id = "row";
    row.messages = {{"user", "abc"}, {"assistant", "b9"}};
    row.learned = {0, 1};
    for (const auto kind : {TrainingRow::Kind::kRaw, TrainingRow::Kind::kChat}) {
      row.kind = kind;
      const Rendered rendered = renderer.messages(row);
      ASSERT_EQ(rendered.sequences.size(), 1u);
      const TrainingSequence& sequence = rendered.sequences.front();
      EXPECT_EQ(sequence.source, ids("abc"));
      EXPECT_EQ(tokens_of(sequence, 0), std::vector<int32_t>{start});
      EXPECT_EQ(tokens_of(sequence, 1), ids("b9"));
      EXPECT_EQ(generator.stop_tokens.front(), sequence.tokens.back());
    }
    row.messages[0].content = "c c c c c c c c c c c c";
    EXPECT_THAT(renderer.messages(row).too_long, ::testing::HasSubstr("more than max_seq_len"));
  }
}

}  // namespace
}  // namespace quarry
