// SPDX-License-Identifier: Apache-2.0
// The simulator against an oracle of its own kind: random programs over streams, events and host
// waits, of which an explicit graph and reachability say whether they are ordered.
#include <bitset>
#include <random>

#include "cuda_sim/sim_kit.h"

namespace dlbridge::cuda_sim {
namespace {

constexpr size_t kCell = 48;
constexpr size_t kCells = 6;
constexpr size_t kStreams = 5;  // legacy, per-thread, blocking, two non-blocking
constexpr size_t kCopies = 40;
constexpr size_t kMaxSteps = kCopies * (2 * kStreams + 2);  // with their dependencies

struct Step {
  enum Kind { copy, record, wait, synchronize } kind = copy;
  size_t stream = 0;
  size_t from = 0;  // cells
  size_t to = 0;
  size_t event = 0;
};

bool blocking(size_t stream) { return stream == 1 || stream == 2; }

bool conflict(const Step& a, const Step& b) {
  return a.kind == Step::copy && b.kind == Step::copy &&
         (a.to == b.to || a.to == b.from || a.from == b.to);
}

/// Steps, and which certainly come after which: the definition, not an algorithm.
class Program {
 public:
  using Steps = std::bitset<kMaxSteps>;

  void add(const Step& step) {
    if (step.kind == Step::wait && !recorded_.contains(step.event)) return steps.push_back(step);
    const Steps mine = after(step);
    ordered = ordered && missing(step).empty();
    if (step.kind == Step::synchronize) {
      host_ |= mine;
    } else {
      last_[step.stream] = mine;
      last_[step.stream].set(steps.size());
    }
    if (step.kind == Step::record) recorded_[step.event] = last_[step.stream];
    steps.push_back(step);
  }

  /// The streams of the copies that conflict with `step` and that it would not come after.
  std::set<size_t> missing(const Step& step) const {
    const Steps mine = after(step);
    std::set<size_t> streams;
    for (size_t i = 0; i < steps.size(); ++i) {
      if (conflict(steps[i], step) && !mine.test(i)) streams.insert(steps[i].stream);
    }
    return streams;
  }

  std::vector<Step> steps;
  bool ordered = true;

 private:
  // What `step` at the end would come after.
  Steps after(const Step& step) const {
    Steps all = host_ | last_[step.stream];
    for (size_t other = 0; other < kStreams && step.kind != Step::synchronize; ++other) {
      if ((step.stream == 0 && blocking(other)) || (blocking(step.stream) && other == 0))
        all |= last_[other];
    }
    return step.kind == Step::wait ? all | recorded_.at(step.event) : all;
  }

  Steps host_;
  Steps last_[kStreams];  // of each stream, with all that its last step comes after
  std::map<size_t, Steps> recorded_;
};

// One that is ordered: before each copy the dependencies that it lacks.
Program make_program(std::mt19937_64& random) {
  const auto draw = [&](size_t below) { return static_cast<size_t>(random() % below); };
  Program program;
  size_t events = 0;
  for (size_t i = 0; i < kCopies; ++i) {
    Step copy{.stream = draw(kStreams), .from = draw(kCells)};
    copy.to = (copy.from + 1 + draw(kCells - 1)) % kCells;
    for (const size_t stream : program.missing(copy)) {
      if (draw(6) == 0) {
        program.add({.kind = Step::synchronize, .stream = stream});
        continue;
      }
      const size_t event = draw(3) == 0 && events > 0 ? draw(events) : events++;  // or record again
      program.add({.kind = Step::record, .stream = stream, .event = event});
      program.add({.kind = Step::wait, .stream = copy.stream, .event = event});
    }
    program.add(copy);
    // An event that was never recorded orders nothing.
    if (draw(8) == 0) program.add({.kind = Step::wait, .stream = draw(kStreams), .event = events});
  }
  return program;
}

// Runs it; what is ordered is clean and comes to what the order of the calls comes to.
void run(const Program& program, uint64_t seed) {
  SCOPED_TRACE("seed " + std::to_string(seed));
  World world(schedule(static_cast<Schedule>(seed % 3), seed));
  std::vector<void*> cells;
  std::vector<Bytes> expected;
  for (size_t i = 0; i < kCells; ++i) {
    cells.push_back(world.sim.managed_alloc(kCell));  // of the host and of the device
    expected.push_back(pattern(kCell, static_cast<uint8_t>(40 * i)));
    world.sim.write(cells[i], expected[i]);
  }
  const CUstream streams[kStreams] = {CU_STREAM_LEGACY, CU_STREAM_PER_THREAD,
                                      world.stream(CU_STREAM_DEFAULT), world.stream(),
                                      world.stream()};
  std::vector<CUevent> events;
  for (const Step& step : program.steps) {
    const CUstream stream = streams[step.stream];
    while (events.size() <= step.event) events.push_back(world.event());
    switch (step.kind) {
      case Step::copy:
        world.copy(cells[step.to], cells[step.from], kCell, stream);
        expected[step.to] = expected[step.from];
        break;
      case Step::record:
        EXPECT_CUDA(world.api.event_record(events[step.event], stream));
        break;
      case Step::wait:
        EXPECT_CUDA(world.api.stream_wait_event(stream, events[step.event], 0));
        break;
      case Step::synchronize:
        world.sim.synchronize(stream);
        break;
    }
  }
  for (const CUstream stream : streams) EXPECT_CUDA(world.api.stream_synchronize(stream));
  EXPECT_EQ(world.sim.complaint().empty(), program.ordered) << world.sim.complaint();
  for (size_t i = 0; i < kCells && program.ordered; ++i)
    EXPECT_EQ(world.read(cells[i], kCell), expected[i]);
}

constexpr uint64_t kPrograms = 1000;

TEST(SimPrograms, OrderedRunClean) {
  for (uint64_t seed = 1; seed <= kPrograms && !HasFailure(); ++seed) {
    std::mt19937_64 random(seed);
    const Program program = make_program(random);
    EXPECT_TRUE(program.ordered);
    run(program, seed);
  }
}

TEST(SimPrograms, MissingOrderIsReported) {
  uint64_t broken = 0;
  uint64_t redundant = 0;
  for (uint64_t seed = 1; seed <= kPrograms && !HasFailure(); ++seed) {
    std::mt19937_64 random(seed);
    const Program whole = make_program(random);
    std::vector<size_t> waits;
    for (size_t i = 0; i < whole.steps.size(); ++i) {
      const Step::Kind kind = whole.steps[i].kind;
      if (kind == Step::wait || kind == Step::synchronize) waits.push_back(i);
    }
    const size_t dropped = waits.at(random() % waits.size());
    Program program;
    for (size_t i = 0; i < whole.steps.size(); ++i) {
      if (i != dropped) program.add(whole.steps[i]);
    }
    ++(program.ordered ? redundant : broken);
    run(program, seed);
  }
  EXPECT_GT(broken, kPrograms / 2);
  EXPECT_GT(redundant, kPrograms / 10);
}

}  // namespace
}  // namespace dlbridge::cuda_sim
