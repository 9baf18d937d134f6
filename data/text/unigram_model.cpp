#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>

#include "data/text/token_model.h"
#include "data/text/utf8.h"

namespace quarry {
namespace {

constexpr double kUnknownPenalty = 10.0;  // below the worst token

class UnigramModel : public TokenModel {
 public:
  UnigramModel(Vocabulary vocabulary, std::vector<double> scores, const UnigramOptions& options)
      : TokenModel(std::move(vocabulary)), scores_(std::move(scores)), options_(options) {
    double worst = std::numeric_limits<double>::infinity();
    for (const double score : scores_) worst = std::min(worst, score);
    unknown_score_ = worst - kUnknownPenalty;
    for (int64_t id = 0; id < vocabulary_.size(); ++id) {
      longest_token_ = std::max(longest_token_, vocabulary_.token(static_cast<int32_t>(id)).size());
    }
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(byte));
      byte_ids_[static_cast<size_t>(byte)] = vocabulary_.find(name);
    }
  }

  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override {
    // best[i]: the last token of the best path that covers the first i bytes.
    struct Node {
      double score = -std::numeric_limits<double>::infinity();
      size_t start = 0;
      int32_t id = -1;
    };
    std::vector<Node> best(piece.size() + 1);
    best[0].score = 0.0;
    for (size_t begin = 0; begin < piece.size();) {
      const size_t character = utf8_length(piece[begin]);
      bool has_single = false;
      const size_t farthest = std::min(piece.size(), begin + longest_token_);
      for (size_t end = begin + character; end <= farthest;
           end += end < piece.size() ? utf8_length(piece[end]) : 1) {
        const int32_t id = vocabulary_.find(piece.substr(begin, end - begin));
        if (id < 0) continue;
        if (end == begin + character) has_single = true;
        relax(best[end], best[begin].score + scores_[static_cast<size_t>(id)], begin, id);
      }
      if (!has_single) {
        relax(best[begin + character], best[begin].score + unknown_score_, begin,
              options_.unknown_id);
      }
      begin += character;
    }
    std::vector<std::pair<size_t, size_t>> path;  // [start, end), last first
    for (size_t end = piece.size(); end > 0; end = best[end].start) {
      path.emplace_back(best[end].start, end);
    }
    std::reverse(path.begin(), path.end());
    // Neighbouring unknown tokens are one.
    for (size_t i = 0; i < path.size(); ++i) {
      const int32_t id = best[path[i].second].id;
      if (id != options_.unknown_id) {
        ids.push_back(id);
        continue;
      }
      const size_t start = path[i].first;
      while (i + 1 < path.size() && best[path[i + 1].second].id == options_.unknown_id) ++i;
      add_unknown(piece.substr(start, path[i].second - start), ids);
    }
  }

 private:
  template <typename Node>
  static void relax(Node& node, double score, size_t start, int32_t id) {
    if (score > node.score) {
      node.score = score;
      node.start = start;
      node.id = id;
    }
  }

  void add_unknown(std::string_view text, std::vector<int32_t>& ids) const {
    const auto id_of = [this](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (options_.byte_fallback &&
        std::all_of(text.begin(), text.end(), [&](char c) { return id_of(c) >= 0; })) {
      for (const char c : text) ids.push_back(id_of(c));
    } else if (options_.unknown_id >= 0) {
      ids.push_back(options_.unknown_id);
    }
  }

  std::vector<double> scores_;  // by id
  UnigramOptions options_;
  double unknown_score_ = 0.0;
  size_t longest_token_ = 0;  // bytes
  std::array<int32_t, 256> byte_ids_{};
};

}  // namespace

std::unique_ptr<TokenModel> make_unigram_model(Vocabulary vocabulary, std::vector<double> scores,
                                               const UnigramOptions& options) {
  return std::make_unique<UnigramModel>(std::move(vocabulary), std::move(scores), options);
}

}  // namespace quarry
