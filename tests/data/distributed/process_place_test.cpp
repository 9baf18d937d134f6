#include "data/distributed/process_place.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "data/core/error.h"

namespace quarry {
namespace {

using ::testing::HasSubstr;
using Variables = std::map<std::string, std::string>;

std::optional<ProcessPlace> find(const Variables& variables) {
  return find_process_place([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string error_of(const Variables& variables) {
  try {
    find(variables);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ProcessPlace, OfTorchrun) {
  Variables variables = {
      {"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "node7"}, {"MASTER_PORT", "29511"}};
  const ProcessPlace place = *find(variables);
  EXPECT_EQ(place.rank, 1);
  EXPECT_EQ(place.world_size, 2);
  EXPECT_EQ(place.master_address, "node7");
  EXPECT_EQ(place.master_port, 29511);
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True";  // torchrun listens there itself
  EXPECT_EQ(find(variables)->master_port, 29512);
  variables["QUARRY_MASTER_PORT"] = "4000";
  EXPECT_EQ(find(variables)->master_port, 4000);
}

TEST(ProcessPlace, OfMpirunOnOneMachineNeedsNoAddress) {
  Variables variables = {{"OMPI_COMM_WORLD_RANK", "2"},
                         {"OMPI_COMM_WORLD_SIZE", "3"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "3"},
                         {"PMIX_NAMESPACE", "12345"}};
  const ProcessPlace place = *find(variables);
  EXPECT_EQ(place.rank, 2);
  EXPECT_EQ(place.master_address, "127.0.0.1");
  EXPECT_GE(place.master_port, 20000);
  variables["PMIX_NAMESPACE"] = "12346";
  EXPECT_NE(find(variables)->master_port, place.master_port);
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_THAT(error_of(variables), HasSubstr("OMPI_COMM_WORLD_SIZE is 3 and MASTER_ADDR not set"));
}

// A batch script has Slurm's variables too, and is one process.
TEST(ProcessPlace, OfSlurmNeedsAnAddress) {
  Variables variables = {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_ID", "9"}};
  EXPECT_FALSE(find(variables).has_value());
  variables["MASTER_ADDR"] = "node1";
  EXPECT_EQ(find(variables)->world_size, 4);
}

TEST(ProcessPlace, AloneIsNothing) {
  EXPECT_FALSE(find({}).has_value());
  EXPECT_FALSE(find({{"RANK", "0"}}).has_value());
  EXPECT_FALSE(find({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).has_value());
}

TEST(ProcessPlace, NamesTheVariableThatIsWrong) {
  EXPECT_THAT(error_of({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}),
              HasSubstr("RANK is \"2\", wanted a whole number from 0 to 1"));
  EXPECT_THAT(error_of({{"RANK", "0"}, {"WORLD_SIZE", "two"}}), HasSubstr("WORLD_SIZE is \"two\""));
  EXPECT_THAT(
      error_of(
          {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "70000"}}),
      HasSubstr("MASTER_PORT is \"70000\""));
}

}  // namespace
}  // namespace quarry
