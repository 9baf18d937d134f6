#include "generator/decode/engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "data/core/error.h"
#include "generator/decode/constraint/constraints.h"
#include "generator/decode/prefix_cache.h"
#include "generator/decode/prefix_file.h"
#include "generator/decode/recent_answers.h"
#include "generator/decode/sequence.h"
#include "generator/decode/step_cost.h"

namespace quarry {
namespace {

// A draft is checked only where it promises this gain in tokens per second.
constexpr double kLeastGain = 1.03;
constexpr int64_t kMostDraftTokens = 15;

// Description of the exception being handled.
std::string current_error() {
  try {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown exception";
  }
}

int64_t num_logit_rows(const SequenceChunk& chunk) {
  return chunk.all_logits ? chunk.num_tokens : 1;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

namespace {

EngineOptions complete(EngineOptions options, const LoadedGenerator* generator) {
  if (options.prefill_chunk_tokens != 0) return options;
  const bool on_gpu = generator != nullptr && generator->device == Device::kCuda;
  options.prefill_chunk_tokens = on_gpu ? 2048 : 256;
  return options;
}

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const LoadedGenerator> generator, const EngineOptions& options);
  ~Impl();

  bool has_encoder() const {
    return generator_ != nullptr && generator_->model->config().has_encoder();
  }
  void check_request(const GenerateRequest& request) const;
  void loop();
  void run_jobs(std::unique_lock<std::mutex>& lock);
  void drop_cancelled();
  void admit();
  void step();
  bool start(Sequence& sequence);
  void choose_drafts();
  void fail_running(const std::string& error);
  const float* forward(const std::vector<SequenceChunk>& chunks);
  void forward_each(const std::vector<Sequence*>& owners, const std::vector<SequenceChunk>& chunks);
  void advance(Sequence& sequence, const SequenceChunk& chunk, const float* logits);
  void retire(const std::shared_ptr<Sequence>& sequence);  // locked
  void retire_finished();

  const std::shared_ptr<const LoadedGenerator> generator_;
  const EngineOptions options_;
  AdapterSet adapters_;      // has its own locks
  Constraints constraints_;  // so has this

  // Guards everything down to the thread.
  mutable std::mutex mutex_;
  std::condition_variable wake_;  // the engine has something to do
  std::condition_variable idle_;  // a sequence has ended
  bool accepting_ = true;
  bool stopping_ = false;
  RequestId next_id_ = 1;
  std::deque<std::shared_ptr<Sequence>> waiting_;
  std::unordered_map<RequestId, std::shared_ptr<Sequence>> unfinished_;  // waiting and running
  std::deque<std::packaged_task<void()>> jobs_;
  EngineStats stats_;

  // Engine thread only.
  std::vector<std::shared_ptr<Sequence>> running_;  // in order of admission
  PrefixCache prefixes_;
  int64_t step_prompt_tokens_ = 0;
  int64_t step_cached_tokens_ = 0;
  int64_t step_drafts_ = 0;
  int64_t step_draft_tokens_ = 0;
  int64_t step_accepted_draft_tokens_ = 0;
  StepCost step_cost_;
  RecentAnswers recent_answers_;
  std::vector<float> logits_;  // of a step
  int64_t step_completion_tokens_ = 0;

  std::thread thread_;  // last: starts when all else stands
};

Engine::Impl::Impl(std::shared_ptr<const LoadedGenerator> generator, const EngineOptions& options)
    : generator_(std::move(generator)),
      options_(complete(options, generator_.get())),
      adapters_(generator_, options.max_lora_rank),
      constraints_(generator_.get()),
      // What a decoder computes depends on more than its tokens where an encoder reads the prompt.
      prefixes_(has_encoder() ? 0 : options.prefix_cache_bytes) {
  QUARRY_CHECK(options_.max_batch_sequences >= 1, ErrorCode::kInvalidArgument,
               "max_batch_sequences is ", options_.max_batch_sequences, ", must be 1 or more");
  QUARRY_CHECK(options_.max_queue >= 0, ErrorCode::kInvalidArgument, "max_queue is ",
               options_.max_queue, ", must be 0 or more");
  QUARRY_CHECK(options_.prefill_chunk_tokens >= 1, ErrorCode::kInvalidArgument,
               "prefill_chunk_tokens is ", options_.prefill_chunk_tokens, ", must be 1 or more");
  QUARRY_CHECK(options_.prefix_cache_bytes >= 0, ErrorCode::kInvalidArgument,
               "prefix_cache_bytes is ", options_.prefix_cache_bytes, ", must be 0 (off) or more");
  QUARRY_CHECK(options_.max_lora_rank >= 1, ErrorCode::kInvalidArgument, "max_lora_rank is ",
               options_.max_lora_rank, ", must be 1 or more");
  thread_ = std::thread([this] { loop(); });
}

Engine::Impl::~Impl() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    accepting_ = false;
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Engine::Impl::check_request(const GenerateRequest& request) const {
  QUARRY_CHECK(generator_ != nullptr, ErrorCode::kUnavailable,
               "no generator is loaded: only search works");
  const CausalLmConfig& config = generator_->model->config();
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  QUARRY_CHECK(length >= 1, ErrorCode::kInvalidArgument, "the prompt is empty");
  QUARRY_CHECK(
      length <= config.max_prompt_tokens(), ErrorCode::kInvalidArgument, "the prompt has ", length,
      " tokens, but the context of ", generator_->name, " is ", config.max_seq_len,
      config.has_encoder() ? " tokens" : " tokens, of which the answer needs at least one");
  for (int32_t token : request.prompt) {
    QUARRY_CHECK(token >= 0 && token < config.vocab_size, ErrorCode::kInvalidArgument,
                 "the prompt holds token ", token, ", but ", generator_->name, " has ids 0 to ",
                 config.vocab_size - 1);
  }
  QUARRY_CHECK(request.max_tokens >= 1, ErrorCode::kInvalidArgument, "max_tokens is ",
               request.max_tokens, ", must be 1 or more");
  QUARRY_CHECK(request.top_logprobs >= -1 && request.top_logprobs <= kMostTopLogprobs,
               ErrorCode::kInvalidArgument, "top_logprobs is ", request.top_logprobs,
               ", must be -1 (none) to ", kMostTopLogprobs);
  QUARRY_CHECK(request.constraint == nullptr ||
                   request.constraint->tokens().vocab_size() == config.vocab_size,
               ErrorCode::kInvalidArgument, "the constraint was made for another vocabulary than ",
               generator_->name, "'s");
  validate(request.sampling);
}

void Engine::Impl::loop() {
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [this] {
        return stopping_ || !jobs_.empty() || !waiting_.empty() || !running_.empty();
      });
      run_jobs(lock);
      if (stopping_) break;
      drop_cancelled();
      admit();
    }
    try {
      step();
    } catch (...) {
      fail_running(current_error());
    }
    retire_finished();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  while (!jobs_.empty()) run_jobs(lock);
  while (!unfinished_.empty()) {
    const std::shared_ptr<Sequence> sequence = unfinished_.begin()->second;
    sequence->finish(FinishReason::kCancelled);
    retire(sequence);
  }
}

