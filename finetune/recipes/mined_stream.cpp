#include "finetune/recipes/mined_stream.h"

#include <iterator>
#include <optional>

#include "data/core/error.h"
#include "data/passage_text.h"
#include "data/text/utf8.h"
#include "finetune/data/passage_matcher.h"
#include "finetune/data/text_match.h"
#include "finetune/recipes/take_rows.h"

namespace quarry {
namespace {

MinedPassage mined_passage(int64_t id, const Passage& passage) {
  return {id, embedding_text(passage), passage_match_key(passage), match_key(passage.text)};
}

int64_t id_of_context(int32_t passage) { return -1 - int64_t{passage}; }
int32_t context_of_id(int64_t id) { return static_cast<int32_t>(-1 - id); }

}  // namespace

MinedStreamOptions mined_stream_options(const FinetuneConfig& config) {
  MinedStreamOptions options;
  options.hard_negatives = config.contrastive.hard_negatives;
  options.candidates = config.contrastive.candidates;
  options.seed = config.training.seed;
  return options;
}

MinedStream::MinedStream(const TrainingSet& set, const Retriever& retriever,
                         const PassageStore& store, const Embedder& embedder,
                         const MinedStreamOptions& options)
    : set_(set),
      retriever_(retriever),
      store_(store),
      embedder_(embedder),
      options_(options),
      order_(answered_questions(set, summary_), options.seed) {}

std::vector<MinedQuestion> MinedStream::next(int64_t rows) {
  const std::vector<size_t> taken = order_.take(rows);
  std::vector<std::string> questions;
  for (const size_t row : taken) questions.push_back(set_.rows[row].question);
  const std::vector<float> query_vectors = embedder_.embed_queries(questions);
  const auto dim = static_cast<size_t>(embedder_.dim());
  std::vector<MinedQuestion> mined;
  for (size_t i = 0; i < taken.size(); ++i) {
    MinedQuestion question;
    if (!mine(set_.rows[taken[i]], query_vectors.data() + i * dim, question)) {
      ++summary_.skipped["no passage holds an answer"];
      continue;
    }
    if (options_.wants_vectors) add_vectors(question);
    ++summary_.groups;
    ++summary_.sequences;
    mined.push_back(std::move(question));
  }
  return mined;
}

void MinedStream::count_tokens(const std::string& id, int64_t tokens) {
  ++summary_.targets;
  summary_.tokens += tokens;
  if (tokens <= summary_.longest) return;
  summary_.longest = tokens;
  summary_.longest_id = id;
}

// False when no passage holds an answer.
bool MinedStream::mine(const TrainingRow& row, const float* query_vector, MinedQuestion& mined) {
  SearchOptions search;
  search.mode = SearchMode::kDense;
  search.top_k = options_.candidates;
  const std::vector<Hit> hits = retriever_.search(row.question, query_vector, search);
  QUARRY_CHECK(!hits.empty(), ErrorCode::kInvalidArgument,
               "the index holds no passage to learn from");
  const Passage* context = row.gold < 0 ? nullptr : &set_.passages[static_cast<size_t>(row.gold)];
  if (context != nullptr) mined.context = match_key(context->text);
  std::optional<MinedPassage> right;
  std::vector<MinedPassage> negatives;
  for (const Hit& hit : hits) {
    MinedPassage passage = mined_passage(hit.passage.id, hit.passage);
    const bool of_context = is_of_context(passage, mined);
    if (holds_any(passage.key, row.answers)) {
      if (!right && (context == nullptr || of_context)) right = std::move(passage);
    } else if (!of_context && static_cast<int64_t>(negatives.size()) < options_.hard_negatives) {
      negatives.push_back(std::move(passage));
    }
  }
  if (!right && context != nullptr) right = mined_passage(id_of_context(row.gold), *context);
  if (!right) return false;
  mined.id = row.id;
  mined.question = row.question;
  mined.answers = row.answers;
  mined.passages.push_back(std::move(*right));
  std::move(negatives.begin(), negatives.end(), std::back_inserter(mined.passages));
  return true;
}

void MinedStream::add_vectors(MinedQuestion& mined) {
  std::vector<int64_t> ids;
  for (const MinedPassage& passage : mined.passages) {
    if (passage.id >= 0) ids.push_back(passage.id);
  }
  mined.vectors = store_.vectors(ids);
  const int64_t first = mined.passages.front().id;
  if (first >= 0) return;
  const std::vector<float>& context = vector_of_context(context_of_id(first));
  mined.vectors.insert(mined.vectors.begin(), context.begin(), context.end());
}

const std::vector<float>& MinedStream::vector_of_context(int32_t passage) {
  std::vector<float>& vector = context_vectors_[passage];
  if (vector.empty()) {
    const Passage& context = set_.passages[static_cast<size_t>(passage)];
    vector = embedder_.embed_passages({embedding_text(context)});
  }
  return vector;
}

bool is_of_context(const MinedPassage& passage, const MinedQuestion& question) {
  const std::string& context = question.context;
  return !context.empty() && (passage.body.find(context) != std::string::npos ||
                              context.find(passage.body) != std::string::npos);
}

std::string describe(const MinedQuestion& question) {
  constexpr size_t kShown = 100;
  std::string text =
      concat(question.id, ": ", question.question, "\n+ ", question.passages.front().text);
  for (size_t z = 1; z < question.passages.size(); ++z) {
    const std::string beginning = question.passages[z].text.substr(0, kShown);
    text += "\n- " + beginning.substr(0, complete_utf8_prefix(beginning));
  }
  return text;
}

std::vector<MinedQuestion> take_mined(MinedStream& stream, int64_t count,
                                      const std::function<bool()>& may_take) {
  return take_rows<MinedQuestion>(stream, count, may_take,
                                  "for no question of the training data a passage holds an answer");
}

}  // namespace quarry
