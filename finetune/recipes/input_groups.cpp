#include "finetune/recipes/input_groups.h"

#include "finetune/shared_step.h"

namespace quarry {
namespace {

// Groups that are computed together, and who does it.
struct GroupPass {
  size_t first = 0;  // of its groups
  size_t end = 0;
  int64_t tokens = 0;
  bool is_own = true;

  int64_t rows() const { return tokens; }
};

std::vector<GroupPass> cut_passes(const std::vector<InputGroup>& groups, int64_t max_tokens) {
  std::vector<GroupPass> passes;
  for (size_t i = 0; i < groups.size(); ++i) {
    const int64_t tokens = groups[i].num_tokens();
    if (passes.empty() || passes.back().tokens + tokens > max_tokens) {
      passes.emplace_back();
      passes.back().first = i;
    }
    passes.back().end = i + 1;
    passes.back().tokens += tokens;
  }
  return passes;
}

}  // namespace

int64_t InputGroup::num_tokens() const {
  int64_t tokens = 0;
  for (const EncoderInput& input : inputs) tokens += static_cast<int64_t>(input.ids.size());
  return tokens;
}

void learn_groups(const SequenceClassifier& model, const std::vector<InputGroup>& groups,
                  const GroupLoss& loss, const TrainerOptions& options, TrainedAdapter& trained,
                  StepResult& result) {
  LoraGradients& gradients = trained.gradients();
  gradients.zero();
  uint64_t number = 0;
  const auto cut = [&](int64_t max_tokens) { return cut_passes(groups, max_tokens); };
  for (const GroupPass& pass : cut_for_ranks(pass_options(options), cut)) {
    result.tokens += pass.tokens;
    const uint64_t dropout_seed =
        options.seed + static_cast<uint64_t>(result.step) * 1000003 + number++;
    if (!pass.is_own) continue;
    gradients.set_dropout(options.lora_dropout, dropout_seed);
    std::vector<EncoderInput> inputs;
    for (size_t i = pass.first; i < pass.end; ++i) {
      inputs.insert(inputs.end(), groups[i].inputs.begin(), groups[i].inputs.end());
    }
    const auto of_pass = [&](const float* logits, float* logit_gradients) {
      for (size_t i = pass.first; i < pass.end; ++i) {
        loss(i, logits, logit_gradients);
        const size_t size = groups[i].inputs.size() * model.labels().size();
        logits += size;
        logit_gradients += size;
      }
    };
    model.accumulate_gradients(trained.adapter(), inputs, of_pass, gradients);
  }
  sum_over_ranks(options.group, trained.gradient_views());
  result.sequences = result.targets = static_cast<int64_t>(groups.size());
  result.rows = result.tokens;
}

void run_groups(const SequenceClassifier& model, const std::vector<InputGroup>& groups,
                const GroupLoss& loss, const TrainerOptions& options, const LoraAdapter& adapter) {
  const auto first = static_cast<size_t>(rank_of(options.group));
  const auto stride = static_cast<size_t>(num_ranks(options.group));
  std::vector<EncoderInput> inputs;
  for (size_t i = first; i < groups.size(); i += stride) {
    inputs.insert(inputs.end(), groups[i].inputs.begin(), groups[i].inputs.end());
  }
  const std::vector<float> all_logits = model.logits(inputs, &adapter);
  const float* logits = all_logits.data();
  for (size_t i = first; i < groups.size(); i += stride) {
    loss(i, logits, nullptr);
    logits += groups[i].inputs.size() * model.labels().size();
  }
}

}  // namespace quarry
