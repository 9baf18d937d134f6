#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "generator/models/causal_lm.h"
#include "generator/nn/kv_cache.h"

namespace quarry::fake {

// Ids 0..255 are the bytes of that value; then a special end token, a special start token and two
// tokens of several bytes.
constexpr int32_t kEnd = 256;
constexpr int32_t kStart = 257;
constexpr int32_t kHello = 258;     // "hello"
constexpr int32_t kHalfEuro = 259;  // the first two bytes of U+20AC
constexpr int64_t kVocabSize = 260;

class ByteTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text, SpecialTokens special) const override;
  std::string decode(const std::vector<int32_t>& ids) const override;
  std::string token_bytes(int32_t id) const override;
  int64_t vocab_size() const override { return kVocabSize; }
  int32_t token_id(std::string_view token) const override;
  bool is_special(int32_t id) const override { return id == kEnd || id == kStart; }
};

// Decides the next token from all tokens of the sequence and the adapter (may be null).
using NextToken =
    std::function<int32_t(const std::vector<int32_t>& history, const LoraAdapter* adapter)>;

// 5 to 36 letters that depend on the whole history, then kEnd.
int32_t hashed_letters(const std::vector<int32_t>& history, const LoraAdapter* adapter);
// The given tokens after a prompt of `prompt_tokens`, then kEnd.
NextToken scripted(size_t prompt_tokens, std::vector<int32_t> script);

// A CausalLm without weights that keeps the token ids as keys in its cache: logit `peak` for the
// next token, hashes of the history in [0, 4) for the rest. Ends the test process when two threads
// call forward() at once.
class Model : public CausalLm {
 public:
  explicit Model(NextToken next, int64_t max_seq_len = 4096);

  const CausalLmConfig& config() const override { return config_; }
  std::unique_ptr<KvCache> make_cache() const override;
  void forward_into(const std::vector<SequenceChunk>& chunks,
                    std::vector<float>& logits) const override;
  const std::vector<LinearSlot>& linear_slots() const override { return slots_; }
  const std::vector<TensorSlot>& tensor_slots() const override { return tensor_slots_; }
  std::vector<float> tensor_values(const std::string&) const override { return {}; }
  // Not trained: both throw.
  std::vector<float> target_losses(const TokenTree& tree, const LoraAdapter* adapter,
                                   GradientOptions::Compute compute) const override;
  std::vector<float> accumulate_gradients(const TokenTree& tree, const LoraAdapter& adapter,
                                          const GradientOptions& options,
                                          LoraGradients& gradients) const override;

  // forward() waits while the gate is closed; entered() blocks until a call waits there.
  void close_gate();
  void open_gate();
  void wait_until_entered();

  float peak = 8.0f;  // logit of the next token
  // Where it is one, a token that is always nearly as likely.
  int32_t rival = -1;

  // forward() throws when a chunk holds this token.
  int32_t poison = -1;

  struct Step {
    int64_t sequences = 0;
    int64_t rows = 0;
  };
  std::vector<Step> steps() const;

 private:
  CausalLmConfig config_;
  std::vector<LinearSlot> slots_;
  std::vector<TensorSlot> tensor_slots_;  // none
  NextToken next_;
  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable changed_;
  bool gate_open_ = true;
  mutable bool waiting_at_gate_ = false;
  mutable bool busy_ = false;
  mutable std::vector<Step> steps_;
};

std::shared_ptr<LoadedGenerator> make_generator(std::unique_ptr<CausalLm> model);

// A PEFT folder for the model's one Linear, all values `value`: hashed_letters looks at A's first.
// `notes` is the text of quarry_adapter.json; empty: none.
void write_adapter(const std::filesystem::path& folder, float value, int64_t rank = 1,
                   const std::string& notes = "");

// Text that greedy decoding of `prompt` gives when nothing else runs.
std::string expected_text(const NextToken& next, std::vector<int32_t> prompt, int64_t max_tokens,
                          const LoraAdapter* adapter = nullptr);

}  // namespace quarry::fake
