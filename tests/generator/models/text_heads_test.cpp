// Heads of encoders against what transformers computed: tests/golden/encoders.
#include "generator/models/text_heads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "generator/models/token_spans.h"
#include "tests/generator/models/encoder_golden.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_util::change_config;
using testing_util::copy_folder;
using testing_util::encoder_folder;
using testing_util::EncoderGolden;
using testing_util::error_of;

constexpr double kTolerance = 1e-4;

std::vector<TextInput> text_inputs(const EncoderGolden& golden) {
  std::vector<TextInput> inputs;
  for (const auto& texts : golden.inputs) {
    inputs.push_back({texts.at(0), std::nullopt});
    if (texts.size() > 1) inputs.back().second = texts[1];
  }
  return inputs;
}

std::vector<QuestionContext> questions(const EncoderGolden& golden) {
  std::vector<QuestionContext> inputs;
  for (const auto& texts : golden.inputs) inputs.push_back({texts.at(0), texts.at(1)});
  return inputs;
}

class SequenceClassifiers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Golden, SequenceClassifiers,
                         testing::Values("bert_sequence", "bert_rerank", "roberta_sequence",
                                         "xlm_roberta_rerank"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(SequenceClassifiers, LogitsOfPairsEqualTransformers) {
  const EncoderGolden golden(GetParam());
  const auto wanted = golden.json.at("logits").get<std::vector<std::vector<float>>>();
  const auto loaded =
      load_sequence_classifier(encoder_folder(GetParam()), kernels::Precision::kExact);
  EXPECT_EQ(loaded.model->max_tokens(), 24);
  const size_t width = loaded.model->labels().size();
  ASSERT_EQ(wanted.at(0).size(), width);
  const std::vector<float> logits = loaded.model->logits(text_inputs(golden));
  ASSERT_EQ(logits.size(), wanted.size() * width);
  for (size_t i = 0; i < wanted.size(); ++i) {
    for (size_t label = 0; label < width; ++label) {
      EXPECT_NEAR(logits[i * width + label], wanted[i][label], kTolerance)
          << golden.inputs[i][0] << " | " << golden.inputs[i][1];
    }
  }
}

TEST_P(SequenceClassifiers, LogitsDoNotDependOnTheOtherInputs) {
  const EncoderGolden golden(GetParam());
  for (const auto precision : {kernels::Precision::kExact, kernels::Precision::kFast}) {
    const auto loaded = load_sequence_classifier(encoder_folder(GetParam()), precision);
    std::vector<TextInput> inputs = text_inputs(golden);
    inputs.push_back({"the moon", std::nullopt});  // not a pair
    const size_t num_inputs = inputs.size();
    for (size_t i = 0; i < 9 * num_inputs; ++i) inputs.push_back(inputs[i]);
    const std::vector<float> together = loaded.model->logits(inputs);
    const size_t width = loaded.model->labels().size();
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto begin = together.begin() + static_cast<long>(i * width);
      EXPECT_EQ(std::vector<float>(begin, begin + static_cast<long>(width)),
                loaded.model->logits({inputs[i]}));
    }
    EXPECT_TRUE(loaded.model->logits({}).empty());
  }
}

