#include "finetune/recipes/rag_alarm.h"

#include <algorithm>

#include "data/core/error.h"

namespace quarry {
namespace {

constexpr double kCollapsedShare = 0.25;
// Of passage_effect; below it passages make no difference to the generator.
constexpr double kIgnoredEffect = 0.01;
// Questions from which such shares say something.
constexpr int64_t kQuestionsToJudge = 4;

double figure(const StepResult& result, const char* name) {
  const auto found = std::find_if(result.figures.begin(), result.figures.end(),
                                  [&](const auto& item) { return item.first == name; });
  QUARRY_DCHECK(found != result.figures.end());
  return found->second;
}

}  // namespace

void CollapseAlarm::hold(Kind& kind, const std::string& what, int64_t step, Verdict& verdict) {
  if (what.empty()) {
    kind.steps = 0;
    return;
  }
  const std::string text = concat("step ", step, ": ", what);
  if (!kind.was_told && verdict.warning.empty()) {
    kind.was_told = true;
    verdict.warning = text;
  }
  if (++kind.steps < kStepsToStop || !verdict.stop.empty()) return;
  verdict.stop = concat(text, "; it has been so for ", kind.steps, " steps in a row");
}

CollapseAlarm::Verdict CollapseAlarm::judge(const StepResult& result, int64_t questions,
                                            int64_t passages) {
  Verdict verdict;
  if (questions < kQuestionsToJudge) return verdict;
  // Of as many different passages as the step could have had.
  const auto taken = static_cast<double>(result.sequences);
  const double possible = std::min(taken, static_cast<double>(passages)) / taken;
  const double distinct = figure(result, "distinct_passages");
  std::string same;
  if (distinct < kCollapsedShare * possible) {
    same = concat("retrieval collapses: only ", distinct * taken, " different passages among the ",
                  taken, " that were found; lower query_encoder.learning_rate");
  }
  hold(same_passages_, same, result.step, verdict);
  const double effect = figure(result, "passage_effect");
  std::string ignored;
  if (result.sequences > questions && effect < kIgnoredEffect) {
    ignored = concat("the generator's answers do not depend on the passages (passage_effect ",
                     effect, "): there is nothing for a retriever to learn from");
  }
  hold(ignored_, ignored, result.step, verdict);
  return verdict;
}

Json CollapseAlarm::save() const {
  return {{"same_passages", same_passages_.steps}, {"ignored", ignored_.steps}};
}

void CollapseAlarm::restore(const Json& state, const std::string& source) {
  for (const auto& [name, kind] :
       {std::pair("same_passages", &same_passages_), std::pair("ignored", &ignored_)}) {
    const bool is_there = state.is_object() && state.contains(name);
    QUARRY_CHECK(is_there && state[name].is_number_integer(), ErrorCode::kCorruptData, source,
                 ": how long retrieval has been collapsing is not told");
    kind->steps = state[name].get<int64_t>();
  }
}

}  // namespace quarry
