#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "retriever/embedder.h"

namespace quarry {

// An index that was embedded with an adapter has a copy of it, in this folder.
constexpr const char* kIndexAdapterFolder = "embedder-adapter";

// That of an index; empty: it has none.
std::filesystem::path index_adapter(const std::filesystem::path& index);

// Copies a PEFT folder into an index folder, which is made when missing. Throws kNotFound when it
// is none, kUnavailable.
void keep_index_adapter(const std::filesystem::path& adapter, const std::filesystem::path& index);

// The embedder that an index was made with, `model` in its model's place unless empty, with the
// index's adapter unless `options` name one. Throws as PassageStore::open and Embedder::load.
std::unique_ptr<Embedder> load_index_embedder(const std::filesystem::path& index,
                                              EmbedderOptions options = {},
                                              const std::string& model = "");

}  // namespace quarry
