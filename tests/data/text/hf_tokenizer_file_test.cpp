#include "data/text/hf_tokenizer_file.h"

#include <gtest/gtest.h>

#include "data/core/json.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

const char* const kTexts[] = {"The quick brown fox jumps over the lazy dog.",
                              "In 1969 two people walked; it's  3 spaces,\n\n and\ttabs   ",
                              "<|im_start|>user\nhi<|im_end|>",
                              "na\xC3\xAFve \xE2\x82\xAC 12345 \xF0\x9F\x98\x80 e\xCC\x81",
                              "",
                              " "};

// The tokens and merges of a byte-level BPE golden.
GgufTokenizerData byte_level_data() {
  const Json json = read_json_file(QUARRY_SOURCE_DIR "/tests/golden/models/llama/tokenizer.json");
  GgufTokenizerData data;
  data.model = "gpt2";
  data.tokens.resize(json["model"]["vocab"].size());
  for (const auto& [token, id] : json["model"]["vocab"].items()) {
    data.tokens.at(id.get<size_t>()) = token;
  }
  for (const Json& pair : json["model"]["merges"]) {
    data.merges.push_back(pair[0].get<std::string>() + " " + pair[1].get<std::string>());
  }
  data.token_types.assign(data.tokens.size(), 1);
  data.token_types[0] = data.token_types[1] = data.token_types[2] = 3;
  data.bos_id = 1;
  data.eos_id = 2;
  return data;
}

void expect_same_ids(const GgufTokenizerData& data) {
  const test::TemporaryFolder folder;
  const TokenizerFile file = hf_tokenizer_file(data);
  test::write_file(folder.path() / file.name, file.bytes);
  const auto written = load_tokenizer(folder.path());
  const auto original = make_gguf_tokenizer(data);
  for (const char* text : kTexts) {
    for (const auto special : {Tokenizer::SpecialTokens::kNone, Tokenizer::SpecialTokens::kAdd,
                               Tokenizer::SpecialTokens::kParse}) {
      const std::vector<int32_t> ids = original->encode(text, special);
      EXPECT_EQ(written->encode(text, special), ids) << text;
      EXPECT_EQ(written->decode(ids), original->decode(ids)) << text;
    }
  }
}

TEST(HfTokenizerFile, ByteLevelBpeKeepsItsIdsInEveryFamily) {
  for (const char* pre : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    SCOPED_TRACE(pre);
    GgufTokenizerData data = byte_level_data();
    data.pre = pre;
    expect_same_ids(data);
    data.add_bos = true;
    expect_same_ids(data);
    data.add_eos = true;
    expect_same_ids(data);
  }
}

TEST(HfTokenizerFile, SentencepieceBecomesItsModelFile) {
  GgufTokenizerData data;
  data.model = "llama";
  data.tokens = {"<unk>", "<s>", "</s>"};
  data.token_types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    data.tokens.push_back(name);
    data.token_types.push_back(6);
  }
  for (const char* piece : {"\xE2\x96\x81", "a", "n", "an", "d",
                            "\xE2\x96\x81"
                            "an"}) {
    data.tokens.push_back(piece);
    data.token_types.push_back(1);
  }
  for (size_t id = 0; id < data.tokens.size(); ++id) {
    data.scores.push_back(-static_cast<float>(id));
  }
  data.unknown_id = 0;
  data.bos_id = 1;  // tokenizer_config.json, which the folder lacks, could turn it off
  data.add_bos = true;
  EXPECT_EQ(hf_tokenizer_file(data).name, "tokenizer.model");
  expect_same_ids(data);
}

TEST(HfTokenizerFile, OtherKindsAreRefusedByName) {
  GgufTokenizerData data = byte_level_data();
  data.model = "bert";
  test::expect_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.model \"bert\" cannot be written",
                     [&] { hf_tokenizer_file(data); });
  data.model = "gpt2";
  data.pre = "new-one";
  test::expect_error(ErrorCode::kInvalidArgument, "tokenizer.ggml.pre \"new-one\"",
                     [&] { hf_tokenizer_file(data); });
}

}  // namespace
}  // namespace quarry
