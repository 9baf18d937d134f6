#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/core/json.h"
#include "finetune/optimizer.h"
#include "finetune/schedule.h"
#include "generator/nn/lora_settings.h"
#include "retriever/passage_prior.h"

namespace quarry {

struct ModelOptions {
  std::string path;  // folder, .gguf or catalogue name; empty: the default generator
  // How the frozen base is kept: "as-is" (the file's own blocks), "nf4" (4.25 bits a weight, the
  // smallest), "fp4" (as small, less exact), "int8", "bf16", "f32" (exact, and 8 times the memory
  // of 4 bits). Quantized at load; the embedding and the head stay as the file has them.
  std::string load_in = "as-is";
};

struct DataOptions {
  std::vector<std::string> train;  // files or folders; at least one
  std::vector<std::string> eval;   // empty: no evaluation while training
  // "auto" (by the first row) or a name of training_readers(): "squad", "completion", "chat" ...
  std::string format = "auto";
  // Role -> column of a CSV file, or of completions and labelled texts in JSON Lines
  // ({prompt: q, completion: a}); roles not named have the usual columns.
  std::map<std::string, std::string> columns;
  // Of completions: what the prompt is made of, columns in braces ("Question: {question}\n");
  // empty: the prompt is a column.
  std::string prompt_template;
  std::string chat_targets = "last";     // or "all": which assistant messages are learned
  std::string completion_form = "chat";  // or "raw": prompt and completion without a chat template
  std::string squad_passages;            // of questions in JSON Lines: a file or a folder
  std::string too_long = "error";        // or "skip": rows beyond max_seq_len without passages
  int64_t max_examples = 0;              // of the training rows; 0: all
  double sample_ratio = 1;               // the same as a share, drawn by training.seed
  // Without `eval`: the share of the training rows that is not learned but evaluated on, drawn by
  // training.seed.
  double eval_share = 0;
  int64_t max_eval_examples = 200;  // evaluation costs a forward pass each; 0: all
};

struct PassageOptions {
  // Where the passages of a prompt come from: "given" (those of the row, if any), "gold" (the one
  // that answers, alone), "retrieved" (from `index` while training, as `ask` sees them), "mixed".
  std::string mode = "given";
  std::string index;                      // Quarry index folder; wanted by "retrieved" and "mixed"
  std::string retrieval_mode = "hybrid";  // "dense", "lexical"
  int64_t top_k = 3;        // most passages in a prompt: more cost time and help recall
  double gold_share = 0.3;  // "mixed": of the groups with gold passages alone
  // Of the sequences, those whose passages lack the answer and whose reply is the template's "not
  // in the documents". More make the model refuse oftener. Without effect for "given".
  double unanswerable_share = 0.2;
  double gold_removed_share = 0.25;  // of the retrieved groups: the answering passage is taken out
  int64_t questions_per_group =
      16;                        // asked of the same passages: more are faster, fewer mix better
  std::string rag_template;      // of generator/prompt.h; empty: the default
  int64_t prompt_tokens = 1536;  // passages stop here, as for `ask`
};

// LoraSettings with what suits question answering on a small model: every Linear, r = 16, scale 2.
struct AdapterOptions : LoraSettings {
  AdapterOptions() {
    r = 16;
    lora_alpha = 32;
    target_all_linear = true;
  }
  // Instead of these: what PEFT takes for the family when it is told nothing (q_proj and v_proj of
  // a llama, query and value of a BERT).
  bool target_default = false;
  // An adapter folder to go on from; the settings above then come from it. Empty: a fresh one.
  std::string start_from;
  // init_lora_weights "loftq": the base's weights before they were quantized, a safetensors folder.
  std::string loftq_weights;
};

// Of the recipes whose passages are latent: "rag-sequence", "rag-token", "replug-lsr" and
// "distill". For each question the top_k passages come from passages.index by their vectors, each
// stands in a prompt of its own, and the loss is over all of them.
struct RagOptions {
  // What learns: the adapters of "both", of the "generator" or of the "query-encoder" alone. By
  // "distill" that is always the last.
  std::string train = "both";
  // Of p(z|x) = softmax(cosine / temperature). Sentence encoders are trained with cosines times 20;
  // at 1 all passages would be nearly alike.
  double temperature = kPriorTemperature;
  // The adapter of the query encoder embeds and learns the passages that were found as well
  // (RAG-end2end: Siriwardhana et al. 2023, arXiv:2210.02627): dearer by their tokens, and the
  // index has to be embedded anew to be searched with it.
  bool train_passage_encoder = false;
  // With it the index grows old: passages that have come nearer are not found. 0: each question has
  // the top_k nearest by the index. More: that many are taken by the index, embedded anew, and the
  // top_k nearest kept; costs their embedding.
  int64_t over_retrieve = 0;
  // With it, more than 0: all passages are embedded anew within this many steps, a share after each
  // of them, and then found by these vectors, which are this many to twice as many steps old. In
  // memory; the index stays. 0: never.
  int64_t refresh_every = 0;
  // By "rag-sequence" and "rag-token": beside the marginal likelihood the generator learns the
  // template's not_in_documents where a passage does not spell the answer out, and that alone from
  // a question whose passages all do not. For answers that are quoted from passages. Without it a
  // generator learns to answer from whatever was found.
  bool abstain = false;
  // The run ends, with a checkpoint, when in 5 steps in a row the questions found fewer than a
  // quarter of the different passages that they could, or the passages made no difference to the
  // generator. Else it only warns. Steps of fewer than 4 questions are not judged.
  bool stop_on_collapse = false;
};

// Of the recipe "distill": the frozen generator, with the adapter of adapter.start_from if that is
// given, teaches the query encoder.
struct DistillOptions {
  // Of the teacher's softmax over mean log-likelihoods of the answer's tokens: lower trusts the
  // best passage alone.
  double temperature = 0.1;
};

// Of the recipes that learn from passages that answer and passages that do not: "contrastive" and
// "reranker". The latter are mined: for each question those found first, by the query encoder as it
// is then, that hold no answer.
struct ContrastiveOptions {
  // Mined passages of a question: more teach finer differences and cost a reranker a forward pass
  // each, the query encoder next to nothing. 0: only those of the batch's other questions, which a
  // reranker has not.
  int64_t hard_negatives = 4;
  int64_t candidates = 50;  // passages that are searched for them
  // Of the softmax over cosines; lower looks harder at the nearest wrong passages. A reranker's
  // logits have none.
  double temperature = kPriorTemperature;
};

struct TrainingOptions {
  // Passes over the data; may be a fraction. 0: one, and up to 20 of fewer than 640 rows, so that
  // a handful is learned too.
  double epochs = 0;
  int64_t max_steps = 0;  // optimizer steps; 0: by epochs
  // Sequences of one optimizer step; large ones hurt LoRA. 0: 16, and down to 4 for fewer than 80
  // rows.
  int64_t batch_size = 0;
  int64_t micro_batch_tokens = 2048;  // tokens of one forward pass: memory grows with it
  int64_t max_seq_len = 2048;   // a longer sequence loses passages, never its answer; <= context
  bool packing = true;          // several sequences in a row of tokens, without leaks; faster
  double learning_rate = 5e-4;  // LoRA's best is about 10 times that of full fine-tuning
  Decay schedule = Decay::kCosine;
  double warmup_ratio = 0.03;  // share of the steps
  int64_t warmup_steps = -1;   // >= 0: instead of the share
  double weight_decay = 0;
  double max_grad_norm = 1;  // 0: no clipping
  OptimizerKind optimizer = OptimizerKind::kAdamW;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  std::string compute = "bf16";  // or "f32": exact, and about twice the time and activations
  bool checkpointing = true;     // recompute activations in backward: a third slower, far smaller
  uint64_t seed = 1;
  int64_t eval_every = 0;        // optimizer steps; 0: at the end of each epoch
  int64_t save_every = 100;      // optimizer steps: what a crash can cost; 0: only at the end
  int64_t save_total_limit = 2;  // checkpoints kept; 0: all
  int64_t threads = 0;           // 0: the physical cores
};

// The LoRA adapter of the query encoder: every Linear but the pooler, which vectors do not pass.
// Without rag.train_passage_encoder passages stay as the index has them.
struct QueryEncoderOptions {
  int64_t r = 16;
  double lora_alpha = 32;
  double learning_rate = 1e-4;  // peak; follows the schedule of training.learning_rate
  std::string start_from;       // an adapter folder to go on from or to search with; empty: none
};

// All that `quarry finetune` can be told.
struct FinetuneConfig {
  // "sft": given answers are learned. "causal-lm", "seq2seq": the same of a decoder-only model, of
  // an encoder-decoder. "classification": labels of texts by an encoder of the BERT family, whose
  // head is trained whole. "rag-sequence", "rag-token":
  // the marginal likelihood of the answer over retrieved passages (Lewis et al. 2020,
  // arXiv:2005.11401). "replug-lsr": the query encoder learns which passages help the frozen
  // generator (Shi et al. 2023, arXiv:2301.12652). "distill": the same by PDist of Atlas (Izacard
  // et al. 2022, arXiv:2208.03299). "contrastive": the query encoder learns by InfoNCE which
  // passage answers, against those of the batch's other questions and mined ones (Karpukhin et al.
  // 2020, arXiv:2004.04906); no generator takes part. "reranker": a cross-encoder learns the same
  // of passages mined, by a listwise softmax over its logits; LoRA and the head whole.
  std::string recipe = "sft";
  ModelOptions model;
  DataOptions data;
  PassageOptions passages;
  RagOptions rag;
  DistillOptions distill;
  ContrastiveOptions contrastive;
  AdapterOptions adapter;
  TrainingOptions training;
  QueryEncoderOptions query_encoder;
  std::string output_dir = "finetune-run";

