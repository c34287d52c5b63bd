// SPDX-License-Identifier: Apache-2.0
// PinnedPool against a naive model: random sequences of everything that can be done with it, in
// which the model knows of every block what it may not be used for yet.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>

#include "counting_api.h"
#include "pinned/pool.h"

namespace dlbridge::cuda {
namespace {

using test::CountingApi;
using test::expect_consistent;
using test::TestFences;

constexpr size_t kMiB = size_t{1} << 20;

class Model {
 public:
  explicit Model(uint32_t seed)
      : random_(seed), fences_(api_), pool_(api_.table(), std::ref(fences_), limit_) {}

  void run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      step();
      check();
    }
    finish();
  }

 private:
  enum class Kind { block, result, in_flight, quarantined, leaked };
  struct Entry {
    Kind kind;
    PinnedBlock block;
    Deleter deleter;
    std::byte* data;
    size_t size;
    size_t capacity;
    std::byte pattern;
    std::set<CUevent> tickets;  // those that have not passed
    bool ticketed = false;      // there were any: the pool has to look
    bool fenced = false;        // a fence taken after the release may have passed
  };
  using Entries = std::map<std::byte*, Entry>;

  size_t below(size_t bound) {
    return std::uniform_int_distribution<size_t>(0, bound - 1)(random_);
  }

  size_t random_size() {
    switch (below(10)) {
      case 0:
        return 0;
      case 1:
      case 2:
      case 3:
        return below(2048);
      case 4:
      case 5:
        return below(100 << 10);
      case 6:
      case 7:
        return below(2 * kMiB);
      case 8:
        return below(9 * kMiB);
      default:
        return below(24 * kMiB);
    }
  }

  // Whether the pool may have made the block free.
  static bool may_be_free(const Entry& entry) {
    return entry.tickets.empty() &&
           (entry.kind == Kind::in_flight || (entry.kind == Kind::quarantined && entry.fenced));
  }