// Those that wait now; jobs that arrive meanwhile run after the next step.
void Engine::Impl::run_jobs(std::unique_lock<std::mutex>& lock) {
  std::deque<std::packaged_task<void()>> jobs;
  jobs.swap(jobs_);
  if (jobs.empty()) return;
  lock.unlock();
  for (std::packaged_task<void()>& job : jobs) job();
  lock.lock();
}

void Engine::Impl::drop_cancelled() {
  const auto drop = [this](const std::shared_ptr<Sequence>& sequence) {
    if (!sequence->cancelled()) return false;
    sequence->finish(FinishReason::kCancelled);
    retire(sequence);
    return true;
  };
  waiting_.erase(std::remove_if(waiting_.begin(), waiting_.end(), drop), waiting_.end());
  running_.erase(std::remove_if(running_.begin(), running_.end(), drop), running_.end());
}

void Engine::Impl::admit() {
  while (!waiting_.empty() &&
         static_cast<int64_t>(running_.size()) < options_.max_batch_sequences) {
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

bool Engine::Impl::start(Sequence& sequence) {
  try {
    sequence.start(generator_->model->make_cache());
    if (has_encoder()) step_prompt_tokens_ += sequence.num_prompt_tokens();
    return true;
  } catch (...) {
    sequence.finish(FinishReason::kError, current_error());
    return false;
  }
}

void Engine::Impl::fail_running(const std::string& error) {
  for (const std::shared_ptr<Sequence>& sequence : running_) {
    if (!sequence->finished()) sequence->finish(FinishReason::kError, error);
  }
}

// Lets the decoding sequences check drafts: those likeliest to come true first, as many as give
// the most tokens per second.
void Engine::Impl::choose_drafts() {
  struct Guess {
    double chance;
    size_t sequence;
  };
  std::vector<Sequence*> decoding;
  for (const std::shared_ptr<Sequence>& sequence : running_) {
    if (sequence->started() && !sequence->prefilling()) decoding.push_back(sequence.get());
  }
  const int64_t num_rows = static_cast<int64_t>(decoding.size());
  if (num_rows == 0 || num_rows >= StepCost::kMostRows) return;
  std::vector<Guess> guesses;
  for (size_t i = 0; i < decoding.size(); ++i) {
    for (const double chance :
         decoding[i]->propose_draft(recent_answers_.tokens(), kMostDraftTokens).chance) {
      guesses.push_back({chance, i});
    }
  }
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& a, const Guess& b) { return a.chance > b.chance; });
  guesses.resize(std::min(guesses.size(), static_cast<size_t>(StepCost::kMostRows - num_rows)));
  double tokens = static_cast<double>(num_rows);
  double best = kLeastGain * tokens / step_cost_.predict(num_rows);
  size_t num_used = 0;
  for (size_t i = 0; i < guesses.size(); ++i) {
    tokens += guesses[i].chance;
    const double rate = tokens / step_cost_.predict(num_rows + static_cast<int64_t>(i) + 1);
    if (rate <= best) continue;
    best = rate;
    num_used = i + 1;
  }
  std::vector<int64_t> lengths(decoding.size(), 0);
  for (size_t i = 0; i < num_used; ++i) ++lengths[guesses[i].sequence];
  for (size_t i = 0; i < decoding.size(); ++i) decoding[i]->use_draft(lengths[i]);
}

