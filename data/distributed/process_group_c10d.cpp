// The process group on LibTorch's c10d: a TCPStore at rank 0, and Gloo between all.
#include <ATen/ATen.h>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "data/distributed/process_group.h"
#include "data/distributed/rank_watch.h"

namespace quarry {
namespace {

using Milliseconds = std::chrono::milliseconds;

// The first line of what a library says, without its stack trace.
std::string first_line(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

bool is_this_machine(const std::string& address) {
  return address == "localhost" || address.compare(0, 4, "127.") == 0 || address == "::1";
}

c10::intrusive_ptr<c10d::Store> open_store(const ProcessPlace& place, Milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = place.master_port;
  options.isServer = place.rank == 0;
  options.numWorkers = static_cast<size_t>(place.world_size);
  options.waitWorkers = false;
  options.timeout = timeout;
  try {
    return c10::make_intrusive<c10d::PrefixStore>(
        "quarry" + place.job, c10::make_intrusive<c10d::TCPStore>(place.master_address, options));
  } catch (const std::exception& error) {
    throw_error(ErrorCode::kUnavailable, "rank ", place.rank,
                place.rank == 0 ? ": cannot listen on port " : ": cannot reach rank 0 at port ",
                place.master_port, " of ", place.master_address, ": ", first_line(error),
                " (QUARRY_MASTER_PORT names another port)");
  }
}

// Gloo's own wait would take as long as one of its operations may.
void wait_for_all(const ProcessPlace& place, c10d::Store& store, Milliseconds timeout) {
  const auto key = [](int rank) { return "here/" + std::to_string(rank); };
  std::string missing;
  try {
    store.set(key(place.rank), {1});
    std::vector<std::string> keys;
    for (int rank = 0; rank < place.world_size; ++rank) keys.push_back(key(rank));
    store.wait(keys, timeout);
    return;
  } catch (const std::exception&) {
    for (int rank = 0; rank < place.world_size; ++rank) {
      if (!store.check({key(rank)})) missing += concat(missing.empty() ? "" : ", ", rank);
    }
  }
  throw_error(ErrorCode::kUnavailable, "rank ", place.rank, ": of ", place.world_size,
              " processes these did not come within ", timeout.count() / 1000.0, " s: rank ",
              missing);
}

c10::intrusive_ptr<c10d::ProcessGroupGloo> connect(const ProcessPlace& place,
                                                   const c10::intrusive_ptr<c10d::Store>& store,
                                                   const ProcessGroupOptions& limits) {
  wait_for_all(place, *store, Milliseconds(limits.join_timeout_ms));
  auto options = c10d::ProcessGroupGloo::Options::create(Milliseconds(limits.timeout_ms));
  try {
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    options->devices.push_back(interface != nullptr
                                   ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
                               : is_this_machine(place.master_address)
                                   ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                                   : c10d::ProcessGroupGloo::createDefaultDevice());
    return c10::make_intrusive<c10d::ProcessGroupGloo>(store, place.rank, place.world_size,
                                                       options);
  } catch (const std::exception& error) {
    throw_error(ErrorCode::kUnavailable, "rank ", place.rank,
                ": cannot connect with the other processes: ", first_line(error));
  }
}

SharedNotes notes_in(const c10::intrusive_ptr<c10d::Store>& store) {
  SharedNotes notes;
  notes.set = [store](const std::string& key, const std::string& value) {
    store->set(key, std::vector<uint8_t>(value.begin(), value.end()));
  };
  notes.get = [store](const std::string& key) {
    if (!store->check({key})) return std::string();
    const std::vector<uint8_t> bytes = store->get(key);
    return std::string(bytes.begin(), bytes.end());
  };
  return notes;
}

class GlooProcessGroup final : public ProcessGroup {
 public:
  GlooProcessGroup(const ProcessPlace& place, const ProcessGroupOptions& options)
      : place_(place),
        timeout_(options.timeout_ms),
        store_(open_store(place, Milliseconds(options.join_timeout_ms))),
        gloo_(connect(place, store_, options)),
        watch_(notes_in(store_), place.rank, place.world_size) {}

  int rank() const override { return place_.rank; }
  int world_size() const override { return place_.world_size; }

  void all_reduce_sum(float* values, int64_t count) override {
    all_reduce(values, count, at::kFloat);
  }
  void all_reduce_sum(double* values, int64_t count) override {
    all_reduce(values, count, at::kDouble);
  }
  void broadcast(void* bytes, int64_t count) override {
    std::vector<at::Tensor> tensors = {at::from_blob(bytes, {count}, at::kByte)};
    run([&] { return gloo_->broadcast(tensors); });
  }
  void barrier() override {
    run([&] { return gloo_->barrier(); });
  }
  void send(const std::string& bytes, int to) override {
    auto size = static_cast<int64_t>(bytes.size());
    send_bytes(&size, sizeof(size), to);
    if (size > 0) send_bytes(const_cast<char*>(bytes.data()), size, to);  // only read
  }
  std::string receive(int from) override {
    int64_t size = 0;
    receive_bytes(&size, sizeof(size), from);
    std::string bytes(static_cast<size_t>(size), '\0');
    if (size > 0) receive_bytes(bytes.data(), size, from);
    return bytes;
  }
  void leave(const std::string& reason) noexcept override {
    try {
      watch_.announce(concat("rank ", rank(), " of ", world_size(), " ended: ", reason));
      watch_.wait_until_heard();
    } catch (const std::exception&) {
      // It cannot be told to anybody.
    }
  }

 private:
  void all_reduce(void* values, int64_t count, at::ScalarType type) {
    if (count == 0) return;
    std::vector<at::Tensor> tensors = {at::from_blob(values, {count}, type)};
    run([&] { return gloo_->allreduce(tensors); });
  }
  void send_bytes(void* bytes, int64_t count, int to) {
    std::vector<at::Tensor> tensors = {at::from_blob(bytes, {count}, at::kByte)};
    run([&] { return gloo_->send(tensors, to, 0); });
  }
  void receive_bytes(void* bytes, int64_t count, int from) {
    std::vector<at::Tensor> tensors = {at::from_blob(bytes, {count}, at::kByte)};
    run([&] { return gloo_->recv(tensors, from, 0); });
  }
  template <typename Start>
  void run(const Start& start) {
    try {
      start()->wait(timeout_);
    } catch (const std::exception& error) {
      throw LostRankError(watch_.find_lost(first_line(error)));
    }
  }

  ProcessPlace place_;
  Milliseconds timeout_;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
  RankWatch watch_;
};

}  // namespace

std::unique_ptr<ProcessGroup> join_process_group(const ProcessPlace& place,
                                                 const ProcessGroupOptions& options) {
  return std::make_unique<GlooProcessGroup>(place, options);
}

}  // namespace quarry
