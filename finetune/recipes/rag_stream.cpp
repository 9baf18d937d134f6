#include "finetune/recipes/rag_stream.h"

#include <numeric>

#include "data/core/error.h"
#include "finetune/data/passage_matcher.h"
#include "finetune/data/text_match.h"

namespace quarry {

RagStream::RagStream(const TrainingSet& set, const SequenceRenderer& renderer,
                     const Retriever& retriever, const PassageStore& store,
                     const Embedder& embedder, const RagStreamOptions& options)
    : set_(set),
      renderer_(renderer),
      retriever_(retriever),
      store_(store),
      embedder_(embedder),
      options_(options),
      order_(answered_questions(set, summary_), options.seed) {}

std::vector<RagExample> RagStream::next(int64_t rows) {
  int64_t group = state().epoch * num_rows() + state().cursor;
  const std::vector<size_t> taken = order_.take(rows);
  std::vector<std::string> questions;
  for (const size_t row : taken) questions.push_back(set_.rows[row].question);
  const std::vector<float> vectors = embedder_.embed_queries(questions);
  const auto dim = static_cast<size_t>(embedder_.dim());
  std::vector<RagExample> examples;
  for (size_t i = 0; i < taken.size(); ++i, ++group) {
    RagExample example;
    if (!make_example(set_.rows[taken[i]], vectors.data() + i * dim, example)) continue;
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
bool RagStream::make_example(const TrainingRow& row, const float* query_vector,
                             RagExample& example) {
  SearchOptions search;
  search.mode = SearchMode::kDense;
  search.top_k = options_.top_k;
  const std::vector<Hit> hits = retriever_.search(row.question, query_vector, search);
  QUARRY_CHECK(!hits.empty(), ErrorCode::kInvalidArgument,
               "the index holds no passage to learn from");
  example.question = row.question;
  for (const Hit& hit : hits) {
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
    example.holds_answer |= holds_any(passage_match_key(hit.passage), row.answers);
  }
  example.passage_vectors = store_.vectors(example.passage_ids);
  const auto dim = static_cast<size_t>(embedder_.dim());
  for (size_t z = 0; z < hits.size(); ++z) {
    const float* vector = example.passage_vectors.data() + z * dim;
    example.scores.push_back(std::inner_product(vector, vector + dim, query_vector, 0.0));
  }
  return true;
}

}  // namespace quarry
