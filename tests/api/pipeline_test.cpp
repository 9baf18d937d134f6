#include "api/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <thread>

#include "data/core/error.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Every text is [1, 0]; remembers on which thread it was asked.
class FixedEncoder : public TextEncoder {
 public:
  int64_t dim() const override { return 2; }
  int64_t max_tokens() const override { return 256; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  std::vector<float> encode(const std::vector<std::string>& texts) const override {
    encoding_thread = std::this_thread::get_id();
    std::vector<float> vectors;
    for (size_t i = 0; i < texts.size(); ++i) vectors.insert(vectors.end(), {1.0f, 0.0f});
    return vectors;
  }

  mutable std::thread::id encoding_thread;

 private:
  fake::ByteTokenizer tokenizer_;
};

class FixedRetriever : public Retriever {
 public:
  std::vector<Hit> search(const std::string& query, const SearchOptions& options) const override {
    return search(query, nullptr, options);
  }
  std::vector<Hit> search(const std::string& query, const float* query_vector,
                          const SearchOptions& options) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    asked = query;
    had_vector = query_vector != nullptr;
    std::vector<Hit> found = hits;
    if (found.size() > static_cast<size_t>(options.top_k)) {
      found.resize(static_cast<size_t>(options.top_k));
    }
    return found;
  }
  const StoreManifest& manifest() const override { return manifest_; }
  StoreStats stats() const override { return StoreStats(); }
  std::optional<Document> document(const std::string&) const override { return std::nullopt; }
  void refresh() override {}

  std::vector<Hit> hits;
  mutable std::string asked;
  mutable bool had_vector = false;

 private:
  mutable std::mutex mutex_;  // guards asked and had_vector
  StoreManifest manifest_;
};

Hit hit_of(const std::string& text, double dense) {
  Hit hit;
  hit.passage.title = "Engines";
  hit.passage.text = text;
  hit.passage.end = static_cast<int64_t>(text.size());
  hit.dense_score = dense;
  return hit;
}

// Answers every prompt with "42." and repeats nothing of it.
struct Rig {
  Rig() {
    retriever = std::make_shared<FixedRetriever>();
    retriever->hits = {hit_of("The steam engine was built by Watt.", 0.8),
                       hit_of("Steam is water vapour.", 0.5), hit_of("Coal burns.", 0.1)};
    LoadedEncoder loaded;
    loaded.name = "fixed";
    auto owned = std::make_unique<FixedEncoder>();
    encoder = owned.get();
    loaded.model = std::move(owned);
    const auto answer = [](const std::vector<int32_t>& history,
                           const LoraAdapter* adapter) -> int32_t {
      if (adapter != nullptr) return history.back() == '-' ? fake::kEnd : '-';
      switch (history.back()) {
        case ':':
          return '4';
        case '4':
          return '2';
        case '2':
          return '.';
        default:
          return fake::kEnd;
      }
    };
    auto model = std::make_unique<fake::Model>(answer, 2000);
    engine = std::make_shared<Engine>(fake::make_generator(std::move(model)), EngineOptions());
    pipeline = std::make_unique<Pipeline>(
        retriever, std::make_shared<const Embedder>(std::move(loaded)), engine);
  }

  std::shared_ptr<FixedRetriever> retriever;
  const FixedEncoder* encoder;
  std::shared_ptr<Engine> engine;
  std::unique_ptr<Pipeline> pipeline;
};

using test::expect_error;

TEST(Pipeline, AnswersWithThePassagesOfThePromptAsCitations) {
  Rig rig;
  std::string shown;
  const Answer answer = rig.pipeline->ask({{"user", "Who built the steam engine?"}}, AskOptions(),
                                          [&](const std::string& text) {
                                            shown += text;
                                            return true;
                                          });
  EXPECT_TRUE(answer.answered);
  EXPECT_EQ(answer.text, "42.");
  EXPECT_EQ(shown, "42.");
  EXPECT_EQ(answer.generation.finish_reason, FinishReason::kStop);
  ASSERT_EQ(answer.citations.size(), 3u);
  EXPECT_EQ(answer.citations[0].index, 1);
  EXPECT_EQ(answer.citations[0].hit.passage.text, "The steam engine was built by Watt.");
  EXPECT_EQ(answer.citations[2].index, 3);
}

TEST(Pipeline, PreparedPromptHoldsTheCitedPassages) {
  Rig rig;
  AskOptions options;
  options.search.top_k = 2;
  const Pipeline::Prepared prepared =
      rig.pipeline->prepare({{"user", "Who built the steam engine?"}}, options);
  const std::string text = fake::ByteTokenizer().decode(prepared.prompt);
  EXPECT_TRUE(prepared.relevant);
  EXPECT_EQ(prepared.citations.size(), 2u);
  EXPECT_THAT(text, HasSubstr("[1] Engines\nThe steam engine was built by Watt."));
  EXPECT_THAT(text, HasSubstr("[2] Engines\nSteam is water vapour."));
  EXPECT_THAT(text, Not(HasSubstr("[3]")));
}

