#include "indexer/shared_embedder.h"

#include <cstring>

#include "data/core/error.h"

namespace quarry {
namespace {

// Each text behind its length; nothing at all says that there is no more to do.
std::string pack_texts(const std::string* begin, const std::string* end) {
  std::string bytes(1, '\0');
  for (const std::string* text = begin; text != end; ++text) {
    const auto size = static_cast<uint64_t>(text->size());
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes += *text;
  }
  return bytes;
}

std::vector<std::string> unpack_texts(const std::string& bytes) {
  std::vector<std::string> texts;
  for (size_t at = 1; at < bytes.size();) {
    uint64_t size = 0;
    std::memcpy(&size, bytes.data() + at, sizeof(size));
    at += sizeof(size);
    texts.push_back(bytes.substr(at, size));
    at += size;
  }
  return texts;
}

std::string to_bytes(const std::vector<float>& vectors) {
  return {reinterpret_cast<const char*>(vectors.data()), vectors.size() * sizeof(float)};
}

void append_floats(const std::string& bytes, std::vector<float>& vectors) {
  const size_t before = vectors.size();
  vectors.resize(before + bytes.size() / sizeof(float));
  std::memcpy(vectors.data() + before, bytes.data(), bytes.size());
}

}  // namespace

std::vector<size_t> even_shares(const std::vector<std::string>& texts, int shares) {
  size_t all = 0;
  for (const std::string& text : texts) all += text.size() + 1;
  std::vector<size_t> ends;
  size_t end = 0;
  size_t taken = 0;
  for (int share = 1; share <= shares; ++share) {
    const size_t wanted = all * static_cast<size_t>(share) / static_cast<size_t>(shares);
    while (end < texts.size() && taken < wanted) taken += texts[end++].size() + 1;
    ends.push_back(end);
  }
  return ends;
}

SharedEmbedder::SharedEmbedder(const PassageEmbedder& own, ProcessGroup& group)
    : own_(own), group_(group) {
  broadcast_text(group_, own_.content_hash());
}

SharedEmbedder::~SharedEmbedder() {
  if (is_inside_) return;
  try {
    for (int rank = 1; rank < group_.world_size(); ++rank) group_.send("", rank);
  } catch (const std::exception&) {
    // They are gone already.
  }
}

std::vector<float> SharedEmbedder::embed(const std::vector<std::string>& texts) const {
  is_inside_ = true;
  const std::vector<size_t> ends = even_shares(texts, group_.world_size());
  for (int rank = 1; rank < group_.world_size(); ++rank) {
    const auto i = static_cast<size_t>(rank);
    group_.send(pack_texts(texts.data() + ends[i - 1], texts.data() + ends[i]), rank);
  }
  std::vector<float> vectors;
  const auto own_end = texts.begin() + static_cast<std::ptrdiff_t>(ends[0]);
  if (ends[0] > 0) vectors = own_.embed({texts.begin(), own_end});
  for (int rank = 1; rank < group_.world_size(); ++rank) {
    append_floats(group_.receive(rank), vectors);
  }
  is_inside_ = false;
  return vectors;
}

void embed_for_rank_0(const PassageEmbedder& own, ProcessGroup& group) {
  QUARRY_CHECK(broadcast_text(group, "") == own.content_hash(), ErrorCode::kInvalidArgument,
               "rank ", group.rank(), ": the embedder ", own.name(), " (",
               own.content_hash().substr(0, 12), ") is not that of rank 0");
  while (true) {
    const std::string request = group.receive(0);
    if (request.empty()) return;
    const std::vector<std::string> texts = unpack_texts(request);
    group.send(texts.empty() ? "" : to_bytes(own.embed(texts)), 0);
  }
}

}  // namespace quarry
