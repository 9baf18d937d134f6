#include "retriever/store_pool.h"

namespace quarry {

StorePool::StorePool(std::filesystem::path path) : path_(std::move(path)) {
  idle_.push_back(PassageStore::open(path_, PassageStore::Mode::kReadOnly));
}

StorePool::Lease StorePool::lease() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<PassageStore> store = std::move(idle_.back());
      idle_.pop_back();
      return Lease(*this, std::move(store));
    }
  }
  return Lease(*this, PassageStore::open(path_, PassageStore::Mode::kReadOnly));
}

StorePool::Lease::~Lease() {
  if (store_ == nullptr) return;
  const std::lock_guard<std::mutex> lock(pool_->mutex_);
  pool_->idle_.push_back(std::move(store_));
}

}  // namespace quarry