// One pass of the model: a row for every sequence that decodes and for each token of its draft, and
// prompt pieces in order of arrival until the step's budget is spent.
void Engine::Impl::step() {
  if (options_.prompt_lookup) choose_drafts();
  std::vector<Sequence*> owners;
  std::vector<SequenceChunk> chunks;
  int64_t prefill_budget = options_.prefill_chunk_tokens;
  int64_t num_rows = 0;
  for (const std::shared_ptr<Sequence>& sequence : running_) {
    if (!sequence->started() && !start(*sequence)) continue;
    if (sequence->prefilling() && prefill_budget > 0) {
      step_cached_tokens_ += sequence->reuse_prefix(prefixes_);
    }
    const SequenceChunk chunk = sequence->next_chunk(prefill_budget);
    if (chunk.num_tokens == 0) continue;
    if (sequence->prefilling()) prefill_budget -= chunk.num_tokens;
    num_rows += chunk.num_tokens;
    owners.push_back(sequence.get());
    chunks.push_back(chunk);
  }
  if (chunks.empty()) return;
  const auto start_time = std::chrono::steady_clock::now();
  const float* row = nullptr;
  try {
    row = forward(chunks);
  } catch (...) {
    forward_each(owners, chunks);
    return;
  }
  for (size_t i = 0; i < chunks.size(); ++i) {
    advance(*owners[i], chunks[i], row);
    row += num_logit_rows(chunks[i]) * generator_->model->config().vocab_size;
  }
  const bool only_decodes = prefill_budget == options_.prefill_chunk_tokens;
  if (only_decodes && num_rows <= StepCost::kMostRows) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_time;
    step_cost_.observe(num_rows, elapsed.count());
  }
}

