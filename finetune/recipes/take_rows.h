#pragma once

#include <cstdint>
#include <functional>
#include <iterator>
#include <utility>
#include <vector>

#include "data/core/error.h"
#include "finetune/data/summary.h"

namespace quarry {

// The next `count` items that the rows of a stream give, or as many as there are until `may_take`
// says no; its epochs begin anew. Throws kInvalidArgument "WHAT:" and the summary when no row of a
// whole epoch gave one.
template <typename Item, typename Stream>
std::vector<Item> take_rows(Stream& stream, int64_t count, const std::function<bool()>& may_take,
                            const char* what) {
  std::vector<Item> taken;
  bool is_whole = stream.state().cursor == 0;  // this call has seen all of the epoch
  size_t before = 0;                           // items that were taken when it began
  while (static_cast<int64_t>(taken.size()) < count && may_take()) {
    if (stream.at_end()) {
      QUARRY_CHECK(!is_whole || taken.size() > before, ErrorCode::kInvalidArgument, what, ":\n",
                   to_text(stream.summary()));
      stream.start_epoch(stream.state().epoch + 1);
      is_whole = true;
      before = taken.size();
    }
    std::vector<Item> more = stream.next(count - static_cast<int64_t>(taken.size()));
    std::move(more.begin(), more.end(), std::back_inserter(taken));
  }
  return taken;
}

}  // namespace quarry
