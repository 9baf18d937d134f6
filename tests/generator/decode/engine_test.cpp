#include "generator/decode/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "data/core/error.h"
#include "tests/generator/decode/fake_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace quarry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Rig {
  explicit Rig(fake::NextToken next, EngineOptions options = EngineOptions(),
               int64_t max_seq_len = 4096) {
    auto owned = std::make_unique<fake::Model>(std::move(next), max_seq_len);
    model = owned.get();
    engine = std::make_unique<Engine>(fake::make_generator(std::move(owned)), options);
  }
  ~Rig() { model->open_gate(); }

  fake::Model* model;
  std::unique_ptr<Engine> engine;
};

// For requests that must not end by themselves.
constexpr int64_t kForever = int64_t{1} << 20;

Rig endless_rig(const EngineOptions& options) {
  return Rig([](const std::vector<int32_t>&, const LoraAdapter*) { return 'a'; }, options,
             2 * kForever);
}

GenerateRequest request_of(const std::string& prompt, int64_t max_tokens = 64) {
  GenerateRequest request;
  request.prompt = fake::ByteTokenizer().encode(prompt, Tokenizer::SpecialTokens::kNone);
  request.max_tokens = max_tokens;
  return request;
}

GenerateResult generate(Engine& engine, const GenerateRequest& request) {
  return engine.submit(request, nullptr).result.get();
}

using test::expect_error;

std::vector<int32_t> bytes_of(const std::string& text) {
  return fake::ByteTokenizer().encode(text, Tokenizer::SpecialTokens::kNone);
}

TEST(Engine, GreedyTextEndsAtTheEndToken) {
  Rig rig(fake::scripted(1, bytes_of("It is 42.")));
  const GenerateResult result = generate(*rig.engine, request_of("?"));
  EXPECT_EQ(result.text, "It is 42.");
  EXPECT_EQ(result.tokens, bytes_of("It is 42."));
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
  EXPECT_EQ(result.prompt_tokens, 1);
  EXPECT_EQ(result.completion_tokens, 9);
  EXPECT_EQ(result.error, "");
}

