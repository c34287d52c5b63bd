// SPDX-License-Identifier: Apache-2.0
// The simulator against an oracle of its own kind: random programs over streams, events and host
// waits, of which an explicit graph and reachability say whether they are ordered.
#include <bitset>
#include <map>
#include <random>

#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCell = 48;
constexpr int kCells = 6;
constexpr int kStreams = 5;  // legacy, per-thread, blocking, two non-blocking
constexpr int kSteps = 40;   // copies; with their dependencies:
constexpr size_t kMaxSteps = kSteps * (2 * kStreams + 1);

// One action of the program. What it comes after is asked of the oracle only.
struct Step {
  enum Kind { copy, record, wait, synchronize } kind = copy;
  int stream = 0;
  int from = 0;  // cells
  int to = 0;
  int event = -1;
  bool dropped = false;
};

bool blocking(int stream) { return stream == 1 || stream == 2; }

/// Which steps certainly come after which: the definition, not an algorithm.
class Oracle {
 public:
  explicit Oracle(const std::vector<Step>& steps) : steps_(steps), after_(steps.size()) {
    std::vector<int> last(kStreams, -1);
    std::map<int, int> recorded;
    std::vector<int> waited;  // by the host
    for (int i = 0; i < static_cast<int>(steps.size()); ++i) {
      const Step& step = steps[static_cast<size_t>(i)];
      if (step.dropped) continue;
      std::vector<int> causes = waited;
      const auto add = [&](int stream) { causes.push_back(last[static_cast<size_t>(stream)]); };
      if (step.kind == Step::synchronize) {
        waited.push_back(last[static_cast<size_t>(step.stream)]);
        continue;
      }
      add(step.stream);
      if (step.stream == 0) {
        for (int other = 0; other < kStreams; ++other) {
          if (blocking(other)) add(other);
        }
      }
      if (blocking(step.stream)) add(0);
      if (step.kind == Step::wait) causes.push_back(recorded.at(step.event));
      for (const int cause : causes) {
        if (cause < 0) continue;
        after_[static_cast<size_t>(i)].set(static_cast<size_t>(cause));
        after_[static_cast<size_t>(i)] |= after_[static_cast<size_t>(cause)];
      }
      if (step.kind == Step::record) recorded[step.event] = i;
      last[static_cast<size_t>(step.stream)] = i;
    }
  }

  bool ordered() const {
    for (size_t i = 0; i < steps_.size(); ++i) {
      for (size_t k = 0; k < i; ++k) {
        if (conflict(steps_[k], steps_[i]) && !after_[i].test(k)) {
          return false;
        }
      }
    }
    return true;
  }

  /// The streams whose latest conflicting copies `step`, put at the end, would not come after.
  static std::set<int> missing(const std::vector<Step>& steps, const Step& step) {
    std::vector<Step> more = steps;
    more.push_back(step);
    const Oracle oracle(more);
    std::set<int> streams;
    for (size_t k = 0; k < steps.size(); ++k) {
      if (conflict(steps[k], step) && !oracle.after_.back().test(k)) {
        streams.insert(steps[k].stream);
      }
    }
    return streams;
  }

 private:
  static bool conflict(const Step& a, const Step& b) {
    if (a.kind != Step::copy || b.kind != Step::copy || a.dropped || b.dropped) return false;
    return a.to == b.to || a.to == b.from || a.from == b.to;
  }

  const std::vector<Step>& steps_;
  std::vector<std::bitset<kMaxSteps>> after_;
};

// A program that is ordered: before each copy the dependencies that it lacks.
std::vector<Step> make_program(std::mt19937_64& random) {
  const auto draw = [&](int below) {
    return static_cast<int>(random() % static_cast<uint64_t>(below));
  };
  std::vector<Step> steps;
  int events = 0;
  for (int i = 0; i < kSteps; ++i) {
    Step copy;
    copy.stream = draw(kStreams);
    copy.from = draw(kCells);
    copy.to = (copy.from + 1 + draw(kCells - 1)) % kCells;
    for (const int stream : Oracle::missing(steps, copy)) {
      if (draw(6) == 0) {
        steps.push_back({Step::synchronize, stream, 0, 0, -1, false});
        continue;
      }
      const int event = draw(3) == 0 && events > 0 ? draw(events) : events++;  // or record again
      steps.push_back({Step::record, stream, 0, 0, event, false});
      steps.push_back({Step::wait, copy.stream, 0, 0, event, false});
    }
    steps.push_back(copy);
  }
  return steps;
}

struct Outcome {
  std::vector<Bytes> cells;
  std::string complaint;
};

