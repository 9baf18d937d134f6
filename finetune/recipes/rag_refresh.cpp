#include "finetune/recipes/rag_refresh.h"

#include <algorithm>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "finetune/recipes/rag_passages.h"
#include "finetune/trained_adapter.h"

namespace quarry {
namespace {

// Passages embedded in one call: bounds what is held of their texts.
constexpr size_t kBatch = 1024;
// In a checkpoint.
constexpr const char* kWhole = "refresh_whole";
constexpr const char* kGrowing = "refresh_growing";

}  // namespace

IndexRefresh::IndexRefresh(const PassageStore& store, const Embedder& embedder,
                           const RunAdapter& trained, const IndexRefreshOptions& options)
    : store_(store),
      embedder_(embedder),
      trained_(trained),
      options_(options),
      ids_(store.passages_where({})) {
  QUARRY_DCHECK(options.every > 0);
  if (options.is_stale) growing_ = begin(0);
}

void IndexRefresh::after_step(int64_t step) {
  const int64_t steps = (step - 1) % options_.every + 1;
  if (growing_.adapter != nullptr) embed(growing_, share(steps));
  if (steps < options_.every) return;
  if (growing_.adapter != nullptr) whole_ = std::move(growing_);
  growing_ = begin(step);
}

IndexRefresh::Round IndexRefresh::begin(int64_t step) const {
  Round round;
  round.begun_at = step;
  round.adapter = std::make_unique<LoraAdapter>(*trained_.adapter);
  round.vectors = make_vector_index(VectorIndexKind::kFlat, embedder_.dim());
  return round;
}

size_t IndexRefresh::share(int64_t steps) const {
  return ids_.size() * static_cast<size_t>(steps) / static_cast<size_t>(options_.every);
}

void IndexRefresh::embed(Round& round, size_t end) const {
  while (round.embedded < end) {
    const size_t stop = std::min(end, round.embedded + kBatch);
    std::vector<int64_t> ids;
    std::vector<std::string> texts;
    for (const Passage& passage :
         store_.passages({ids_.begin() + static_cast<std::ptrdiff_t>(round.embedded),
                          ids_.begin() + static_cast<std::ptrdiff_t>(stop)})) {
      ids.push_back(passage.id);
      texts.push_back(embedding_text(passage));
    }
    round.vectors->add(ids,
                       embed_together(embedder_, *round.adapter, texts, options_.group).data());
    round.embedded = stop;
  }
}

void IndexRefresh::save(Checkpoint& checkpoint) const {
  for (const auto& [name, round] : {std::pair(kWhole, &whole_), std::pair(kGrowing, &growing_)}) {
    if (round->adapter == nullptr) continue;
    checkpoint.extra[name] = round->begun_at;
    TrainedAdapter views(*trained_.config, *round->adapter, concat(name, "."));
    const std::vector<StateTensor> state = save_parameters(views.parameters(), nullptr);
    checkpoint.parameters.insert(checkpoint.parameters.end(), state.begin(), state.end());
  }
}

void IndexRefresh::restore(const Checkpoint& checkpoint, const std::string& source,
                           const char* name, Round& round) const {
  const auto found = checkpoint.extra.find(name);
  if (found == checkpoint.extra.end()) {
    round = Round();
    return;
  }
  QUARRY_CHECK(found->is_number_integer(), ErrorCode::kCorruptData, source, ": ", name,
               " is no step");
  round = begin(found->get<int64_t>());
  TrainedAdapter views(*trained_.config, *round.adapter, concat(name, "."));
  restore_parameters(checkpoint.parameters, source, views.parameters(), nullptr);
  views.pack();
}

void IndexRefresh::restore(const Checkpoint& checkpoint, const std::string& source) {
  restore(checkpoint, source, kWhole, whole_);
  restore(checkpoint, source, kGrowing, growing_);
  if (whole_.adapter != nullptr) embed(whole_, ids_.size());
  if (growing_.adapter == nullptr) return;
  if (growing_.begun_at + options_.every <= checkpoint.step) {  // cut before it could be finished
    embed(growing_, ids_.size());
    whole_ = std::exchange(growing_, begin(checkpoint.step));
  }
  embed(growing_, share(checkpoint.step % options_.every));
}

}  // namespace quarry
