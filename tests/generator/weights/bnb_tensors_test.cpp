#include "generator/weights/bnb_tensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "generator/quant/four_bit.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

const char* const kLayers = QUARRY_SOURCE_DIR "/tests/golden/bitsandbytes/layers.safetensors";

std::vector<float> decoded(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  decode_tensor(tensor, values.data());
  return values;
}

TEST(BnbTensors, LayersThatBitsandbytesSavedDecodeToItsValues) {
  const auto tensors = join_bnb_tensors(SafetensorsFile::open(kLayers));
  const std::map<std::string, WeightType> types = {{"nf4", WeightType::kNF4},
                                                   {"fp4", WeightType::kFP4},
                                                   {"stored", WeightType::kNF4},
                                                   {"int8", WeightType::kInt8Rows}};
  for (const auto& [name, type] : types) {
    const TensorView& weight = tensors->get(name + ".weight");
    const TensorView& wanted = tensors->get(name + ".decoded");
    EXPECT_EQ(weight.type, type) << name;
    EXPECT_EQ(weight.shape, wanted.shape) << name;
    EXPECT_EQ(decoded(weight), decoded(wanted)) << name;
  }
  EXPECT_EQ(tensors->get("nf4.bias").type, WeightType::kF32);
  EXPECT_EQ(tensors->tensors().size(), 9u);  // the parts are gone
  EXPECT_EQ(tensors->find("nf4.weight.absmax"), nullptr);
  expect_error(ErrorCode::kCorruptData, "is part of another tensor's quantization",
               [&] { tensors->get("int8.SCB"); });
  expect_error(ErrorCode::kCorruptData, "holds no tensor", [&] { tensors->get("other"); });
}

TEST(BnbTensors, RowsDecodeAsInTheWholeTensor) {
  const auto tensors = join_bnb_tensors(SafetensorsFile::open(kLayers));
  const TensorView& weight = tensors->get("fp4.weight");  // rows of 97: from odd places on
  const std::vector<float> all = decoded(weight);
  std::vector<float> rows(2 * 97);
  decode_rows(weight, 1, 3, rows.data());
  EXPECT_TRUE(std::equal(rows.begin(), rows.end(), all.begin() + 97));
}

// Files made of the golden one's parts.
class BnbFile : public ::testing::Test {
 protected:
  BnbFile() : golden_(SafetensorsFile::open(kLayers)) {
    for (const TensorView& tensor : golden_->tensors()) {
      parts_[tensor.name] = {tensor.name, tensor.type, tensor.shape, tensor.data};
    }
  }
  std::unique_ptr<TensorSource> join() {
    std::vector<TensorToWrite> list;
    for (const auto& [name, part] : parts_) list.push_back(part);
    const std::filesystem::path path = folder_.path() / "model.safetensors";
    write_safetensors(path, list, {});
    return join_bnb_tensors(SafetensorsFile::open(path));
  }
  void expect_refused(ErrorCode code, const std::string& part) {
    expect_error(code, part, [&] { join(); });
  }
  void set_text(const std::string& name, const std::string& text) {
    parts_[name] = {name, WeightType::kU8, {static_cast<int64_t>(text.size())}, nullptr, [text] {
                      return text;
                    }};
  }
  std::string text(const std::string& name) const {
    const TensorView& tensor = golden_->get(name);
    return {reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.bytes)};
  }
  // The nf4 layer's state with one text in place of another.
  void change_state(const std::string& from, const std::string& to) {
    std::string changed = text(kState);
    const size_t at = changed.find(from);
    ASSERT_NE(at, std::string::npos);
    set_text(kState, changed.replace(at, from.size(), to));
  }
  static constexpr const char* kState = "nf4.weight.quant_state.bitsandbytes__nf4";

  std::unique_ptr<SafetensorsFile> golden_;
  std::map<std::string, TensorToWrite> parts_;
  test::TemporaryFolder folder_;
};

TEST_F(BnbFile, MissingPartsAreNamed) {
  for (const char* part : {"nf4.weight.absmax", "nf4.weight.quant_map", "nf4.weight.nested_absmax",
                           "nf4.weight.nested_quant_map", "fp4.weight.absmax"}) {
    const TensorToWrite kept = parts_[part];
    parts_.erase(part);
    expect_refused(ErrorCode::kCorruptData, std::string(part) + "' is missing");
    parts_[part] = kept;
  }
  parts_.erase(kState);
  expect_refused(ErrorCode::kCorruptData, "belongs to no quant_state of 'nf4.weight'");
  for (const char* part : {"absmax", "quant_map", "nested_absmax", "nested_quant_map"}) {
    parts_.erase(std::string("nf4.weight.") + part);
  }
  expect_refused(ErrorCode::kCorruptData, "lacks its quant_state.bitsandbytes__nf4");
}

TEST_F(BnbFile, WrongSizesAndTypesAreNamed) {
  parts_["nf4.weight.quant_map"].shape = {15};
  expect_refused(ErrorCode::kCorruptData, "holds 15 F32, wanted 16 F32");
  parts_["nf4.weight.quant_map"].shape = {16};
  parts_["nf4.weight.absmax"].shape = {59};
  expect_refused(ErrorCode::kCorruptData, "holds 59 U8, wanted 60 U8");
  parts_["nf4.weight.absmax"].shape = {60};
  parts_["nf4.weight"].shape = {1919, 1};
  expect_refused(ErrorCode::kCorruptData, "takes 1919 bytes, its quant_state wants 1920");
  parts_["nf4.weight"].shape = {1920, 1};
  parts_["nf4.weight.quant_map"].data = golden_->get("nf4.weight.nested_quant_map").data;
  expect_refused(ErrorCode::kCorruptData, "NF4 has -1");
}

