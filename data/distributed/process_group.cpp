#include "data/distributed/process_group.h"

namespace quarry {

std::unique_ptr<ProcessGroup> join_process_group() {
  const auto place = find_process_place();
  return place ? join_process_group(*place) : nullptr;
}

std::string broadcast_text(ProcessGroup& group, std::string text) {
  auto size = static_cast<int64_t>(text.size());
  group.broadcast(&size, sizeof(size));
  text.resize(static_cast<size_t>(size));
  if (size > 0) group.broadcast(text.data(), size);
  return text;
}

}  // namespace quarry
