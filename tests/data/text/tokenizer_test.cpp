// Token ids and texts against PyPI tokenizers and sentencepiece (tests/golden/tokenizers/make.py).
#include "data/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/core/json.h"
#include "data/core/paths.h"
#include "data/text/pre_tokenizer.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;

std::filesystem::path golden_folder() {
  return std::filesystem::path(QUARRY_SOURCE_DIR) / "tests/golden/tokenizers";
}

const Json& golden() {
  static const Json file = read_json_file(golden_folder() / "expected.json");
  return file;
}

Tokenizer::SpecialTokens mode_of(const std::string& name) {
  if (name == "add") return Tokenizer::SpecialTokens::kAdd;
  return name == "parse" ? Tokenizer::SpecialTokens::kParse : Tokenizer::SpecialTokens::kNone;
}

void expect_same_ids(const Tokenizer& tokenizer, const std::string& name) {
  const Json& expected = golden().at("cases").at(name);
  const Json& inputs = golden().at("inputs");
  for (const char* mode : {"none", "add", "parse"}) {
    if (!expected.contains(mode)) continue;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto text = inputs[i].get<std::string>();
      EXPECT_EQ(tokenizer.encode(text, mode_of(mode)),
                expected.at(mode)[i].get<std::vector<int32_t>>())
          << name << ", " << mode << ", text " << i << ": " << text;
    }
  }
  if (!expected.contains("decoded")) return;
  const Json& ids = expected.contains("parse") ? expected.at("parse") : expected.at("none");
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(tokenizer.decode(ids[i].get<std::vector<int32_t>>()),
              expected.at("decoded")[i].get<std::string>())
        << name << ", text " << i;
  }
}

class SmallTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(SmallTokenizer, GivesThePeersIdsAndTexts) {
  const auto tokenizer = load_tokenizer(golden_folder() / GetParam());
  expect_same_ids(*tokenizer, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, SmallTokenizer,
                         ::testing::Values("gpt2", "llama3", "qwen2", "smollm", "llama2_json",
                                           "unigram_json", "sentencepiece_bpe",
                                           "sentencepiece_unigram"));

TEST(WordPiece, GivesThePeersIdsForTheDefaultEmbedder) {
  const auto folder = quarry_home() / "models/all-minilm-l6-v2";
  if (!std::filesystem::exists(folder / "tokenizer.json")) {
    GTEST_SKIP() << "all-minilm-l6-v2 is not installed: run scripts/fetch_models.sh";
  }
  expect_same_ids(*load_tokenizer(folder), "all-minilm-l6-v2");
}

TEST(WordPiece, VocabTxtAloneGivesTheSameIds) {
  const auto folder = quarry_home() / "models/all-minilm-l6-v2";
  if (!std::filesystem::exists(folder / "vocab.txt")) {
    GTEST_SKIP() << "all-minilm-l6-v2 is not installed: run scripts/fetch_models.sh";
  }
  const test::TemporaryFolder alone;
  std::filesystem::copy_file(folder / "vocab.txt", alone.path() / "vocab.txt");
  const auto from_json = load_tokenizer(folder);
  const auto from_vocab = load_tokenizer(alone.path());
  for (const Json& input : golden().at("inputs")) {
    const auto text = input.get<std::string>();
    EXPECT_EQ(from_vocab->encode(text, Tokenizer::SpecialTokens::kNone),
              from_json->encode(text, Tokenizer::SpecialTokens::kNone))
        << text;
  }
}

TEST(SentencePiece, SpieceModelIsThatOfT5AndEndsATextWithItsEndToken) {
  const test::TemporaryFolder folder;
  const auto model = golden_folder() / "sentencepiece_unigram" / "tokenizer.model";
  std::filesystem::copy_file(model, folder.path() / "spiece.model");
  const auto plain = load_tokenizer(golden_folder() / "sentencepiece_unigram");
  const auto t5 = load_tokenizer(folder.path());
  for (const Json& input : golden().at("inputs")) {
    const auto text = input.get<std::string>();
    std::vector<int32_t> ids = plain->encode(text, Tokenizer::SpecialTokens::kNone);
    EXPECT_EQ(t5->encode(text, Tokenizer::SpecialTokens::kNone), ids);
    ids.push_back(t5->token_id("</s>"));
    EXPECT_EQ(t5->encode(text, Tokenizer::SpecialTokens::kAdd), ids);
  }
}

TEST(Tokenizer, InvalidUtf8IsReadAsTheReplacementCharacter) {
  const auto tokenizer = load_tokenizer(golden_folder() / "smollm");
  EXPECT_EQ(tokenizer->encode("a\xFF\xC3z", Tokenizer::SpecialTokens::kNone),
            tokenizer->encode("a\uFFFD\uFFFDz", Tokenizer::SpecialTokens::kNone));
}

TEST(Tokenizer, AFolderWithoutATokenizerIsNotFoundByName) {
  const test::TemporaryFolder empty;
  try {
    load_tokenizer(empty.path());
    FAIL() << "loaded a tokenizer from an empty folder";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr(empty.path().string()));
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
  }
}

TEST(Tokenizer, AnUnknownComponentIsRefusedByName) {
  const test::TemporaryFolder folder;
  Json file = read_json_file(golden_folder() / "gpt2" / "tokenizer.json");
  file["pre_tokenizer"] = {{"type", "TeaLeaves"}};
  write_file_atomically(folder.path() / "tokenizer.json", dump_json(file));
  try {
    load_tokenizer(folder.path());
    FAIL() << "loaded an unknown pre-tokenizer";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("TeaLeaves"));
  }
}

