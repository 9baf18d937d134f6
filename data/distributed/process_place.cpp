#include "data/distributed/process_place.h"

#include <cerrno>
#include <cstdlib>

#include "data/core/error.h"

namespace quarry {
namespace {

constexpr uint16_t kTorchPort = 29500;

// The variables of one launcher; null: it sets none.
struct Launcher {
  const char* rank;
  const char* world_size;
  const char* local_size;  // processes on this machine
  const char* job;
  bool needs_address;  // its variables also stand around processes that are alone
};
constexpr Launcher kLaunchers[] = {
    {"RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", false},
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "PMIX_NAMESPACE",
     false},
    {"SLURM_PROCID", "SLURM_NTASKS", nullptr, "SLURM_JOB_ID", true}};

int64_t whole_number(const char* name, const char* text, int64_t least, int64_t most) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text, &end, 10);
  QUARRY_CHECK(end != text && *end == '\0' && errno == 0 && value >= least && value <= most,
               ErrorCode::kInvalidArgument, name, " is \"", text, "\", wanted a whole number from ",
               least, " to ", most);
  return value;
}

uint16_t port_of(const char* name, const char* text) {
  return static_cast<uint16_t>(whole_number(name, text, 1, 65535));
}

// The same for all processes of a job, and seldom that of another job on the machine.
uint16_t port_of_job(const std::string& job) {
  if (job.empty()) return kTorchPort;
  uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : job) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  return static_cast<uint16_t>(20000 + hash % 10000);
}

uint16_t master_port(const EnvironmentLookup& lookup, const std::string& job) {
  if (const char* own = lookup("QUARRY_MASTER_PORT")) return port_of("QUARRY_MASTER_PORT", own);
  const char* given = lookup("MASTER_PORT");
  if (given == nullptr) return port_of_job(job);
  const uint16_t port = port_of("MASTER_PORT", given);
  const char* agent = lookup("TORCHELASTIC_USE_AGENT_STORE");
  const bool is_taken = agent != nullptr && std::string(agent) == "True";
  if (!is_taken) return port;
  QUARRY_CHECK(
      port < 65535, ErrorCode::kInvalidArgument,
      "MASTER_PORT is 65535 and torchrun's own: want a smaller one, or QUARRY_MASTER_PORT");
  return static_cast<uint16_t>(port + 1);
}

std::string master_address(const EnvironmentLookup& lookup, const Launcher& launcher,
                           int64_t world_size) {
  if (const char* given = lookup("MASTER_ADDR")) return given;
  const char* local = launcher.local_size != nullptr ? lookup(launcher.local_size) : nullptr;
  QUARRY_CHECK(
      local != nullptr && whole_number(launcher.local_size, local, 1, 1 << 20) == world_size,
      ErrorCode::kInvalidArgument, launcher.world_size, " is ", world_size,
      " and MASTER_ADDR not set, wanted the address of the machine of rank 0");
  return "127.0.0.1";
}

}  // namespace

std::optional<ProcessPlace> find_process_place(const EnvironmentLookup& lookup) {
  for (const Launcher& launcher : kLaunchers) {
    const char* rank = lookup(launcher.rank);
    const char* size = lookup(launcher.world_size);
    if (rank == nullptr || size == nullptr) continue;
    if (launcher.needs_address && lookup("MASTER_ADDR") == nullptr) continue;
    ProcessPlace place;
    place.world_size = static_cast<int>(whole_number(launcher.world_size, size, 1, 1 << 20));
    place.rank = static_cast<int>(whole_number(launcher.rank, rank, 0, place.world_size - 1));
    if (place.world_size == 1) return std::nullopt;
    if (const char* job = lookup(launcher.job)) place.job = job;
    place.master_address = master_address(lookup, launcher, place.world_size);
    place.master_port = master_port(lookup, place.job);
    return place;
  }
  return std::nullopt;
}

std::optional<ProcessPlace> find_process_place() {
  return find_process_place([](const char* name) -> const char* { return std::getenv(name); });
}

}  // namespace quarry
