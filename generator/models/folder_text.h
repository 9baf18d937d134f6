#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "data/core/json.h"
#include "data/text/chat_template.h"

namespace quarry {

// The chat template of a Hugging Face folder: chat_template.jinja, else "chat_template" of
// tokenizer_config.json (of a list, the one named "default"). Null when there is none. Throws
// kCorruptData; kInvalidArgument when it is not a template we can run.
std::unique_ptr<ChatTemplate> load_folder_chat_template(const std::filesystem::path& folder);

// config.json of a folder. What generation_config.json says of a decoder's first tokens
// (decoder_start_token_id, forced_bos_token_id) stands in it, as transformers generates. Throws
// kNotFound, kCorruptData.
Json read_folder_config(const std::filesystem::path& folder);

// Ids after which generation ends: eos_token_id, a number or a list, of generation_config.json and
// config.json. Throws kCorruptData.
std::vector<int64_t> folder_end_tokens(const std::filesystem::path& folder);

}  // namespace quarry
