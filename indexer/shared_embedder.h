#pragma once

#include <string>
#include <vector>

#include "data/distributed/process_group.h"
#include "indexer/passage_embedder.h"

namespace quarry {

// Rank 0's side of embedding by all processes of a group: each gets a share of the texts. Vectors
// are those of the embedder alone, since none depends on the other texts of its batch. Everything
// else of an index is made by rank 0. Threads as PassageEmbedder.
class SharedEmbedder : public PassageEmbedder {
 public:
  // Both are borrowed. The others call embed_for_rank_0(). Throws LostRankError.
  SharedEmbedder(const PassageEmbedder& own, ProcessGroup& group);
  // Lets the others go.
  ~SharedEmbedder() override;
  SharedEmbedder(const SharedEmbedder&) = delete;
  SharedEmbedder& operator=(const SharedEmbedder&) = delete;

  std::string name() const override { return own_.name(); }
  std::string path() const override { return own_.path(); }
  std::string content_hash() const override { return own_.content_hash(); }
  int64_t dim() const override { return own_.dim(); }
  bool unit_length() const override { return own_.unit_length(); }
  int64_t max_tokens() const override { return own_.max_tokens(); }
  int64_t count_tokens(std::string_view text) const override { return own_.count_tokens(text); }
  // Throws LostRankError.
  std::vector<float> embed(const std::vector<std::string>& texts) const override;

 private:
  const PassageEmbedder& own_;
  ProcessGroup& group_;
  mutable bool is_inside_ = false;  // embed() was left by an exception: others wait for its end
};

// The other ranks' side: embeds what rank 0 sends until it has no more. Throws kInvalidArgument
// when its embedder is not rank 0's; LostRankError.
void embed_for_rank_0(const PassageEmbedder& own, ProcessGroup& group);

// Where each of `shares` consecutive shares of the texts ends: about the same number of bytes each.
std::vector<size_t> even_shares(const std::vector<std::string>& texts, int shares);

}  // namespace quarry
