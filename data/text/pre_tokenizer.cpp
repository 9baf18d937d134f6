#include "data/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "data/text/byte_level.h"
#include "data/text/component_json.h"
#include "data/text/regex.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"

namespace quarry {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char kLlama3Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kQwen2Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const char kBloomPattern[] = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+";

namespace {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

SplitBehavior parse_behavior(const std::string& name, const std::string& source) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw_error(ErrorCode::kInvalidArgument, source, ": split behavior \"", name,
              "\" is not supported; known: Removed, Isolated, MergedWithPrevious, MergedWithNext, "
              "Contiguous");
}

// Turns spans that cover a piece into the pieces to keep.
void apply_behavior(SplitBehavior behavior, std::vector<Span>& spans) {
  std::vector<Span> kept;
  kept.reserve(spans.size());
  const bool backward = behavior == SplitBehavior::kMergedWithNext;
  if (backward) std::reverse(spans.begin(), spans.end());
  bool previous_match = false;
  bool first = true;
  for (const Span& span : spans) {
    const bool joins = behavior == SplitBehavior::kContiguous
                           ? !first && span.is_match == previous_match
                           : behavior != SplitBehavior::kIsolated && span.is_match &&
                                 !previous_match && !kept.empty();
    if (behavior == SplitBehavior::kRemoved) {
      if (!span.is_match) kept.push_back(span);
    } else if (!joins) {
      kept.push_back(span);
    } else if (backward) {
      kept.back().begin = span.begin;
    } else {
      kept.back().end = span.end;
    }
    previous_match = span.is_match;
    first = false;
  }
  if (backward) std::reverse(kept.begin(), kept.end());
  spans.swap(kept);
}

// Cuts by what `find(piece, spans)` reports.
template <typename Find>
class SpanPreTokenizer : public PreTokenizer {
 public:
  SpanPreTokenizer(Find find, SplitBehavior behavior, bool invert)
      : find_(std::move(find)), behavior_(behavior), invert_(invert) {}

  void split(PreTokenized& text) const override {
    std::vector<std::string_view> pieces;
    pieces.reserve(text.pieces.size() * 2);
    std::vector<Span> spans;
    for (const std::string_view piece : text.pieces) {
      spans.clear();
      find_(piece, spans);
      if (invert_) {
        for (Span& span : spans) span.is_match = !span.is_match;
      }
      if (behavior_ != SplitBehavior::kIsolated) apply_behavior(behavior_, spans);
      for (const Span& span : spans) {
        if (span.end > span.begin) {
          pieces.push_back(piece.substr(span.begin, span.end - span.begin));
        }
      }
    }
    text.pieces.swap(pieces);
  }