// The logits of a step; valid until the next one.
const float* Engine::Impl::forward(const std::vector<SequenceChunk>& chunks) {
  generator_->model->forward_into(chunks, logits_);
  int64_t num_rows = 0;
  for (const SequenceChunk& chunk : chunks) num_rows += num_logit_rows(chunk);
  const int64_t vocab_size = generator_->model->config().vocab_size;
  QUARRY_CHECK(static_cast<int64_t>(logits_.size()) == num_rows * vocab_size, ErrorCode::kInternal,
               "the model gave ", logits_.size(), " logits for ", num_rows, " rows and ",
               vocab_size, " tokens");
  return logits_.data();
}

// After a failed step: each sequence on its own, so that only the guilty one ends.
void Engine::Impl::forward_each(const std::vector<Sequence*>& owners,
                                const std::vector<SequenceChunk>& chunks) {
  for (Sequence* owner : owners) owner->rewind();
  for (size_t i = 0; i < chunks.size(); ++i) {
    try {
      advance(*owners[i], chunks[i], forward({chunks[i]}));
    } catch (...) {
      owners[i]->finish(FinishReason::kError, current_error());
    }
  }
}

void Engine::Impl::advance(Sequence& sequence, const SequenceChunk& chunk, const float* logits) {
  try {
    const bool is_prompt = sequence.prefilling();
    if (is_prompt && !has_encoder()) step_prompt_tokens_ += chunk.num_tokens;
    const int64_t fed_before = sequence.num_fed();
    step_completion_tokens_ +=
        sequence.advance(chunk, logits, generator_->model->config().vocab_size);
    if (!is_prompt) {
      step_drafts_ += chunk.num_tokens > 1 ? 1 : 0;
      step_draft_tokens_ += chunk.num_tokens - 1;
      step_accepted_draft_tokens_ += sequence.num_fed() - fed_before - 1;
    }
    if (is_prompt || sequence.finished()) sequence.keep_prefix(prefixes_);
  } catch (...) {
    sequence.finish(FinishReason::kError, current_error());
  }
}

void Engine::Impl::retire(const std::shared_ptr<Sequence>& sequence) {
  unfinished_.erase(sequence->id());
  if (sequence->finish_reason() == FinishReason::kCancelled) ++stats_.cancelled_total;
  sequence->publish();
  idle_.notify_all();
}

void Engine::Impl::retire_finished() {
  const std::lock_guard<std::mutex> lock(mutex_);
  stats_.prompt_tokens_total += std::exchange(step_prompt_tokens_, 0) + step_cached_tokens_;
  stats_.cached_tokens_total += std::exchange(step_cached_tokens_, 0);
  stats_.drafts_total += std::exchange(step_drafts_, 0);
  stats_.draft_tokens_total += std::exchange(step_draft_tokens_, 0);
  stats_.accepted_draft_tokens_total += std::exchange(step_accepted_draft_tokens_, 0);
  stats_.prefix_cache_bytes = prefixes_.bytes();
  stats_.completion_tokens_total += std::exchange(step_completion_tokens_, 0);
  const auto done = [this](const std::shared_ptr<Sequence>& sequence) {
    if (!sequence->finished()) return false;
    if (options_.prompt_lookup) recent_answers_.add(sequence->answer());
    retire(sequence);
    return true;
  };
  running_.erase(std::remove_if(running_.begin(), running_.end(), done), running_.end());
}

Engine::Engine(std::shared_ptr<const LoadedGenerator> generator, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(std::move(generator), options)) {}

Engine::~Engine() = default;

