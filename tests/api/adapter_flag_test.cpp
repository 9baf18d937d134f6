// Which adapter a command answers with: load_adapter() of api/cli/options.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include "api/cli/options.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/generator/weights/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry::cli {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class AdapterFlag : public ::testing::Test {
 protected:
  AdapterFlag() {
    ::setenv("QUARRY_HOME", home_.path().c_str(), 1);
    auto generator = fake::make_generator(std::make_unique<fake::Model>(fake::hashed_letters));
    generator->content_hash = "abc";
    engine_ = std::make_unique<Engine>(std::move(generator), EngineOptions());
  }
  fs::path installed(const std::string& name) const { return home_.path() / "adapters" / name; }
  std::string origin() const { return engine_->adapters().list().at(0).origin; }

  test::TemporaryFolder home_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(AdapterFlag, WithoutOneTheInstalledDefaultAnswers) {
  EXPECT_EQ(load_adapter("", *engine_), "");
  fake::write_adapter(installed("fake-qa"), 1.0f, 1, R"({"base_model": {"content_hash": "abc"}})");
  EXPECT_EQ(load_adapter("none", *engine_), "");
  EXPECT_THAT(engine_->adapters().names(), IsEmpty());
  EXPECT_EQ(load_adapter("", *engine_), "fake-qa");
  EXPECT_EQ(origin(), installed("fake-qa").string());
}

TEST_F(AdapterFlag, IsANameOrAFolder) {
  fake::write_adapter(installed("law"), 1.0f);
  EXPECT_EQ(load_adapter("law", *engine_), "law");
  EXPECT_EQ(origin(), installed("law").string());
  engine_->adapters().remove("law");
  fake::write_adapter(home_.path() / "mine", 1.0f);
  EXPECT_EQ(load_adapter((home_.path() / "mine").string() + "/", *engine_), "mine");
  EXPECT_EQ(origin(), (home_.path() / "mine").string());
  fake::write_adapter(home_.path() / "fake", 1.0f);  // named as the base model
  EXPECT_EQ(load_adapter((home_.path() / "fake").string(), *engine_), "fake-adapter");
  EXPECT_THAT(engine_->adapters().names(), ElementsAre("fake-adapter", "mine"));
  expect_error(ErrorCode::kNotFound, "adapter 'other': no such folder or file",
               [&] { load_adapter("other", *engine_); });
}

}  // namespace
}  // namespace quarry::cli