TEST(Pipeline, SaysWhenNothingRelevantIsFound) {
  Rig rig;
  rig.retriever->hits = {hit_of("Coal burns.", 0.1)};
  std::string shown;
  const Answer answer = rig.pipeline->ask({{"user", "Which zebra won the regatta?"}}, AskOptions(),
                                          [&](const std::string& text) {
                                            shown += text;
                                            return true;
                                          });
  EXPECT_FALSE(answer.answered);
  EXPECT_EQ(answer.text, kNotInDocuments);
  EXPECT_EQ(shown, kNotInDocuments);
  EXPECT_TRUE(answer.citations.empty());
  EXPECT_EQ(answer.generation.completion_tokens, 0);
  EXPECT_EQ(rig.engine->stats().requests_total, 0);
}

// Adapters of the rig's model write "-".
TEST(Pipeline, AnAdaptersOwnReplyIsNoAnswer) {
  const test::TemporaryFolder folder;
  fake::write_adapter(folder.path() / "dash", 1.0f, 1, R"({"not_in_documents": "-"})");
  fake::write_adapter(folder.path() / "other", 1.0f, 1, R"({"not_in_documents": "--"})");
  Rig rig;
  rig.engine->adapters().load("dash", folder.path() / "dash");
  rig.engine->adapters().load("other", folder.path() / "other");
  AskOptions options;
  options.adapter = "dash";
  const std::vector<ChatMessage> messages = {{"user", "Who built the steam engine?"}};
  Answer answer = rig.pipeline->ask(messages, options, nullptr);
  EXPECT_EQ(answer.text, "-");
  EXPECT_FALSE(answer.answered);
  EXPECT_TRUE(answer.citations.empty());
  EXPECT_EQ(answer.adapter, "dash");
  EXPECT_EQ(answer.generation.completion_tokens, 1);
  options.adapter = "other";
  answer = rig.pipeline->ask(messages, options, nullptr);
  EXPECT_TRUE(answer.answered);
  EXPECT_EQ(answer.citations.size(), 3u);
  EXPECT_EQ(answer.adapter, "other");
  rig.retriever->hits.clear();  // what it would have said, without asking it
  EXPECT_EQ(rig.pipeline->ask(messages, options, nullptr).text, "--");
  options.adapter = "gone";
  expect_error([&] { rig.pipeline->ask(messages, options, nullptr); }, ErrorCode::kNotFound,
               "no adapter is named 'gone'; there are: dash, other");
  EXPECT_EQ(rig.pipeline->ask(messages, AskOptions(), nullptr).adapter, "");
}

TEST(Pipeline, ARefusalIsFavouredOrForbiddenWhereTheTextBegins) {
  Rig rig;
  const test::TemporaryFolder folder;
  fake::write_adapter(folder.path() / "lora", 1.0f, 1, R"({"not_in_documents": "-"})");
  rig.engine->adapters().load("tuned", folder.path() / "lora");
  const std::vector<ChatMessage> question = {{"user", "Who built the steam engine?"}};
  AskOptions options;
  options.refusal_bias = 100.0;
  // The base model's is "The documents ..."; only the first token is pushed.
  EXPECT_EQ(rig.pipeline->ask(question, options, nullptr).text, "T");
  options.adapter = "tuned";
  EXPECT_FALSE(rig.pipeline->ask(question, options, nullptr).answered);
  options.refusal_bias = -std::numeric_limits<double>::infinity();
  const Answer forced = rig.pipeline->ask(question, options, nullptr);
  EXPECT_TRUE(forced.answered);
  EXPECT_NE(forced.text.substr(0, 1), "-");
}

TEST(Pipeline, AReplyIsComparedWithoutWhiteSpaceAround) {
  ServedAdapter adapter;
  adapter.not_in_documents = "Not there.";
  EXPECT_TRUE(says_not_in_documents("Not there.", adapter));
  EXPECT_TRUE(says_not_in_documents(" \nNot there. ", adapter));
  for (const char* text : {"", " ", "Not there", "Not there. But here.", "It is Not there."}) {
    EXPECT_FALSE(says_not_in_documents(text, adapter)) << text;
  }
}

TEST(Pipeline, AnswersFromGivenPassagesWithoutASearch) {
  Rig rig;
  const Answer answer = rig.pipeline->answer_from({hit_of("Zebras have stripes.", 0.0)},
                                                  {{"user", "Who?"}}, AskOptions(), nullptr);
  EXPECT_EQ(answer.text, "42.");
  ASSERT_EQ(answer.citations.size(), 1u);
  EXPECT_EQ(answer.citations[0].hit.passage.text, "Zebras have stripes.");
  EXPECT_EQ(rig.retriever->asked, "");
}

