#include "finetune/data/summary.h"

#include <algorithm>
#include <cstdio>

#include "data/core/error.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.1f %%", 100.0 * share);
  return text;
}

int64_t count_targets(const TrainingSequence& sequence) {
  return std::count(sequence.is_target.begin(), sequence.is_target.end(), 1);
}

}  // namespace

void DataSummary::add(const TrainingSequence& sequence) {
  const int64_t size = sequence.num_tokens();
  ++sequences;
  tokens += size;
  targets += count_targets(sequence);
  if (size > longest) {
    longest = size;
    longest_id = sequence.id;
  }
}

double DataSummary::unanswerable_share() const {
  return sequences == 0 ? 0.0 : static_cast<double>(unanswerable) / static_cast<double>(sequences);
}

std::string to_text(const DataSummary& summary) {
  std::string text = concat(
      "rows            ", summary.rows, "\n", "groups          ", summary.groups, "\n",
      "sequences       ", summary.sequences, "\n", "  unanswerable  ", summary.unanswerable, " (",
      percent(summary.unanswerable_share()), ")\n", "tokens          ", summary.tokens, "\n",
      "  targets       ", summary.targets, "\n", "longest         ", summary.longest, " tokens");
  text += summary.longest_id.empty() ? "\n" : " (" + summary.longest_id + ")\n";
  for (const auto& [reason, count] : summary.skipped) {
    text += concat("left out        ", count, ": ", reason, "\n");
  }
  return text;
}

std::string describe(const TrainingSequence& sequence, const Tokenizer& tokenizer) {
  std::string text = concat(sequence.id, "  group ", sequence.group, "  ", sequence.num_tokens(),
                            " tokens, ", count_targets(sequence), " targets\n");
  if (!sequence.source.empty()) text += tokenizer.decode(sequence.source) + "\n";
  std::string context;  // bytes of the tokens since the last target: characters may span tokens
  for (size_t i = 0; i < sequence.tokens.size(); ++i) {
    std::string token = tokenizer.token_bytes(sequence.tokens[i]);
    if (token.empty()) token = concat("<", sequence.tokens[i], ">");
    if (sequence.is_target[i] == 0) {
      context += token;
      continue;
    }
    text += repair_utf8(context);
    context.clear();
    text += "\u00AB" + repair_utf8(token) + "\u00BB";
  }
  return text + repair_utf8(context) + "\n";
}

std::vector<std::string> describe_first(const std::vector<TrainingSequence>& sequences, size_t most,
                                        const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < std::min(most, sequences.size()); ++i) {
    texts.push_back(describe(sequences[i], tokenizer));
  }
  return texts;
}

}  // namespace quarry
