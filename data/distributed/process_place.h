#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace quarry {

// Where a process stands among those that a launcher started to work together.
struct ProcessPlace {
  int rank = 0;
  int world_size = 1;
  std::string master_address;  // of rank 0
  uint16_t master_port = 0;    // where rank 0 listens; everything else takes free ports
  std::string job;             // tells launches apart
};

// Value of an environment variable, null where there is none.
using EnvironmentLookup = std::function<const char*(const char* name)>;

// From the variables of torchrun (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), of Open MPI's mpirun
// (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE) or of Slurm's srun (SLURM_PROCID, SLURM_NTASKS, and
// MASTER_ADDR, without which a task is taken for one that is alone). Under mpirun on one machine
// the address is that of the machine itself. Without MASTER_PORT the port follows from the job's
// number; where torchrun itself listens on MASTER_PORT it is the next one; QUARRY_MASTER_PORT says
// another. Nothing for a process that is alone. Throws kInvalidArgument naming the variable.
std::optional<ProcessPlace> find_process_place(const EnvironmentLookup& lookup);
std::optional<ProcessPlace> find_process_place();

}  // namespace quarry
