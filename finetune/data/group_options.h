#pragma once

#include <cstdint>

#include "retriever/search.h"

namespace quarry {

enum class PassageSource {
  kGiven,      // the row's own passages
  kGold,       // the passage that answers, alone
  kRetrieved,  // what an index finds for the question, the answering passage put in if missing
  kMixed       // some groups as kGold, the others as kRetrieved
};

// Throws kInvalidArgument naming the value and the choices: given, gold, retrieved, mixed.
PassageSource parse_passage_source(const std::string& text);

enum class TooLong { kError, kSkip };

struct GroupOptions {
  PassageSource passages = PassageSource::kGiven;
  SearchMode retrieval_mode = SearchMode::kHybrid;  // as `ask` searches; lexical needs no embedder
  int64_t top_k =
      3;  // most passages in a prompt. Half of the retrieved groups have fewer or as many
  double gold_share = 0.3;  // kMixed: of the groups with the answering passage alone
  // Share of sequences whose passages do not answer. 0 with kGiven: the data itself says which.
  double unanswerable_share = 0.2;
  // Of the retrieved groups: the passage that answers the first question is taken out, so that its
  // passages are the nearest that do not answer, as in an index that lacks the answer.
  double gold_removed_share = 0.25;
  // More of them share the cost of the passages; fewer mix a batch better.
  int64_t questions_per_group = 16;
  TooLong too_long = TooLong::kError;  // a row that exceeds max_seq_len without its passages
  uint64_t seed = 0;
};

// Throws kInvalidArgument for a value out of range, naming it.
void check_group_options(const GroupOptions& options);

}  // namespace quarry
