#include "generator/decode/adapter_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "data/core/paths.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

const fs::path kPeft = QUARRY_SOURCE_DIR "/tests/golden/peft";

// The tiny llama with adapters that PEFT made for it.
class AdapterMath : public ::testing::Test {
 protected:
  AdapterMath()
      : generator_(std::make_shared<const LoadedGenerator>(
            load_generator(testing_util::golden("llama"), kernels::Precision::kExact))),
        adapters_(generator_, 64) {
    for (const char* name : {"q_v", "rslora", "patterns"}) adapters_.load(name, kPeft / name);
  }

  std::vector<float> logits(const LoraAdapter* adapter) const {
    return testing_util::all_logits(*generator_->model, {5, 17, 250, 3, 99, 42, 42, 180, 7},
                                    adapter);
  }
  std::vector<float> logits_of(const std::string& name) const {
    return logits(adapters_.acquire(name)->weights.get());
  }

  // The same sum as dense updates: sum_i weight_i scale_i B_i A_i, times the identity.
  LoraAdapter dense_sum(const AdapterMix& mix) const {
    std::map<std::string, LoraWeights> sums;
    for (const CausalLm::LinearSlot& slot : generator_->model->linear_slots()) {
      const auto in = static_cast<size_t>(slot.in_features);
      const auto out = static_cast<size_t>(slot.out_features);
      std::vector<double> delta(out * in);
      for (const auto& [name, weight] : mix) {
        const std::shared_ptr<const ServedAdapter> served = adapters_.acquire(name);
        const LoraWeights* pair = served->weights->find(slot.path);
        if (pair == nullptr) continue;
        const auto rank = static_cast<size_t>(pair->rank);
        for (size_t o = 0; o < out; ++o) {
          for (size_t r = 0; r < rank; ++r) {
            const double b = weight * double{pair->scale} * double{pair->b[o * rank + r]};
            for (size_t i = 0; i < in; ++i) delta[o * in + i] += b * double{pair->a[r * in + i]};
          }
        }
      }
      LoraWeights& sum = sums[slot.path];
      sum.rank = slot.in_features;
      sum.a.assign(in * in, 0.0f);
      for (size_t i = 0; i < in; ++i) sum.a[i * in + i] = 1.0f;
      sum.b.assign(delta.begin(), delta.end());
      sum.pack();
    }
    return LoraAdapter(std::move(sums));
  }

  std::shared_ptr<const LoadedGenerator> generator_;
  AdapterSet adapters_;
};

float largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  float largest = a.size() == b.size() ? 0.0f : std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, std::fabs(a[i] - b[i]));
  }
  return largest;
}

TEST_F(AdapterMath, ACombinationIsTheWeightedSumOfUpdates) {
  const AdapterMix mix = {{"q_v", 0.75}, {"rslora", -1.5}, {"patterns", 2.0}};
  adapters_.combine("mix", mix);
  const LoraAdapter wanted = dense_sum(mix);
  EXPECT_LT(largest_difference(logits_of("mix"), logits(&wanted)), 1e-5f);
  for (const char* name : {"q_v", "rslora", "patterns", ""}) {
    EXPECT_GT(largest_difference(logits_of("mix"), logits_of(name)), 1e-2f) << name;
  }
  adapters_.combine("half", {{"rslora", 0.5}});
  const LoraAdapter half = dense_sum({{"rslora", 0.5}});
  EXPECT_LT(largest_difference(logits_of("half"), logits(&half)), 1e-5f);
}

TEST_F(AdapterMath, CombinationsAreListedAndOutliveTheirParts) {
  adapters_.combine("mix", {{"q_v", 1.0}, {"rslora", 0.5}});
  const std::vector<float> before = logits_of("mix");
  adapters_.remove("q_v");
  adapters_.replace("rslora", kPeft / "patterns");
  EXPECT_EQ(logits_of("mix"), before);
  const std::vector<AdapterSet::Listing> list = adapters_.list();
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0].name, "mix");
  EXPECT_EQ(list[0].origin, "");
  EXPECT_THAT(list[0].parts, ElementsAre(Pair("q_v", 1.0), Pair("rslora", 0.5)));
  EXPECT_EQ(list[0].rank, 12);  // 4 + 8 where both are
  EXPECT_EQ(list[0].scale, 1.0);
  EXPECT_EQ(list[2].name, "rslora");
  EXPECT_EQ(list[2].origin, (kPeft / "patterns").string());
  EXPECT_THAT(list[2].parts, IsEmpty());
  EXPECT_EQ(list[2].scale, 2.0);
}

