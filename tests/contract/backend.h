// SPDX-License-Identifier: Apache-2.0
// Backend: the device that the contract suite runs against, seen through the few things that a test
// needs of one: memory, streams, work that takes as long as the test wants.
//
// One program links one implementation: the simulator's or the real runtime's. Owns what it hands
// out, until its end. Thread: the test's own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "dlbridge/staging_backend.h"

namespace dlbridge::contract {

using Bytes = std::vector<uint8_t>;

class Backend {
 public:
  virtual ~Backend() = default;

  /// The device that memory and streams are on, in use already.
  virtual int32_t device() const = 0;
  /// Another device that is in use, or -1.
  virtual int32_t other_device() const = 0;

  /// Device memory, of another device where one is named. Freed at the end, or by free(), which
  /// requires that all work on it is over.
  virtual void* allocate(size_t bytes, int32_t device) = 0;
  void* allocate(size_t bytes) { return allocate(bytes, device()); }
  virtual void* allocate_managed(size_t bytes) = 0;
  virtual void free(void* memory) = 0;
  /// At once, in no stream's order. Requires: nothing is in flight there.
  virtual void write(void* memory, const Bytes& bytes) = 0;
  virtual Bytes read(const void* memory, size_t bytes) = 0;

  /// One that does not wait for the legacy stream, as frameworks make them.
  virtual Stream make_stream() = 0;
  /// Work of producers and consumers, in stream order. What was read is there after synchronize().
  virtual void enqueue_write(Stream stream, void* memory, Bytes bytes) = 0;
  virtual std::shared_ptr<const Bytes> enqueue_read(Stream stream, const void* memory,
                                                    size_t bytes) = 0;
  /// What is enqueued on `stream` from here on runs after go(). At most one stream at a time.
  virtual void hold(Stream stream) = 0;
  virtual void go() = 0;
  virtual void synchronize(Stream stream) = 0;

  /// The host reads memory that a staging wrote. An implementation that can tells whether that was
  /// in order.
  virtual void host_reads(const void* memory, size_t bytes) = 0;

  /// Waits for everything and ends. Returns what the implementation has against what was done in
  /// the meantime; empty where all was well.
  virtual std::string end() = 0;
};

struct MadeBackend {
  std::unique_ptr<Backend> backend;
  std::string reason;  ///< why there is none: the tests are skipped with it
};
/// Where the device's own order of things can be varied it is drawn from `seed`; 0 is the order in
/// which everything happens as late as it may.
MadeBackend make_backend(uint64_t seed = 0);

}  // namespace dlbridge::contract
