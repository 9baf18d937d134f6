#include "retriever/index_embedder.h"

#include "data/core/error.h"
#include "data/core/staged_folder.h"
#include "data/store/passage_store.h"
#include "retriever/vector_sync.h"

namespace quarry {

namespace fs = std::filesystem;

fs::path index_adapter(const fs::path& index) {
  const fs::path folder = index / kIndexAdapterFolder;
  std::error_code failure;
  return fs::is_directory(folder, failure) ? folder : fs::path();
}

void keep_index_adapter(const fs::path& adapter, const fs::path& index) {
  StagedFolder folder(index / kIndexAdapterFolder);
  for (const char* name :
       {"adapter_config.json", "adapter_model.safetensors", "quarry_adapter.json"}) {
    std::error_code failure;
    if (!fs::exists(adapter / name, failure) && std::string(name) == "quarry_adapter.json")
      continue;
    QUARRY_CHECK(fs::is_regular_file(adapter / name, failure), ErrorCode::kNotFound,
                 adapter.string(), ": no adapter, it lacks ", name);
    fs::copy_file(adapter / name, folder.path() / name, failure);
    QUARRY_CHECK(!failure, ErrorCode::kUnavailable, (index / kIndexAdapterFolder / name).string(),
                 ": cannot write: ", failure.message());
  }
  folder.commit();
}

std::unique_ptr<Embedder> load_index_embedder(const fs::path& index, EmbedderOptions options,
                                              const std::string& model) {
  std::string name = model;
  if (name.empty()) {
    const auto store = PassageStore::open(index / kStoreFileName, PassageStore::Mode::kReadOnly);
    name = embedder_model(store->manifest());
  }
  if (options.adapter.empty()) options.adapter = index_adapter(index);
  return Embedder::load(name, options);
}

}  // namespace quarry
