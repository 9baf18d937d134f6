#include "finetune/run_inputs.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>

#include "data/core/error.h"
#include "data/core/parallel_for.h"
#include "generator/decode/random.h"
#include "generator/weights/model_catalog.h"

namespace quarry {
namespace {

GeneratorOptions generator_options(const FinetuneConfig& config) {
  GeneratorOptions options;
  options.precision = compute_precision(config);
  options.weights.load_in = parse_load_in(config.model.load_in);
  return options;
}

CsvColumns csv_columns(const std::map<std::string, std::string>& columns) {
  CsvColumns csv;
  const std::map<std::string, std::string*> roles = {{"id", &csv.id},
                                                     {"question", &csv.question},
                                                     {"answer", &csv.answer},
                                                     {"context", &csv.context},
                                                     {"title", &csv.title},
                                                     {"prompt", &csv.prompt},
                                                     {"completion", &csv.completion},
                                                     {"text", &csv.text},
                                                     {"second", &csv.second},
                                                     {"label", &csv.label}};
  for (const auto& [role, column] : columns) {
    const auto found = roles.find(role);
    QUARRY_CHECK(found != roles.end(), ErrorCode::kInvalidArgument, "data.columns: '", role,
                 "' is no role of a column (id, question, answer, context, title, prompt, "
                 "completion, text, second, label)");
    *found->second = column;
  }
  return csv;
}

}  // namespace

kernels::Precision compute_precision(const FinetuneConfig& config) {
  return config.training.compute == "f32" ? kernels::Precision::kExact : kernels::Precision::kFast;
}

LoadedGenerator load_base(const FinetuneConfig& config) {
  if (config.training.threads > 0) set_num_threads(static_cast<int>(config.training.threads));
  return load_generator(
      config.model.path.empty() ? std::string(kDefaultGenerator) : config.model.path,
      generator_options(config));
}

RenderOptions render_options(const FinetuneConfig& config, const CausalLm& model) {
  RenderOptions options;
  if (!config.passages.rag_template.empty()) {
    options.form = find_rag_template(config.passages.rag_template);
  }
  options.max_seq_len = std::min(config.training.max_seq_len, model.config().max_seq_len);
  options.preferred_prompt_tokens = config.passages.prompt_tokens;
  return options;
}

GroupOptions group_options(const FinetuneConfig& config) {
  GroupOptions options;
  options.passages = parse_passage_source(config.passages.mode);
  options.retrieval_mode = parse_search_mode(config.passages.retrieval_mode);
  options.top_k = config.passages.top_k;
  options.gold_share = config.passages.gold_share;
  options.unanswerable_share =
      options.passages == PassageSource::kGiven ? 0.0 : config.passages.unanswerable_share;
  options.gold_removed_share = config.passages.gold_removed_share;
  options.questions_per_group = config.passages.questions_per_group;
  options.too_long = config.data.too_long == "skip" ? TooLong::kSkip : TooLong::kError;
  options.seed = config.training.seed;
  return options;
}

TrainerOptions trainer_options(const DataInputs& inputs) {
  const FinetuneConfig& config = inputs.config;
  TrainerOptions options;
  options.group = inputs.group;
  options.micro_batch_tokens = config.training.micro_batch_tokens;
  options.packing = config.training.packing;
  options.gradient.compute = config.training.compute == "f32" ? GradientOptions::Compute::kFloat32
                                                              : GradientOptions::Compute::kBFloat16;
  options.gradient.checkpoint_layers = config.training.checkpointing;
  options.max_grad_norm = config.training.max_grad_norm;
  options.lora_dropout = static_cast<float>(config.adapter.lora_dropout);
  options.seed = config.training.seed;
  return options;
}

TrainingSet read_set(const DataOptions& data, const std::vector<std::string>& paths) {
  TrainingReadOptions options;
  options.columns = csv_columns(data.columns);
  options.chat_targets =
      data.chat_targets == "all" ? ChatTargets::kAllTurns : ChatTargets::kLastTurn;
  options.completion_form =
      data.completion_form == "raw" ? CompletionForm::kRaw : CompletionForm::kChat;
  options.prompt_template = data.prompt_template;
  options.squad_passages = data.squad_passages;
  std::vector<TrainingSource> sources;
  for (const std::string& path : paths) sources.push_back({path, data.format});
  return read_training_set(sources, options);
}

void limit_rows(int64_t limit, uint64_t seed, TrainingSet& set) {
  if (limit <= 0 || static_cast<size_t>(limit) >= set.rows.size()) return;
  SplitMix64 random(seed);
  for (size_t i = 0; i < static_cast<size_t>(limit); ++i) {
    const size_t rest = set.rows.size() - i;
    std::swap(set.rows[i], set.rows[i + random.next() % rest]);
  }
  set.rows.resize(static_cast<size_t>(limit));
}

TrainingSet hold_out(const FinetuneConfig& config, TrainingSet& set) {
  TrainingSet held;
  const double share = config.data.eval_share;
  if (share == 0) return held;
  const auto count = static_cast<size_t>(std::ceil(share * static_cast<double>(set.rows.size())));
  QUARRY_CHECK(count < set.rows.size(), ErrorCode::kInvalidArgument, "data.eval_share is ", share,
               ", which leaves none of ", set.rows.size(), " rows to learn");
  SplitMix64 random(config.training.seed ^ 0x9E3779B97F4A7C15ULL);  // not limit_rows()'s stream
  held.passages = set.passages;
  for (size_t i = 0; i < count; ++i) {
    std::swap(set.rows[i], set.rows[i + random.next() % (set.rows.size() - i)]);
  }
  const auto border = set.rows.begin() + static_cast<int64_t>(count);
  held.rows.assign(std::make_move_iterator(set.rows.begin()), std::make_move_iterator(border));
  set.rows.erase(set.rows.begin(), border);
  return held;
}

std::optional<TrainingSet> evaluation_set(const DataInputs& inputs) {
  const DataOptions& data = inputs.config.data;
  if (data.eval.empty() && inputs.held_out.rows.empty()) return std::nullopt;
  TrainingSet set = data.eval.empty() ? inputs.held_out : read_set(data, data.eval);
  limit_rows(data.max_eval_examples, 1, set);
  return set;
}

}  // namespace quarry
