#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "data/core/error.h"
#include "data/store/passage_store.h"

namespace quarry {

// An empty folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quarry-test-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

constexpr int64_t kTestDim = 8;

inline StoreManifest test_manifest() {
  StoreManifest manifest;
  manifest.embedder_name = "fake";
  manifest.embedder_hash = "0123";
  manifest.dim = kTestDim;
  manifest.unit_length = true;
  manifest.chunk_tokens = 240;
  manifest.chunk_overlap_tokens = 0;
  return manifest;
}

// One unit vector for each seed.
inline std::vector<float> unit_vectors(const std::vector<int>& seeds) {
  std::vector<float> rows;
  for (const int seed : seeds) {
    std::mt19937 random(static_cast<unsigned>(seed));
    std::vector<float> row(kTestDim);
    float squares = 0.0F;
    for (float& value : row) {
      value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
      squares += value * value;
    }
    for (float& value : row) rows.push_back(value / std::sqrt(squares));
  }
  return rows;
}

inline Document make_document(const std::string& uri, const std::string& text) {
  Document document;
  document.uri = uri;
  document.title = "Title of " + uri;
  document.format = "text";
  document.content_hash = "hash of " + text;
  document.text = text;
  return document;
}

// One passage a line of the document.
inline std::vector<Passage> line_passages(const Document& document) {
  std::vector<Passage> passages;
  size_t start = 0;
  while (start < document.text.size()) {
    const size_t end = std::min(document.text.find('\n', start), document.text.size());
    Passage passage;
    passage.start = static_cast<int64_t>(start);
    passage.end = static_cast<int64_t>(end);
    passage.text = document.text.substr(start, end - start);
    passages.push_back(passage);
    start = end + 1;
  }
  return passages;
}

inline void put(PassageStore& store, const Document& document, int seed = 1) {
  const std::vector<Passage> passages = line_passages(document);
  std::vector<int> seeds;
  for (size_t i = 0; i < passages.size(); ++i) seeds.push_back(seed + static_cast<int>(i));
  const std::vector<float> vectors = unit_vectors(seeds);
  store.put_document(document, passages, vectors.data());
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// Code and message of the Error that `action` throws; fails when it throws none.
template <typename Action>
Error error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no Error was thrown";
  return Error(ErrorCode::kInternal, "");
}

}  // namespace quarry