Engine::Submitted Engine::submit(GenerateRequest request, OnText on_text) {
  impl_->check_request(request);
  if (request.served == nullptr) request.served = impl_->adapters_.acquire(request.adapter);
  Submitted submitted;
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex_);
    QUARRY_CHECK(impl_->accepting_, ErrorCode::kUnavailable, "the engine is shutting down");
    QUARRY_CHECK(static_cast<int64_t>(impl_->unfinished_.size()) <
                     impl_->options_.max_batch_sequences + impl_->options_.max_queue,
                 ErrorCode::kUnavailable,
                 "the queue is full: ", impl_->options_.max_batch_sequences, " requests run and ",
                 impl_->options_.max_queue, " wait; try again later");
    const auto sequence = std::make_shared<Sequence>(impl_->next_id_, std::move(request),
                                                     std::move(on_text), *impl_->generator_);
    submitted.id = impl_->next_id_++;
    submitted.result = sequence->future();
    impl_->waiting_.push_back(sequence);
    impl_->unfinished_.emplace(submitted.id, sequence);
    ++impl_->stats_.requests_total;
  }
  impl_->wake_.notify_all();
  return submitted;
}

void Engine::cancel(RequestId id) {
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex_);
    const auto found = impl_->unfinished_.find(id);
    if (found == impl_->unfinished_.end()) return;
    found->second->cancel();
  }
  impl_->wake_.notify_all();
}

void Engine::run(const std::function<void()>& job) {
  if (std::this_thread::get_id() == impl_->thread_.get_id()) {
    job();
    return;
  }
  std::packaged_task<void()> task(job);
  std::future<void> done = task.get_future();
  {
    const std::lock_guard<std::mutex> lock(impl_->mutex_);
    QUARRY_CHECK(!impl_->stopping_, ErrorCode::kUnavailable, "the engine is shutting down");
    impl_->jobs_.push_back(std::move(task));
  }
  impl_->wake_.notify_all();
  done.get();
}

AdapterSet& Engine::adapters() { return impl_->adapters_; }

const AdapterSet& Engine::adapters() const { return impl_->adapters_; }

Constraints& Engine::constraints() { return impl_->constraints_; }

Engine::LoadedPrefixes Engine::load_prefixes(const std::filesystem::path& path) {
  LoadedPrefixes loaded;
  if (impl_->prefixes_.max_bytes() == 0 || impl_->generator_ == nullptr) return loaded;
  std::vector<std::shared_ptr<const LoraAdapter>> adapters = {nullptr};
  std::vector<std::string> names = impl_->adapters_.names();
  names.emplace_back();  // what is fused into the base
  for (const std::string& name : names) {
    adapters.push_back(impl_->adapters_.acquire(name)->weights);
  }
  run([&] {
    PrefixCache& prefixes = impl_->prefixes_;
    QUARRY_CHECK(prefixes.bytes() == 0, ErrorCode::kInvalidArgument, path.string(),
                 ": prefixes are loaded before the first request");
    loaded.warning = read_prefixes(path, prefix_origin(*impl_->generator_), adapters, prefixes);
    loaded.bytes = prefixes.bytes();
  });
  return loaded;
}

int64_t Engine::save_prefixes(const std::filesystem::path& path) {
  int64_t bytes = 0;
  if (impl_->prefixes_.max_bytes() == 0 || impl_->generator_ == nullptr) return bytes;
  run([&] {
    write_prefixes(path, prefix_origin(*impl_->generator_), impl_->prefixes_);
    bytes = impl_->prefixes_.bytes();
  });
  return bytes;
}

void Engine::drain(double timeout_seconds) {
  std::unique_lock<std::mutex> lock(impl_->mutex_);
  impl_->accepting_ = false;
  const auto empty = [this] { return impl_->unfinished_.empty(); };
  if (impl_->idle_.wait_for(lock, std::chrono::duration<double>(timeout_seconds), empty)) return;
  for (const auto& entry : impl_->unfinished_) entry.second->cancel();
  impl_->wake_.notify_all();
  impl_->idle_.wait(lock, empty);
}

EngineStats Engine::stats() const {
  const std::lock_guard<std::mutex> lock(impl_->mutex_);
  EngineStats stats = impl_->stats_;
  stats.waiting = static_cast<int64_t>(impl_->waiting_.size());
  stats.running = static_cast<int64_t>(impl_->unfinished_.size()) - stats.waiting;
  return stats;
}

const LoadedGenerator* Engine::generator() const { return impl_->generator_.get(); }

const EngineOptions& Engine::options() const { return impl_->options_; }

}  // namespace quarry