TEST_F(AdapterMath, WholeParametersAreServedAndMixedAloneOnly) {
  adapters_.load("head", kPeft / "saved_head");
  const auto head = LoraAdapter::load(kPeft / "saved_head", *generator_->model);
  const std::vector<float> wanted = logits(head.get());
  EXPECT_EQ(logits_of("head"), wanted);
  adapters_.combine("copy", {{"head", 1.0}});
  EXPECT_LT(largest_difference(logits_of("copy"), wanted), 1e-5f);
  adapters_.fuse({{"head", 1.0}});
  EXPECT_LT(largest_difference(logits_of(""), wanted), 1e-5f);
  for (const AdapterMix& mix :
       {AdapterMix{{"head", 0.5}}, AdapterMix{{"head", 1.0}, {"q_v", 1.0}}}) {
    expect_error(
        ErrorCode::kInvalidArgument,
        "adapter 'head' has 'lm_head.weight' whole (modules_to_save or bias), which cannot "
        "be weighted",
        [&] { adapters_.combine("mix", mix); });
  }
}

TEST_F(AdapterMath, FuseChangesTheBaseAndUnfuseRestoresItBitForBit) {
  const std::vector<float> base = logits_of("");
  EXPECT_EQ(base, logits(nullptr));
  const std::vector<float> named = logits_of("q_v");
  const AdapterMix mix = {{"q_v", 0.5}, {"rslora", 1.0}};
  adapters_.fuse(mix);
  adapters_.combine("mix", mix);
  EXPECT_EQ(logits_of(""), logits_of("mix"));
  EXPECT_GT(largest_difference(logits_of(""), base), 1e-2f);
  EXPECT_EQ(logits_of("q_v"), named);  // requests that name an adapter do not change
  EXPECT_EQ(adapters_.acquire("")->name, "q_v:0.5+rslora:1");
  EXPECT_EQ(adapters_.fused(), mix);
  adapters_.fuse({{"q_v", 1.0}});  // instead, not on top
  EXPECT_LT(largest_difference(logits_of(""), named), 1e-5f);
  adapters_.unfuse();
  EXPECT_EQ(logits_of(""), base);
  EXPECT_EQ(adapters_.acquire("")->name, "");
  EXPECT_THAT(adapters_.fused(), IsEmpty());
  adapters_.unfuse();
}

TEST_F(AdapterMath, FusedAdaptersStayUntilUnfused) {
  adapters_.fuse({{"q_v", 1.0}, {"rslora", 2.0}});
  const std::string message =
      "adapter 'q_v' is fused into the base model (q_v:1+rslora:2); unfuse first";
  expect_error(ErrorCode::kInvalidArgument, message, [&] { adapters_.remove("q_v"); });
  expect_error(ErrorCode::kInvalidArgument, message,
               [&] { adapters_.replace("q_v", kPeft / "rslora"); });
  adapters_.remove("patterns");
  adapters_.unfuse();
  adapters_.remove("q_v");
  EXPECT_THAT(adapters_.names(), ElementsAre("rslora"));
}

TEST_F(AdapterMath, BadMixesAreRefusedWithoutChange) {
  const auto refused = [&](const AdapterMix& mix, ErrorCode code, const std::string& message) {
    expect_error(code, message, [&] { adapters_.combine("new", mix); });
    expect_error(code, message, [&] { adapters_.fuse(mix); });
  };
  refused({}, ErrorCode::kInvalidArgument, "a mix of adapters needs at least one");
  refused({{"q_v", 1.0}, {"none", 1.0}}, ErrorCode::kNotFound,
          "no adapter is named 'none'; there are: patterns, q_v, rslora");
  refused({{"q_v", 0.0}}, ErrorCode::kInvalidArgument,
          "the weight of adapter 'q_v' is 0, wanted a number that is not 0");
  refused({{"q_v", std::nan("")}}, ErrorCode::kInvalidArgument,
          "the weight of adapter 'q_v' is nan");
  refused({{"q_v", 1e45}}, ErrorCode::kInvalidArgument,
          "the weight 1e+45 of an adapter makes its update overflow");
  expect_error(ErrorCode::kInvalidArgument, "adapter 'rslora': the name is taken", [&] {
    adapters_.combine("rslora", {{"q_v", 1.0}});
  });
  EXPECT_THAT(adapters_.names(), ElementsAre("patterns", "q_v", "rslora"));
  EXPECT_THAT(adapters_.fused(), IsEmpty());
}

TEST_F(AdapterMath, RanksAboveTheLimitAreRefused) {
  AdapterSet small(generator_, 8);
  small.load("q_v", kPeft / "q_v");
  small.load("rslora", kPeft / "rslora");
  expect_error(ErrorCode::kInvalidArgument,
               "the mix q_v:1+rslora:1 has rank 12, above the limit of 8 (max_lora_rank)", [&] {
                 small.combine("mix", {{"q_v", 1.0}, {"rslora", 1.0}});
               });
  AdapterSet smaller(generator_, 4);
  expect_error(ErrorCode::kInvalidArgument,
               "rslora: has rank 8, above the limit of 4 (max_lora_rank)",
               [&] { smaller.load("rslora", kPeft / "rslora"); });
}

