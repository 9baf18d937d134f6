#pragma once

#include <cstdint>
#include <memory>

#include "data/core/error.h"
#include "finetune/data/data_state.h"
#include "finetune/recipe.h"

namespace quarry {

// One step of a trainer; when it throws, `stream` is put back to `before`.
template <typename Trainer, typename Batch, typename Stream>
StepResult step_or_put_back(Trainer& trainer, const Batch& batch, double learning_rate,
                            Stream& stream, const DataState& before) {
  try {
    return trainer.step(batch, learning_rate);
  } catch (const Error&) {
    stream.restore(before);
    throw;
  }
}

// A recipe whose batches come from a stream on a RowOrder: where it stands in the data.
template <typename Stream>
class RowRecipe : public Recipe {
 public:
  double sequences_per_epoch() const override { return static_cast<double>(stream_->num_rows()); }
  int64_t epoch() const override { return stream_->state().epoch; }
  double epoch_progress() const override {
    return static_cast<double>(stream_->state().cursor) / static_cast<double>(stream_->num_rows());
  }
  const DataSummary& summary() const override { return stream_->summary(); }

 protected:
  std::unique_ptr<Stream> stream_;
  DataState before_;  // of the batch that was taken
};

}  // namespace quarry
