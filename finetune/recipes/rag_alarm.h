#pragma once

#include <cstdint>
#include <string>

#include "data/core/json.h"
#include "finetune/trainer.h"

namespace quarry {

// Watches a training of latent passages for retrieval collapse (appendix H of Lewis et al. 2020):
// the same passages for every question, or passages that make no difference to the generator. One
// thread.
class CollapseAlarm {
 public:
  // Steps in a row after which an alarm is no accident of a batch.
  static constexpr int64_t kStepsToStop = 5;

  struct Verdict {
    std::string warning;  // what is wrong, each kind once; else empty
    std::string stop;     // what has been wrong for kStepsToStop judged steps; else empty
  };
  // Of a step over so many questions; those over a few are not judged. `passages`: of the index.
  Verdict judge(const StepResult& result, int64_t questions, int64_t passages);

  // How long each kind has held. restore() throws kCorruptData naming `source`.
  Json save() const;
  void restore(const Json& state, const std::string& source);

 private:
  struct Kind {
    int64_t steps = 0;  // in a row
    bool was_told = false;
  };
  static void hold(Kind& kind, const std::string& what, int64_t step, Verdict& verdict);

  Kind same_passages_;
  Kind ignored_;
};

}  // namespace quarry