// Names, notes and counts need no real model.
class AdapterNames : public ::testing::Test {
 protected:
  AdapterNames()
      : adapters_(fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters)), 64) {
    fake::write_adapter(folder_.path() / "good", 1.0f);
  }

  // A folder whose notes are this text.
  fs::path noted(const std::string& notes) {
    fake::write_adapter(folder_.path() / "noted", 1.0f, 1, notes);
    return folder_.path() / "noted";
  }

  test::TemporaryFolder folder_;
  AdapterSet adapters_;
};

TEST_F(AdapterNames, AreCheckedAndARefusedCallChangesNothing) {
  const fs::path good = folder_.path() / "good";
  adapters_.load("one", good);
  const auto refused = [&](const std::string& name, const std::string& message) {
    expect_error(ErrorCode::kInvalidArgument, message, [&] { adapters_.load(name, good); });
  };
  refused("one", "adapter 'one': the name is taken");
  refused("fake", "adapter 'fake': the name is taken");  // the base model's
  refused("", "the name of the adapter is empty");
  refused("a\nb", "wanted at most 256 without control characters");
  refused(std::string(257, 'a'), "has 257 bytes; wanted at most 256");
  const std::string unknown = "no adapter is named 'two'; there are: one";
  expect_error(ErrorCode::kNotFound, unknown, [&] { adapters_.remove("two"); });
  expect_error(ErrorCode::kNotFound, unknown, [&] { adapters_.replace("two", good); });
  expect_error(ErrorCode::kNotFound, unknown, [&] { adapters_.acquire("two"); });
  expect_error(ErrorCode::kNotFound, "none: no such adapter folder",
               [&] { adapters_.replace("one", folder_.path() / "none"); });
  const fs::path file = folder_.path() / "x.gguf";
  write_file_atomically(file, "GGUF");
  expect_error(ErrorCode::kInvalidArgument, "is a file; adapters are served from PEFT folders",
               [&] { adapters_.load("two", file); });
  EXPECT_THAT(adapters_.names(), ElementsAre("one"));
  EXPECT_EQ(adapters_.list()[0].origin, good.string());
  EXPECT_EQ(adapters_.acquire("one")->name, "one");
}

TEST_F(AdapterNames, NotesDecideTemplateAndReply) {
  const std::string ours = default_rag_template().not_in_documents;
  adapters_.load("plain", folder_.path() / "good");
  EXPECT_EQ(adapters_.acquire("plain")->rag_template, &default_rag_template());
  EXPECT_EQ(adapters_.acquire("plain")->not_in_documents, ours);
  EXPECT_EQ(adapters_.acquire("")->not_in_documents, ours);
  adapters_.load("own", noted(R"({"rag_template": {"name": "passages", "version": 1},
                                  "not_in_documents": "Not there.", "refusal_bias": 0.5})"));
  EXPECT_EQ(adapters_.acquire("own")->not_in_documents, "Not there.");
  adapters_.combine("own2", {{"own", 2.0}});
  EXPECT_EQ(adapters_.acquire("own2")->not_in_documents, "Not there.");
  EXPECT_EQ(adapters_.acquire("own2")->refusal_bias, 0.5);
  adapters_.combine("both", {{"own", 1.0}, {"plain", 1.0}});  // do not agree
  EXPECT_EQ(adapters_.acquire("both")->not_in_documents, ours);
  EXPECT_EQ(adapters_.acquire("both")->refusal_bias, 0.0);
}

TEST_F(AdapterNames, WhatTheNotesRuleOutIsRefused) {
  const auto refused = [&](const std::string& notes, const std::string& message) {
    const fs::path folder = noted(notes);
    expect_error(ErrorCode::kInvalidArgument, message, [&] { adapters_.load("x", folder); });
  };
  refused(R"({"rag_template": {"name": "passages", "version": 9}})",
          "was trained with the prompt template 'passages' version 9; this program has 'passages' "
          "version 1");
  refused(R"({"rag_template": {"name": "haiku", "version": 1}})",
          "was trained with the prompt template 'haiku' version 1");
  refused(R"({"base_model": {"name": "other", "content_hash": "0123456789abcdef"}})",
          "was trained on 'other' (content hash 0123456789ab), this model is 'fake'");
  EXPECT_THAT(adapters_.names(), IsEmpty());
}

TEST_F(AdapterNames, RequestsInFlightAreCounted) {
  adapters_.load("one", folder_.path() / "good");
  const auto in_flight = [&] { return adapters_.list().at(0).requests_in_flight; };
  auto first = adapters_.acquire("one");
  const auto copy = first;  // the same request
  const auto second = adapters_.acquire("one");
  const auto base = adapters_.acquire("");
  EXPECT_EQ(in_flight(), 2);
  EXPECT_EQ(adapters_.base_requests_in_flight(), 1);
  first = nullptr;
  EXPECT_EQ(in_flight(), 2);
  adapters_.replace("one", folder_.path() / "good");
  EXPECT_EQ(in_flight(), 2);
  adapters_.remove("one");
  EXPECT_EQ(second->weights->weights().size(), 1u);  // still whole
}

}  // namespace
}  // namespace quarry
