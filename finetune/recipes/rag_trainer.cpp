#include "finetune/recipes/rag_trainer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "data/core/error.h"
#include "finetune/recipes/query_adapter.h"
#include "finetune/shared_step.h"

namespace quarry {
namespace {

// Sequences whose targets weigh less than this in the loss have no backward pass: what they would
// add is below the rounding of the others in bfloat16, and after some training most passages of a
// question are among them.
constexpr double kNegligibleWeight = 1e-4;

// Passages of which the generator says with this probability that they hold no answer teach it that
// no more.
constexpr double kLearnedRefusal = 0.95;

size_t count_targets(const TrainingSequence& sequence) {
  return static_cast<size_t>(std::count_if(sequence.is_target.begin(), sequence.is_target.end(),
                                           [](uint8_t target) { return target != 0; }));
}

double total_variation(const std::vector<double>& p, const std::vector<double>& q) {
  double total = 0.0;
  for (size_t i = 0; i < p.size(); ++i) total += 0.5 * std::fabs(p[i] - q[i]);
  return total;
}

// Makes a constant of it.
void learn_nothing(MarginalLoss& loss) {
  loss.loss = 0.0;
  for (std::vector<double>& weights : loss.token_weights) {
    std::fill(weights.begin(), weights.end(), 0.0);
  }
  std::fill(loss.score_gradients.begin(), loss.score_gradients.end(), 0.0);
}

}  // namespace

struct RagTrainer::Pass {
  std::vector<MarginalLoss> losses;  // of each example
  // [examples][k]: of the losses of refusals' tokens; 0 where there is none or nothing to learn.
  std::vector<std::vector<double>> refusal_weights;
  double passage_effect = 0.0;  // mean
  double total = 0.0;           // of the losses, those of refusals too
  double refusal_loss = 0.0;    // mean of a question's
  int64_t targets = 0;          // tokens, each counted once for all passages
  int64_t rows = 0;             // computed
};

namespace {

// How unlike the answer's likelihoods with each passage are: the total variation between them, made
// to sum to 1, and equal ones.
double effect_of_passages(const std::vector<std::vector<double>>& token_losses) {
  std::vector<double> shares;
  for (const std::vector<double>& losses : token_losses) {
    shares.push_back(-std::accumulate(losses.begin(), losses.end(), 0.0));
  }
  const double largest = *std::max_element(shares.begin(), shares.end());
  double total = 0.0;
  for (double& share : shares) total += share = std::exp(share - largest);
  for (double& share : shares) share /= total;
  return total_variation(
      shares, std::vector<double>(shares.size(), 1.0 / static_cast<double>(shares.size())));
}

std::vector<std::pair<std::string, double>> make_figures(const std::vector<RagExample>& batch,
                                                         const std::vector<MarginalLoss>& losses,
                                                         double passage_effect,
                                                         double refusal_loss) {
  const auto count = static_cast<double>(batch.size());
  double prior = 0.0, posterior = 0.0, shift = 0.0, recall = 0.0, passages = 0.0;
  std::set<int64_t> distinct;
  for (size_t i = 0; i < batch.size(); ++i) {
    prior += entropy(losses[i].prior) / count;
    posterior += entropy(losses[i].posterior) / count;
    shift += total_variation(losses[i].prior, losses[i].posterior) / count;
    recall += batch[i].holds_answer ? 1.0 / count : 0.0;
    passages += static_cast<double>(batch[i].passage_ids.size());
    distinct.insert(batch[i].passage_ids.begin(), batch[i].passage_ids.end());
  }
  std::vector<std::pair<std::string, double>> figures = {
      {"prior_entropy", prior},
      {"posterior_entropy", posterior},
      {"posterior_shift", shift},
      {"passage_effect", passage_effect},
      {"answer_recall", recall},
      {"distinct_passages", static_cast<double>(distinct.size()) / passages}};
  if (!batch.front().refusals.empty()) figures.emplace_back("refusal_loss", refusal_loss);
  return figures;
}

}  // namespace

RagTrainer::RagTrainer(const RagTrainerParts& parts, const RagTrainerOptions& options)
    : parts_(parts), options_(options) {
  QUARRY_DCHECK(parts.generator != nullptr || parts.query_encoder != nullptr);
  QUARRY_DCHECK(!options.train_passages || parts.query_encoder != nullptr);
  keep_freed_pages();
  if (parts_.generator != nullptr) parts_.adapter = &parts_.generator->adapter();
  take_from_rank_0(options_.trainer.group, parameters());
  pack();
}

std::vector<ParameterView> RagTrainer::parameters() const {
  std::vector<ParameterView> views;
  for (TrainedAdapter* trained : {parts_.generator, parts_.query_encoder}) {
    if (trained == nullptr) continue;
    const std::vector<ParameterView> own = trained->parameters();
    views.insert(views.end(), own.begin(), own.end());
  }
  return views;
}

void RagTrainer::pack() const {
  for (TrainedAdapter* trained : {parts_.generator, parts_.query_encoder}) {
    if (trained != nullptr) trained->pack();
  }
}

void RagTrainer::zero_gradients() const {
  for (TrainedAdapter* trained : {parts_.generator, parts_.query_encoder}) {
    if (trained != nullptr) trained->gradients().zero();
  }
}

RagTrainer::Pass RagTrainer::run_first_pass(const std::vector<RagExample>& batch,
                                            GradientOptions::Compute compute) const {
  QUARRY_CHECK(!batch.empty(), ErrorCode::kInvalidArgument, "a batch without a question");
  Pass pass;
  std::vector<double> flat;  // losses of the targets, sequence after sequence
  for (const StepPass& part :
       make_passes(all_sequences(batch), pass_options(options_.trainer), 1.0f)) {
    pass.rows += part.rows();
    const size_t before = flat.size();
    flat.resize(before + part.tree.targets.size());
    if (!part.is_own) continue;
    const std::vector<float> losses =
        parts_.model->target_losses(part.tree, parts_.adapter, compute);
    std::copy(losses.begin(), losses.end(), flat.begin() + static_cast<std::ptrdiff_t>(before));
  }
  sum_over_ranks(options_.trainer.group, flat);
  auto next = flat.begin();
  const auto take_losses = [&next](const TrainingSequence& sequence) {
    const auto begin = next;
    next += static_cast<std::ptrdiff_t>(count_targets(sequence));
    return std::vector<double>(begin, next);
  };
  const auto questions = static_cast<double>(batch.size());
  for (const RagExample& example : batch) {
    MarginalInputs inputs;
    inputs.scores = example.scores;
    inputs.temperature = options_.temperature;
    inputs.teacher_temperature = options_.teacher_temperature;
    const size_t k = example.sequences.size();
    std::vector<double> refusal_weights(k, 0.0);
    for (size_t z = 0; z < k; ++z) {
      inputs.token_losses.push_back(take_losses(example.sequences[z]));
      if (refusal_of(example, z) == nullptr) continue;
      const std::vector<double> losses = take_losses(*refusal_of(example, z));
      const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
      const double weight = 1.0 / static_cast<double>(k);
      pass.total += weight * loss;
      pass.refusal_loss += weight * loss / questions;
      if (std::exp(-loss) < kLearnedRefusal) refusal_weights[z] = weight;
    }
    pass.refusal_weights.push_back(std::move(refusal_weights));
    pass.losses.push_back(options_.loss(inputs));
    if (!example.refusals.empty() && !example.holds_answer) learn_nothing(pass.losses.back());
    pass.passage_effect += effect_of_passages(inputs.token_losses) / questions;
    pass.total += pass.losses.back().loss;
    pass.targets += static_cast<int64_t>(inputs.token_losses.front().size());
  }
  return pass;
}

// Every target weighs its derivative times `scale`.
void RagTrainer::learn_generator(const std::vector<RagExample>& batch, const Pass& pass,
                                 double scale, StepResult& result) const {
  std::vector<TrainingSequence> sequences;
  std::vector<float> weights;  // of their targets, one after the other
  const auto add = [&](const TrainingSequence& sequence, const std::vector<double>& of_tokens) {
    if (*std::max_element(of_tokens.begin(), of_tokens.end()) < kNegligibleWeight) return;
    sequences.push_back(sequence);
    for (const double weight : of_tokens) weights.push_back(static_cast<float>(weight * scale));
  };
  for (size_t i = 0; i < batch.size(); ++i) {
    for (size_t z = 0; z < batch[i].sequences.size(); ++z) {
      add(batch[i].sequences[z], pass.losses[i].token_weights[z]);
      const TrainingSequence* refusal = refusal_of(batch[i], z);
      if (refusal == nullptr) continue;
      add(*refusal, std::vector<double>(count_targets(*refusal), pass.refusal_weights[i][z]));
    }
  }
  LoraGradients& gradients = parts_.generator->gradients();
  const TrainerOptions& options = options_.trainer;
  uint64_t number = 0;
  size_t next = 0;
  for (StepPass& part : make_passes(sequences, pass_options(options), 1.0f)) {
    TokenTree& tree = part.tree;
    for (TokenTree::Target& target : tree.targets) target.weight = weights[next++];
    const uint64_t dropout_seed =
        options.seed + static_cast<uint64_t>(result.step) * 1000003 + number++;
    result.rows += part.rows();
    if (!part.is_own) continue;
    gradients.set_dropout(options.lora_dropout, dropout_seed);
    parts_.model->accumulate_gradients(tree, *parts_.adapter, options.gradient, gradients);
  }
  sum_over_ranks(options.group, parts_.generator->gradient_views());
}

void RagTrainer::learn_queries(const std::vector<RagExample>& batch, const Pass& pass,
                               double scale) const {
  const auto dim = static_cast<size_t>(parts_.embedder->dim());
  std::vector<ScoredQuestion> questions(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    questions[i].question = &batch[i].question;
    const std::vector<double>& gradients = pass.losses[i].score_gradients;
    for (size_t z = 0; z < gradients.size(); ++z) {
      questions[i].passage_vectors.push_back(batch[i].passage_vectors.data() + z * dim);
      questions[i].score_gradients.push_back(gradients[z] * scale);
    }
  }
  learn_from_scores(*parts_.embedder, questions, *parts_.query_encoder, options_.trainer.group);
}

// Likewise sum_z dloss/dscore_z q is that with respect to a passage's vector, over all questions
// that found it: each passage of the batch passes the encoder once.
void RagTrainer::learn_passages(const std::vector<RagExample>& batch, const Pass& pass,
                                double scale) const {
  const auto dim = static_cast<size_t>(parts_.embedder->dim());
  const auto rank = static_cast<size_t>(rank_of(options_.trainer.group));
  const auto stride = static_cast<size_t>(num_ranks(options_.trainer.group));
  std::map<int64_t, size_t> number_of;  // every passage's; this rank learns those that are its own
  std::vector<std::string> texts;
  std::vector<float> vector_gradients;
  for (size_t i = 0; i < batch.size(); ++i) {
    for (size_t z = 0; z < batch[i].passage_ids.size(); ++z) {
      const auto [found, is_new] = number_of.emplace(batch[i].passage_ids[z], number_of.size());
      if (found->second % stride != rank) continue;
      if (is_new) {
        texts.push_back(batch[i].passage_texts[z]);
        vector_gradients.resize(texts.size() * dim);
      }
      float* out = vector_gradients.data() + found->second / stride * dim;
      const auto factor = static_cast<float>(pass.losses[i].score_gradients[z] * scale);
      for (size_t d = 0; d < dim; ++d) out[d] += factor * batch[i].query_vector[d];
    }
  }
  if (texts.empty()) return;
  parts_.embedder->accumulate_passage_gradients(parts_.query_encoder->adapter(), texts,
                                                vector_gradients.data(),
                                                parts_.query_encoder->gradients());
}

void RagTrainer::learn_encoder(const std::vector<RagExample>& batch, const Pass& pass,
                               double scale) const {
  learn_queries(batch, pass, scale);
  if (options_.train_passages) learn_passages(batch, pass, scale);
  sum_over_ranks(options_.trainer.group, parts_.query_encoder->gradient_views());
}

StepResult RagTrainer::step(const std::vector<RagExample>& batch, double learning_rate) {
  const Pass pass = run_first_pass(batch, options_.trainer.gradient.compute);
  StepResult result;
  result.step = steps_taken_ + 1;
  result.learning_rate = learning_rate;
  result.targets = pass.targets;
  result.rows = pass.rows;
  for (const RagExample& example : batch) {
    result.sequences += static_cast<int64_t>(example.sequences.size());
    for (const TrainingSequence& sequence : example.sequences) {
      result.tokens += sequence.num_tokens();
    }
  }
  const double scale = 1.0 / static_cast<double>(pass.targets);
  result.loss = pass.total * scale;
  result.figures = make_figures(batch, pass.losses, pass.passage_effect, pass.refusal_loss);
  zero_gradients();
  if (parts_.generator != nullptr) learn_generator(batch, pass, scale, result);
  if (parts_.query_encoder != nullptr) learn_encoder(batch, pass, scale);
  update(result);
  return result;
}

void RagTrainer::update(StepResult& result) {
  double query_norm = 0.0;
  if (parts_.generator != nullptr) {
    result.gradient_norm =
        clip_gradients(parts_.generator->gradient_views(), options_.trainer.max_grad_norm);
  }
  if (parts_.query_encoder != nullptr) {
    query_norm =
        clip_gradients(parts_.query_encoder->gradient_views(), options_.trainer.max_grad_norm);
    result.figures.emplace_back("query_gradient_norm", query_norm);
  }
  QUARRY_CHECK(std::isfinite(result.loss) && std::isfinite(result.gradient_norm) &&
                   std::isfinite(query_norm),
               ErrorCode::kInternal, "step ", result.step, ": the loss is ", result.loss,
               " and the gradients' norms ", result.gradient_norm, " and ", query_norm,
               "; the adapters are as step ", steps_taken_, " left them");
  // A step has nothing to learn where each refusal is learned already.
  const bool must_move = steps_taken_ == 0 && (result.gradient_norm > 0.0 || query_norm > 0.0);
  const uint64_t before = must_move ? hash_of_values(parameters()) : 0;
  parts_.optimizer->step(parameters(), result.learning_rate);
  pack();
  ++steps_taken_;
  QUARRY_CHECK(!must_move || hash_of_values(parameters()) != before, ErrorCode::kInternal,
               "after the first step the adapters are as they were before: they learn nothing (is "
               "the learning rate 0?)");
}

double RagTrainer::evaluate(const std::vector<RagExample>& examples,
                            std::vector<std::pair<std::string, double>>& figures) const {
  const Pass pass = run_first_pass(examples, GradientOptions::Compute::kFloat32);
  figures = make_figures(examples, pass.losses, pass.passage_effect, pass.refusal_loss);
  return pass.total / static_cast<double>(pass.targets);
}

}  // namespace quarry