  Entries::iterator random_of(std::initializer_list<Kind> kinds) {
    if (entries_.empty()) return entries_.end();
    auto entry = std::next(entries_.begin(), static_cast<ptrdiff_t>(below(entries_.size())));
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (std::find(kinds.begin(), kinds.end(), entry->second.kind) != kinds.end()) return entry;
      if (++entry == entries_.end()) entry = entries_.begin();
    }
    return entries_.end();
  }

  PooledEvent ticket_for(Entry& entry) {
    entry.ticketed = true;
    if (below(3) == 0) return fences_.passed_ticket();
    PooledEvent ticket = fences_.ticket();
    entry.tickets.insert(ticket.get());
    return ticket;
  }

  void step() {
    switch (below(20)) {
      case 0:
      case 1:
      case 2:
      case 3:
      case 4:
      case 5:
        return take(random_size());
      case 6:
      case 7:
        return free();
      case 8:
      case 9:
        return retire();
      case 10:
      case 11:
        return hand_out();
      case 12:
      case 13:
        return give_back();
      case 14:
        return add_ticket();
      case 15:
      case 16:
        return pass_ticket();
      case 17:
        return below(2) == 0 ? hold_fences() : pass_fences();
      case 18:
        return poll_all();
      default:
        if (below(4) == 0) return leak();
        if (below(3) == 0) {
          pool_.trim(below(64 * kMiB));
        } else if (below(2) == 0) {
          reserve(below(20 * kMiB));
        } else {
          limit_ = 16 * kMiB + below(80 * kMiB);
          pool_.set_limit(limit_);
        }
    }
  }

  void reserve(size_t size) {
    try {
      pool_.reserve(size);
    } catch (const Error&) {
      EXPECT_GT(pool_.stats().registered + pinned::whole_pages(size), limit_);
    }
  }

  void take(size_t size) {
    PinnedBlock block = pool_.take(size);
    if (!block) {
      // Refused for a reason: there is no room, or free memory of other sizes takes it.
      if (below(4) != 0) return;
      pool_.trim(0);
      const size_t least = pinned::whole_pages(pinned::capacity_for(size));
      if (pool_.stats().registered + least > limit_) return;
      EXPECT_TRUE(pool_.take(size));
      return;
    }
    std::byte* const data = block.data();
    ASSERT_GE(block.size(), size);
    // Nothing that is in use or may still be written to overlaps.
    auto other = entries_.lower_bound(data);
    if (other != entries_.begin() &&
        std::prev(other)->first + std::prev(other)->second.capacity > data)
      --other;
    while (other != entries_.end() && other->first < data + block.size()) {
      ASSERT_TRUE(may_be_free(other->second)) << "kind " << static_cast<int>(other->second.kind)
                                              << ", " << other->second.tickets.size() << " tickets";
      other = entries_.erase(other);
    }
    const auto pattern = static_cast<std::byte>(below(256));
    std::memset(data, static_cast<int>(pattern), block.size());
    const size_t capacity = block.size();
    entries_.emplace(
        data,
        Entry{Kind::block, std::move(block), {}, data, size, capacity, pattern, {}, false, false});
  }

  void expect_content(const Entry& entry) {
    for (size_t at = 0; at < entry.capacity; at += 61) ASSERT_EQ(entry.data[at], entry.pattern);
    ASSERT_EQ(entry.data[entry.capacity - 1], entry.pattern);
  }

  void free() {
    const auto entry = random_of({Kind::block});
    if (entry == entries_.end()) return;
    expect_content(entry->second);
    if (!entry->second.ticketed) {
      entries_.erase(entry);
    } else {
      entry->second.kind = Kind::in_flight;
      entry->second.block = PinnedBlock();
    }
  }

  void retire() {
    const auto entry = random_of({Kind::block});
    if (entry == entries_.end()) return;
    expect_content(entry->second);
    entry->second.kind = Kind::in_flight;
    PooledEvent ticket;
    if (below(4) > 0) ticket = ticket_for(entry->second);
    std::move(entry->second.block).retire(std::move(ticket));
  }

  void hand_out() {
    const auto entry = random_of({Kind::block});
    if (entry == entries_.end()) return;
    entry->second.kind = Kind::result;
    entry->second.deleter = std::move(entry->second.block).into_deleter();
  }

  void give_back() {
    const auto entry = random_of({Kind::result});
    if (entry == entries_.end()) return;
    expect_content(entry->second);
    entry->second.kind = Kind::quarantined;
    entry->second.fenced = passing_;
    entry->second.deleter.release(entry->second.deleter.context);
  }

  void add_ticket() {
    const auto entry = random_of({Kind::result, Kind::block});
    if (entry == entries_.end()) return;
    const size_t offset = below(entry->second.capacity);
    EXPECT_TRUE(pool_.holds(entry->second.data + offset));
    EXPECT_TRUE(pool_.add_ticket(entry->second.data + offset, ticket_for(entry->second)));
  }

  void pass_ticket() {
    const auto entry = random_of({Kind::result, Kind::block, Kind::in_flight, Kind::quarantined});
    if (entry == entries_.end() || entry->second.tickets.empty()) return;
    fences_.pass(*entry->second.tickets.begin());
    entry->second.tickets.erase(entry->second.tickets.begin());
  }

  void hold_fences() {
    poll_all();  // so that everything that was released until now stands behind a fence that passed
    passing_ = false;
    fences_.hold_fences();
  }

  void pass_fences() {
    passing_ = true;
    fences_.pass_fences();
    for (auto& [data, entry] : entries_) entry.fenced |= entry.kind == Kind::quarantined;
  }

  void leak() {
    const auto entry = random_of({Kind::block});
    if (entry == entries_.end() || entry->second.capacity > kMiB) return;
    std::move(entry->second.block).leak();
    entry->second.kind = Kind::leaked;
    entry->second.tickets.clear();
  }

  // Afterwards the pool and the model agree on every block.
  void poll_all() {
    pool_.poll();
    std::erase_if(entries_, [](const auto& entry) { return may_be_free(entry.second); });
    const PinnedStats stats = pool_.stats();
    EXPECT_EQ(stats.in_flight, sum(Kind::in_flight));
    EXPECT_EQ(stats.quarantined, sum(Kind::quarantined));
  }

  size_t sum(Kind kind) const {
    size_t bytes = 0;
    for (const auto& [data, entry] : entries_) bytes += entry.kind == kind ? entry.capacity : 0;
    return bytes;
  }

  void check() {
    const PinnedStats stats = pool_.stats();
    expect_consistent(stats);
    EXPECT_EQ(stats.registered, api_.registered());
    EXPECT_EQ(stats.owned, sum(Kind::block) + sum(Kind::result));
    EXPECT_EQ(stats.leaked, sum(Kind::leaked));
    EXPECT_LE(stats.in_flight, sum(Kind::in_flight));
    EXPECT_LE(stats.quarantined, sum(Kind::quarantined));
  }

  void finish() {
    for (auto& [data, entry] : entries_) {
      for (const CUevent ticket : entry.tickets) fences_.pass(ticket);
      entry.tickets.clear();
      if (entry.kind == Kind::result) {
        entry.deleter.release(entry.deleter.context);
        entry.kind = Kind::quarantined;
      }
    }
    pass_fences();
    std::erase_if(entries_, [](const auto& entry) { return entry.second.kind == Kind::block; });
    poll_all();
    const PinnedStats stats = pool_.stats();
    EXPECT_EQ(stats.free + stats.leaked, stats.registered);
    // Leaked blocks keep their segments, of which none is larger than the largest request.
    pool_.trim(0);
    const auto leaked = std::ranges::count_if(
        entries_, [](const auto& entry) { return entry.second.kind == Kind::leaked; });
    EXPECT_LE(pool_.stats().registered, 24 * kMiB * static_cast<size_t>(leaked));
  }

  std::mt19937 random_;
  size_t limit_ = 64 * kMiB;
  CountingApi api_;
  TestFences fences_;
  PinnedPool pool_;
  Entries entries_;
  bool passing_ = true;
};

class PinnedPoolModel : public ::testing::TestWithParam<uint32_t> {};

TEST_P(PinnedPoolModel, AgreesWithThePool) { Model(GetParam()).run(1200); }

INSTANTIATE_TEST_SUITE_P(Seeds, PinnedPoolModel, ::testing::Range(1u, 13u));

}  // namespace
}  // namespace dlbridge::cuda
