#include "tests/generator/decode/fake_model.h"

#include <cstdlib>
#include <utility>

#include "data/core/error.h"
#include "data/core/paths.h"
#include "generator/decode/random.h"
#include "generator/nn/lora.h"
#include "generator/weights/safetensors_file.h"

namespace quarry::fake {
namespace {

constexpr std::string_view kEndText = "<|end|>";
constexpr std::string_view kStartText = "<|start|>";

uint64_t hash(const std::vector<int32_t>& history) {
  uint64_t h = 1469598103934665603ULL;
  for (int32_t token : history) h = SplitMix64(h ^ static_cast<uint64_t>(token)).next();
  return h;
}

// Stores the chunk's ids in its cache; returns all ids that the cache now holds.
std::vector<int32_t> append(const SequenceChunk& chunk) {
  const std::vector<float> rows(chunk.tokens, chunk.tokens + chunk.num_tokens);
  chunk.cache->reserve(chunk.num_tokens);
  chunk.cache->write(0, rows.data(), rows.data(), chunk.num_tokens, 1);
  chunk.cache->advance(chunk.num_tokens);
  const kernels::KeyValuePages<float> held = chunk.cache->float_pages(0);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < chunk.cache->length(); ++i) {
    ids.push_back(
        static_cast<int32_t>(held.k_pages[i / held.page_keys][held.k_offset + i % held.page_keys]));
  }
  return ids;
}

}  // namespace

std::vector<int32_t> ByteTokenizer::encode(std::string_view text, SpecialTokens special) const {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    const std::string_view rest = text.substr(i);
    if (special == SpecialTokens::kParse && rest.substr(0, kEndText.size()) == kEndText) {
      ids.push_back(kEnd);
      i += kEndText.size();
    } else if (special == SpecialTokens::kParse &&
               rest.substr(0, kStartText.size()) == kStartText) {
      ids.push_back(kStart);
      i += kStartText.size();
    } else {
      ids.push_back(static_cast<unsigned char>(text[i++]));
    }
  }
  return ids;
}

std::string ByteTokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string text;
  for (int32_t id : ids) text += token_bytes(id);
  return text;
}

std::string ByteTokenizer::token_bytes(int32_t id) const {
  if (id >= 0 && id < 256) return std::string(1, static_cast<char>(id));
  if (id == kHello) return "hello";
  if (id == kHalfEuro) return "\xE2\x82";
  return "";
}

int32_t ByteTokenizer::token_id(std::string_view token) const {
  if (token == kEndText) return kEnd;
  if (token == kStartText) return kStart;
  return -1;
}

int32_t hashed_letters(const std::vector<int32_t>& history, const LoraAdapter* adapter) {
  uint64_t h = hash(history);
  if (adapter != nullptr) {
    const LoraWeights* weights = adapter->find("model.layers.0.self_attn.q_proj");
    h = SplitMix64(h + static_cast<uint64_t>(weights->a[0])).next();
  }
  return h % 24 == 0 ? kEnd : static_cast<int32_t>('a' + h % 26);
}

NextToken scripted(size_t prompt_tokens, std::vector<int32_t> script) {
  return [prompt_tokens, script = std::move(script)](const std::vector<int32_t>& history,
                                                     const LoraAdapter*) {
    const size_t done = history.size() - prompt_tokens;
    return done < script.size() ? script[done] : kEnd;
  };
}

Model::Model(NextToken next, int64_t max_seq_len) : next_(std::move(next)) {
  config_.architecture = "fake";
  config_.num_layers = 1;
  config_.num_heads = 1;
  config_.num_kv_heads = 1;
  config_.head_dim = 2;
  config_.hidden_size = 2;
  config_.vocab_size = kVocabSize;
  config_.max_seq_len = max_seq_len;
  slots_ = {{"model.layers.0.self_attn.q_proj", 2, 2}};
}

std::unique_ptr<KvCache> Model::make_cache() const {
  return std::make_unique<KvCache>(1, 1, 1, config_.max_seq_len, KvCache::ElementType::kFloat);
}

