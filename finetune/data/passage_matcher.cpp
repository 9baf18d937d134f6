#include "finetune/data/passage_matcher.h"

#include <algorithm>
#include <deque>

#include "finetune/data/text_match.h"
#include "retriever/eval_retrieval.h"

namespace quarry {
namespace {

constexpr size_t kGram = 16;    // bytes hashed together
constexpr size_t kWindow = 64;  // grams of which the least hash is a fingerprint
constexpr uint64_t kBase = 0x100000001B3ULL;

// Hashes of all runs of kGram bytes; of the whole text when it is shorter.
std::vector<uint64_t> gram_hashes(const std::string& key) {
  std::vector<uint64_t> hashes;
  uint64_t leading = 1;  // kBase ^ kGram
  uint64_t hash = 0;
  for (size_t i = 0; i < key.size(); ++i) {
    hash = hash * kBase + static_cast<unsigned char>(key[i]) + 1;
    if (i < kGram) {
      leading *= kBase;
    } else {
      hash -= leading * (static_cast<unsigned char>(key[i - kGram]) + uint64_t{1});
    }
    // The low bits of a product see only low bits: fold the high ones in.
    if (i + 1 >= kGram) hashes.push_back((hash ^ (hash >> 29)) * 0x9E3779B97F4A7C15ULL);
  }
  if (hashes.empty() && !key.empty()) hashes.push_back(hash);
  return hashes;
}

// The least hash of every window, each position once.
std::vector<uint64_t> fingerprints_of(const std::string& key) {
  const std::vector<uint64_t> hashes = gram_hashes(key);
  std::vector<uint64_t> chosen;
  std::deque<size_t> rising;  // positions in the window whose hashes rise: the front is the least
  size_t last = hashes.size();
  for (size_t i = 0; i < hashes.size(); ++i) {
    while (!rising.empty() && hashes[rising.back()] >= hashes[i]) rising.pop_back();
    rising.push_back(i);
    if (rising.front() + kWindow <= i) rising.pop_front();
    const bool window_is_full = i + 1 >= std::min(kWindow, hashes.size());
    if (window_is_full && rising.front() != last) {
      last = rising.front();
      chosen.push_back(hashes[last]);
    }
  }
  return chosen;
}

void sort_unique(std::vector<int32_t>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

std::string passage_match_key(const Passage& passage) {
  return match_key(passage.title) + "\n" + match_key(passage.heading) + "\n" +
         match_key(passage.text);
}

PassageMatcher::PassageMatcher(const TrainingSet& set)
    : set_(set), rows_of_gold_(set.passages.size()) {
  for (size_t i = 0; i < set.rows.size(); ++i) {
    const TrainingRow& row = set.rows[i];
    const auto index = static_cast<int32_t>(i);
    if (row.gold >= 0) rows_of_gold_[static_cast<size_t>(row.gold)].push_back(index);
    for (const std::string& id : row.gold_ids) rows_of_id_[id].push_back(index);
  }
  for (size_t i = 0; i < set.passages.size(); ++i) {
    if (rows_of_gold_[i].empty()) continue;
    const Passage& passage = set.passages[i];
    const auto index = static_cast<int32_t>(i);
    if (!passage.title.empty()) golds_of_title_[passage.title].push_back(index);
    for (const uint64_t fingerprint : fingerprints_of(match_key(passage.text))) {
      fingerprints_.emplace_back(fingerprint, index);
    }
  }
  std::sort(fingerprints_.begin(), fingerprints_.end());
}

const std::vector<int32_t>& PassageMatcher::golds_of_title(const std::string& title) const {
  static const std::vector<int32_t> none;
  const auto found = golds_of_title_.find(title);
  return found == golds_of_title_.end() ? none : found->second;
}

std::vector<int32_t> PassageMatcher::golds_like(const std::string& key) const {
  std::vector<int32_t> candidates;
  for (const uint64_t fingerprint : fingerprints_of(key)) {
    auto found = std::lower_bound(fingerprints_.begin(), fingerprints_.end(),
                                  std::make_pair(fingerprint, int32_t{0}));
    for (; found != fingerprints_.end() && found->first == fingerprint; ++found) {
      candidates.push_back(found->second);
    }
  }
  sort_unique(candidates);
  std::vector<int32_t> golds;
  for (const int32_t candidate : candidates) {
    const std::string gold = match_key(set_.passages[static_cast<size_t>(candidate)].text);
    const bool contained =
        key.find(gold) != std::string::npos || gold.find(key) != std::string::npos;
    if (contained) golds.push_back(candidate);
  }
  return golds;
}

bool PassageMatcher::holds_answer(const TrainingRow& row, const std::string& key) const {
  if (row.answers.empty() || holds_any(key, row.answers)) return true;
  if (row.gold < 0) return false;
  const std::string gold = match_key(set_.passages[static_cast<size_t>(row.gold)].text);
  return !holds_any(gold, row.answers);
}

std::vector<PassageMatcher::Match> PassageMatcher::match(const Passage& passage) const {
  std::vector<int32_t> rows;
  for (const std::string& name : document_names(passage.document_uri)) {
    const auto found = rows_of_id_.find(name);
    if (found == rows_of_id_.end()) continue;
    rows.insert(rows.end(), found->second.begin(), found->second.end());
  }
  const std::string key = match_key(passage.text);
  for (const int32_t gold : golds_like(key)) {
    const std::vector<int32_t>& more = rows_of_gold(gold);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  sort_unique(rows);
  std::vector<Match> matches;
  matches.reserve(rows.size());
  for (const int32_t row : rows) {
    matches.push_back({row, holds_answer(set_.rows[static_cast<size_t>(row)], key)});
  }
  return matches;
}

}  // namespace quarry
