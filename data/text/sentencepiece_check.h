#pragma once

#include <string>
#include <string_view>

namespace quarry {

// Checks what libsentencepiece takes on trust in a serialized ModelProto
// (sentencepiece_model.proto) and would follow out of its memory: the double array and the texts of
// a precompiled_charsmap, how many user-defined pieces begin one another; and that scores are
// finite. `source` names it in errors. Throws kCorruptData.
void check_sentencepiece_model(std::string_view model_proto, const std::string& source);

}  // namespace quarry
