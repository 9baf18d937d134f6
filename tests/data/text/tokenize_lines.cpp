// tokenize_lines TOKENIZER none|add|parse < texts > ids
// Reads texts that are separated by NUL bytes and prints the ids of each on a line; on standard
// error the time. TOKENIZER: a model folder, or a JSON file with the fields of GgufTokenizerData.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <iterator>
#include <string>

#include "data/core/json.h"
#include "data/text/tokenizer.h"

namespace {

std::unique_ptr<quarry::Tokenizer> open_tokenizer(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) return quarry::load_tokenizer(path);
  const quarry::Json json = quarry::read_json_file(path);
  quarry::GgufTokenizerData data;
  data.model = json.at("model");
  data.pre = json.value("pre", "");
  data.tokens = json.at("tokens").get<std::vector<std::string>>();
  data.scores = json.value("scores", std::vector<float>());
  data.token_types = json.value("token_types", std::vector<int32_t>());
  data.merges = json.value("merges", std::vector<std::string>());
  data.bos_id = json.value("bos_id", -1);
  data.eos_id = json.value("eos_id", -1);
  data.unknown_id = json.value("unknown_id", -1);
  data.add_bos = json.value("add_bos", false);
  data.add_eos = json.value("add_eos", false);
  data.add_space_prefix = json.value("add_space_prefix", true);
  return quarry::make_gguf_tokenizer(data);
}

int run(const std::filesystem::path& path, const std::string& mode) {
  using Special = quarry::Tokenizer::SpecialTokens;
  const Special special = mode == "add"     ? Special::kAdd
                          : mode == "parse" ? Special::kParse
                                            : Special::kNone;
  const auto tokenizer = open_tokenizer(path);
  std::ios::sync_with_stdio(false);
  const std::string input((std::istreambuf_iterator<char>(std::cin)), {});
  std::string output;
  std::chrono::nanoseconds spent{0};
  size_t count = 0;
  for (size_t begin = 0; begin < input.size(); ++count) {
    const size_t end = std::min(input.find('\0', begin), input.size());
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer->encode(std::string_view(input).substr(begin, end - begin), special);
    spent += std::chrono::steady_clock::now() - start;
    for (const int32_t id : ids) output += std::to_string(id) + " ";
    output += '\n';
    begin = end + 1;
  }
  std::cout << output;
  const double seconds = std::chrono::duration<double>(spent).count();
  std::cerr << count << " texts, " << static_cast<double>(input.size()) / 1e6 << " MB, " << seconds
            << " s, " << static_cast<double>(input.size()) / 1e6 / seconds << " MB/s\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: tokenize_lines TOKENIZER none|add|parse < texts\n";
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const std::exception& e) {
    std::cerr << e.what() << "\n";
    return 1;
  }
}
