#include "generator/adapters/retype_adapter.h"

#include <fstream>
#include <iterator>

#include "generator/nn/lora.h"
#include "generator/nn/lora_config.h"
#include "generator/nn/lora_save.h"

namespace quarry {

void retype_adapter(const std::filesystem::path& folder, const ModelFile& base,
                    const RetypeOptions& wanted, const std::filesystem::path& out) {
  const auto adapter =
      LoraAdapter::load(folder, base.slots(), base.tensor_slots(), ActivatedLora::kAccept);
  const LoraConfig config = LoraConfig::load(folder / "adapter_config.json");
  SaveAdapterOptions options;
  options.type = wanted.type;
  options.notes = read_adapter_notes(folder).value_or(AdapterNotes());
  options.notes.refusal_bias = wanted.refusal_bias.value_or(options.notes.refusal_bias);
  std::ifstream card(folder / "README.md", std::ios::binary);
  options.model_card.assign(std::istreambuf_iterator<char>(card), {});
  save_adapter(out, config, *adapter, options);
}

}  // namespace quarry
