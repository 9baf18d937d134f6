#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/distributed/process_group.h"
#include "finetune/config.h"
#include "finetune/model_card.h"
#include "finetune/run_adapter.h"
#include "finetune/trained_adapter.h"
#include "generator/models/text_encoder.h"
#include "retriever/embedder.h"

// What recipes that train the query encoder have in common.
namespace quarry {

// What embeds the questions, and for the index passages.index the passages.
struct QueryEncoder {
  RunAdapter adapter;  // of the questions; empty where they are embedded without one
  std::shared_ptr<const Embedder> embedder;
  std::string path;             // of the model
  bool index_is_stale = false;  // embedded with another adapter than the questions
};

// With the adapter of query_encoder.start_from, else that of the index, else a fresh one where
// `trains`. Throws as load_text_encoder(), LoraAdapter::load() and check_adapter_base().
QueryEncoder load_query_encoder(const FinetuneConfig& config, const std::string& model, bool trains,
                                kernels::Precision precision = kernels::Precision::kFast);
// One that learns with query_encoder.learning_rate. Both are borrowed.
std::unique_ptr<TrainedAdapter> make_trained_query_adapter(const FinetuneConfig& config,
                                                           const RunAdapter& adapter);

// Of the model card.
using Hyperparameters = std::vector<std::pair<std::string, std::string>>;
// Writes it as a PEFT folder; the card gets title, base, r, lora_alpha, learning rate and `more`.
void save_query_adapter(const std::filesystem::path& folder, const FinetuneConfig& config,
                        const Embedder& embedder, const RunAdapter& adapter, ModelCard card,
                        const Hyperparameters& more);

// A question whose scores are inner products with passages. Borrowed.
struct ScoredQuestion {
  const std::string* question = nullptr;
  std::vector<const float*> passage_vectors;  // [k] of dim
  std::vector<double> score_gradients;        // [k] of the loss
};
// Adds what this rank's share of the questions gives to the adapter's gradients. The gradient with
// respect to a question's vector is sum_z score_gradients[z] d_z.
void learn_from_scores(const Embedder& embedder, const std::vector<ScoredQuestion>& questions,
                       TrainedAdapter& query_encoder, ProcessGroup* group);

}  // namespace quarry