TEST(Pipeline, LatentPassagesHaveAPromptOfTheirOwnAndAreWeighed) {
  Rig rig;
  const std::vector<ChatMessage> messages = {{"user", "Who built the steam engine?"}};
  AskOptions options;
  options.decode = Decoding::kRagSequence;
  options.prior_temperature = 0.5;
  const Pipeline::Prepared prepared = rig.pipeline->prepare(messages, options);
  EXPECT_TRUE(prepared.prompt.empty());
  ASSERT_EQ(prepared.passage_prompts.size(), 3u);
  EXPECT_EQ(fake::ByteTokenizer().decode(prepared.refusal), kNotInDocuments);
  const std::string second = fake::ByteTokenizer().decode(prepared.passage_prompts[1]);
  EXPECT_THAT(second, HasSubstr("[1] Engines\nSteam is water vapour."));
  EXPECT_THAT(second, Not(HasSubstr("Watt")));

  std::string shown;
  const Answer answer = rig.pipeline->ask(messages, options, [&](const std::string& text) {
    shown += text;
    return true;
  });
  EXPECT_EQ(answer.text, "42.");
  EXPECT_EQ(shown, "42.");
  EXPECT_TRUE(answer.answered);
  ASSERT_EQ(answer.citations.size(), 3u);
  EXPECT_EQ(answer.citations[2].index, 3);
  ASSERT_EQ(answer.latent.size(), 3u);
  const double total = std::exp(0.8 / 0.5) + std::exp(0.5 / 0.5) + std::exp(0.1 / 0.5);
  EXPECT_NEAR(answer.latent[0].prior, std::exp(0.8 / 0.5) / total, 1e-9);
  double posterior = 0.0;
  for (const LatentPassage& passage : answer.latent) {
    EXPECT_EQ(passage.text, "42.");
    posterior += passage.posterior;
  }
  EXPECT_NEAR(posterior, 1.0, 1e-9);
  EXPECT_EQ(answer.latent[1].hit.passage.text, "Steam is water vapour.");
  int64_t prompt_tokens = 0;
  for (const auto& prompt : prepared.passage_prompts) {
    prompt_tokens += static_cast<int64_t>(prompt.size());
  }
  EXPECT_EQ(answer.generation.prompt_tokens, prompt_tokens);

  options.decode = Decoding::kRagToken;
  const Answer mixed = rig.pipeline->ask(messages, options, nullptr);
  EXPECT_EQ(mixed.text, "42.");
  ASSERT_EQ(mixed.latent.size(), 3u);
  EXPECT_EQ(mixed.latent[0].text, "");
  EXPECT_EQ(rig.pipeline->answer_from(rig.retriever->hits, messages, options, nullptr).text, "42.");
}

TEST(Pipeline, LatentDecodingRefusesWhatItCannotHonourAndCanBeCancelled) {
  Rig rig;
  const std::vector<ChatMessage> messages = {{"user", "Who built the steam engine?"}};
  AskOptions options;
  options.decode = Decoding::kRagToken;
  const auto ask = [&] { rig.pipeline->ask(messages, options, nullptr); };
  options.sampling.temperature = 0.7;
  expect_error(ask, ErrorCode::kInvalidArgument, "is greedy: temperature is 0.7");
  options.sampling.temperature = 0.0;
  options.stop = {"x"};
  expect_error(ask, ErrorCode::kInvalidArgument, "stop is \"x\", wanted none");
  options.stop.clear();
  const Answer cancelled =
      rig.pipeline->ask(messages, options, [](const std::string&) { return false; });
  EXPECT_EQ(cancelled.generation.finish_reason, FinishReason::kCancelled);
  rig.retriever->hits[1].dense_score.reset();
  expect_error(ask, ErrorCode::kInvalidArgument, "has no dense score");
  expect_error([] { parse_decoding("fid"); }, ErrorCode::kInvalidArgument,
               "decoding \"fid\" is unknown: use concat, rag-sequence or rag-token");
}

TEST(Pipeline, TheRelevanceThresholdIsTheCallers) {
  Rig rig;
  AskOptions options;
  options.min_relevance = 0.95;
  const std::vector<ChatMessage> messages = {{"user", "Who built the steam engine?"}};
  EXPECT_FALSE(rig.pipeline->prepare(messages, options).relevant);
  rig.retriever->hits = {hit_of("Coal burns.", 0.01)};
  options.min_relevance = 0.0;
  EXPECT_TRUE(rig.pipeline->prepare(messages, options).relevant);
  rig.retriever->hits.clear();
  EXPECT_FALSE(rig.pipeline->prepare(messages, options).relevant);
}

