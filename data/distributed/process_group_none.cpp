#include "data/distributed/process_group.h"

namespace quarry {

std::unique_ptr<ProcessGroup> join_process_group(const ProcessPlace& place,
                                                 const ProcessGroupOptions&) {
  throw_error(ErrorCode::kInvalidArgument, "this is process ", place.rank, " of ", place.world_size,
              ", but this build cannot work together with others: build it with Gloo's headers "
              "(Debian: libgloo-dev) and QUARRY_DISTRIBUTED=ON");
}

}  // namespace quarry
