#include "finetune/recipes/rag_stream.h"

#include <utility>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "finetune/data/passage_matcher.h"
#include "finetune/data/text_match.h"

namespace quarry {

const TrainingSequence* refusal_of(const RagExample& example, size_t z) {
  return example.refusals.empty() || !example.refusals[z] ? nullptr : &*example.refusals[z];
}

std::vector<TrainingSequence> all_sequences(const std::vector<RagExample>& examples) {
  std::vector<TrainingSequence> sequences;
  for (const RagExample& example : examples) {
    for (size_t z = 0; z < example.sequences.size(); ++z) {
      sequences.push_back(example.sequences[z]);
      if (refusal_of(example, z) != nullptr) sequences.push_back(*refusal_of(example, z));
    }
  }
  return sequences;
}

RagStream::RagStream(const TrainingSet& set, const SequenceRenderer& renderer,
                     const PassageFinder& finder, const Embedder& embedder,
                     const RagStreamOptions& options)
    : set_(set),
      renderer_(renderer),
      finder_(finder),
      embedder_(embedder),
      options_(options),
      order_(answered_questions(set, summary_), options.seed) {}

std::vector<RagExample> RagStream::next(int64_t rows) {
  int64_t group = state().epoch * num_rows() + state().cursor;
  const std::vector<size_t> taken = order_.take(rows);
  std::vector<std::string> questions;
  for (const size_t row : taken) questions.push_back(set_.rows[row].question);
  const std::vector<float> vectors = embedder_.embed_queries(questions);
  std::vector<LatentPassages> found = finder_.find(questions, vectors, options_.top_k);
  const auto dim = static_cast<size_t>(embedder_.dim());
  std::vector<RagExample> examples;
  for (size_t i = 0; i < taken.size(); ++i, ++group) {
    RagExample example;
    if (!make_example(set_.rows[taken[i]], std::move(found[i]), example)) continue;
    example.query_vector.assign(vectors.data() + i * dim, vectors.data() + (i + 1) * dim);
    for (TrainingSequence& sequence : example.sequences) {
      sequence.group = group;
      summary_.add(sequence);
    }
    ++summary_.groups;
    examples.push_back(std::move(example));
  }
  return examples;
}

// False when the row was left out.
bool RagStream::make_example(const TrainingRow& row, LatentPassages found, RagExample& example) {
  QUARRY_CHECK(!found.hits.empty(), ErrorCode::kInvalidArgument,
               "the index holds no passage to learn from");
  example.question = row.question;
  for (const Hit& hit : found.hits) {
    Rendered rendered = renderer_.question(row, {hit}, row.answers.front());
    if (!rendered.too_long.empty()) {
      QUARRY_CHECK(options_.too_long == TooLong::kSkip, ErrorCode::kInvalidArgument, row.where,
                   ": row ", row.id, ": ", rendered.too_long);
      ++summary_.skipped["longer than max_seq_len"];
      return false;
    }
    rendered.sequences.front().id = concat(row.id, "#", example.sequences.size() + 1);
    example.sequences.push_back(std::move(rendered.sequences.front()));
    example.passage_ids.push_back(hit.passage.id);
    example.scores.push_back(hit.score);
    example.passage_texts.push_back(embedding_text(hit.passage));
    const bool holds_answer = holds_any(passage_match_key(hit.passage), row.answers);
    example.holds_answer |= holds_answer;
    if (!options_.abstain) continue;
    example.refusals.push_back(holds_answer ? std::nullopt : make_refusal(row, hit));
  }
  example.passage_vectors = std::move(found.vectors);
  return true;
}

// None where it would be too long.
std::optional<TrainingSequence> RagStream::make_refusal(const TrainingRow& row,
                                                        const Hit& hit) const {
  Rendered rendered = renderer_.question(row, {hit}, renderer_.options().form.not_in_documents);
  if (!rendered.too_long.empty()) return std::nullopt;
  rendered.sequences.front().id = concat(row.id, "#refusal");
  return std::move(rendered.sequences.front());
}

}  // namespace quarry
