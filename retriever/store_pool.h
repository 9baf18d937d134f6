#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <vector>

#include "data/store/passage_store.h"

namespace quarry {

// Read-only connections to one store, each lent to one thread at a time: a PassageStore is for one
// thread. Grows to as many as were ever out together. Thread-safe.
class StorePool {
 public:
  // Opens the first connection. Throws as PassageStore::open.
  explicit StorePool(std::filesystem::path path);

  // A connection that goes back to the pool when the lease ends. The pool must outlive it.
  class Lease {
   public:
    Lease(StorePool& pool, std::unique_ptr<PassageStore> store)
        : pool_(&pool), store_(std::move(store)) {}
    Lease(Lease&&) = default;
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();
    const PassageStore& operator*() const { return *store_; }
    const PassageStore* operator->() const { return store_.get(); }

   private:
    StorePool* pool_;
    std::unique_ptr<PassageStore> store_;
  };
  Lease lease();

 private:
  std::filesystem::path path_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<PassageStore>> idle_;  // guarded by mutex_
};

}  // namespace quarry
