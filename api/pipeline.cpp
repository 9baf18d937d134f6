#include "api/pipeline.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "api/relevance.h"
#include "data/core/error.h"
#include "data/core/stopwatch.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"
#include "generator/decode/marginal_decode.h"
#include "generator/prompt.h"

namespace quarry {

Decoding parse_decoding(const std::string& text) {
  if (text == "concat") return Decoding::kConcat;
  if (text == "rag-sequence") return Decoding::kRagSequence;
  if (text == "rag-token") return Decoding::kRagToken;
  throw_error(ErrorCode::kInvalidArgument, "decoding \"", text,
              "\" is unknown: use concat, rag-sequence or rag-token");
}

const char* const kNotInDocuments = default_rag_template().not_in_documents.c_str();

bool says_not_in_documents(const std::string& text, const ServedAdapter& adapter) {
  const auto [begin, end] = trimmed_range(text);
  return text.compare(begin, end - begin, adapter.not_in_documents) == 0;
}

namespace {

// Fewer content words than this hardly say what is asked for ("And in Italy?").
constexpr size_t kFewContentWords = 3;

// The last user message; a short follow-up is put behind the question before it.
std::string search_query(const std::vector<ChatMessage>& messages) {
  std::vector<const std::string*> questions;
  for (const ChatMessage& message : messages) {
    if (message.role == "user") questions.push_back(&message.content);
  }
  QUARRY_CHECK(!questions.empty(), ErrorCode::kInvalidArgument,
               "the messages hold no user message, so there is no question");
  const std::string& last = *questions.back();
  if (questions.size() == 1 || count_content_words(last) >= kFewContentWords) return last;
  return *questions[questions.size() - 2] + " " + last;
}

// A caller that asks for more tokens than half of the context gets what the prompt leaves.
RagPromptOptions prompt_options(const LoadedGenerator& generator, const AskOptions& ask) {
  const CausalLmConfig& config = generator.model->config();
  const int64_t context = config.max_seq_len;
  RagPromptOptions options;
  options.max_tokens = config.has_encoder()
                           ? context
                           : context - std::clamp(ask.max_tokens, int64_t{1}, context / 2);
  return options;
}

// Each passage with the question alone.
void build_passage_prompts(const LoadedGenerator& generator,
                           const std::vector<ChatMessage>& messages, const std::vector<Hit>& hits,
                           const AskOptions& ask, Pipeline::Prepared& prepared) {
  std::vector<Hit> kept;
  for (const Hit& hit : hits) {
    RagPrompt prompt = build_rag_prompt(generator, *prepared.adapter->rag_template, messages, {hit},
                                        prompt_options(generator, ask));
    if (prompt.citations.empty()) continue;  // the conversation leaves it no room
    kept.push_back(hit);
    prepared.citations.push_back(std::move(prompt.citations.front()));
    prepared.citations.back().index = static_cast<int>(kept.size());
    prepared.passage_prompts.push_back(std::move(prompt.tokens));
  }
  QUARRY_CHECK(!kept.empty(), ErrorCode::kInvalidArgument, "no passage fits the context of ",
               generator.name, " beside the conversation");
  prepared.log_prior = log_passage_prior(kept, ask.prior_temperature);
}

// Puts passages and question into the form that prepared.adapter was trained with.
void build_prompt(const LoadedGenerator& generator, const std::vector<ChatMessage>& messages,
                  const std::vector<Hit>& hits, const AskOptions& ask,
                  Pipeline::Prepared& prepared) {
  if (ask.decode == Decoding::kConcat) {
    RagPrompt prompt = build_rag_prompt(generator, *prepared.adapter->rag_template, messages, hits,
                                        prompt_options(generator, ask));
    prepared.citations = std::move(prompt.citations);
    prepared.prompt = std::move(prompt.tokens);
  } else {
    build_passage_prompts(generator, messages, hits, ask, prepared);
  }
  prepared.refusal = generator.tokenizer->encode(prepared.adapter->not_in_documents,
                                                 Tokenizer::SpecialTokens::kNone);
  const double bias = prepared.adapter->refusal_bias + ask.refusal_bias;
  if (bias == 0.0 || ask.constraint != nullptr || prepared.refusal.empty()) return;
  prepared.first_token_bias = {prepared.refusal.front(), static_cast<float>(bias)};
}

// What decoding over latent passages cannot honour.
void check_latent(const AskOptions& options) {
  if (options.decode == Decoding::kConcat) return;
  QUARRY_CHECK(options.sampling.temperature == 0.0 && options.sampling.repetition_penalty == 1.0,
               ErrorCode::kInvalidArgument,
               "decoding over latent passages is greedy: temperature is ",
               options.sampling.temperature, " and repetition_penalty ",
               options.sampling.repetition_penalty, ", wanted 0 and 1");
  QUARRY_CHECK(options.stop.empty(), ErrorCode::kInvalidArgument,
               "decoding over latent passages ends with the model's own end of turn: stop is \"",
               options.stop.front(), "\", wanted none");
  QUARRY_CHECK(options.constraint == nullptr, ErrorCode::kInvalidArgument,
               "decoding over latent passages knows neither JSON schemas nor regular expressions");
  QUARRY_CHECK(
      options.beams.num_beams == 1 && options.top_logprobs < 0, ErrorCode::kInvalidArgument,
      "decoding over latent passages has neither beams nor log-probabilities of tokens: "
      "num_beams is ",
      options.beams.num_beams, " and top_logprobs ", options.top_logprobs, ", wanted 1 and none");
}

}  // namespace

Pipeline::Pipeline(std::shared_ptr<Retriever> retriever, std::shared_ptr<const Embedder> embedder,
                   std::shared_ptr<Engine> engine, std::shared_ptr<const Reranker> reranker)
    : retriever_(std::move(retriever)),
      embedder_(std::move(embedder)),
      engine_(std::move(engine)),
      reranker_(std::move(reranker)) {}

std::vector<Hit> Pipeline::search(const std::string& query, const SearchOptions& options) const {
  QUARRY_CHECK(retriever_ != nullptr, ErrorCode::kUnavailable,
               "no index is open: nothing to search");
  const std::string text = repair_utf8(query);
  const auto [begin, end] = trimmed_range(text);
  QUARRY_CHECK(begin < end, ErrorCode::kInvalidArgument, "the query is empty");
  std::vector<float> vector;
  if (options.mode != SearchMode::kLexical) {
    QUARRY_CHECK(embedder_ != nullptr, ErrorCode::kUnavailable,
                 "no embedder is loaded: only lexical search works");
    engine_->run([&] { vector = embedder_->embed_query(text); });
  }
  const float* query_vector = vector.empty() ? nullptr : vector.data();
  if (options.rerank_candidates == 0) return retriever_->search(text, query_vector, options);
  QUARRY_CHECK(reranker_ != nullptr, ErrorCode::kInvalidArgument, "rerank_candidates is ",
               options.rerank_candidates, ", but no reranker is loaded: start with --rerank MODEL");
  return reranker_->rerank(text, retriever_->search(text, query_vector, candidate_search(options)),
                           options.top_k,
                           [this](const std::function<void()>& job) { engine_->run(job); });
}

const LoadedGenerator& Pipeline::generator() const {
  QUARRY_CHECK(engine_->generator() != nullptr, ErrorCode::kUnavailable,
               "no generator is loaded: only search works");
  return *engine_->generator();
}

Pipeline::Prepared Pipeline::prepare(const std::vector<ChatMessage>& messages,
                                     const AskOptions& options) const {
  const LoadedGenerator& model = generator();
  check_latent(options);
  Prepared prepared;
  prepared.adapter = engine_->adapters().acquire(options.adapter);
  const std::string query = search_query(messages);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Hit> hits = search(query, options.search);
  prepared.search_seconds = seconds_since(start);
  prepared.passages_found = static_cast<int64_t>(hits.size());
  const double min_relevance =
      options.min_relevance < 0.0 ? kDefaultMinRelevance : options.min_relevance;
  prepared.relevant = !hits.empty() && relevance(query, hits) >= min_relevance;
  if (prepared.relevant) build_prompt(model, messages, hits, options, prepared);
  return prepared;
}

Answer Pipeline::ask(const std::vector<ChatMessage>& messages, const AskOptions& options,
                     const Engine::OnText& on_text) const {
  return answer(prepare(messages, options), options, on_text);
}

Answer Pipeline::answer_from(const std::vector<Hit>& hits, const std::vector<ChatMessage>& messages,
                             const AskOptions& options, const Engine::OnText& on_text) const {
  const LoadedGenerator& model = generator();
  check_latent(options);
  Prepared prepared;
  prepared.adapter = engine_->adapters().acquire(options.adapter);
  prepared.relevant = true;
  prepared.passages_found = static_cast<int64_t>(hits.size());
  build_prompt(model, messages, hits, options, prepared);
  return answer(std::move(prepared), options, on_text);
}

Answer Pipeline::answer(Prepared prepared, const AskOptions& options,
                        const Engine::OnText& on_text) const {
  Answer answer;
  answer.adapter = prepared.adapter->name;
  answer.search_seconds = prepared.search_seconds;
  answer.passages_found = prepared.passages_found;
  if (!prepared.relevant) {
    answer.answered = false;
    answer.text = prepared.adapter->not_in_documents;
    if (on_text) on_text(answer.text);
    return answer;
  }
  if (options.decode == Decoding::kConcat) {
    GenerateRequest request;
    request.prompt = std::move(prepared.prompt);
    request.first_token_bias = prepared.first_token_bias;
    request.max_tokens = options.max_tokens;
    request.stop = options.stop;
    request.top_logprobs = options.top_logprobs;
    request.constraint = options.constraint;
    request.sampling = options.sampling;
    request.served = prepared.adapter;
    answer.generation = options.beams.num_beams > 1
                            ? beam_search(*engine_, std::move(request), options.beams, on_text)
                            : engine_->submit(std::move(request), on_text).result.get();
    QUARRY_CHECK(answer.generation.finish_reason != FinishReason::kError, ErrorCode::kInternal,
                 "the generator failed: ", answer.generation.error);
  } else {
    decode_latent(prepared, options, on_text, answer);
  }
  answer.text = answer.generation.text;
  answer.answered = !says_not_in_documents(answer.text, *prepared.adapter);
  if (answer.answered) answer.citations = std::move(prepared.citations);
  return answer;
}

void Pipeline::decode_latent(Prepared& prepared, const AskOptions& options,
                             const Engine::OnText& on_text, Answer& answer) const {
  const LoadedGenerator& model = generator();
  MarginalRequest request;
  request.prompts = std::move(prepared.passage_prompts);
  request.log_prior = prepared.log_prior;
  request.stop_tokens = model.stop_tokens;
  request.first_token_bias = prepared.first_token_bias;
  request.refusal = prepared.refusal;
  request.max_tokens = options.max_tokens;
  request.adapter = prepared.adapter->weights.get();
  request.prefill_chunk_tokens = engine_->options().prefill_chunk_tokens;
  const Marginal marginal =
      options.decode == Decoding::kRagSequence ? Marginal::kSequence : Marginal::kToken;
  const MarginalResult decoded = decode_marginal(
      *model.model, marginal, request,
      [this](const std::function<void()>& job) { engine_->run(job); },
      [&on_text] { return !on_text || on_text(""); });
  GenerateResult& generation = answer.generation;
  generation.tokens = decoded.tokens;
  generation.text = model.tokenizer->decode(decoded.tokens);
  generation.finish_reason = decoded.finish_reason;
  for (const std::vector<int32_t>& prompt : request.prompts) {
    generation.prompt_tokens += static_cast<int64_t>(prompt.size());
  }
  generation.completion_tokens = static_cast<int64_t>(decoded.tokens.size());
  generation.prefill_seconds = decoded.prefill_seconds;
  generation.decode_seconds = decoded.decode_seconds;
  if (on_text && !generation.text.empty()) on_text(generation.text);
  if (decoded.posterior.empty()) return;  // cancelled
  for (size_t z = 0; z < prepared.citations.size(); ++z) {
    LatentPassage passage;
    passage.hit = prepared.citations[z].hit;
    passage.prior = std::exp(prepared.log_prior[z]);
    passage.posterior = decoded.posterior[z];
    if (z < decoded.passage_tokens.size()) {
      passage.text = model.tokenizer->decode(decoded.passage_tokens[z]);
    }
    answer.latent.push_back(std::move(passage));
  }
}

}  // namespace quarry