// On a stream of the legacy order an event would add to that order.
void wait_on_host(World& world, CUstream stream, int way) {
  if (way == 0) {
    EXPECT_CUDA(world.api.stream_synchronize(stream));
    return;
  }
  const CUevent event = world.event();
  EXPECT_CUDA(world.api.event_record(event, stream));
  while (way == 1 && world.query(event) == CUDA_ERROR_NOT_READY) {
  }
  EXPECT_CUDA(way == 1 ? CUDA_SUCCESS : world.api.event_synchronize(event));
}

Outcome run(const std::vector<Step>& steps, Schedule which, uint64_t seed) {
  World world(schedule(which, seed));
  PinnedBytes pinned(world.api, kCell * 2);
  std::vector<void*> cells;
  for (int i = 0; i < kCells; ++i) {
    // Two of the cells are the host's.
    void* cell =
        i < 2 ? pinned.data() + kCell * static_cast<size_t>(i) : world.sim.device_alloc(kCell);
    const Bytes first = pattern(kCell, static_cast<uint8_t>(40 * i));
    if (i < 2) {
      std::memcpy(cell, first.data(), kCell);
    } else {
      world.sim.write(cell, first);
    }
    cells.push_back(cell);
  }
  const CUstream streams[kStreams] = {CU_STREAM_LEGACY, CU_STREAM_PER_THREAD,
                                      world.stream(CU_STREAM_DEFAULT), world.stream(),
                                      world.stream()};
  std::map<int, CUevent> events;
  int ways = 0;
  for (const Step& step : steps) {
    if (step.dropped) continue;
    const CUstream stream = streams[step.stream];
    if (step.event >= 0 && events.count(step.event) == 0) events[step.event] = world.event();
    switch (step.kind) {
      case Step::copy:
        world.copy(cells[static_cast<size_t>(step.to)], cells[static_cast<size_t>(step.from)],
                   kCell, stream);
        break;
      case Step::record:
        EXPECT_CUDA(world.api.event_record(events[step.event], stream));
        break;
      case Step::wait:
        EXPECT_CUDA(world.api.stream_wait_event(stream, events[step.event], 0));
        break;
      case Step::synchronize:
        wait_on_host(world, stream, step.stream < 3 ? 0 : ways++ % 3);
        break;
    }
  }
  for (const CUstream stream : streams) EXPECT_CUDA(world.api.stream_synchronize(stream));
  Outcome outcome;
  for (int i = 0; i < kCells; ++i) {
    const auto* cell = static_cast<const uint8_t*>(cells[static_cast<size_t>(i)]);
    outcome.cells.push_back(i < 2 ? Bytes(cell, cell + kCell) : world.read(cell, kCell));
  }
  outcome.complaint = world.sim.complaint();
  return outcome;
}

std::vector<Bytes> in_order_of_the_calls(const std::vector<Step>& steps) {
  std::vector<Bytes> cells;
  for (int i = 0; i < kCells; ++i) cells.push_back(pattern(kCell, static_cast<uint8_t>(40 * i)));
  for (const Step& step : steps) {
    if (step.kind == Step::copy) {
      cells[static_cast<size_t>(step.to)] = cells[static_cast<size_t>(step.from)];
    }
  }
  return cells;
}

constexpr uint64_t kPrograms = 1000;

TEST(SimPrograms, OrderedRunClean) {
  for (uint64_t seed = 1; seed <= kPrograms; ++seed) {
    std::mt19937_64 random(seed);
    const std::vector<Step> steps = make_program(random);
    ASSERT_TRUE(Oracle(steps).ordered());
    const Schedule which = static_cast<Schedule>(seed % 3);
    const Outcome outcome = run(steps, which, seed);
    ASSERT_EQ(outcome.complaint, "") << "seed " << seed;
    ASSERT_EQ(outcome.cells, in_order_of_the_calls(steps)) << "seed " << seed;
  }
}

TEST(SimPrograms, MissingOrderIsReported) {
  uint64_t broken = 0;
  uint64_t redundant = 0;
  for (uint64_t seed = 1; seed <= kPrograms; ++seed) {
    std::mt19937_64 random(seed);
    std::vector<Step> steps = make_program(random);
    std::vector<size_t> waits;
    for (size_t i = 0; i < steps.size(); ++i) {
      if (steps[i].kind == Step::wait || steps[i].kind == Step::synchronize) waits.push_back(i);
    }
    if (waits.empty()) continue;
    steps[waits[random() % waits.size()]].dropped = true;
    const bool ordered = Oracle(steps).ordered();
    ++(ordered ? redundant : broken);
    const Outcome outcome = run(steps, static_cast<Schedule>(seed % 3), seed);
    ASSERT_EQ(outcome.complaint.empty(), ordered) << "seed " << seed << "\n" << outcome.complaint;
  }
  EXPECT_GT(broken, kPrograms / 2);
  EXPECT_GT(redundant, kPrograms / 10);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
