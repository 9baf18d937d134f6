#include "data/text/normalizer.h"

#include <utility>
#include <vector>

#include "data/text/component_json.h"
#include "data/text/precompiled_normalizer.h"
#include "data/text/regex.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}
  std::string apply(std::string text) const override {
    for (const auto& part : parts_) text = part->apply(std::move(text));
    return text;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

template <typename Function>
class FunctionNormalizer : public Normalizer {
 public:
  explicit FunctionNormalizer(Function function) : function_(std::move(function)) {}
  std::string apply(std::string text) const override { return function_(std::move(text)); }

 private:
  Function function_;
};

template <typename Function>
std::unique_ptr<Normalizer> from_function(Function function) {
  return std::make_unique<FunctionNormalizer<Function>>(std::move(function));
}

std::unique_ptr<Normalizer> unicode_form(NormalizationForm form) {
  return from_function([form](const std::string& text) { return normalize(text, form); });
}

template <typename Drop>
std::string without(std::string_view text, const Drop& drop) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!drop(next_code_point(text, i))) out.append(text, start, i - start);
  }
  return out;
}

// BERT's BasicTokenizer up to the split: clean, space CJK, strip accents, lower.
std::string clean_and_space(std::string_view text, const BertNormalizerOptions& options) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = next_code_point(text, i);
    if (options.clean_text) {
      if (c == 0 || c == kReplacementCharacter || is_bert_control(c)) continue;
      if (is_white_space(c)) {
        out += ' ';
        continue;
      }
    }
    const bool spaced = options.handle_chinese_chars && is_cjk_ideograph(c);
    if (spaced) out += ' ';
    out.append(text, start, i - start);
    if (spaced) out += ' ';
  }
  return out;
}

std::string bert_normalize(const std::string& text, const BertNormalizerOptions& options) {
  std::string out = clean_and_space(text, options);
  if (options.strip_accents) {
    out = without(normalize(out, NormalizationForm::kNfd), is_bert_nonspacing_mark);
  }
  return options.lowercase ? lowercase(out) : out;
}

std::string replace_all(const std::string& text, const std::string& from, const std::string& to) {
  if (from.empty()) return text;
  std::string out;
  size_t begin = 0;
  for (size_t hit; (hit = text.find(from, begin)) != std::string::npos; begin = hit + from.size()) {
    out.append(text, begin, hit - begin);
    out += to;
  }
  return out.append(text, begin, std::string::npos);
}

std::unique_ptr<Normalizer> make_replace(const Json& config, const std::string& source) {
  const PatternField pattern = require_pattern(config, source);
  const auto content = require_field<std::string>(config, "content", source);
  if (!pattern.is_regex) {
    return from_function([from = pattern.text, content](const std::string& text) {
      return replace_all(text, from, content);
    });
  }
  Regex compiled = naming_source(source, [&] { return Regex(pattern.text); });
  return from_function([regex = std::move(compiled), content](const std::string& text) {
    std::vector<Span> spans;
    regex.find_all(text, spans);
    std::string out;
    for (const Span& span : spans) {
      if (span.is_match) {
        out += content;
      } else {
        out.append(text, span.begin, span.end - span.begin);
      }
    }
    return out;
  });
}

std::unique_ptr<Normalizer> make_bert(const Json& config, const std::string& source) {
  BertNormalizerOptions options;
  options.clean_text = field_or(config, "clean_text", true, source);
  options.handle_chinese_chars = field_or(config, "handle_chinese_chars", true, source);
  options.lowercase = field_or(config, "lowercase", true, source);
  options.strip_accents = field_or(config, "strip_accents", options.lowercase, source);
  return make_bert_normalizer(options);
}

std::unique_ptr<Normalizer> make_strip(const Json& config, const std::string& source) {
  const bool left = field_or(config, "strip_left", true, source);
  const bool right = field_or(config, "strip_right", true, source);
  return from_function([left, right](const std::string& text) {
    const auto [first, last] = trimmed_range(text);
    if (first == text.size()) return left || right ? std::string() : text;
    const size_t begin = left ? first : 0;
    return text.substr(begin, (right ? last : text.size()) - begin);
  });
}

std::unique_ptr<Normalizer> make_sequence(const Json& config, const std::string& source) {
  std::vector<std::unique_ptr<Normalizer>> parts;
  for (const Json& part : require_field<Json>(config, "normalizers", source)) {
    auto normalizer = make_normalizer(part, source);
    if (normalizer) parts.push_back(std::move(normalizer));
  }
  return std::make_unique<SequenceNormalizer>(std::move(parts));
}

}  // namespace

std::unique_ptr<Normalizer> make_bert_normalizer(const BertNormalizerOptions& options) {
  return from_function(
      [options](const std::string& text) { return bert_normalize(text, options); });
}

std::unique_ptr<Normalizer> make_nfc_normalizer() { return unicode_form(NormalizationForm::kNfc); }

std::unique_ptr<Normalizer> make_normalizer(const Json& config, const std::string& source) {
  if (config.is_null()) return nullptr;
  const auto type = require_field<std::string>(config, "type", source);
  if (type == "Sequence") return make_sequence(config, source);
  if (type == "BertNormalizer") return make_bert(config, source);
  if (type == "NFC") return unicode_form(NormalizationForm::kNfc);
  if (type == "NFD") return unicode_form(NormalizationForm::kNfd);
  if (type == "NFKC") return unicode_form(NormalizationForm::kNfkc);
  if (type == "NFKD") return unicode_form(NormalizationForm::kNfkd);
  if (type == "Replace") return make_replace(config, source);
  if (type == "Strip") return make_strip(config, source);
  if (type == "Lowercase") {
    return from_function([](const std::string& text) { return lowercase(text); });
  }
  if (type == "StripAccents") {
    return from_function([](const std::string& text) { return without(text, is_combining_mark); });
  }
  if (type == "Prepend") {
    const auto prefix = require_field<std::string>(config, "prepend", source);
    return from_function(
        [prefix](const std::string& text) { return text.empty() ? text : prefix + text; });
  }
  if (type == "Precompiled") {
    const auto rules = field_or<std::string>(config, "precompiled_charsmap", "", source);
    if (rules.empty()) return nullptr;
    return make_precompiled_normalizer(decode_base64(rules, source), source);
  }
  throw_error(
      ErrorCode::kInvalidArgument, source, ": normalizer \"", type,
      "\" is not supported; known: Sequence, BertNormalizer, NFC, NFD, NFKC, NFKD, Replace, "
      "Strip, Lowercase, StripAccents, Prepend, Precompiled");
}

}  // namespace quarry
