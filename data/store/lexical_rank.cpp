#include "data/store/lexical_rank.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

namespace quarry {
namespace {

constexpr double kTermSaturation = 0.6;       // k1
constexpr double kLengthNormalization = 0.6;  // b
constexpr double kPairWeight = 0.2;
constexpr int kAllColumns = -1;

// What stays the same over the rows of one query.
struct QueryStatistics {
  double average_tokens = 1.0;
  std::vector<double> weights;  // by phrase: weight * idf * (k1 + 1)
  std::vector<int> counts;      // by phrase: scratch of one row
};

// Tokens by passage id, 0: not known yet. FTS5 looks a row's length up in a table, for thousands of
// rows a query, which took most of the time; the ids of committed passages never mean another text.
// One connection's, so one thread's.
class RowLengths {
 public:
  int known(sqlite3_int64 row) const {
    const bool inside = row >= 0 && row < static_cast<sqlite3_int64>(lengths_.size());
    return inside ? lengths_[static_cast<size_t>(row)] : 0;
  }
  void keep(sqlite3_int64 row, int length) {
    if (row < 0 || row >= kMostRows) return;
    if (row >= static_cast<sqlite3_int64>(lengths_.size())) {
      lengths_.resize(static_cast<size_t>(row) + 1 + lengths_.size() / 2);
    }
    lengths_[static_cast<size_t>(row)] = length;
  }

 private:
  static constexpr sqlite3_int64 kMostRows = sqlite3_int64{1} << 24;  // 64 MiB
  std::vector<int> lengths_;
};

void delete_lengths(void* lengths) { delete static_cast<RowLengths*>(lengths); }

void delete_statistics(void* statistics) { delete static_cast<QueryStatistics*>(statistics); }

int count_row(const Fts5ExtensionApi* /*api*/, Fts5Context* /*context*/, void* count) {
  ++*static_cast<sqlite3_int64*>(count);
  return SQLITE_OK;
}

int make_statistics(const Fts5ExtensionApi* api, Fts5Context* context, QueryStatistics& out) {
  sqlite3_int64 rows = 0;
  sqlite3_int64 tokens = 0;
  int result = api->xRowCount(context, &rows);
  if (result == SQLITE_OK) result = api->xColumnTotalSize(context, kAllColumns, &tokens);
  if (result != SQLITE_OK) return result;
  if (rows > 0 && tokens > 0) {
    out.average_tokens = static_cast<double>(tokens) / static_cast<double>(rows);
  }
  for (int phrase = 0; phrase < api->xPhraseCount(context); ++phrase) {
    sqlite3_int64 with_phrase = 0;
    result = api->xQueryPhrase(context, phrase, &with_phrase, count_row);
    if (result != SQLITE_OK) return result;
    const auto found = static_cast<double>(with_phrase);
    const double idf = std::log1p((static_cast<double>(rows) - found + 0.5) / (found + 0.5));
    const double weight = api->xPhraseSize(context, phrase) > 1 ? kPairWeight : 1.0;
    out.weights.push_back(weight * idf * (kTermSaturation + 1.0));
  }
  out.counts.resize(out.weights.size());
  return SQLITE_OK;
}

// The query's statistics, made at its first row and kept by FTS5 until its last.
int statistics_of(const Fts5ExtensionApi* api, Fts5Context* context, QueryStatistics** out) {
  *out = static_cast<QueryStatistics*>(api->xGetAuxdata(context, 0));
  if (*out != nullptr) return SQLITE_OK;
  auto made = std::make_unique<QueryStatistics>();
  const int result = make_statistics(api, context, *made);
  if (result != SQLITE_OK) return result;
  *out = made.release();
  return api->xSetAuxdata(context, *out, delete_statistics);  // frees it also when it fails
}

int length_of_row(const Fts5ExtensionApi* api, Fts5Context* context, bool committed, int& tokens) {
  auto& lengths = *static_cast<RowLengths*>(api->xUserData(context));
  const sqlite3_int64 row = api->xRowid(context);
  tokens = committed ? lengths.known(row) : 0;
  if (tokens > 0) return SQLITE_OK;
  const int result = api->xColumnSize(context, kAllColumns, &tokens);
  if (result == SQLITE_OK && committed) lengths.keep(row, tokens);
  return result;
}

// `committed`: no transaction is open on this connection that could be rolled back.
int score_row(const Fts5ExtensionApi* api, Fts5Context* context, bool committed, double& score) {
  QueryStatistics* statistics = nullptr;
  int instances = 0;
  int tokens = 0;
  int result = statistics_of(api, context, &statistics);
  if (result == SQLITE_OK) result = api->xInstCount(context, &instances);
  if (result == SQLITE_OK) result = length_of_row(api, context, committed, tokens);
  if (result != SQLITE_OK) return result;
  std::vector<int>& counts = statistics->counts;
  std::fill(counts.begin(), counts.end(), 0);
  for (int i = 0; i < instances; ++i) {
    int phrase = 0;
    int column = 0;
    int offset = 0;
    result = api->xInst(context, i, &phrase, &column, &offset);
    if (result != SQLITE_OK) return result;
    ++counts[static_cast<size_t>(phrase)];
  }
  const double length = static_cast<double>(tokens) / statistics->average_tokens;
  const double norm =
      kTermSaturation * (1.0 - kLengthNormalization + kLengthNormalization * length);
  score = 0.0;
  for (size_t phrase = 0; phrase < counts.size(); ++phrase) {
    score += statistics->weights[phrase] * counts[phrase] / (counts[phrase] + norm);
  }
  return SQLITE_OK;
}

void rank_function(const Fts5ExtensionApi* api, Fts5Context* context, sqlite3_context* out,
                   int /*argument_count*/, sqlite3_value** /*arguments*/) {
  // SQLite is C: no exception may pass through it.
  try {
    double score = 0.0;
    const bool committed = sqlite3_get_autocommit(sqlite3_context_db_handle(out)) != 0;
    const int result = score_row(api, context, committed, score);
    if (result == SQLITE_OK) {
      sqlite3_result_double(out, -score);
    } else {
      sqlite3_result_error_code(out, result);
    }
  } catch (const std::bad_alloc&) {
    sqlite3_result_error_nomem(out);
  }
}

}  // namespace

int register_lexical_rank(sqlite3* database) {
  // As SQLite's manual has it: FTS5's interface is handed over through a bound pointer.
  fts5_api* api = nullptr;
  sqlite3_stmt* statement = nullptr;
  int result = sqlite3_prepare_v2(database, "SELECT fts5(?1)", -1, &statement, nullptr);
  if (result != SQLITE_OK) return result;
  sqlite3_bind_pointer(statement, 1, static_cast<void*>(&api), "fts5_api_ptr", nullptr);
  sqlite3_step(statement);
  result = sqlite3_finalize(statement);
  if (result != SQLITE_OK) return result;
  if (api == nullptr) return SQLITE_ERROR;
  auto lengths = std::make_unique<RowLengths>();
  result =
      api->xCreateFunction(api, kLexicalRankFunction, lengths.get(), rank_function, delete_lengths);
  if (result == SQLITE_OK) lengths.release();  // FTS5's from here on
  return result;
}

}  // namespace quarry