class TokenClassifiers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Golden, TokenClassifiers,
                         testing::Values("bert_tokens", "xlm_roberta_tokens"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(TokenClassifiers, LogitsAndSpansEqualTransformers) {
  const EncoderGolden golden(GetParam());
  const auto wanted = golden.json.at("logits").get<std::vector<std::vector<std::vector<float>>>>();
  const auto spans = golden.json.at("spans").get<std::vector<std::vector<std::vector<int64_t>>>>();
  const auto loaded = load_token_classifier(encoder_folder(GetParam()), kernels::Precision::kExact);
  EXPECT_THAT(loaded.model->labels(), ElementsAre("O", "B-PER", "I-PER", "B-LOC", "I-LOC"));
  std::vector<std::string> texts;
  for (const auto& input : golden.inputs) texts.push_back(input.at(0));
  const auto results = loaded.model->classify(texts);
  ASSERT_EQ(results.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(results[i].ids, golden.ids[i]) << texts[i];
    for (size_t t = 0; t < wanted[i].size(); ++t) {
      for (size_t label = 0; label < 5; ++label) {
        EXPECT_NEAR(results[i].logits[t * 5 + label], wanted[i][t][label], kTolerance) << texts[i];
      }
      EXPECT_EQ(results[i].spans[t].start, spans[i][t][0]) << texts[i] << " token " << t;
      EXPECT_EQ(results[i].spans[t].end, spans[i][t][1]) << texts[i] << " token " << t;
    }
    EXPECT_EQ(loaded.model->classify({texts[i]}).front().logits, results[i].logits);
  }
}

class QuestionAnswerers : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Golden, QuestionAnswerers,
                         testing::Values("bert_questions", "roberta_questions"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(QuestionAnswerers, LogitsEqualTransformers) {
  const EncoderGolden golden(GetParam());
  const auto wanted = golden.json.at("logits").get<std::vector<std::vector<std::vector<float>>>>();
  const auto loaded =
      load_question_answerer(encoder_folder(GetParam()), kernels::Precision::kExact);
  const auto results = loaded.model->logits(questions(golden));
  ASSERT_EQ(results.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_EQ(results[i].ids, golden.ids[i]) << golden.inputs[i][0];
    for (size_t t = 0; t < wanted[i].size(); ++t) {
      EXPECT_NEAR(results[i].start_logits[t], wanted[i][t][0], kTolerance);
      EXPECT_NEAR(results[i].end_logits[t], wanted[i][t][1], kTolerance);
    }
  }
}

void expect_answer(const std::optional<AnswerSpan>& found, const Json& wanted,
                   const std::string& context) {
  ASSERT_EQ(found.has_value(), !wanted.is_null()) << context;
  if (!found) return;
  EXPECT_EQ(found->span.start, wanted.at(0).get<int64_t>()) << context;
  EXPECT_EQ(found->span.end, wanted.at(1).get<int64_t>()) << context;
  EXPECT_NEAR(found->score, wanted.at(2).get<double>(), kTolerance) << context;
  EXPECT_EQ(found->text, context.substr(static_cast<size_t>(found->span.start),
                                        static_cast<size_t>(found->span.end - found->span.start)));
}

TEST_P(QuestionAnswerers, TheBestSpanIsFoundAlsoBehindTheFirstWindow) {
  const EncoderGolden golden(GetParam());
  const auto loaded =
      load_question_answerer(encoder_folder(GetParam()), kernels::Precision::kExact);
  const Json& answers = golden.json.at("answers");
  const std::vector<QuestionContext> inputs = questions(golden);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (golden.ids[i].size() == 24) continue;  // cut there, read in windows here
    expect_answer(loaded.model->answer({inputs[i]}, {}).front(), answers.at(i), inputs[i].context);
  }
  const Json& longer = golden.json.at("long");
  AnswerSpanOptions options;
  options.overlap_tokens = longer.at("overlap").get<int64_t>();
  const QuestionContext input{longer.at("question").get<std::string>(),
                              longer.at("context").get<std::string>()};
  const auto found = loaded.model->answer({input}, options).front();
  expect_answer(found, longer.at("answer"), input.context);
  EXPECT_NEAR(found->no_answer_score, longer.at("no_answer").get<double>(), kTolerance);
}

TEST(QuestionAnswererInput, AQuestionThatLeavesNoRoomIsNamed) {
  const auto loaded =
      load_question_answerer(encoder_folder("bert_questions"), kernels::Precision::kExact);
  const std::string question(40, 'a');
  const Error error = error_of([&] { loaded.model->answer({{question, "the moon"}}, {}); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_STREQ(error.what(),
               "the question has 40 tokens, of the 24 that the model reads it leaves none for a "
               "context");
  AnswerSpanOptions options;
  options.max_answer_tokens = 0;
  EXPECT_STREQ(error_of([&] { loaded.model->answer({}, options); }).what(),
               "max_answer_tokens is 0, wanted 1 or more");
}

TEST(TokenSpans, FollowAccentsPunctuationAndBlanks) {
  const auto tokenizer = load_tokenizer(encoder_folder("bert_tokens"));
  const std::string text =
      "  The m\xC3\xB6on, \xC3\xA9"
      "a  walks.";
  std::vector<std::string> pieces;
  for (const ByteSpan& span : token_spans(*tokenizer, text)) {
    pieces.push_back(
        text.substr(static_cast<size_t>(span.start), static_cast<size_t>(span.end - span.start)));
  }
  EXPECT_THAT(pieces, ElementsAre("The", "m\xC3\xB6on", ",", "\xC3\xA9", "a", "walk", "s", "."));
}

TEST(LoadTextHead, AnotherHeadIsRefusedByClass) {
  const Error error = error_of(
      [] { load_sequence_classifier(encoder_folder("bert_tokens"), kernels::Precision::kExact); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(),
              HasSubstr("model class 'BertForTokenClassification' is no sequence classifier of its "
                        "family (known: BertForSequenceClassification, "
                        "RobertaForSequenceClassification, XLMRobertaForSequenceClassification)"));
}

TEST(LoadTextHead, WrongLabelsAndTemplatesAreNamed) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "model";
  copy_folder(encoder_folder("bert_sequence"), path);
  change_config(path, {{"id2label", {{"0", "no"}, {"1", "yes"}}}});
  const auto load = [&] { load_sequence_classifier(path.string(), kernels::Precision::kExact); };
  Error error = error_of(load);
  EXPECT_EQ(error.code(), ErrorCode::kCorruptData);
  EXPECT_THAT(error.what(), HasSubstr("id2label names 2 labels, the head has 3"));
  change_config(path, {{"id2label", {{"0", "no"}, {"1", "yes"}, {"5", "maybe"}}}});
  EXPECT_THAT(error_of(load).what(), HasSubstr("id2label has no label 2, wanted 0 to 2"));
  change_config(path, {{"id2label", nullptr}});
  EXPECT_THAT(load_sequence_classifier(path.string(), kernels::Precision::kExact).model->labels(),
              ElementsAre("LABEL_0", "LABEL_1", "LABEL_2"));

  Json tokenizer = read_json_file(path / "tokenizer.json");
  tokenizer["post_processor"]["pair"][3]["Sequence"]["type_id"] = 2;
  test::write_file(path / "tokenizer.json", dump_json(tokenizer));
  EXPECT_THAT(error_of(load).what(), HasSubstr("of type 2, the model 89 tokens and 2 types"));
  tokenizer["post_processor"].erase("pair");
  test::write_file(path / "tokenizer.json", dump_json(tokenizer));
  const auto loaded = load_sequence_classifier(path.string(), kernels::Precision::kExact);
  EXPECT_EQ(loaded.model->logits({{"the moon", std::nullopt}}).size(), 3U);
  error = error_of([&] { loaded.model->logits({{"the moon", "the sea"}}); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), HasSubstr("the model's tokenizer has no template for two texts"));
}

}  // namespace
}  // namespace quarry
