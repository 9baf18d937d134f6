#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {

// quarry_adapter.json, beside the two files of PEFT: what an adapter was trained for. PEFT reads
// adapters with any other file in their folder.
struct AdapterNotes {
  std::string base_content_hash;  // model_content_hash() of the base model
  std::string base_name;          // "smollm2-135m-instruct"
  std::string rag_template;       // of generator/prompt.h; empty: not trained on passages
  int rag_template_version = 0;
  std::string not_in_documents;  // the reply to questions that the passages do not answer, or empty
  // Nats added to the logit of that reply's first token where an answer begins: above 0 it comes
  // oftener. Chosen after training, on questions whose answers are known.
  double refusal_bias = 0;
  std::vector<std::string> labels;  // of a classifier, in the order of its logits
};

struct SaveAdapterOptions {
  WeightType type = WeightType::kF32;  // or kBF16, kF16: rounds
  AdapterNotes notes;
  std::string model_card;  // README.md; empty: none
};

// A and B of the Linears that an adapter changes, by Hugging Face module path. Borrowed.
using AdapterWeightsByPath = std::map<std::string, const LoraWeights*>;
// Parameters that it has whole, by their names in the model. Borrowed.
using FullTensorsByName = std::map<std::string, const FullTensor*>;

// Writes a PEFT adapter folder: adapter_config.json, adapter_model.safetensors, quarry_adapter.json
// and README.md when there is a card. The folder appears whole or not at all: it is made beside
// `folder` and renamed. An adapter that was there is replaced; any other folder that is not empty
// is refused. What is saved is plain LoRA: an init_lora_weights that would make readers change the
// base ("pissa", "loftq") is written as true. Reads a, b, rank and scale; the packed ones may be
// missing.
// Throws kInvalidArgument: no weights; sizes, rank or scale that contradict `config`; a value that
// is not finite (naming the tensor). kUnavailable when the disk refuses.
void save_adapter(const std::filesystem::path& folder, const LoraConfig& config,
                  const AdapterWeightsByPath& weights, const FullTensorsByName& full,
                  const SaveAdapterOptions& options = {});
// All of an adapter. Pairs with a `start` (PiSSA) are saved as to_plain_lora() and the
// configuration as with_doubled_rank(), so that the adapter is for the base as it is.
void save_adapter(const std::filesystem::path& folder, const LoraConfig& config,
                  const LoraAdapter& adapter, const SaveAdapterOptions& options = {});

// Nullopt when the folder has no quarry_adapter.json. Throws kCorruptData.
std::optional<AdapterNotes> read_adapter_notes(const std::filesystem::path& folder);
// The notes as JSON and back; `source` is for messages. Throws kCorruptData.
std::string adapter_notes_text(const AdapterNotes& notes);
AdapterNotes parse_adapter_notes(const std::string& text, const std::string& source);

// Throws kInvalidArgument, naming both models, when the adapter in `folder` notes another base
// model than this; no note means no check.
void check_adapter_base(const std::filesystem::path& folder, const std::string& base_content_hash,
                        const std::string& base_name);
void check_adapter_base(const AdapterNotes& notes, const std::string& source,
                        const std::string& base_content_hash, const std::string& base_name);

}  // namespace quarry
