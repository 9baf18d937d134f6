#include <utility>

#include "data/text/component_json.h"
#include "data/text/pipeline_tokenizer.h"

namespace quarry {
namespace {

struct Surroundings {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
  std::optional<PairTemplate> pair;
};

// ("[SEP]", 102) as BertProcessing and RobertaProcessing write it.
int32_t read_token_pair(const Json& config, const char* field, const std::string& source) {
  const Json pair = require_field<Json>(config, field, source);
  QUARRY_CHECK(pair.is_array() && pair.size() == 2, ErrorCode::kCorruptData, source,
               ": post-processor field \"", field, "\" is ", dump_json(pair),
               ", wanted [token, id]");
  return read_integer<int32_t>(pair[1], field, source);
}

std::vector<int32_t> read_special(const Json& token, const Json& specials,
                                  const std::string& source) {
  const auto name = require_field<std::string>(token, "id", source);
  const auto special = require_field<Json>(specials, name.c_str(), source);
  std::vector<int32_t> ids;
  for (const Json& id : require_field<Json>(special, "ids", source)) {
    ids.push_back(read_integer<int32_t>(id, "ids", source));
  }
  return ids;
}

// Special tokens around one $A and one $B behind it; null for another order.
std::optional<PairTemplate> read_pair_template(const Json& items, const Json& specials,
                                               const std::string& source) {
  PairTemplate pair;
  std::string sequences;
  for (const Json& item : items) {
    const bool is_text = item.contains("Sequence");
    const auto part = require_field<Json>(item, is_text ? "Sequence" : "SpecialToken", source);
    const auto type = field_or<int32_t>(part, "type_id", 0, source);
    if (is_text) {
      (sequences.empty() ? pair.first_type : pair.second_type) = type;
      sequences += require_field<std::string>(part, "id", source);
      continue;
    }
    std::vector<PairTemplate::Token>& tokens =
        sequences.empty() ? pair.before : (sequences.size() == 1 ? pair.between : pair.after);
    for (const int32_t id : read_special(part, specials, source)) tokens.push_back({id, type});
  }
  if (sequences != "AB") return std::nullopt;
  return pair;
}

// The single-sequence template: special tokens around one $A.
Surroundings read_template(const Json& config, const std::string& source) {
  Surroundings around;
  const Json specials = field_or<Json>(config, "special_tokens", Json::object(), source);
  const Json pair = field_or<Json>(config, "pair", Json::array(), source);
  around.pair = read_pair_template(pair, specials, source);
  bool behind = false;
  for (const Json& item : require_field<Json>(config, "single", source)) {
    if (item.contains("Sequence")) {
      QUARRY_CHECK(!behind, ErrorCode::kInvalidArgument, source,
                   ": TemplateProcessing repeats its sequence, which is not supported");
      behind = true;
      continue;
    }
    const auto token = require_field<Json>(item, "SpecialToken", source);
    for (const int32_t id : read_special(token, specials, source)) {
      (behind ? around.suffix : around.prefix).push_back(id);
    }
  }
  return around;
}

Surroundings read_post_processor(const Json& config, const std::string& source) {
  Surroundings around;
  if (config.is_null()) return around;
  const auto type = require_field<std::string>(config, "type", source);
  if (type == "ByteLevel") return around;  // only moves offsets
  if (type == "TemplateProcessing") return read_template(config, source);
  if (type == "BertProcessing" || type == "RobertaProcessing") {
    const int32_t cls = read_token_pair(config, "cls", source);
    const int32_t sep = read_token_pair(config, "sep", source);
    around.prefix.push_back(cls);
    around.suffix.push_back(sep);
    around.pair = type == "BertProcessing" ? bert_pair_template(cls, sep)
                                           : PairTemplate{{{cls}}, {{sep}, {sep}}, {{sep}}, 0, 0};
    return around;
  }
  QUARRY_CHECK(type == "Sequence", ErrorCode::kInvalidArgument, source, ": post-processor \"", type,
               "\" is not supported; known: Sequence, ByteLevel, TemplateProcessing, "
               "BertProcessing, RobertaProcessing");
  for (const Json& part : require_field<Json>(config, "processors", source)) {
    // What a second template would do to a pair is not what it does to a text.
    const bool has_frame = !around.prefix.empty() || !around.suffix.empty();
    Surroundings outer = read_post_processor(part, source);
    outer.prefix.insert(outer.prefix.end(), around.prefix.begin(), around.prefix.end());
    around.prefix = std::move(outer.prefix);
    around.suffix.insert(around.suffix.end(), outer.suffix.begin(), outer.suffix.end());
    if (!has_frame) {
      if (outer.pair) around.pair = std::move(outer.pair);
    } else if (outer.pair) {
      around.pair.reset();
    }
  }
  return around;
}

std::vector<AddedToken> read_added_tokens(const Json& config, const std::string& source) {
  std::vector<AddedToken> tokens;
  for (const Json& item : field_or<Json>(config, "added_tokens", Json::array(), source)) {
    AddedToken token;
    token.content = require_field<std::string>(item, "content", source);
    token.id = require_field<int32_t>(item, "id", source);
    token.special = field_or(item, "special", false, source);
    token.single_word = field_or(item, "single_word", false, source);
    token.lstrip = field_or(item, "lstrip", false, source);
    token.rstrip = field_or(item, "rstrip", false, source);
    token.normalized = field_or(item, "normalized", !token.special, source);
    QUARRY_CHECK(token.id >= 0 && token.id < (1 << 24), ErrorCode::kCorruptData, source,
                 ": added token \"", token.content, "\" has the id ", token.id);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void check_in_vocabulary(const std::vector<int32_t>& ids, const Tokenizer& tokenizer,
                         const std::string& source) {
  for (const int32_t id : ids) {
    QUARRY_CHECK(id >= 0 && id < tokenizer.vocab_size(), ErrorCode::kCorruptData, source,
                 ": the post-processor adds the token ", id, ", the vocabulary has ",
                 tokenizer.vocab_size());
  }
}

Json component(const Json& config, const char* name) {
  const auto found = config.find(name);
  return found == config.end() ? Json() : *found;
}

}  // namespace

std::unique_ptr<Tokenizer> make_json_tokenizer(const Json& config, const std::string& source) {
  QUARRY_CHECK(config.is_object() && config.contains("model"), ErrorCode::kCorruptData, source,
               ": not a tokenizer.json: the object \"model\" is missing");
  TokenizerParts parts;
  parts.added_tokens = read_added_tokens(config, source);
  parts.normalizer = make_normalizer(component(config, "normalizer"), source);
  parts.pre_tokenizer = make_pre_tokenizer(component(config, "pre_tokenizer"), source);
  parts.model = make_token_model(config["model"], source);
  parts.decoder = make_token_decoder(component(config, "decoder"), source);
  const Surroundings around = read_post_processor(component(config, "post_processor"), source);
  parts.prefix_ids = around.prefix;
  parts.suffix_ids = around.suffix;
  parts.pair = around.pair;
  auto tokenizer = make_pipeline_tokenizer(std::move(parts));
  check_in_vocabulary(around.prefix, *tokenizer, source);
  check_in_vocabulary(around.suffix, *tokenizer, source);
  if (around.pair) {
    for (const auto* tokens : {&around.pair->before, &around.pair->between, &around.pair->after}) {
      std::vector<int32_t> ids;
      for (const PairTemplate::Token& token : *tokens) ids.push_back(token.id);
      check_in_vocabulary(ids, *tokenizer, source);
    }
  }
  return tokenizer;
}

}  // namespace quarry
