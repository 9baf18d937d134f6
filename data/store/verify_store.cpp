#include <algorithm>
#include <cmath>
#include <cstring>

#include "data/core/error.h"
#include "data/store/sqlite_passage_store.h"

namespace quarry {
namespace {

constexpr size_t kMaxProblems = 100;  // one broken page can spoil every row
constexpr double kLengthTolerance = 1e-3;

class Verifier {
 public:
  Verifier(Sqlite& database, const StoreManifest& manifest)
      : database_(database), manifest_(manifest) {}

  std::vector<std::string> run() {
    step([this] { check_pages(); });
    step([this] { check_counts(); });
    step([this] { check_full_text(); });
    step([this] { check_spans(); });
    step([this] { check_vectors(); });
    return std::move(problems_);
  }

 private:
  template <typename Check>
  void step(const Check& check) {
    try {
      check();
    } catch (const Error& error) {
      report(error.what());
    }
  }

  template <typename... Parts>
  void report(const Parts&... parts) {
    if (problems_.size() < kMaxProblems) problems_.push_back(concat(parts...));
  }

  void check_pages() {
    SqliteStatement check = database_.prepare("PRAGMA integrity_check(100)");
    while (check.step()) {
      const std::string line = check.column_text(0);
      if (line != "ok") report("SQLite: ", line);
    }
  }

  // `sql` counts rows that should not be there.
  void expect_none(const char* what, const char* sql) {
    const int64_t count = database_.query_int(sql);
    if (count != 0) report(count, " ", what);
  }

  void expect_equal(const char* what, const char* counter_sql, const char* rows_sql) {
    const int64_t counter = database_.query_int(counter_sql);
    const int64_t rows = database_.query_int(rows_sql);
    if (counter != rows) report(what, ": counted ", counter, ", found ", rows);
  }

  void check_counts() {
    expect_equal("documents", "SELECT documents FROM state", "SELECT count(*) FROM documents");
    expect_equal("passages", "SELECT passages FROM state", "SELECT count(*) FROM passages");
    expect_equal("text bytes", "SELECT text_bytes FROM state",
                 "SELECT coalesce(sum(text_bytes), 0) FROM documents");
    expect_none(
        "passages without a document",
        "SELECT count(*) FROM passages WHERE document_id NOT IN (SELECT id FROM documents)");
    expect_none("passages without a vector",
                "SELECT count(*) FROM passages WHERE id NOT IN (SELECT passage_id FROM vectors)");
    expect_none("vectors without a passage",
                "SELECT count(*) FROM vectors WHERE passage_id NOT IN (SELECT id FROM passages)");
    expect_none(
        "metadata values without a document",
        "SELECT count(*) FROM metadata WHERE document_id NOT IN (SELECT id FROM documents)");
    expect_none("passages that are both present and removed",
                "SELECT count(*) FROM removed WHERE passage_id IN (SELECT id FROM passages)");
    expect_none("removals from the future",
                "SELECT count(*) FROM removed WHERE generation > (SELECT generation FROM state)");
  }

  // FTS5 compares its index with the passages in a statement that counts as a write, so it has a
  // connection of its own; where that cannot be had, the numbers of rows are compared.
  void check_full_text() {
    expect_equal("full-text entries", "SELECT count(*) FROM passage_fts_docsize",
                 "SELECT count(*) FROM passages");
    const std::string check =
        "INSERT INTO passage_fts(passage_fts, rank) VALUES('integrity-check', 1)";
    try {
      Sqlite writer(database_.path(), Sqlite::Access::kWrite);
      writer.execute(check);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable) report("full text: ", error.what());
    }
  }

  void check_spans() {
    SqliteStatement documents =
        database_.prepare("SELECT id, uri, text_bytes, text FROM documents ORDER BY id");
    SqliteStatement passages = database_.prepare(
        "SELECT ordinal, start_byte, end_byte, text FROM passages WHERE document_id = ?1 "
        "ORDER BY ordinal");
    while (documents.step()) {
      const std::string uri = documents.column_text(1);
      const std::string_view text = documents.column_bytes(3);
      const auto size = static_cast<int64_t>(text.size());
      if (documents.column_int(2) != size) {
        report(uri, ": text has ", size, " bytes, recorded ", documents.column_int(2));
      }
      const SqliteScope scope(passages);
      passages.bind(1, documents.column_int(0));
      for (int64_t ordinal = 0; passages.step(); ++ordinal) {
        const int64_t start = passages.column_int(1);
        const int64_t end = passages.column_int(2);
        if (passages.column_int(0) != ordinal) {
          report(uri, ": passage ", ordinal, " is missing");
          break;
        }
        const bool inside = 0 <= start && start <= end && end <= size;
        if (!inside || text.substr(static_cast<size_t>(start), static_cast<size_t>(end - start)) !=
                           passages.column_bytes(3)) {
          report(uri, ": passage ", ordinal, " is not the text at [", start, ", ", end, ")");
        }
      }
    }
  }

  void check_vectors() {
    const size_t bytes = static_cast<size_t>(manifest_.dim) * sizeof(float);
    std::vector<float> vector(static_cast<size_t>(manifest_.dim));
    SqliteStatement select = database_.prepare("SELECT passage_id, vector FROM vectors");
    while (select.step()) {
      const std::string_view blob = select.column_bytes(1);
      if (blob.size() != bytes) {
        report("vector of passage ", select.column_int(0), " has ", blob.size(), " bytes, wanted ",
               bytes);
        continue;
      }
      std::memcpy(vector.data(), blob.data(), bytes);
      check_length(select.column_int(0), vector);
    }
  }

  // Written so that NaN fails too.
  void check_length(int64_t passage, const std::vector<float>& vector) {
    double squares = 0.0;
    for (const float value : vector) squares += static_cast<double>(value) * value;
    const double length = std::sqrt(squares);
    if (!(length > 0.0 && std::isfinite(length))) {
      report("vector of passage ", passage, " has length ", length, ", wanted one above 0");
    } else if (manifest_.unit_length && !(std::abs(length - 1.0) <= kLengthTolerance)) {
      report("vector of passage ", passage, " has length ", length, ", wanted 1");
    }
  }

  Sqlite& database_;
  const StoreManifest& manifest_;
  std::vector<std::string> problems_;
};

}  // namespace

std::vector<std::string> verify_store(Sqlite& database, const StoreManifest& manifest) {
  return Verifier(database, manifest).run();
}

}  // namespace quarry
