#include "api/pipeline.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "api/relevance.h"
#include "data/core/error.h"
#include "data/text/unicode.h"
#include "data/text/utf8.h"
#include "generator/prompt.h"

namespace quarry {

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

// Puts passages and question into the form that prepared.adapter was trained with.
void build_prompt(const LoadedGenerator& generator, const std::vector<ChatMessage>& messages,
                  const std::vector<Hit>& hits, const AskOptions& ask,
                  Pipeline::Prepared& prepared) {
  const int64_t context = generator.model->config().max_seq_len;
  RagPromptOptions options;
  // A caller that asks for more tokens than half of the context gets what the prompt leaves.
  options.max_tokens = context - std::clamp(ask.max_tokens, int64_t{1}, context / 2);
  RagPrompt prompt =
      build_rag_prompt(generator, *prepared.adapter->rag_template, messages, hits, options);
  prepared.citations = std::move(prompt.citations);
  prepared.prompt = std::move(prompt.tokens);
  const double bias = prepared.adapter->refusal_bias + ask.refusal_bias;
  if (bias == 0.0) return;
  const std::vector<int32_t> refusal = generator.tokenizer->encode(
      prepared.adapter->not_in_documents, Tokenizer::SpecialTokens::kNone);
  if (!refusal.empty()) prepared.first_token_bias = {refusal.front(), static_cast<float>(bias)};
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Pipeline::Pipeline(std::shared_ptr<Retriever> retriever, std::shared_ptr<const Embedder> embedder,
                   std::shared_ptr<Engine> engine)
    : retriever_(std::move(retriever)),
      embedder_(std::move(embedder)),
      engine_(std::move(engine)) {}

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
  return retriever_->search(text, vector.empty() ? nullptr : vector.data(), options);
}

const LoadedGenerator& Pipeline::generator() const {
  QUARRY_CHECK(engine_->generator() != nullptr, ErrorCode::kUnavailable,
               "no generator is loaded: only search works");
  return *engine_->generator();
}

Pipeline::Prepared Pipeline::prepare(const std::vector<ChatMessage>& messages,
                                     const AskOptions& options) const {
  const LoadedGenerator& model = generator();
  Prepared prepared;
  prepared.adapter = engine_->adapters().acquire(options.adapter);
  const std::string query = search_query(messages);
  const auto start = std::chrono::steady_clock::now();
  const std::vector<Hit> hits = search(query, options.search);
  prepared.search_seconds = seconds_since(start);
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
  Prepared prepared;
  prepared.adapter = engine_->adapters().acquire(options.adapter);
  prepared.relevant = true;
  build_prompt(model, messages, hits, options, prepared);
  return answer(std::move(prepared), options, on_text);
}

Answer Pipeline::answer(Prepared prepared, const AskOptions& options,
                        const Engine::OnText& on_text) const {
  Answer answer;
  answer.adapter = prepared.adapter->name;
  answer.search_seconds = prepared.search_seconds;
  if (!prepared.relevant) {
    answer.answered = false;
    answer.text = prepared.adapter->not_in_documents;
    if (on_text) on_text(answer.text);
    return answer;
  }
  GenerateRequest request;
  request.prompt = std::move(prepared.prompt);
  request.first_token_bias = prepared.first_token_bias;
  request.max_tokens = options.max_tokens;
  request.stop = options.stop;
  request.sampling = options.sampling;
  request.served = prepared.adapter;
  answer.generation = engine_->submit(std::move(request), on_text).result.get();
  QUARRY_CHECK(answer.generation.finish_reason != FinishReason::kError, ErrorCode::kInternal,
               "the generator failed: ", answer.generation.error);
  answer.text = answer.generation.text;
  answer.answered = !says_not_in_documents(answer.text, *prepared.adapter);
  if (answer.answered) answer.citations = std::move(prepared.citations);
  return answer;
}

}  // namespace quarry
