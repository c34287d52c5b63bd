// SharedBytes: the memory of a storage, shared between the storage and every export of it.
#pragma once

#include <ATen/core/Tensor.h>

#include "dlbridge/loan.h"

namespace dlbridge {

/// One share in the bytes behind `storage`. CPU storages are swapped to shared bytes on their first
/// export; shared, mapped and CUDA storages are held as they are. Marks the storage not resizable.
/// Throws std::bad_alloc.
Owner share_storage(c10::StorageImpl& storage);

/// The storage that `origin` came from, if it was made by share_storage and that storage still
/// holds those bytes.
c10::intrusive_ptr<c10::StorageImpl> storage_behind(const Owner& origin) noexcept;

}  // namespace dlbridge
