#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/core/error.h"
#include "data/core/json.h"
#include "tests/generator/models/model_test_util.h"
#include "tests/support/gguf_builder.h"

namespace quarry::testing_util {

// A folder of tests/golden/encoders.
inline std::string encoder_folder(const std::string& name) { return golden("../encoders/") + name; }

// Its golden.json.
struct EncoderGolden {
  explicit EncoderGolden(const std::string& name)
      : json(read_json_file(encoder_folder(name) + "/golden.json")) {
    json.at("inputs").get_to(inputs);
    json.at("ids").get_to(ids);
    json.at("types").get_to(types);
  }
  Json json;
  std::vector<std::vector<std::string>> inputs;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<int32_t>> types;
};

inline void copy_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

// Sets values of a folder's config.json.
inline void change_config(const std::filesystem::path& folder, const Json& changes) {
  Json config = read_json_file(folder / "config.json");
  config.update(changes);
  test::write_file(folder / "config.json", dump_json(config));
}

inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "expected an error";
  return Error(ErrorCode::kInternal, "none");
}

}  // namespace quarry::testing_util
