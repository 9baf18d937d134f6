#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "finetune/run_log.h"

namespace quarry {

// One row of the learning curve.
struct LearningCurveRow {
  int64_t examples = 0;
  double minutes = 0;
  std::vector<double> values;  // one for each column of ModelCard::curve_columns; NaN: "-"
};

// What README.md of an adapter folder says. Empty parts are left out.
struct ModelCard {
  std::string title;
  std::string base_model;                        // name or path: the front matter's base_model
  std::string base_model_hash;                   // model_content_hash()
  std::string description;                       // a paragraph or more of Markdown
  std::string pipeline_tag = "text-generation";  // the hub's name of the task
  std::vector<std::string> tags = {"lora", "question-answering", "rag"};
  std::string licence;   // of the adapter: an SPDX name for the front matter
  std::string language;  // "en"
  std::vector<DataFileRecord> data_files;
  std::string command;  // the exact command line
  uint64_t seed = 0;
  std::string program_version;
  double minutes = 0;   // wall time of the training
  std::string machine;  // "2 cores, AVX-512, 24 GiB"
  std::vector<std::pair<std::string, std::string>> hyperparameters;
  // Header and rows of the table of figures: {"set", "EM", "F1"}.
  std::vector<std::string> figure_columns;
  std::vector<std::vector<std::string>> figures;
  std::vector<std::string> curve_columns;  // {"EM", "F1"}
  std::vector<LearningCurveRow> learning_curve;
};

// The card as Markdown with the YAML front matter that PEFT and the Hugging Face hub read
// (base_model, library_name: peft, tags). Throws kInvalidArgument for a row whose width differs
// from its header's.
std::string model_card_markdown(const ModelCard& card);

}  // namespace quarry