 private:
  Find find_;
  SplitBehavior behavior_;
  bool invert_;
};

template <typename Find>
std::unique_ptr<PreTokenizer> from_spans(Find find, SplitBehavior behavior, bool invert = false) {
  return std::make_unique<SpanPreTokenizer<Find>>(std::move(find), behavior, invert);
}

// Every code point of a class is one match; the stretches between are the gaps.
template <typename Predicate>
std::unique_ptr<PreTokenizer> split_at(Predicate is_match, SplitBehavior behavior) {
  return from_spans(
      [is_match](std::string_view piece, std::vector<Span>& spans) {
        size_t gap = 0;
        for (size_t i = 0; i < piece.size();) {
          const size_t start = i;
          if (!is_match(next_code_point(piece, i))) continue;
          if (start > gap) spans.push_back({gap, start, false});
          spans.push_back({start, i, true});
          gap = i;
        }
        if (gap < piece.size()) spans.push_back({gap, piece.size(), false});
      },
      behavior);
}

std::unique_ptr<PreTokenizer> split_by_regex(const std::string& pattern, SplitBehavior behavior,
                                             bool invert = false) {
  return from_spans(
      [regex = Regex(pattern)](std::string_view piece, std::vector<Span>& spans) {
        regex.find_all(piece, spans);
      },
      behavior, invert);
}

std::unique_ptr<PreTokenizer> split_by_string(const std::string& needle, SplitBehavior behavior,
                                              bool invert) {
  return from_spans(
      [needle](std::string_view piece, std::vector<Span>& spans) {
        size_t gap = 0;
        while (!needle.empty()) {
          const size_t hit = piece.find(needle, gap);
          if (hit == std::string_view::npos) break;
          if (hit > gap) spans.push_back({gap, hit, false});
          spans.push_back({hit, hit + needle.size(), true});
          gap = hit + needle.size();
        }
        if (gap < piece.size()) spans.push_back({gap, piece.size(), false});
      },
      behavior, invert);
}

class SequencePreTokenizer : public PreTokenizer {
 public:
  explicit SequencePreTokenizer(std::vector<std::unique_ptr<PreTokenizer>> parts)
      : parts_(std::move(parts)) {}
  void split(PreTokenized& text) const override {
    for (const auto& part : parts_) part->split(text);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> parts_;
};

// Puts a space before each piece that has none, cuts by `pattern` unless null, and maps the bytes.
class ByteLevelPreTokenizer : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, std::unique_ptr<PreTokenizer> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  void split(PreTokenized& text) const override {
    if (add_prefix_space_) {
      for (std::string_view& piece : text.pieces) {
        if (piece.front() == ' ') continue;
        piece = text.buffers.emplace_back(" " + std::string(piece));
      }
    }
    if (pattern_) pattern_->split(text);
    std::string mapped;
    std::vector<size_t> ends;
    ends.reserve(text.pieces.size());
    for (const std::string_view piece : text.pieces) {
      append_byte_level(mapped, piece);
      ends.push_back(mapped.size());
    }
    const std::string_view buffer = text.buffers.emplace_back(std::move(mapped));
    size_t begin = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
      text.pieces[i] = buffer.substr(begin, ends[i] - begin);
      begin = ends[i];
    }
  }

 private:
  bool add_prefix_space_;
  std::unique_ptr<PreTokenizer> pattern_;
};

enum class PrependScheme { kNever, kFirst, kAlways };

// Spaces become `replacement` (U+2581), one is put in front, and the text is cut before each.
class MetaspacePreTokenizer : public PreTokenizer {
 public:
  MetaspacePreTokenizer(std::string replacement, PrependScheme scheme, bool cut)
      : replacement_(std::move(replacement)), scheme_(scheme) {
    if (cut) splitter_ = split_by_string(replacement_, SplitBehavior::kMergedWithNext, false);
  }

  void split(PreTokenized& text) const override {
    for (size_t i = 0; i < text.pieces.size(); ++i) {
      std::string replaced;
      for (const char c : text.pieces[i]) {
        if (c == ' ') {
          replaced += replacement_;
        } else {
          replaced += c;
        }
      }
      const bool prepend = scheme_ == PrependScheme::kAlways ||
                           (scheme_ == PrependScheme::kFirst && i == 0 && text.starts_text);
      if (prepend && replaced.compare(0, replacement_.size(), replacement_) != 0) {
        replaced.insert(0, replacement_);
      }
      text.pieces[i] = text.buffers.emplace_back(std::move(replaced));
    }
    if (splitter_) splitter_->split(text);
  }

 private:
  std::string replacement_;
  PrependScheme scheme_;
  std::unique_ptr<PreTokenizer> splitter_;
};

std::unique_ptr<PreTokenizer> make_metaspace(const Json& config, const std::string& source) {
  const auto scheme_name = field_or<std::string>(
      config, "prepend_scheme",
      field_or(config, "add_prefix_space", true, source) ? "always" : "never", source);
  PrependScheme scheme = PrependScheme::kAlways;
  if (scheme_name == "first") {
    scheme = PrependScheme::kFirst;
  } else if (scheme_name == "never") {
    scheme = PrependScheme::kNever;
  } else {
    QUARRY_CHECK(scheme_name == "always", ErrorCode::kInvalidArgument, source,
                 ": Metaspace prepend_scheme \"", scheme_name,
                 "\" is not supported; known: always, first, never");
  }
  return std::make_unique<MetaspacePreTokenizer>(
      field_or<std::string>(config, "replacement", "\u2581", source), scheme,
      field_or(config, "split", true, source));
}

