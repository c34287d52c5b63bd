// SPDX-License-Identifier: Apache-2.0
// The default limit of the pinned pool, from files below a root folder of the test.
#include "pinned/limit.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <string>

namespace dlbridge::cuda {
namespace {

namespace fs = std::filesystem;

constexpr size_t kGiB = size_t{1} << 30;

std::map<std::string, std::string> g_variables;

const char* variable(const char* name) {
  const auto found = g_variables.find(name);
  return found == g_variables.end() ? nullptr : found->second.c_str();
}

class DefaultLimit : public ::testing::Test {
 protected:
  DefaultLimit() {
    std::string name = fs::temp_directory_path() / "dlbridge-limit-XXXXXX";
    root_ = mkdtemp(name.data());
    g_variables.clear();
    write("proc/meminfo", "MemTotal:       67108864 kB\nMemFree:  1024 kB\n");  // 64 GiB
  }
  ~DefaultLimit() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  void write_bytes(const std::string& path, size_t bytes) {
    write(path, std::to_string(bytes) + "\n");
  }
  size_t limit() const { return pinned::default_limit(root_, variable); }

  fs::path root_;
};

TEST_F(DefaultLimit, IsAnEighthOfTheMemory) { EXPECT_EQ(limit(), 8 * kGiB); }

TEST_F(DefaultLimit, IsAtMost16GiB) {
  write("proc/meminfo", "MemTotal: 2147483648 kB\n");
  EXPECT_EQ(limit(), 16 * kGiB);
}

TEST_F(DefaultLimit, NestedGroupsBindInV2) {
  write("proc/self/cgroup", "0::/user.slice/job.scope/step\n");
  write("sys/fs/cgroup/user.slice/memory.max", "max\n");
  write("sys/fs/cgroup/user.slice/job.scope/step/memory.max", "max\n");
  EXPECT_EQ(limit(), 8 * kGiB);
  write_bytes("sys/fs/cgroup/user.slice/job.scope/memory.max", 16 * kGiB);
  EXPECT_EQ(limit(), 2 * kGiB);
}

// In a container the group's path may be the one outside, which is not there.
TEST_F(DefaultLimit, ContainersRootBindsInV2) {
  write("proc/self/cgroup", "0::/docker/0123\n");
  write_bytes("sys/fs/cgroup/memory.max", 8 * kGiB);
  EXPECT_EQ(limit(), kGiB);
}

TEST_F(DefaultLimit, GroupsBindInV1) {
  write("proc/self/cgroup", "9:cpuset:/\n4:cpuacct,memory:/slurm/uid_7/job_3\n");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write_bytes("sys/fs/cgroup/memory/slurm/uid_7/memory.limit_in_bytes", 32 * kGiB);
  EXPECT_EQ(limit(), 4 * kGiB);
}

TEST_F(DefaultLimit, LocalRanksShareIt) {
  for (const auto& [name, text, ranks] : {std::tuple{"LOCAL_WORLD_SIZE", "8", 8},
                                          {"OMPI_COMM_WORLD_LOCAL_SIZE", "2", 2},
                                          {"SLURM_NTASKS_PER_NODE", "4", 4},
                                          {"LOCAL_WORLD_SIZE", "many", 1},
                                          {"LOCAL_WORLD_SIZE", "0", 1}}) {
    g_variables = {{name, text}};
    EXPECT_EQ(limit(), 8 * kGiB / static_cast<size_t>(ranks)) << name << "=" << text;
  }
}

TEST_F(DefaultLimit, NoFileIsNeeded) {
  fs::remove_all(root_ / "proc");
  EXPECT_EQ(limit(), 16 * kGiB);
}

}  // namespace
}  // namespace dlbridge::cuda