TEST_F(BnbFile, StatesThatSayNonsenseAreRefused) {
  const std::pair<const char*, const char*> changes[] = {
      {"\"nf4\"", "\"fp4\""},
      {"\"blocksize\": 64", "\"blocksize\": 48"},
      {"[40, 96]", "[40, -96]"},
      {"[40, 96]", "[1099511627776, 1099511627776]"},
      {"[40, 96]", "[]"},
      {"\"bfloat16\"", "\"int8\""},
      {"\"nested_blocksize\": 256", "\"nested_blocksize\": 64"},
      {"\"nested_offset\": 0.1", "\"nested_off\": 0.1"},
  };
  const char* const messages[] = {
      "quant_type is", "blocksize is 48", "extent is -96",          "overflows",
      "has no shape",  "dtype is",        "nested_blocksize is 64", "has no nested_offset"};
  for (size_t i = 0; i < std::size(changes); ++i) {
    change_state(changes[i].first, changes[i].second);
    expect_refused(ErrorCode::kCorruptData, messages[i]);
  }
  set_text(kState, "{\"quant_type\": ");
  expect_refused(ErrorCode::kCorruptData, kState);
  set_text(kState, text(kState));
  set_text("nf4.weight.quant_state.bitsandbytes__int3", text(kState));
  expect_refused(ErrorCode::kCorruptData, "the types known are nf4 and fp4");
}

TEST_F(BnbFile, UnknownPartsAndWeightFormatsAreRefused) {
  set_text("nf4.weight.zero_point", "abc");
  expect_refused(ErrorCode::kCorruptData, "belongs to no quant_state");
  parts_.erase("nf4.weight.zero_point");
  set_text("int8.weight_format", std::string(1, '\2'));
  expect_refused(ErrorCode::kInvalidArgument, "is 2, only 0 (rows) is supported");
  parts_.erase("int8.weight_format");  // files of old versions have none
  EXPECT_EQ(join()->get("int8.weight").type, WeightType::kInt8Rows);
  parts_.erase("int8.SCB");
  expect_refused(ErrorCode::kCorruptData, "holds I8 codes and lacks its SCB");
}

TEST_F(BnbFile, WrittenPartsAreThoseThatWereRead) {
  const auto read = join_bnb_tensors(SafetensorsFile::open(kLayers));
  std::map<std::string, TensorToWrite> again;
  for (const char* name : {"nf4.weight", "fp4.weight", "int8.weight"}) {
    const TensorView& tensor = read->get(name);
    const std::string codes(reinterpret_cast<const char*>(tensor.data),
                            static_cast<size_t>(tensor.bytes));
    for (TensorToWrite& part :
         split_bnb_tensor(name, tensor.type, tensor.shape, codes, *tensor.state)) {
      again[part.name] = std::move(part);
    }
  }
  EXPECT_EQ(again.size(), 13u);
  for (const auto& [name, part] : again) {
    const TensorView& wanted = golden_->get(name);
    EXPECT_EQ(part.type, wanted.type) << name;
    EXPECT_EQ(part.shape, wanted.shape) << name;
    EXPECT_EQ(part.make_data(), text(name)) << name;
  }
}

TEST(BnbConfig, QuantizationConfigIsHonoured) {
  const auto dense = [] {
    test::TemporaryFolder folder;
    const float x[] = {1.0f};
    write_safetensors(folder.path() / "model.safetensors", {{"a", WeightType::kF32, {1}, x}}, {});
    return join_bnb_tensors(SafetensorsFile::open(folder.path()));
  }();
  const auto load_in = [&](const Json& quantization) {
    return configured_load_in(Json{{"quantization_config", quantization}}, *dense, "config.json");
  };
  EXPECT_EQ(configured_load_in(Json::object(), *dense, "config.json"), LoadIn::kAsIs);
  EXPECT_EQ(load_in({{"load_in_4bit", true}, {"bnb_4bit_quant_type", "nf4"}}), LoadIn::kNF4);
  EXPECT_EQ(load_in({{"load_in_4bit", true}}), LoadIn::kFP4);  // the default of transformers
  EXPECT_EQ(load_in({{"load_in_8bit", true}}), LoadIn::kInt8);
  expect_error(ErrorCode::kInvalidArgument, "bnb_4bit_quant_type is \"int4\"", [&] {
    load_in({{"load_in_4bit", true}, {"bnb_4bit_quant_type", "int4"}});
  });
  EXPECT_EQ(
      load_in(Json::parse(dump_json(bnb_quantization_config(WeightType::kNF4, "float32", true)))),
      LoadIn::kNF4);
  const auto quantized = join_bnb_tensors(SafetensorsFile::open(kLayers));
  EXPECT_EQ(configured_load_in(Json{{"quantization_config", {{"load_in_8bit", true}}}}, *quantized,
                               "config.json"),
            LoadIn::kAsIs);
  test::TemporaryFolder folder;
  expect_error(ErrorCode::kInvalidArgument, "quant_method \"gptq\" is not supported", [&] {
    open_folder_tensors(folder.path(), Json{{"quantization_config", {{"quant_method", "gptq"}}}});
  });
}

}  // namespace
}  // namespace quarry