std::unique_ptr<PreTokenizer> make_split(const Json& config, const std::string& source) {
  const PatternField pattern = require_pattern(config, source);
  const SplitBehavior behavior =
      parse_behavior(require_field<std::string>(config, "behavior", source), source);
  const bool invert = field_or(config, "invert", false, source);
  if (!pattern.is_regex) return split_by_string(pattern.text, behavior, invert);
  return naming_source(source, [&] { return split_by_regex(pattern.text, behavior, invert); });
}

std::unique_ptr<PreTokenizer> make_sequence(const Json& config, const std::string& source) {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  for (const Json& part : require_field<Json>(config, "pretokenizers", source)) {
    auto pre_tokenizer = make_pre_tokenizer(part, source);
    if (pre_tokenizer) parts.push_back(std::move(pre_tokenizer));
  }
  return std::make_unique<SequencePreTokenizer>(std::move(parts));
}

std::unique_ptr<PreTokenizer> split_digits(bool individual) {
  return split_at(is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
}

}  // namespace

std::unique_ptr<PreTokenizer> make_bert_pre_tokenizer() {
  // One pass: white space goes, punctuation stands alone.
  return from_spans(
      [](std::string_view piece, std::vector<Span>& spans) {
        size_t word = 0;
        for (size_t i = 0; i < piece.size();) {
          const size_t start = i;
          const char32_t c = next_code_point(piece, i);
          const bool space = is_white_space(c);
          if (!space && !is_bert_punctuation(c)) continue;
          if (start > word) spans.push_back({word, start, false});
          if (!space) spans.push_back({start, i, false});
          word = i;
        }
        if (word < piece.size()) spans.push_back({word, piece.size(), false});
      },
      SplitBehavior::kIsolated);
}

std::unique_ptr<PreTokenizer> make_byte_level_pre_tokenizer(
    const ByteLevelPreTokenizerOptions& options) {
  std::vector<std::unique_ptr<PreTokenizer>> parts;
  if (options.single_digits) parts.push_back(split_digits(true));
  parts.push_back(std::make_unique<ByteLevelPreTokenizer>(
      options.add_prefix_space, split_by_regex(options.pattern, SplitBehavior::kIsolated)));
  return std::make_unique<SequencePreTokenizer>(std::move(parts));
}

std::unique_ptr<PreTokenizer> make_pre_tokenizer(const Json& config, const std::string& source) {
  if (config.is_null()) return nullptr;
  const auto type = require_field<std::string>(config, "type", source);
  if (type == "Sequence") return make_sequence(config, source);
  if (type == "Split") return make_split(config, source);
  if (type == "Metaspace") return make_metaspace(config, source);
  if (type == "BertPreTokenizer") return make_bert_pre_tokenizer();
  if (type == "Digits") return split_digits(field_or(config, "individual_digits", false, source));
  if (type == "ByteLevel") {
    const bool use_regex = field_or(config, "use_regex", true, source);
    return std::make_unique<ByteLevelPreTokenizer>(
        field_or(config, "add_prefix_space", true, source),
        use_regex ? split_by_regex(kGpt2Pattern, SplitBehavior::kIsolated) : nullptr);
  }
  if (type == "Whitespace") return split_by_regex(R"(\w+|[^\w\s]+)", SplitBehavior::kRemoved, true);
  if (type == "WhitespaceSplit") return split_at(is_white_space, SplitBehavior::kRemoved);
  if (type == "Punctuation") {
    const auto behavior = field_or<std::string>(config, "behavior", "Isolated", source);
    return split_at(is_bert_punctuation, parse_behavior(behavior, source));
  }
  if (type == "CharDelimiterSplit") {
    return split_by_string(require_field<std::string>(config, "delimiter", source),
                           SplitBehavior::kRemoved, false);
  }
  throw_error(ErrorCode::kInvalidArgument, source, ": pre-tokenizer \"", type,
              "\" is not supported; known: Sequence, Split, ByteLevel, Digits, BertPreTokenizer, "
              "Whitespace, WhitespaceSplit, Punctuation, Metaspace, CharDelimiterSplit");
}

}  // namespace quarry
