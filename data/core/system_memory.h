#pragma once

#include <cstdint>

namespace quarry {

// Bytes that this process can take without swapping: what the system calls available, or what the
// memory limit of its control group (version 1 or 2; a container's) leaves when that is less.
// INT64_MAX where the system does not tell.
int64_t available_memory();

}  // namespace quarry