  bool is_rag() const;            // the passages are latent
  bool trains_generator() const;  // where the passages are latent
  bool is_of_encoder() const;     // no generator takes part

  AdamWOptions adamw_options() const;
  LearningRateSchedule learning_rate_schedule(int64_t num_steps) const;
};

// One option under its dotted name.
struct ConfigField {
  std::string name;  // "training.learning_rate"
  std::string help;
  std::string default_text;  // as get() of a default FinetuneConfig; empty: unset
  enum class Kind { kScalar, kList, kMap } kind = Kind::kScalar;
  // Sets from text. Lists: "a,b" or YAML "[a, b]"; maps: YAML "{key: value}". Throws
  // kInvalidArgument "NAME is "TEXT", wanted ..." for a value out of range, changing nothing.
  std::function<void(FinetuneConfig&, const std::string& text)> set;
  // Text that set() reads back to the same value; lists and maps as YAML flow.
  std::function<std::string(const FinetuneConfig&)> get;
};

// Every option, in the order of the struct. Immutable.
const std::vector<ConfigField>& config_fields();

// Sets one option. Throws kInvalidArgument; of an unknown name a near known one is suggested.
void set_config_field(FinetuneConfig& config, const std::string& name, const std::string& text);

// What training.epochs = 0 means for so many rows.
double automatic_epochs(size_t rows);
// The same of training.batch_size.
int64_t automatic_batch_size(size_t rows);

// Reads a configuration over `config`: what the file does not say stays. By its content the file is
//   ours: YAML of the fields; keys may be nested or dotted,
//   PEFT's adapter_config.json (finetune/config_peft.cpp), which says what adapts which model,
//   or Ludwig's YAML of `model_type: llm` (finetune/config_ludwig.cpp).
// Relative paths stay as they are. Throws kNotFound; kInvalidArgument "FILE:LINE: ..." for text
// that is none of these, an unknown key, a key given twice, a value out of range or one that we do
// not compute.
void load_config(const std::filesystem::path& path, FinetuneConfig& config);
// The same from text; `source` names it in errors.
void read_config(const std::string& text, const std::string& source, FinetuneConfig& config);
// Of ours alone.
void load_config_yaml(const std::filesystem::path& path, FinetuneConfig& config);
void read_config_yaml(const std::string& text, const std::string& source, FinetuneConfig& config);

// The whole resolved configuration: read_config_yaml() of it gives the same one.
std::string to_yaml(const FinetuneConfig& config);
// The same for programs, by sections; what is unset is null.
OrderedJson to_json(const FinetuneConfig& config);

// Throws kInvalidArgument naming the field, what was found and what was wanted: ranges, choices,
// settings that need or exclude each other. Does not look at files.
void check_config(const FinetuneConfig& config);

// Hash of every option that a resumed run must share with its checkpoint: all but output_dir,
// rag.stop_on_collapse, training.{eval_every, save_every, save_total_limit, threads}.
std::string config_hash(const FinetuneConfig& config);

}  // namespace quarry
