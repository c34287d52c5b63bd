// Transfer: the interface that a device module implements so that core can move memory it cannot
// reach itself.
//
// A module registers its Transfer by an explicit call, never by a static initialiser; core never
// names a device API.
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
class DLBRIDGE_API Transfer {
 public:
  virtual ~Transfer();

  /// Whether this module can move memory from `from` to `to` on this machine, now.
  virtual bool connects(Device from, Device to) const noexcept = 0;

  /// Copies src into dst and returns when dst may be read by the host or used in `stream` order.
  /// Requires: same shape and dtype; both outlive the call. Throws Error; dst is then undefined.
  virtual void copy(const TensorView& src, const TensorView& dst, Stream stream) = 0;
};

/// Makes `transfer` known. Borrows: it stays alive until unregistered. The newest is asked first.
DLBRIDGE_API void register_transfer(Transfer& transfer);

/// Forgets `transfer`. Unknown ones are ignored.
DLBRIDGE_API void unregister_transfer(Transfer& transfer) noexcept;

/// The Transfer that connects the two places, or null.
DLBRIDGE_API Transfer* find_transfer(Device from, Device to) noexcept;

}  // namespace dlbridge