// Changes gpt2's tokenizer.json, or another's, and expects it to be refused.
template <typename Change>
void expect_refused(const std::string& name, const std::string& part, const Change& change) {
  const test::TemporaryFolder folder;
  Json file = read_json_file(golden_folder() / name / "tokenizer.json");
  change(file);
  write_file_atomically(folder.path() / "tokenizer.json", dump_json(file));
  try {
    load_tokenizer(folder.path());
    ADD_FAILURE() << "loaded, wanted: " << part;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(folder.path().string()));
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

TEST(Tokenizer, ATemplateTokenOutsideTheVocabularyIsRefused) {
  for (const int64_t id : {int64_t{-1}, int64_t{100000}}) {
    expect_refused("gpt2", concat("adds the token ", id), [&](Json& file) {
      file["post_processor"] = {{"type", "BertProcessing"}, {"sep", {"a", id}}, {"cls", {"a", 0}}};
    });
  }
}

TEST(Tokenizer, AnIdBeyond32BitsIsNotCutToAnother) {
  const auto wide = (int64_t{1} << 32) + 5;
  expect_refused("gpt2", "4294967301", [&](Json& file) {
    file["post_processor"] = {{"type", "BertProcessing"}, {"sep", {"a", wide}}, {"cls", {"a", 0}}};
  });
  expect_refused("gpt2", "4294967301", [&](Json& file) { file["added_tokens"][0]["id"] = wide; });
}

TEST(Tokenizer, AnIdFarBeyondTheNumberOfTokensIsRefusedBeforeMemoryIsSpent) {
  expect_refused("gpt2", "the largest id of",
                 [](Json& file) { file["model"]["vocab"]["far away"] = (1 << 24) - 1; });
}

TEST(Tokenizer, AUnigramScoreWhoseSumsOverflowIsRefused) {
  expect_refused("unigram_json", "has the score -1e+308",
                 [](Json& file) { file["model"]["vocab"][5][1] = -1e308; });
}

TEST(Tokenizer, APatternThatCouldCutACharacterIsRefusedWithItsFile) {
  expect_refused("gpt2", "does not compile", [](Json& file) {
    file["pre_tokenizer"] = {
        {"type", "Split"}, {"pattern", {{"Regex", "\\C"}}}, {"behavior", "Isolated"}};
  });
}

// A token that is a part of a character must not be found inside one.
TEST(GgufTokenizer, ATokenThatIsNotUtf8CutsNoCharacter) {
  GgufTokenizerData data;
  data.model = "gpt2";
  data.pre = "gpt-2";
  data.tokens = {"\xA9", "\u00c3", "\u00a9"};
  data.token_types = {4, 1, 1};
  const auto tokenizer = make_gguf_tokenizer(data);
  EXPECT_EQ(tokenizer->encode("\u00e9", Tokenizer::SpecialTokens::kNone),
            (std::vector<int32_t>{1, 2}));
}

TEST(IncrementalDecoder, HoldsBackUnfinishedCharacters) {
  const auto tokenizer = load_tokenizer(golden_folder() / "smollm");
  for (const Json& input : golden().at("inputs")) {
    const std::vector<int32_t> ids =
        tokenizer->encode(input.get<std::string>(), Tokenizer::SpecialTokens::kNone);
    IncrementalDecoder decoder(*tokenizer);
    std::string joined;
    for (const int32_t id : ids) {
      const std::string piece = decoder.push(id);
      EXPECT_NO_THROW(Json(piece).dump()) << "a piece that is not whole UTF-8";
      joined += piece;
    }
    joined += decoder.finish();
    EXPECT_EQ(joined, tokenizer->decode(ids));
  }
}

// As in GGUF files of Gemma 3, whose converter gives <unk> the type of a control token.
TEST(GgufTokenizer, TheUnknownTokenIsKnownByItsId) {
  GgufTokenizerData data;
  data.model = "llama";
  data.tokens = {"<pad>", "</s>", "<s>", "<unk>", "a", "b", "ab"};
  data.scores = {0, 0, 0, 0, -2, -3, -1};
  data.token_types = {3, 3, 3, 3, 1, 1, 1};
  data.bos_id = 2;
  data.eos_id = 1;
  data.unknown_id = 3;
  data.add_bos = true;
  data.add_space_prefix = false;
  const auto tokenizer = make_gguf_tokenizer(data);
  EXPECT_EQ(tokenizer->encode("aabz", Tokenizer::SpecialTokens::kAdd),
            (std::vector<int32_t>{2, 4, 6, 3}));
}

// The pattern of BLOOM's tokenizer.json; pieces from tokenizers 0.23.3.
TEST(PreTokenizer, ASetInsideASetAddsToIt) {
  const Json config = {
      {"type", "Split"},
      {"pattern", {{"Regex", " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  const std::string input = "Hello, (big) world. 12 tests!  ok|so [x]";
  PreTokenized text;
  text.pieces = {input};
  make_pre_tokenizer(config, "tokenizer.json")->split(text);
  EXPECT_EQ(std::vector<std::string>(text.pieces.begin(), text.pieces.end()),
            (std::vector<std::string>{"Hello", ", (", "big", ")", " world", ".", " 12", " tests",
                                      "! ", " ok", "|", "so", " [x]"}));
}

}  // namespace
}  // namespace quarry
