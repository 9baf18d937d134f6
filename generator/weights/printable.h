#pragma once

#include <string>
#include <string_view>

namespace quarry {

// A name from an untrusted file, fit for a message: quoted, cut after 80 bytes, with \xNN for
// everything outside printable ASCII.
std::string printable(std::string_view text);

}  // namespace quarry
