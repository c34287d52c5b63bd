// SPDX-License-Identifier: Apache-2.0
// StagingBackend: the interface of a device module, which moves memory that core cannot access.
//
// A module registers its StagingBackend by an explicit call, never by a static initialiser. Core
// calls no device API.
#pragma once

#include <cstdint>

#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// An opaque stream: a device and that device API's own handle (DLPack's numbering where it has
/// one).
struct Stream {
  DLDevice device;
  void* handle;
};

/// DLPack's numbers of CUDA streams.
inline constexpr intptr_t kLegacyStream = 1;
inline constexpr intptr_t kPerThreadStream = 2;  ///< of the calling thread
inline constexpr intptr_t kNoSync = -1;          ///< the caller orders the work itself

/// Copies elements between two devices. Thread: any, concurrently.
class DLBRIDGE_API StagingBackend {
 public:
  virtual ~StagingBackend();

  /// Whether this module can copy from `from` to `to` on this machine now.
  virtual bool connects(Device from, Device to) const noexcept = 0;

  /// Copies src into dst. Returns when the host may read dst or `stream` may use it.
  /// Requires: same shape and dtype; both outlive the call. Throws Error; dst is then undefined.
  virtual void copy(const TensorView& src, const TensorView& dst, Stream stream) = 0;
};

/// Registers `backend`. Borrows: it must live until unregistered. The newest is asked first.
DLBRIDGE_API void register_staging(StagingBackend& backend);

/// Unregisters `backend`. Ignores an unknown one.
DLBRIDGE_API void unregister_staging(StagingBackend& backend) noexcept;

/// The StagingBackend that connects the two devices, or null. Takes a lock.
DLBRIDGE_API StagingBackend* find_staging(Device from, Device to) noexcept;

}  // namespace dlbridge
