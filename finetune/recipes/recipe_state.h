#pragma once

#include <string>

#include "finetune/checkpoint.h"
#include "finetune/data/data_state.h"
#include "finetune/optimizer.h"
#include "finetune/run_adapter.h"

// What every recipe keeps in a checkpoint, and back. Trainer is any of the trainers, Stream a
// GroupStream or what stands on a RowOrder. `adapter` is the generator's and may be null.
namespace quarry {

template <typename Trainer, typename Stream>
void save_state(Trainer& trainer, const LoraAdapter* adapter, const Optimizer& optimizer,
                const Stream& stream, Checkpoint& checkpoint) {
  checkpoint.step = trainer.steps_taken();
  checkpoint.epoch = stream.state().epoch;
  checkpoint.data_position = stream.state().position;
  checkpoint.parameters = save_parameters(trainer.parameters(), adapter);
  checkpoint.optimizer = optimizer.save();
  checkpoint.extra["data"] = to_json(stream.state());
}

// Throws kCorruptData naming `source`.
template <typename Trainer, typename Stream>
void restore_state(const Checkpoint& checkpoint, const std::string& source, Trainer& trainer,
                   LoraAdapter* adapter, Optimizer& optimizer, Stream& stream) {
  restore_parameters(checkpoint.parameters, source, trainer.parameters(), adapter);
  trainer.pack();
  optimizer.load(checkpoint.optimizer);
  trainer.set_steps_taken(checkpoint.step);
  stream.restore(data_state_from_json(checkpoint.extra.at("data"), source));
}

}  // namespace quarry
