#include "generator/models/adapted_classifier.h"

#include "data/core/error.h"
#include "generator/nn/lora_save.h"
#include "generator/weights/safetensors_file.h"

namespace quarry {
namespace {

// An adapter that others trained notes no labels: as many as its head has columns, named as
// transformers names them.
std::vector<std::string> labels_of_head(const std::filesystem::path& adapter) {
  const auto file = SafetensorsFile::open(adapter / "adapter_model.safetensors");
  std::vector<std::string> labels;
  for (const TensorView& tensor : file->tensors()) {
    const bool is_head = tensor.name.find("classifier") != std::string::npos &&
                         tensor.name.find(".dense.") == std::string::npos;
    if (!is_head || tensor.shape.size() != 2 || tensor.num_elements() == 0 ||
        tensor.name.find(".lora_") != std::string::npos)
      continue;
    for (int64_t i = 0; i < tensor.shape[0]; ++i) labels.push_back(concat("LABEL_", i));
    break;
  }
  return labels;
}

}  // namespace

AdaptedClassifier load_adapted_classifier(const std::string& model,
                                          const std::filesystem::path& adapter,
                                          kernels::Precision precision) {
  AdaptedClassifier loaded;
  NewHeadOptions head;
  if (!adapter.empty()) {
    const auto notes = read_adapter_notes(adapter);
    head.labels = notes && !notes->labels.empty() ? notes->labels : labels_of_head(adapter);
  }
  loaded.base = load_sequence_classifier(model, precision, head);
  if (adapter.empty()) return loaded;
  check_adapter_base(adapter, loaded.base.content_hash, loaded.base.name);
  const SequenceClassifier& classifier = *loaded.base.model;
  loaded.adapter = LoraAdapter::load(adapter, classifier.linear_slots(), classifier.tensor_slots());
  QUARRY_CHECK(!loaded.base.head_is_new || !loaded.adapter->full().empty(),
               ErrorCode::kInvalidArgument, adapter.string(),
               ": holds no classification head, and neither does ", loaded.base.name);
  return loaded;
}

}  // namespace quarry
