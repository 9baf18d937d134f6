#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/types.h"
#include "generator/decode/beam_search.h"
#include "generator/decode/engine.h"
#include "retriever/passage_prior.h"
#include "retriever/reranker.h"
#include "retriever/search.h"

namespace quarry {

// How passages and model make an answer.
enum class Decoding {
  kConcat,       // all passages in one prompt
  kRagSequence,  // one prompt each, the answers weighed (generator/decode/marginal_decode.h)
  kRagToken,     // one prompt each, their next tokens mixed
};
// Throws kInvalidArgument naming the value and the choices: concat, rag-sequence, rag-token.
Decoding parse_decoding(const std::string& text);

struct AskOptions {
  SearchOptions search;  // top_k is how many passages may enter the prompt
  Decoding decode = Decoding::kConcat;
  double prior_temperature = kPriorTemperature;  // of p(z|x), for the other two
  int64_t max_tokens = 256;
  SamplingOptions sampling;
  BeamSearchOptions beams;
  std::vector<std::string> stop;
  int64_t top_logprobs = -1;  // GenerateRequest::top_logprobs
  // GenerateRequest::constraint. "Not in the documents" is said without regard to it, but only
  // where nothing relevant was found: a model that answers cannot refuse.
  std::shared_ptr<Constraint> constraint;
  std::string adapter;          // name in Engine::adapters(); empty: base model
  double min_relevance = -1.0;  // < 0: the pipeline's calibrated default; 0: never abstain
  // Nats added to the adapter's own (ServedAdapter::refusal_bias): above 0 "not in the documents"
  // is said oftener, -infinity never.
  double refusal_bias = 0.0;
};

// A passage of an answer that was decoded over all of them.
struct LatentPassage {
  Hit hit;
  double prior = 0.0;      // p(z|x)
  double posterior = 0.0;  // p(z|x,y), y being the answer; of kRagToken the mean over its tokens
  std::string text;        // kRagSequence: what this passage alone answers
};

struct Answer {
  std::string text;
  bool answered = true;               // false: the documents do not hold the answer, `text` says so
  int64_t passages_found = 0;         // by the search, relevant or not
  std::vector<Citation> citations;    // every passage in the prompt, from 1; none without an answer
  std::string adapter;                // ServedAdapter::name; empty: the base model
  std::vector<LatentPassage> latent;  // none for kConcat and without an answer
  GenerateResult generation;          // empty when nothing was generated
  double search_seconds = 0.0;
};

// Said instead of inventing: default_rag_template().not_in_documents.
extern const char* const kNotInDocuments;

// Whether a generated text is the adapter's "not in the documents" reply, white space around it
// aside.
bool says_not_in_documents(const std::string& text, const ServedAdapter& adapter);

// question -> passages -> prompt -> Answer. Thread-safe.
class Pipeline {
 public:
  // All are kept. `reranker` may be null: then no search may ask for one.
  Pipeline(std::shared_ptr<Retriever> retriever, std::shared_ptr<const Embedder> embedder,
           std::shared_ptr<Engine> engine, std::shared_ptr<const Reranker> reranker = nullptr);

  // Throws kNotFound for an unknown adapter, kInvalidArgument for sampling, stop strings, a
  // constraint or lexical search where decoding is over latent passages, and as search(),
  // Engine::submit() and build_rag_prompt().
  Answer ask(const std::vector<ChatMessage>& messages, const AskOptions& options,
             const Engine::OnText& on_text) const;
  // The same from given passages: nothing is searched and nothing is found irrelevant.
  Answer answer_from(const std::vector<Hit>& hits, const std::vector<ChatMessage>& messages,
                     const AskOptions& options, const Engine::OnText& on_text) const;
  // Query embedding and reranking run on the engine thread.
  std::vector<Hit> search(const std::string& query, const SearchOptions& options) const;

  // In two steps, for streaming servers that must send headers in between.
  struct Prepared {
    bool relevant = false;
    int64_t passages_found = 0;
    std::vector<Citation> citations;
    std::vector<int32_t> prompt;  // rendered and tokenized, fits the model's context
    // Instead of it, one for each citation, where decoding is over latent passages.
    std::vector<std::vector<int32_t>> passage_prompts;
    std::vector<double> log_prior;  // of each
    std::vector<int32_t> refusal;   // what the adapter says where the passages hold no answer
    GenerateRequest::FirstTokenBias first_token_bias;  // towards the adapter's refusal
    // What the prompt was made for: its template's, and what has to answer it.
    std::shared_ptr<const ServedAdapter> adapter;
    double search_seconds = 0.0;
  };
  Prepared prepare(const std::vector<ChatMessage>& messages, const AskOptions& options) const;
  // The second step for a caller without an engine request of its own.
  Answer answer(Prepared prepared, const AskOptions& options, const Engine::OnText& on_text) const;

  const Retriever* retriever() const { return retriever_.get(); }
  const Reranker* reranker() const { return reranker_.get(); }
  Engine& engine() const { return *engine_; }
  const Embedder* embedder() const { return embedder_.get(); }

 private:
  const LoadedGenerator& generator() const;
  void decode_latent(Prepared& prepared, const AskOptions& options, const Engine::OnText& on_text,
                     Answer& answer) const;

  std::shared_ptr<Retriever> retriever_;
  std::shared_ptr<const Embedder> embedder_;
  std::shared_ptr<Engine> engine_;
  std::shared_ptr<const Reranker> reranker_;
};

}  // namespace quarry
