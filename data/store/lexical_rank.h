#pragma once

#include <sqlite3.h>

namespace quarry {

// BM25 with Lucene's idf, as the FTS5 auxiliary function kLexicalRankFunction: the score of a row,
// negated as FTS5's own bm25() is, so that the best row sorts first.
//
//   score = sum over phrases p of  weight(p) * idf(p) * f * (k1 + 1) / (f + k1 * (1 - b + b * n /
//   avg n)) idf(p) = ln(1 + (N - df(p) + 0.5) / (df(p) + 0.5))
//
// with f the phrase's count in the row, n the row's tokens over all columns, k1 = 0.6, b = 0.6
// (short passages: a word said twice says little more); a phrase of one word weighs 1, a longer one
// 0.2. Word pairs beside words are the sequential dependence model of Metzler and Croft 2005.
// FTS5's bm25() fixes k1 = 1.2, b = 0.75 and weighs all phrases alike, which ranks worse:
// tests/acceptance/retrieval.md.
constexpr const char* kLexicalRankFunction = "quarry_bm25";

// Makes the function known to a connection. Returns an SQLite result code.
int register_lexical_rank(sqlite3* database);

}  // namespace quarry
