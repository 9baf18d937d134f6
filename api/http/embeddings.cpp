// POST /v1/embeddings: unit vectors of texts, as floats or as base64 of little-endian float32
// (which OpenAI's Python client asks for by default).
#include <algorithm>
#include <cstring>

#include "api/http/context.h"
#include "api/http/fields.h"

namespace quarry::http {
namespace {

constexpr size_t kMostInputs = 2048;
// Texts that go to the engine at once; streams get their turn in between.
constexpr size_t kTextsPerStep = 8;

struct EmbeddingRequest {
  std::vector<std::string> texts;
  bool base64 = false;
  bool is_query = false;
};

std::string decode_tokens(const Fields& fields, const Json& list, const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const Json& item : list) {
    const double id = item.is_number_integer() ? item.get<double>() : -1.0;
    if (id < 0 || id >= static_cast<double>(tokenizer.vocab_size())) {
      fields.fail("input", concat("texts, or token ids of this embedder from 0 to ",
                                  tokenizer.vocab_size() - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return tokenizer.decode(ids);
}

std::vector<std::string> read_texts(const Fields& fields, const Tokenizer& tokenizer) {
  const Json* input = fields.find("input");
  if (input == nullptr) throw bad_request("input", "'input' is missing");
  std::vector<std::string> texts;
  if (input->is_string()) {
    texts.push_back(input->get<std::string>());
  } else if (input->is_array() && !input->empty() && input->front().is_number()) {
    texts.push_back(decode_tokens(fields, *input, tokenizer));
  } else if (input->is_array() && !input->empty() && input->size() <= kMostInputs) {
    for (const Json& item : *input) {
      if (item.is_string()) {
        texts.push_back(item.get<std::string>());
      } else if (item.is_array() && !item.empty()) {
        texts.push_back(decode_tokens(fields, item, tokenizer));
      } else {
        fields.fail("input", "strings or arrays of token ids");
      }
    }
  } else {
    fields.fail("input", concat("a text or an array of 1 to ", kMostInputs, " texts"));
  }
  for (const std::string& text : texts) {
    if (text.empty()) fields.fail("input", "texts that are not empty");
  }
  return texts;
}

EmbeddingRequest read_request(const Fields& fields, const Embedder& embedder) {
  const std::string model = fields.string("model").value_or(embedder.name());
  if (model != embedder.name()) throw model_not_found(model, embedder.name());
  const std::optional<int64_t> dimensions = fields.integer("dimensions", 1, 1 << 20);
  if (dimensions && *dimensions != embedder.dim()) {
    fields.fail("dimensions", concat(embedder.dim(), ", the size of this embedder's vectors"));
  }
  const std::string format = fields.string("encoding_format").value_or("float");
  if (format != "float" && format != "base64") fields.fail("encoding_format", "float or base64");
  const std::string type = fields.string("input_type").value_or("passage");
  if (type != "query" && type != "passage") fields.fail("input_type", "query or passage");
  EmbeddingRequest request;
  request.texts = read_texts(fields, embedder.tokenizer());
  request.base64 = format == "base64";
  request.is_query = type == "query";
  return request;
}

// [texts, dim]
std::vector<float> embed(ServerContext& context, const Exchange& exchange,
                         const EmbeddingRequest& request) {
  const Embedder& embedder = *context.pipeline.embedder();
  std::vector<float> vectors;
  for (size_t i = 0; i < request.texts.size(); i += kTextsPerStep) {
    if (exchange.connection->client_gone()) throw ClientGone();
    if (context.cancelling) throw shutting_down();
    const size_t end = std::min(i + kTextsPerStep, request.texts.size());
    const std::vector<std::string> part(request.texts.begin() + i, request.texts.begin() + end);
    std::vector<float> part_vectors;
    context.pipeline.engine().run([&] {
      if (!request.is_query) {
        part_vectors = embedder.embed_passages(part);
        return;
      }
      for (const std::string& text : part) {
        const std::vector<float> vector = embedder.embed_query(text);
        part_vectors.insert(part_vectors.end(), vector.begin(), vector.end());
      }
    });
    vectors.insert(vectors.end(), part_vectors.begin(), part_vectors.end());
  }
  return vectors;
}

std::string base64_of_floats(const float* values, int64_t count) {
  static const char kAlphabet[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  bytes.reserve(static_cast<size_t>(count) * 4);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof(bits));
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift & 0xFF);
  }
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < left ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    }
    for (size_t j = 0; j < 4; ++j) {
      text += j <= left ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return text;
}

}  // namespace

void handle_embeddings(ServerContext& context, Exchange& exchange, const httplib::Request& request,
                       httplib::Response& response) {
  const Embedder* embedder = context.pipeline.embedder();
  if (embedder == nullptr) {
    throw bad_request("model", "this server was started without an embedder");
  }
  const Json body = parse_body(request.body);
  const EmbeddingRequest parsed = read_request(Fields(body), *embedder);
  const std::vector<float> vectors = embed(context, exchange, parsed);
  OrderedJson data = OrderedJson::array();
  int64_t tokens = 0;
  for (size_t i = 0; i < parsed.texts.size(); ++i) {
    const float* vector = vectors.data() + i * static_cast<size_t>(embedder->dim());
    tokens += std::min(embedder->tokenizer().count_tokens(parsed.texts[i]), embedder->max_tokens());
    OrderedJson entry;
    entry["object"] = "embedding";
    entry["index"] = i;
    if (parsed.base64) {
      entry["embedding"] = base64_of_floats(vector, embedder->dim());
    } else {
      entry["embedding"] = std::vector<float>(vector, vector + embedder->dim());
    }
    data.push_back(std::move(entry));
  }
  OrderedJson answer;
  answer["object"] = "list";
  answer["data"] = std::move(data);
  answer["model"] = embedder->name();
  answer["usage"]["prompt_tokens"] = tokens;
  answer["usage"]["total_tokens"] = tokens;
  write_json(answer, response);
}

}  // namespace quarry::http
