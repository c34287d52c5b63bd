// SPDX-License-Identifier: Apache-2.0
// The Torch adapter: at::Tensor <-> Loan, without a copy and without Python.
//
// A CPU export owns bytes, not a storage: the first export of a storage replaces its DataPtr by one
// that shares the original DataPtr with every export, so the bytes live until the last holder drops
// them, also after share_memory_, pickling, resize_ or set_ of the tensor. Storages in shared
// memory or mapped files, and CUDA storages, whose allocator reads the deleter, are held instead.
// An exported storage is not resizable, as after Tensor.numpy().
//
// Thread: any. Exports of one storage may run concurrently; like every torch accessor they must not
// race with functions that replace the storage's memory.
#pragma once

#include <ATen/core/Tensor.h>

#include "dlbridge/export.h"
#include "dlbridge/loan.h"
#include "dlbridge/plan.h"

namespace dlbridge {

/// What an at::Tensor can hold.
DLBRIDGE_API const TargetTraits& torch_traits() noexcept;

/// Describes `tensor` without access to its memory or reference count. What forbids sharing becomes
/// a reason: dispatch keys outside the allowlist,
/// requires_grad while grad mode is on, copy-on-write, symbolic sizes, a storage that throws.
/// Throws std::bad_alloc.
DLBRIDGE_API void describe(const at::Tensor& tensor, Loan& loan);

/// Makes a described loan an owning one. Requires: no reason against sharing. Throws
/// std::bad_alloc; the loan is then unchanged.
DLBRIDGE_API void acquire(const at::Tensor& tensor, Loan& loan);

/// describe(), then acquire(). Throws Error if there is a reason against sharing.
DLBRIDGE_API Loan share(const at::Tensor& tensor);

/// A tensor over the loan's memory, not resizable; its storage owns the loan. Memory that was
/// exported from a torch storage comes back as that storage, if it still holds the bytes. Negative
/// and zero strides of size-1 dimensions, and all strides of an empty tensor, become canonical
/// ones. When thread-local dispatch state is not the plain one (fake mode, functorch, tracing …)
/// the result passes through at::lift_fresh, as torch.from_numpy's does. Consumes the loan; when
/// this throws, its deleter is called once, at the latest by the loan's destructor.
DLBRIDGE_API at::Tensor to_tensor(Loan&& loan);

/// The same for memory that must not be written: reading operators run on it, and a write raises or
/// copies it once, under a lock; tensors that share the storage follow. The memory stays as long as
/// the storage, for readers that have its address. Memory that came from such a storage, guarded in
/// the same way, comes back as it. Requires: host memory; torch_traits() has `on_write`.
DLBRIDGE_API at::Tensor to_guarded_tensor(Loan&& loan, OnWrite on_write);

/// What on_write="raise" tells of a write, which throws Error (read_only) unless
/// set_write_refusal() was called: with a function that throws, and one that tells whether torch
/// replaces the memory of the storage in place of writing to it (share_memory_). Torch calls
/// neither before 2.13.
DLBRIDGE_API extern const char* const kWriteRefused;
DLBRIDGE_API void set_write_refusal(void (*refuse)(), bool (*is_replaced)() = nullptr) noexcept;

/// A tensor over the original storage, the one that `loan.original` was exported from, if it still
/// holds the loan's bytes; undefined otherwise. to_tensor() tries it first; a caller that tries it
/// before acquire() saves acquire(). Leaves the loan's deleter. Requires: the source of `loan`
/// lives.
DLBRIDGE_API at::Tensor reuse_storage(Loan& loan);

/// A fresh, uninitialised CPU tensor of `dtype` with the shape of `like` and dense strides in the
/// same order; `memory` becomes a borrowed, writable view of it. The tensor must pass through
/// finish_copy() once it is filled.
DLBRIDGE_API at::Tensor empty_tensor(const TensorView& like, DLDataType dtype, Loan& memory);

/// Passes a fresh tensor through at::lift_fresh if the thread's dispatch state is not the plain
/// one.
DLBRIDGE_API at::Tensor finish_copy(at::Tensor&& tensor);

/// Lets torch write the elements of `tensor` into `dst` (same shape, host memory), casting and
/// resolving conj, neg, zero and copy-on-write on the way, outside of autograd and of every
/// dispatch mode. Of complex elements that become real ones it takes the real part, without torch's
/// warning. Throws Error (framework_error).
DLBRIDGE_API void fill_from_tensor(const at::Tensor& tensor, const TensorView& dst);

/// Lets torch cast between two host memories of the same shape, as fill_from_tensor does. Requires:
/// both dtypes are torch's, `src` has no negative strides. Throws Error (framework_error).
DLBRIDGE_API void cast_with_torch(const TensorView& src, const TensorView& dst);

/// The scalar type for a DLPack type, and back; nothing where torch has none.
DLBRIDGE_API std::optional<at::ScalarType> scalar_type_of(DLDataType dtype) noexcept;
DLBRIDGE_API std::optional<DLDataType> dtype_of(at::ScalarType type) noexcept;

}  // namespace dlbridge