TEST(Pipeline, QueryIsTheLastQuestionWithTheOneBeforeWhenShort) {
  Rig rig;
  const auto asked = [&](const std::vector<ChatMessage>& messages) {
    rig.pipeline->prepare(messages, AskOptions());
    return rig.retriever->asked;
  };
  EXPECT_EQ(asked({{"user", "And how?"}}), "And how?");
  EXPECT_EQ(asked({{"user", "Who built the steam engine?"},
                   {"assistant", "Watt."},
                   {"user", "When was that?"}}),
            "Who built the steam engine? When was that?");
  EXPECT_EQ(asked({{"user", "Who built the steam engine?"},
                   {"assistant", "Watt."},
                   {"user", "Which metals make bronze alloys?"}}),
            "Which metals make bronze alloys?");
}

TEST(Pipeline, TheQueryIsEmbeddedOnTheEngineThread) {
  Rig rig;
  rig.pipeline->search("steam", SearchOptions());
  std::thread::id engine_thread;
  rig.engine->run([&] { engine_thread = std::this_thread::get_id(); });
  EXPECT_TRUE(rig.retriever->had_vector);
  EXPECT_EQ(rig.encoder->encoding_thread, engine_thread);
}

TEST(Pipeline, LexicalSearchNeedsNoEmbedder) {
  Rig rig;
  const Pipeline pipeline(rig.retriever, nullptr, rig.engine);
  SearchOptions options;
  options.mode = SearchMode::kLexical;
  EXPECT_EQ(pipeline.search("steam", options).size(), 3u);
  EXPECT_FALSE(rig.retriever->had_vector);
  expect_error([&] { pipeline.search("steam", SearchOptions()); }, ErrorCode::kUnavailable,
               "no embedder is loaded");
}

TEST(Pipeline, BadRequestsAreRefusedWithTheReason) {
  Rig rig;
  expect_error([&] { rig.pipeline->search(" \n", SearchOptions()); }, ErrorCode::kInvalidArgument,
               "the query is empty");
  expect_error(
      [&] {
        rig.pipeline->prepare({{"assistant", "x"}}, AskOptions());
      },
      ErrorCode::kInvalidArgument, "no user message");
  expect_error(
      [&] {
        rig.pipeline->prepare({{"user", "steam engine " + std::string(3000, 'x')}}, AskOptions());
      },
      ErrorCode::kInvalidArgument, "fit the context of fake");
  const Pipeline without_index(nullptr, nullptr, rig.engine);
  expect_error([&] { without_index.search("x", SearchOptions()); }, ErrorCode::kUnavailable,
               "no index is open");
  const Pipeline without_model(rig.retriever, nullptr,
                               std::make_shared<Engine>(nullptr, EngineOptions()));
  expect_error(
      [&] {
        without_model.prepare({{"user", "x"}}, AskOptions());
      },
      ErrorCode::kUnavailable, "no generator is loaded");
}

TEST(Pipeline, RerankedSearchReadsMoreThanItGives) {
  Rig rig;
  const std::string folder = std::string(QUARRY_SOURCE_DIR) + "/tests/golden/encoders/bert_rerank";
  const auto reranker = std::make_shared<const Reranker>(
      load_sequence_classifier(folder, kernels::Precision::kExact));
  const Pipeline pipeline(rig.retriever, nullptr, rig.engine, reranker);
  SearchOptions options;
  options.mode = SearchMode::kLexical;
  options.top_k = 2;
  options.rerank_candidates = 3;
  const std::vector<Hit> hits = pipeline.search("steam", options);
  const std::vector<Hit> wanted = reranker->rerank("steam", rig.retriever->hits, 2, nullptr);
  ASSERT_EQ(hits.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(hits[i].passage.text, wanted[i].passage.text);
    EXPECT_EQ(hits[i].rerank_score, wanted[i].rerank_score);
  }
  expect_error([&] { rig.pipeline->search("steam", options); }, ErrorCode::kInvalidArgument,
               "rerank_candidates is 3, but no reranker is loaded: start with --rerank MODEL");
}

TEST(Pipeline, ManyAskAtOnce) {
  Rig rig;
  std::vector<std::thread> clients;
  std::vector<Answer> answers(8);
  for (Answer& answer : answers) {
    clients.emplace_back([&rig, &answer] {
      answer = rig.pipeline->ask({{"user", "Who built the steam engine?"}}, AskOptions(), nullptr);
    });
  }
  for (std::thread& client : clients) client.join();
  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.text, "42.");
    EXPECT_EQ(answer.citations.size(), 3u);
  }
}

}  // namespace
}  // namespace quarry
