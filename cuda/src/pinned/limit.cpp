// SPDX-License-Identifier: Apache-2.0
#include "pinned/limit.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

namespace dlbridge::cuda::pinned {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMost = uint64_t{16} << 30;
constexpr uint64_t kShare = 8;

// What the file begins with, as a number; UINT64_MAX where there is none ("max" in cgroup v2).
uint64_t number_in(const fs::path& file) {
  uint64_t number = 0;
  return std::ifstream(file) >> number ? number : UINT64_MAX;
}

uint64_t machine_memory(const fs::path& root) {
  std::ifstream file(root / "proc/meminfo");
  uint64_t kilobytes = 0;
  for (std::string word; file >> word;) {
    if (word == "MemTotal:" && file >> kilobytes) return kilobytes << 10;
  }
  return UINT64_MAX;
}

// The least limit of the group `group` below `mount`, and of those above it. A container sees its
// own group as the root of the mount, while `group` may still be the path outside.
uint64_t group_memory(const fs::path& mount, fs::path group, const char* file) {
  uint64_t least = number_in(mount / file);
  for (; group.has_relative_path(); group = group.parent_path())
    least = std::min(least, number_in(mount / group.relative_path() / file));
  return least;
}

// Lines of /proc/self/cgroup: "0::/a/b" in v2, "5:cpu,memory:/a/b" in v1.
uint64_t groups_memory(const fs::path& root) {
  const fs::path mount = root / "sys/fs/cgroup";
  uint64_t least = UINT64_MAX;
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const fs::path group = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, group_memory(mount, group, "memory.max"));
      least = std::min(least, group_memory(mount / "unified", group, "memory.max"));
    } else if (controllers.find(",memory,") != controllers.npos) {
      least = std::min(least, group_memory(mount / "memory", group, "memory.limit_in_bytes"));
    }
  }
  return least;
}

uint64_t local_ranks(const char* (*variable)(const char*)) {
  for (const char* name :
       {"LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}) {
    const char* const text = variable(name);
    const uint64_t ranks = text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
    if (ranks > 0) return ranks;
  }
  return 1;
}

}  // namespace

size_t default_limit(const fs::path& root, const char* (*variable)(const char* name)) {
  const uint64_t memory = std::min(machine_memory(root), groups_memory(root));
  return std::min(memory / kShare / local_ranks(variable), kMost);
}

}  // namespace dlbridge::cuda::pinned
