// Mistral (Jiang et al. 2023, arXiv:2310.06825): llama with a sliding window over the keys. GGUF
// files of it say that they are llama.
#include "generator/models/families.h"
#include "generator/models/gated_decoder.h"

namespace quarry {
namespace {

GatedPlan read_plan(const CausalLmSource& source) {
  GatedPlan plan = read_gated_plan(source, "mistral");
  const ConfigValues values(*source.config, source.description);
  plan.windows.assign(plan.windows.size(), values.size_or("sliding_window", 0));
  return plan;
}

ModelLayout make_layout(const CausalLmSource& source, const GatedPlan& plan) {
  LayoutBuilder layout(source.folder(), "model.");
  add_gated_layers(layout, plan.config, GatedLayerOptions());
  return layout.take();
}

}  // namespace

CausalLmFamily mistral_family() {
  return decoder_family<GatedDecoder, read_plan, make_layout>(nullptr, "MistralForCausalLM",
                                                              nullptr);
}

}  // namespace quarry
