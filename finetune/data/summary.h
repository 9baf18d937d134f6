#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "data/text/tokenizer.h"
#include "finetune/data/sequence.h"

namespace quarry {

// What came out of the data so far.
struct DataSummary {
  int64_t rows = 0;    // in the set
  int64_t groups = 0;  // that gave at least one sequence
  int64_t sequences = 0;
  int64_t unanswerable = 0;  // sequences whose reply is the template's "not in the documents"
  int64_t tokens = 0;
  int64_t targets = 0;  // tokens that count in the loss
  int64_t longest = 0;  // tokens
  std::string longest_id;
  std::map<std::string, int64_t> skipped;  // reason -> rows that were left out

  void add(const TrainingSequence& sequence);
  double unanswerable_share() const;
};

// A line for each figure, for people.
std::string to_text(const DataSummary& summary);

// The sequence as text with its targets in marks, one for each token: "...
// assistant\n«Pa»«ris»«<2>»". Tokens without text of their own, such as the end of a turn, show
// their id.
std::string describe(const TrainingSequence& sequence, const Tokenizer& tokenizer);
// The same of at most `most` sequences.
std::vector<std::string> describe_first(const std::vector<TrainingSequence>& sequences, size_t most,
                                        const Tokenizer& tokenizer);

}  // namespace quarry