TEST(Engine, ManyAtOnceEachGetTheTextTheyGetAlone) {
  EngineOptions options;
  options.max_batch_sequences = 12;
  options.prefill_chunk_tokens = 16;
  options.prompt_lookup = false;  // drafts add rows of their own
  Rig rig(fake::hashed_letters, options);
  constexpr int kRequests = 32;
  std::vector<std::thread> clients;
  std::vector<std::string> shown(kRequests);
  std::vector<GenerateResult> results(kRequests);
  for (int i = 0; i < kRequests; ++i) {
    clients.emplace_back([&, i] {
      const std::string prompt = "question " + std::string(static_cast<size_t>(i * 3), 'x');
      Engine::Submitted submitted =
          rig.engine->submit(request_of(prompt), [&shown, i](const std::string& text) {
            shown[static_cast<size_t>(i)] += text;
            return true;
          });
      results[static_cast<size_t>(i)] = submitted.result.get();
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kRequests; ++i) {
    const GenerateResult& result = results[static_cast<size_t>(i)];
    const std::string prompt = "question " + std::string(static_cast<size_t>(i * 3), 'x');
    EXPECT_EQ(result.text, fake::expected_text(fake::hashed_letters, bytes_of(prompt), 64)) << i;
    EXPECT_EQ(shown[static_cast<size_t>(i)], result.text) << i;
  }
  for (const fake::Model::Step& step : rig.model->steps()) {
    EXPECT_LE(step.sequences, 12);
    EXPECT_LE(step.rows, 12 + 16);
  }
  const EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.requests_total, kRequests);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
}

TEST(Engine, SampledTextIsTheSameAloneAndInABatch) {
  Rig rig(fake::hashed_letters);
  GenerateRequest request = request_of("sample me", 40);
  request.sampling.temperature = 3.0;
  request.sampling.top_p = 0.95;
  request.sampling.repetition_penalty = 1.1;
  request.sampling.seed = 99;
  const GenerateResult alone = generate(*rig.engine, request);
  std::vector<Engine::Submitted> crowd;
  rig.model->close_gate();
  for (int i = 0; i < 9; ++i) crowd.push_back(rig.engine->submit(request_of("other", 50), nullptr));
  Engine::Submitted again = rig.engine->submit(request, nullptr);
  rig.model->open_gate();
  EXPECT_EQ(again.result.get().tokens, alone.tokens);
  request.sampling.seed = 100;
  EXPECT_NE(generate(*rig.engine, request).tokens, alone.tokens);
}

TEST(Engine, LongPromptsAreFedInChunksWhileOthersDecode) {
  EngineOptions options;
  options.prefill_chunk_tokens = 10;
  Rig rig(fake::hashed_letters, options);
  const std::string prompt(95, 'p');
  EXPECT_EQ(generate(*rig.engine, request_of(prompt)).text,
            fake::expected_text(fake::hashed_letters, bytes_of(prompt), 64));
  const std::vector<fake::Model::Step> steps = rig.model->steps();
  ASSERT_GE(steps.size(), 10u);
  for (size_t i = 0; i < 9; ++i) EXPECT_EQ(steps[i].rows, 10);
  EXPECT_EQ(steps[9].rows, 5);
}

TEST(Engine, APromptThatBeginsLikeAnEarlierOneIsNotReadAgain) {
  Rig rig(fake::hashed_letters);
  const std::string prefix(300, 'p');
  const GenerateResult first = generate(*rig.engine, request_of(prefix + "first"));
  EXPECT_EQ(first.cached_tokens, 0);
  const size_t steps_before = rig.model->steps().size();
  const GenerateResult second = generate(*rig.engine, request_of(prefix + "second"));
  EXPECT_EQ(second.cached_tokens, 300);
  EXPECT_EQ(rig.model->steps()[steps_before].rows, 6);
  EXPECT_EQ(second.text,
            fake::expected_text(fake::hashed_letters, bytes_of(prefix + "second"), 64));
  // The whole prompt is known, but its last token is read for the logits.
  EXPECT_EQ(generate(*rig.engine, request_of(prefix + "first")).cached_tokens, 304);
  // A turn later: the answer is known too, but for its last token, which was never fed.
  const std::string next = prefix + "second" + second.text + " next";
  EXPECT_EQ(generate(*rig.engine, request_of(next)).cached_tokens,
            306 + static_cast<int64_t>(second.tokens.size()));
  const EngineStats stats = rig.engine->stats();
  EXPECT_EQ(stats.prompt_tokens_total, 305 + 306 + 305 + static_cast<int64_t>(next.size()));
  EXPECT_EQ(stats.cached_tokens_total,
            300 + 304 + 306 + static_cast<int64_t>(second.tokens.size()));
  EXPECT_GT(stats.prefix_cache_bytes, 0);
}

TEST(Engine, PromptsThatArriveTogetherShareTheirBeginning) {
  EngineOptions options;
  options.prefill_chunk_tokens = 64;
  Rig rig(fake::hashed_letters, options);
  const std::string prefix(640, 'p');
  rig.model->close_gate();
  std::vector<Engine::Submitted> submitted;
  for (int i = 0; i < 8; ++i) {
    submitted.push_back(rig.engine->submit(request_of(prefix + std::to_string(i)), nullptr));
  }
  rig.model->open_gate();
  for (int i = 0; i < 8; ++i) {
    const GenerateResult result = submitted[static_cast<size_t>(i)].result.get();
    EXPECT_EQ(result.text,
              fake::expected_text(fake::hashed_letters, bytes_of(prefix + std::to_string(i)), 64));
    EXPECT_EQ(result.cached_tokens, i == 0 ? 0 : 640) << i;
  }
}

TEST(Engine, AnAdapterDoesNotReadWhatAnotherComputed) {
  const test::TemporaryFolder folder;
  Rig rig(fake::hashed_letters);
  fake::write_adapter(folder.path() / "one", 1.0f);
  fake::write_adapter(folder.path() / "two", 2.0f);
  AdapterSet& adapters = rig.engine->adapters();
  adapters.load("live", folder.path() / "one");
  GenerateRequest request = request_of(std::string(200, 'p'));
  EXPECT_EQ(generate(*rig.engine, request).cached_tokens, 0);
  request.adapter = "live";
  EXPECT_EQ(generate(*rig.engine, request).cached_tokens, 0);
  EXPECT_EQ(generate(*rig.engine, request).cached_tokens, 199);
  adapters.replace("live", folder.path() / "two");
  EXPECT_EQ(generate(*rig.engine, request).cached_tokens, 0);
}

TEST(Engine, WithoutAPrefixCacheEverythingIsReadAgain) {
  EngineOptions options;
  options.prefix_cache_bytes = 0;
  Rig rig(fake::hashed_letters, options);
  const GenerateRequest request = request_of(std::string(200, 'p'));
  const std::string text = generate(*rig.engine, request).text;
  const GenerateResult again = generate(*rig.engine, request);
  EXPECT_EQ(again.cached_tokens, 0);
  EXPECT_EQ(again.text, text);
  EXPECT_EQ(rig.engine->stats().prefix_cache_bytes, 0);
}

// A text that says the prompt's words again, twice.
struct QuoteRig : Rig {
  explicit QuoteRig(bool prompt_lookup)
      : Rig(fake::scripted(prompt().size(), bytes_of(answer())), options(prompt_lookup)) {}
  static std::string prompt() {
    std::string text;
    for (int i = 0; i < 40; ++i) text += "word" + std::to_string(i * i) + " ";
    return text + "\nSay it: ";
  }
  static std::string answer() { return prompt().substr(0, 150) + "and again " + prompt(); }
  static EngineOptions options(bool prompt_lookup) {
    EngineOptions options;
    options.prompt_lookup = prompt_lookup;
    options.prefix_cache_bytes = 0;
    return options;
  }
};

TEST(Engine, PromptLookupTakesFewerStepsForTheSameText) {
  size_t steps[2];
  for (const bool prompt_lookup : {false, true}) {
    QuoteRig rig(prompt_lookup);
    std::string shown;
    Engine::Submitted submitted =
        rig.engine->submit(request_of(QuoteRig::prompt(), 1000), [&](const std::string& text) {
          shown += text;
          return true;
        });
    const GenerateResult result = submitted.result.get();
    EXPECT_EQ(result.text, QuoteRig::answer());
    EXPECT_EQ(shown, result.text);
    EXPECT_EQ(result.finish_reason, FinishReason::kStop);
    const EngineStats stats = rig.engine->stats();
    EXPECT_EQ(stats.completion_tokens_total, static_cast<int64_t>(QuoteRig::answer().size()));
    EXPECT_EQ(stats.draft_tokens_total > 0, prompt_lookup);
    EXPECT_LE(stats.accepted_draft_tokens_total, stats.draft_tokens_total);
    steps[prompt_lookup] = rig.model->steps().size();
  }
  EXPECT_LT(steps[1], steps[0] / 2);
}

TEST(Engine, PromptLookupKeepsToMaxTokensAndStopStrings) {
  for (const int64_t max_tokens : {1, 2, 3, 17, 100, 101, 102, 103, 250}) {
    QuoteRig rig(true);
    const GenerateResult result = generate(*rig.engine, request_of(QuoteRig::prompt(), max_tokens));
    EXPECT_EQ(result.text, QuoteRig::answer().substr(0, static_cast<size_t>(max_tokens)));
    EXPECT_EQ(result.finish_reason, FinishReason::kLength);
  }
  for (const char* stop : {"word16 ", "225", "again", "word729 word7"}) {
    QuoteRig rig(true);
    GenerateRequest request = request_of(QuoteRig::prompt(), 1000);
    request.stop = {stop};
    const std::string expected = QuoteRig::answer();
    EXPECT_EQ(generate(*rig.engine, request).text, expected.substr(0, expected.find(stop)));
  }
}

TEST(Engine, PromptLookupLeavesRoomInTheContext) {
  const size_t prompt = QuoteRig::prompt().size();
  Rig rig(fake::scripted(prompt, bytes_of(QuoteRig::answer())), EngineOptions(),
          static_cast<int64_t>(prompt) + 203);
  const GenerateResult result = generate(*rig.engine, request_of(QuoteRig::prompt(), 1000));
  EXPECT_EQ(result.text, QuoteRig::answer().substr(0, 203));
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
}

TEST(Engine, AnAnswerHelpsToGuessTheNextOne) {
  // Answers alike whatever is asked, in letters that no prompt has.
  const std::string answer = "abcdefghijklmnopqrstuvwxyz";
  const fake::NextToken next = fake::scripted(3, bytes_of(answer));
  Rig rig(next);
  EXPECT_EQ(generate(*rig.engine, request_of("1+1", 100)).text, answer);
  EXPECT_EQ(rig.engine->stats().accepted_draft_tokens_total, 0);
  EXPECT_EQ(generate(*rig.engine, request_of("2+2", 100)).text, answer);
  EXPECT_GT(rig.engine->stats().accepted_draft_tokens_total, 5);
}

TEST(Engine, ManyAtOnceWithDraftsEachGetTheTextTheyGetAlone) {
  // Says the whole history again from its 9th letter on, so that drafts come true now and then.
  const fake::NextToken echo = [](const std::vector<int32_t>& history, const LoraAdapter*) {
    if (history.size() >= 200) return fake::kEnd;
    return history.size() % 17 == 0 ? static_cast<int32_t>('A' + history.size() % 5)
                                    : history[history.size() - 8];
  };
  Rig rig(echo);
  rig.model->close_gate();
  std::vector<Engine::Submitted> submitted;
  const auto prompt = [](int i) { return "prompt nr " + std::to_string(i * 37); };
  for (int i = 0; i < 12; ++i) {
    GenerateRequest request = request_of(prompt(i), 500);
    request.sampling.temperature = i % 3 == 2 ? 0.2 : 0.0;
    submitted.push_back(rig.engine->submit(request, nullptr));
  }
  rig.model->open_gate();
  for (int i = 0; i < 12; ++i) {
    const GenerateResult result = submitted[static_cast<size_t>(i)].result.get();
    EXPECT_EQ(result.text, fake::expected_text(echo, bytes_of(prompt(i)), 500)) << i;
  }
  EXPECT_GT(rig.engine->stats().accepted_draft_tokens_total, 0);
  for (const fake::Model::Step& step : rig.model->steps()) EXPECT_LE(step.rows, 256 + 32);
}

TEST(Engine, AModelErrorAmongDraftsEndsOnlyTheGuiltyRequest) {
  QuoteRig rig(true);
  rig.model->poison = '!';
  rig.model->close_gate();
  Engine::Submitted good = rig.engine->submit(request_of(QuoteRig::prompt(), 1000), nullptr);
  rig.model->wait_until_entered();
  Engine::Submitted bad = rig.engine->submit(request_of("bad!"), nullptr);
  rig.model->open_gate();
  EXPECT_EQ(bad.result.get().finish_reason, FinishReason::kError);
  EXPECT_EQ(good.result.get().text, QuoteRig::answer());
}

TEST(Engine, StopStringOverTokenBordersCutsTheText) {
  Rig rig(fake::scripted(1, bytes_of("one\nUser: two")));
  GenerateRequest request = request_of("?");
  request.stop = {"\nUser:", "never"};
  std::string shown;
  Engine::Submitted submitted = rig.engine->submit(request, [&](const std::string& text) {
    EXPECT_EQ(text.find('\n'), std::string::npos);
    shown += text;
    return true;
  });
  const GenerateResult result = submitted.result.get();
  EXPECT_EQ(result.text, "one");
  EXPECT_EQ(shown, "one");
  EXPECT_EQ(result.finish_reason, FinishReason::kStop);
}

TEST(Engine, HeldBackStopBeginningIsShownAtTheEnd) {
  Rig rig(fake::scripted(1, bytes_of("a\nUse")));
  GenerateRequest request = request_of("?");
  request.stop = {"\nUser:"};
  EXPECT_EQ(generate(*rig.engine, request).text, "a\nUse");
}

TEST(Engine, TextIsShownInWholeCharacters) {
  Rig rig(fake::scripted(1, {'5', fake::kHalfEuro, 0xAC, fake::kHello, fake::kHalfEuro}));
  std::vector<std::string> pieces;
  Engine::Submitted submitted = rig.engine->submit(request_of("?"), [&](const std::string& text) {
    if (!text.empty()) pieces.push_back(text);
    return true;
  });
  const GenerateResult result = submitted.result.get();
  EXPECT_THAT(pieces, ElementsAre("5", "\xE2\x82\xAC", "hello", "\xEF\xBF\xBD"));
  EXPECT_EQ(result.text, "5\xE2\x82\xAChello\xEF\xBF\xBD");
}

TEST(Engine, MaxTokensEndsWithLength) {
  Rig rig(fake::scripted(1, bytes_of("abcdefgh")));
  const GenerateResult result = generate(*rig.engine, request_of("?", 3));
  EXPECT_EQ(result.text, "abc");
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
}

TEST(Engine, TheContextClipsMaxTokens) {
  Rig rig(fake::scripted(4, std::vector<int32_t>(100, 'a')), EngineOptions(), 10);
  const GenerateResult result = generate(*rig.engine, request_of("four", 1000));
  EXPECT_EQ(result.text, "aaaaaa");
  EXPECT_EQ(result.finish_reason, FinishReason::kLength);
}

TEST(Engine, BadRequestsAreRefusedWithTheReason) {
  Rig rig(fake::hashed_letters, EngineOptions(), 16);
  const auto refused = [&](const GenerateRequest& request, ErrorCode code, const char* message) {
    expect_error([&] { rig.engine->submit(request, nullptr); }, code, message);
  };
  refused(request_of(""), ErrorCode::kInvalidArgument, "the prompt is empty");
  refused(request_of("sixteen letters!"), ErrorCode::kInvalidArgument,
          "the prompt has 16 tokens, but the context of fake is 16 tokens");
  refused(request_of("x", 0), ErrorCode::kInvalidArgument, "max_tokens is 0");
  GenerateRequest request = request_of("x");
  request.prompt.push_back(260);
  refused(request, ErrorCode::kInvalidArgument, "token 260, but fake has ids 0 to 259");
  request = request_of("x");
  request.sampling.top_p = 2.0;
  refused(request, ErrorCode::kInvalidArgument, "top_p is 2");
  request = request_of("x");
  request.top_logprobs = 21;
  refused(request, ErrorCode::kInvalidArgument, "top_logprobs is 21, must be -1 (none) to 20");
  request = request_of("x");
  request.stop = {""};
  refused(request, ErrorCode::kInvalidArgument, "stop[0] is empty");
  request = request_of("x");
  request.adapter = "none";
  refused(request, ErrorCode::kNotFound, "no adapter is named 'none'; there are none");
  EXPECT_EQ(rig.engine->stats().requests_total, 0);
}

TEST(Engine, AFullQueueRefusesAndRecovers) {
  EngineOptions options;
  options.max_batch_sequences = 2;
  options.max_queue = 1;
  Rig rig(fake::hashed_letters, options);
  rig.model->close_gate();
  std::vector<Engine::Submitted> accepted;
  for (int i = 0; i < 3; ++i) accepted.push_back(rig.engine->submit(request_of("x"), nullptr));
  expect_error([&] { rig.engine->submit(request_of("x"), nullptr); }, ErrorCode::kUnavailable,
               "the queue is full: 2 requests run and 1 wait");
  rig.model->open_gate();
  for (Engine::Submitted& submitted : accepted) {
    EXPECT_EQ(submitted.result.get().finish_reason, FinishReason::kStop);
  }
  EXPECT_EQ(generate(*rig.engine, request_of("x")).finish_reason, FinishReason::kStop);
}

TEST(Engine, CancelEndsOneRequestMidWay) {
  Rig rig = endless_rig(EngineOptions());
  std::atomic<int> shown{0};
  std::promise<void> started;
  Engine::Submitted endless =
      rig.engine->submit(request_of("?", kForever), [&](const std::string&) {
        if (++shown == 3) started.set_value();
        return true;
      });
  started.get_future().wait();
  rig.engine->cancel(endless.id);
  const GenerateResult result = endless.result.get();
  EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  EXPECT_GE(result.text.size(), 3u);
  EXPECT_EQ(result.text, std::string(result.text.size(), 'a'));
  EXPECT_EQ(rig.engine->stats().cancelled_total, 1);
  rig.engine->cancel(endless.id);  // unknown by now: nothing happens
  rig.engine->cancel(123456);
}

TEST(Engine, CancelEndsAWaitingRequest) {
  EngineOptions options;
  options.max_batch_sequences = 1;
  Rig rig(fake::scripted(1, std::vector<int32_t>(50, 'a')), options);
  rig.model->close_gate();
  Engine::Submitted first = rig.engine->submit(request_of("?"), nullptr);
  Engine::Submitted second = rig.engine->submit(request_of("?"), nullptr);
  rig.engine->cancel(second.id);
  rig.model->open_gate();
  const GenerateResult cancelled = second.result.get();
  EXPECT_EQ(cancelled.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(cancelled.text, "");
  EXPECT_EQ(first.result.get().finish_reason, FinishReason::kStop);
}

TEST(Engine, ACallbackThatReturnsFalseCancels) {
  Rig rig(fake::scripted(1, bytes_of("abcdefgh")));
  std::string shown;
  Engine::Submitted submitted = rig.engine->submit(request_of("?"), [&](const std::string& text) {
    shown += text;
    return shown.size() < 2;
  });
  const GenerateResult result = submitted.result.get();
  EXPECT_EQ(result.finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(result.text, "ab");
}

TEST(Engine, AModelErrorEndsOnlyTheGuiltyRequest) {
  Rig rig(fake::hashed_letters);
  rig.model->poison = '!';
  rig.model->close_gate();
  std::vector<Engine::Submitted> good;
  for (int i = 0; i < 4; ++i) good.push_back(rig.engine->submit(request_of("good"), nullptr));
  Engine::Submitted bad = rig.engine->submit(request_of("bad!"), nullptr);
  for (int i = 0; i < 4; ++i) good.push_back(rig.engine->submit(request_of("good"), nullptr));
  rig.model->open_gate();
  const GenerateResult failed = bad.result.get();
  EXPECT_EQ(failed.finish_reason, FinishReason::kError);
  EXPECT_THAT(failed.error, HasSubstr("poisoned token 33"));
  const std::string expected = fake::expected_text(fake::hashed_letters, bytes_of("good"), 64);
  for (Engine::Submitted& submitted : good) EXPECT_EQ(submitted.result.get().text, expected);
  EXPECT_EQ(generate(*rig.engine, request_of("good")).text, expected);
}

TEST(Engine, AThrowingCallbackEndsItsRequestOnly) {
  Rig rig(fake::hashed_letters);
  Engine::Submitted bad = rig.engine->submit(
      request_of("bad"), [](const std::string&) -> bool { throw std::runtime_error("callback"); });
  const GenerateResult failed = bad.result.get();
  EXPECT_EQ(failed.finish_reason, FinishReason::kError);
  EXPECT_EQ(failed.error, "callback");
  EXPECT_EQ(generate(*rig.engine, request_of("good")).finish_reason, FinishReason::kStop);
}

TEST(Engine, AdaptersServedTogetherAnswerAsWhenServedAlone) {
  const test::TemporaryFolder folder;
  Rig rig(fake::hashed_letters);
  std::vector<std::string> expected;
  for (const char* name : {"one", "two"}) {
    fake::write_adapter(folder.path() / name, expected.empty() ? 1.0f : 2.0f);
    rig.engine->adapters().load(name, folder.path() / name);
    GenerateRequest request = request_of("adapted");
    request.adapter = name;
    expected.push_back(generate(*rig.engine, request).text);
  }
  EXPECT_THAT(rig.engine->adapters().names(), ElementsAre("one", "two"));
  expected.push_back(generate(*rig.engine, request_of("adapted")).text);
  EXPECT_NE(expected[0], expected[1]);
  EXPECT_NE(expected[0], expected[2]);
  rig.model->close_gate();
  std::vector<Engine::Submitted> submitted;
  for (const char* name : {"one", "two", ""}) {
    GenerateRequest request = request_of("adapted");
    request.adapter = name;
    submitted.push_back(rig.engine->submit(request, nullptr));
  }
  rig.engine->adapters().remove("two");  // its running request goes on
  rig.model->open_gate();
  for (size_t i = 0; i < submitted.size(); ++i) {
    EXPECT_EQ(submitted[i].result.get().text, expected[i]) << i;
  }
}

TEST(Engine, HotSwapUnderManyClientsFailsAndMixesNothing) {
  const test::TemporaryFolder folder;
  EngineOptions options;
  options.max_batch_sequences = 8;  // some requests wait
  Rig rig(fake::hashed_letters, options);
  GenerateRequest request = request_of("swapped");
  request.adapter = "live";
  std::vector<std::string> alone;
  for (const char* name : {"one", "two"}) {
    fake::write_adapter(folder.path() / name, alone.empty() ? 1.0f : 2.0f);
    rig.engine->adapters().load("live", folder.path() / name);
    alone.push_back(generate(*rig.engine, request).text);
    rig.engine->adapters().remove("live");
  }
  ASSERT_NE(alone[0], alone[1]);
  rig.engine->adapters().load("live", folder.path() / "one");
  std::atomic<int> answers[2] = {{0}, {0}};
  std::atomic<int> others{0};
  std::atomic<int> asked{0};
  std::atomic<int> running{16};
  // However the threads take turns: until each adapter has answered.
  const auto enough = [&](int round) {
    return (round >= 20 && answers[0] > 0 && answers[1] > 0) || round >= 10000;
  };
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&] {
      for (int round = 0; !enough(round); ++round) {
        ++asked;
        try {
          const std::string text = generate(*rig.engine, request).text;
          const bool known = text == alone[0] || text == alone[1];
          ++(known ? answers[text == alone[1]] : others);
        } catch (const Error& error) {
          ADD_FAILURE() << error.what();
        }
      }
      --running;
    });
  }
  for (int swap = 1; running > 0; ++swap) {
    rig.engine->adapters().replace("live", folder.path() / (swap % 2 == 0 ? "one" : "two"));
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(others, 0);
  EXPECT_EQ(answers[0] + answers[1], asked);
  EXPECT_GT(answers[0], 0);
  EXPECT_GT(answers[1], 0);
  EXPECT_EQ(rig.engine->adapters().list().front().requests_in_flight, 0);
}

TEST(Engine, ARequestKeepsTheAdapterItBeganWith) {
  const test::TemporaryFolder folder;
  Rig rig(fake::hashed_letters);
  fake::write_adapter(folder.path() / "one", 1.0f);
  fake::write_adapter(folder.path() / "two", 2.0f);
  AdapterSet& adapters = rig.engine->adapters();
  adapters.load("live", folder.path() / "one");
  GenerateRequest request = request_of("kept");
  request.adapter = "live";
  const std::string before = generate(*rig.engine, request).text;
  rig.model->close_gate();
  Engine::Submitted begun = rig.engine->submit(request, nullptr);
  request.served = adapters.acquire("live");  // begun by its caller, not yet submitted
  adapters.replace("live", folder.path() / "two");
  EXPECT_EQ(adapters.list().front().requests_in_flight, 2);
  rig.model->open_gate();
  EXPECT_EQ(begun.result.get().text, before);
  EXPECT_EQ(generate(*rig.engine, request).text, before);
  request.served = nullptr;
  EXPECT_EQ(adapters.list().front().requests_in_flight, 0);
  EXPECT_NE(generate(*rig.engine, request).text, before);
}

TEST(Engine, AnUnknownAdapterIsRefused) {
  Rig rig(fake::hashed_letters);
  GenerateRequest request = request_of("x");
  request.adapter = "two";
  expect_error([&] { rig.engine->submit(request, nullptr); }, ErrorCode::kNotFound,
               "no adapter is named 'two'; there are none");
}

TEST(Engine, JobsRunBetweenStepsOnTheEngineThread) {
  Rig rig = endless_rig(EngineOptions());
  Engine::Submitted endless = rig.engine->submit(request_of("?", kForever), nullptr);
  std::thread::id first;
  std::thread::id second;
  rig.engine->run([&] { first = std::this_thread::get_id(); });
  rig.engine->run([&] {
    second = std::this_thread::get_id();
    rig.engine->run([] {});  // a job may run another
  });
  EXPECT_EQ(first, second);
  EXPECT_NE(first, std::this_thread::get_id());
  expect_error([&] { rig.engine->run([] { throw_error(ErrorCode::kNotFound, "no such thing"); }); },
               ErrorCode::kNotFound, "no such thing");
  rig.engine->cancel(endless.id);
  endless.result.wait();
}

TEST(Engine, JobsAndRequestsFromManyThreads) {
  EngineOptions options;
  options.max_batch_sequences = 4;
  Rig rig(fake::hashed_letters, options);
  const std::string expected = fake::expected_text(fake::hashed_letters, bytes_of("shared"), 64);
  int64_t jobs_run = 0;  // engine thread only
  std::atomic<int> right{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        rig.engine->run([&] { ++jobs_run; });
        if (generate(*rig.engine, request_of("shared")).text == expected) ++right;
        rig.engine->stats();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 80);
  EXPECT_EQ(jobs_run, 80);
}

TEST(Engine, DrainWaitsForRunningRequestsAndRefusesNewOnes) {
  Rig rig(fake::hashed_letters);
  Engine::Submitted running = rig.engine->submit(request_of("x"), nullptr);
  rig.engine->drain(60.0);
  ASSERT_EQ(running.result.wait_for(std::chrono::seconds(0)), std::future_status::ready);
  EXPECT_EQ(running.result.get().finish_reason, FinishReason::kStop);
  expect_error([&] { rig.engine->submit(request_of("x"), nullptr); }, ErrorCode::kUnavailable,
               "shutting down");
  rig.engine->drain(60.0);
}

TEST(Engine, DrainCancelsWhatOutlastsTheTimeout) {
  EngineOptions options;
  options.max_batch_sequences = 1;
  Rig rig = endless_rig(options);
  rig.model->close_gate();
  Engine::Submitted running = rig.engine->submit(request_of("?", kForever), nullptr);
  Engine::Submitted waiting = rig.engine->submit(request_of("?", kForever), nullptr);
  rig.model->wait_until_entered();
  std::thread drainer([&] { rig.engine->drain(0.01); });
  while (running.result.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) {
    rig.model->open_gate();
  }
  drainer.join();
  EXPECT_EQ(waiting.result.get().finish_reason, FinishReason::kCancelled);
  EXPECT_EQ(rig.engine->stats().running, 0);
}

TEST(Engine, DestructionCancelsWhatIsLeft) {
  std::vector<Engine::Submitted> left;
  {
    EngineOptions options;
    options.max_batch_sequences = 1;
    Rig rig = endless_rig(options);
    for (int i = 0; i < 3; ++i) {
      left.push_back(rig.engine->submit(request_of("?", kForever), nullptr));
    }
  }
  EXPECT_EQ(left.back().result.get().finish_reason, FinishReason::kCancelled);
}

TEST(Engine, WithoutAGeneratorOnlyJobsRun) {
  Engine engine(nullptr, EngineOptions());
  int ran = 0;
  engine.run([&] { ++ran; });
  EXPECT_EQ(ran, 1);
  EXPECT_EQ(engine.generator(), nullptr);
  EXPECT_THAT(engine.adapters().names(), IsEmpty());
  expect_error([&] { engine.adapters().load("x", "folder"); }, ErrorCode::kUnavailable,
               "adapter 'x': no generator is loaded");
  expect_error([&] { engine.submit(request_of("x"), nullptr); }, ErrorCode::kUnavailable,
               "no generator is loaded");
}

TEST(Engine, BadOptionsAreRefused) {
  EngineOptions options;
  options.max_batch_sequences = 0;
  expect_error([&] { Engine engine(nullptr, options); }, ErrorCode::kInvalidArgument,
               "max_batch_sequences is 0, must be 1 or more");
  options = EngineOptions();
  options.max_lora_rank = 0;
  expect_error([&] { Engine engine(nullptr, options); }, ErrorCode::kInvalidArgument,
               "max_lora_rank is 0, must be 1 or more");
}

}  // namespace
}  // namespace quarry
