#pragma once

#include <cstdint>

#include "data/store/sqlite.h"

namespace quarry {

// "Quar", in the header of every store (SQLite's application_id).
constexpr int64_t kStoreApplicationId = 0x51756172;
// SQLite's user_version; grows when the schema changes.
constexpr int64_t kStoreFormatVersion = 1;

// Brings an empty file or an older format to kStoreFormatVersion, in one transaction.
void migrate_store(Sqlite& database);

// Throws kCorruptData when the file is not a store, is newer than this program, or is older and so
// has to be opened for writing once.
void check_store_format(Sqlite& database);

}  // namespace quarry
