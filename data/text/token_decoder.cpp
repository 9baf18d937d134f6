#include "data/text/token_decoder.h"

#include <optional>
#include <string_view>
#include <utility>

#include "data/text/byte_level.h"
#include "data/text/component_json.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

using Parts = std::vector<std::string>;

template <typename Function>
class FunctionDecoder : public TokenDecoder {
 public:
  explicit FunctionDecoder(Function function) : function_(std::move(function)) {}
  void decode(Parts& parts, Place place) const override { function_(parts, place); }

 private:
  Function function_;
};

template <typename Function>
std::unique_ptr<TokenDecoder> from_function(Function function) {
  return std::make_unique<FunctionDecoder<Function>>(std::move(function));
}

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

void replace_in(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

// Undoes the spaces that English punctuation and contractions got.
void clean_up(std::string& text) {
  static constexpr std::pair<const char*, const char*> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) replace_in(text, from, to);
}

// The byte of "<0x0A>", or nothing.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !starts_with(token, "<0x") || token[5] != '>') return std::nullopt;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const char* digits = "0123456789ABCDEFabcdef";
    const size_t digit = std::string_view(digits).find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    value = value * 16 + static_cast<int>(digit < 16 ? digit : digit - 6);
  }
  return static_cast<char>(value);
}

// Runs of byte tokens become text; a run that is not UTF-8 becomes one U+FFFD per byte.
void join_bytes(Parts& parts, TokenDecoder::Place place) {
  Parts out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (place == TokenDecoder::Place::kMiddle || is_valid_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) append_utf8(out.emplace_back(), 0xFFFD);
    }
    bytes.clear();
  };
  for (std::string& part : parts) {
    if (const std::optional<char> byte = fallback_byte(part)) {
      bytes += *byte;
    } else {
      flush();
      out.push_back(std::move(part));
    }
  }
  flush();
  parts.swap(out);
}

std::unique_ptr<TokenDecoder> make_metaspace(const Json& config, const std::string& source) {
  const auto replacement = field_or<std::string>(config, "replacement", "\u2581", source);
  const auto scheme = field_or<std::string>(
      config, "prepend_scheme",
      field_or(config, "add_prefix_space", true, source) ? "always" : "never", source);
  const bool drop_first = scheme != "never";
  return from_function([replacement, drop_first](Parts& parts, TokenDecoder::Place place) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool first = i == 0 && place == TokenDecoder::Place::kWhole && drop_first;
      // The first token loses all its marks, not one: what Hugging Face does.
      replace_in(parts[i], replacement, first ? "" : " ");
    }
  });
}

std::unique_ptr<TokenDecoder> make_strip(const Json& config, const std::string& source) {
  const auto content = require_field<std::string>(config, "content", source);
  const auto start = require_field<int64_t>(config, "start", source);
  const auto stop = require_field<int64_t>(config, "stop", source);
  return from_function([content, start, stop](Parts& parts, TokenDecoder::Place place) {
    if (place == TokenDecoder::Place::kMiddle || content.empty()) return;
    for (std::string& part : parts) {
      for (int64_t i = 0; i < start && starts_with(part, content); ++i) {
        part.erase(0, content.size());
      }
      for (int64_t i = 0; i < stop && part.size() >= content.size() &&
                          part.compare(part.size() - content.size(), content.size(), content) == 0;
           ++i) {
        part.resize(part.size() - content.size());
      }
    }
  });
}

std::unique_ptr<TokenDecoder> make_replace(const Json& config, const std::string& source) {
  const PatternField pattern = require_pattern(config, source);
  QUARRY_CHECK(!pattern.is_regex, ErrorCode::kInvalidArgument, source,
               ": decoder \"Replace\" with a Regex pattern is not supported; known: String");
  const auto content = require_field<std::string>(config, "content", source);
  return from_function([from = pattern.text, content](Parts& parts, TokenDecoder::Place) {
    for (std::string& part : parts) replace_in(part, from, content);
  });
}

// Word ends were marked by a suffix: it becomes the space between words.
std::unique_ptr<TokenDecoder> make_bpe(const Json& config, const std::string& source) {
  const auto suffix = field_or<std::string>(config, "suffix", "</w>", source);
  return from_function([suffix](Parts& parts, TokenDecoder::Place place) {
    for (size_t i = 0; i < parts.size(); ++i) {
      const bool last = i + 1 == parts.size() && place == TokenDecoder::Place::kWhole;
      replace_in(parts[i], suffix, last ? "" : " ");
    }
  });
}

std::unique_ptr<TokenDecoder> make_sequence(const Json& config, const std::string& source) {
  auto steps = std::make_shared<std::vector<std::unique_ptr<TokenDecoder>>>();
  for (const Json& part : require_field<Json>(config, "decoders", source)) {
    auto decoder = make_token_decoder(part, source);
    if (decoder) steps->push_back(std::move(decoder));
  }
  return from_function([steps](Parts& parts, TokenDecoder::Place place) {
    for (const auto& step : *steps) step->decode(parts, place);
  });
}

std::string join(const Parts& parts) {
  std::string out;
  for (const std::string& part : parts) out += part;
  return out;
}

}  // namespace

std::unique_ptr<TokenDecoder> make_byte_level_decoder() {
  return from_function([](Parts& parts, TokenDecoder::Place place) {
    std::string bytes;
    for (const std::string& part : parts) {
      // A token outside the map (an added one) stands for its own text.
      bytes += decode_byte_level(part).value_or(part);
    }
    parts.assign(1, place == TokenDecoder::Place::kWhole ? repair_utf8(bytes) : bytes);
  });
}

std::unique_ptr<TokenDecoder> make_word_piece_decoder(const std::string& prefix, bool cleanup) {
  return from_function([prefix, cleanup](Parts& parts, TokenDecoder::Place place) {
    for (size_t i = 0; i < parts.size(); ++i) {
      if (i > 0 || place == TokenDecoder::Place::kMiddle) {
        if (starts_with(parts[i], prefix)) {
          parts[i].erase(0, prefix.size());
        } else {
          parts[i].insert(0, " ");
        }
      }
      if (cleanup) clean_up(parts[i]);
    }
  });
}

std::unique_ptr<TokenDecoder> make_token_decoder(const Json& config, const std::string& source) {
  if (config.is_null()) return nullptr;
  const auto type = require_field<std::string>(config, "type", source);
  if (type == "Sequence") return make_sequence(config, source);
  if (type == "ByteLevel") return make_byte_level_decoder();
  if (type == "WordPiece") {
    return make_word_piece_decoder(field_or<std::string>(config, "prefix", "##", source),
                                   field_or(config, "cleanup", true, source));
  }
  if (type == "Metaspace") return make_metaspace(config, source);
  if (type == "ByteFallback") return from_function(join_bytes);
  if (type == "Fuse") {
    return from_function([](Parts& parts, TokenDecoder::Place) { parts.assign(1, join(parts)); });
  }
  if (type == "Strip") return make_strip(config, source);
  if (type == "Replace") return make_replace(config, source);
  if (type == "BPEDecoder") return make_bpe(config, source);
  throw_error(
      ErrorCode::kInvalidArgument, source, ": decoder \"", type,
      "\" is not supported; known: Sequence, ByteLevel, WordPiece, Metaspace, ByteFallback, "
      "Fuse, Strip, Replace, BPEDecoder");
}

}  // namespace quarry
