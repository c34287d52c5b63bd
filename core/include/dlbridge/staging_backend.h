// StagingBackend: the interface that a device module implements so that core can move memory it
// cannot reach itself.
//
// A module registers its StagingBackend by an explicit call, never by a static initialiser; core
// never names a device API.
#pragma once

#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// An opaque stream: a device and that device API's own handle (DLPack's numbering where it has
/// one).
struct Stream {
  DLDevice device;
  void* handle;
};

/// Moves bytes between two places. Thread: called from any thread, concurrently.
class DLBRIDGE_API StagingBackend {
 public:
  virtual ~StagingBackend();

  /// Whether this module can move memory from `from` to `to` on this machine, now.
  virtual bool connects(Device from, Device to) const noexcept = 0;

  /// Copies src into dst and returns when dst may be read by the host or used in `stream` order.
  /// Requires: same shape and dtype; both outlive the call. Throws Error; dst is then undefined.
  virtual void copy(const TensorView& src, const TensorView& dst, Stream stream) = 0;
};

/// Makes `backend` known. Borrows: it stays alive until unregistered. The newest is asked first.
DLBRIDGE_API void register_staging(StagingBackend& backend);

/// Forgets `backend`. Unknown ones are ignored.
DLBRIDGE_API void unregister_staging(StagingBackend& backend) noexcept;

/// The StagingBackend that connects the two places, or null.
DLBRIDGE_API StagingBackend* find_staging(Device from, Device to) noexcept;

}  // namespace dlbridge