void Model::forward_into(const std::vector<SequenceChunk>& chunks,
                         std::vector<float>& logits) const {
  std::unique_lock<std::mutex> lock(mutex_);
  if (busy_) std::abort();
  busy_ = true;
  waiting_at_gate_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return gate_open_; });
  waiting_at_gate_ = false;
  busy_ = false;
  Step step;
  step.sequences = static_cast<int64_t>(chunks.size());
  for (const SequenceChunk& chunk : chunks) {
    step.rows += chunk.num_tokens;
    for (int64_t i = 0; i < chunk.num_tokens; ++i) {
      QUARRY_CHECK(chunk.tokens[i] != poison, ErrorCode::kInternal, "poisoned token ", poison);
    }
  }
  steps_.push_back(step);
  logits.clear();
  for (const SequenceChunk& chunk : chunks) {
    const std::vector<int32_t> all = append(chunk);
    std::vector<int32_t> history;
    const size_t num_rows = chunk.all_logits ? static_cast<size_t>(chunk.num_tokens) : 1;
    for (size_t end = all.size() - num_rows + 1; end <= all.size(); ++end) {
      history.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(end));
      const size_t row = logits.size();
      SplitMix64 random(hash(history));
      for (int64_t i = 0; i < kVocabSize; ++i) {
        logits.push_back(static_cast<float>(4.0 * random.next_unit()));
      }
      if (rival >= 0) logits[row + static_cast<size_t>(rival)] = peak - 0.4f;  // 2 of 5
      logits[row + static_cast<size_t>(next_(history, chunk.adapter))] = peak;
    }
  }
}

std::vector<float> Model::target_losses(const TokenTree&, const LoraAdapter*,
                                        GradientOptions::Compute) const {
  throw_error(ErrorCode::kInternal, "the fake model does not train");
}

std::vector<float> Model::accumulate_gradients(const TokenTree&, const LoraAdapter&,
                                               const GradientOptions&, LoraGradients&) const {
  throw_error(ErrorCode::kInternal, "the fake model does not train");
}

void Model::close_gate() {
  const std::lock_guard<std::mutex> lock(mutex_);
  gate_open_ = false;
}

void Model::open_gate() {
  const std::lock_guard<std::mutex> lock(mutex_);
  gate_open_ = true;
  changed_.notify_all();
}

void Model::wait_until_entered() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return waiting_at_gate_; });
}

std::vector<Model::Step> Model::steps() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return steps_;
}

std::shared_ptr<LoadedGenerator> make_generator(std::unique_ptr<CausalLm> model) {
  auto generator = std::make_shared<LoadedGenerator>();
  generator->name = "fake";
  generator->model = std::move(model);
  generator->tokenizer = std::make_unique<ByteTokenizer>();
  generator->stop_tokens = {kEnd};
  return generator;
}

void write_adapter(const std::filesystem::path& folder, float value, int64_t rank,
                   const std::string& notes) {
  std::filesystem::create_directories(folder);
  const std::string r = std::to_string(rank);
  write_file_atomically(folder / "adapter_config.json",
                        R"({"peft_type": "LORA", "target_modules": ["q_proj"], "r": )" + r +
                            R"(, "lora_alpha": )" + r + "}");
  const std::string path = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
  const std::vector<float> values(static_cast<size_t>(2 * rank), value);
  std::vector<TensorToWrite> tensors(2);
  tensors[0].name = path + "A.weight";
  tensors[0].shape = {rank, 2};
  tensors[1].name = path + "B.weight";
  tensors[1].shape = {2, rank};
  for (TensorToWrite& tensor : tensors) tensor.data = values.data();
  write_safetensors(folder / "adapter_model.safetensors", tensors, {});
  if (!notes.empty()) write_file_atomically(folder / "quarry_adapter.json", notes);
}

std::string expected_text(const NextToken& next, std::vector<int32_t> prompt, int64_t max_tokens,
                          const LoraAdapter* adapter) {
  const ByteTokenizer tokenizer;
  std::string text;
  for (int64_t i = 0; i < max_tokens; ++i) {
    const int32_t token = next(prompt, adapter);
    if (token == kEnd) break;
    text += tokenizer.token_bytes(token);
    prompt.push_back(token);
  }
  return text;
}

}  // namespace quarry::fake
