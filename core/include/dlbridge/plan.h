// SPDX-License-Identifier: Apache-2.0
// plan: the one decision function. Conversions obey it, explain() prints it.
//
// An adapter describes its target as data (TargetTraits), a caller what it names (Request), a
// source its memory (TensorView with its reasons). plan() answers with codes: it allocates nothing
// and takes a few nanoseconds when sharing is possible. Only where a staging or a copy on a device
// is named does it take a lock, to look up a StagingBackend. refusal() and describe() make the
// texts.
#pragma once

#include <bit>
#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dlbridge/error.h"
#include "dlbridge/export.h"
#include "dlbridge/tensor_view.h"

namespace dlbridge {

/// A set of single-lane data types: one bit for each code (0-31) and width (1, 2, 4, 6, 8 … 128
/// bits).
class DTypeSet {
 public:
  constexpr DTypeSet() noexcept = default;

  constexpr void add(DType type) noexcept {
    if (slot(type) >= 0) masks_[code_of(type)] |= bit_of(type);
  }
  constexpr void remove(DType type) noexcept {
    if (slot(type) >= 0) masks_[code_of(type)] &= static_cast<uint16_t>(~bit_of(type));
  }
  constexpr bool contains(DType type) const noexcept {
    return slot(type) >= 0 && (masks_[code_of(type)] & bit_of(type)) != 0;
  }
  /// contains() for types of whole bytes. Requires: at least 8 bits.
  [[gnu::always_inline]] constexpr bool contains_bytes(DLDataType type) const noexcept {
    const unsigned bits = type.bits;
    return type.lanes == 1 && type.code < 32 && (bits & (bits - 1)) == 0 &&
           (masks_[type.code] >> std::countr_zero(bits) & 1) != 0;
  }

  /// How many slots there are, and the slot of a type: an index for tables beside this set; -1 if
  /// it has none.
  static constexpr int kSlots = 32 * 16;
  [[gnu::always_inline]] static constexpr int slot(DType type) noexcept {
    const auto bits = static_cast<unsigned>(type.bits());
    if (code_of(type) >= 32 || type.lanes() != 1) return -1;
    if ((bits ^ (bits - 1)) <= bits - 1) [[unlikely]]  // not a single bit; no call of popcount
      return bits == 6 ? static_cast<int>(code_of(type) * 16) + width_of(bits) : -1;
    return static_cast<int>(code_of(type) * 16) + std::countr_zero(bits);
  }

 private:
  static constexpr unsigned code_of(DType type) noexcept {
    return static_cast<unsigned>(type.code());
  }
  static constexpr int width_of(unsigned bits) noexcept {
    return bits == 6 ? 8 : std::countr_zero(bits);
  }
  static constexpr uint16_t bit_of(DType type) noexcept {
    return static_cast<uint16_t>(1u << width_of(static_cast<unsigned>(type.bits())));
  }

  uint16_t masks_[32] = {};  // by code; a bit for each width
};

/// How a target stores float4: not at all, one in a byte (ml_dtypes), two in a byte (torch), or
/// either.
enum class Float4 : uint8_t { none, padded, pairs, both };

/// What a target can hold. Its adapter declares it; it does not change while conversions run.
struct TargetTraits {
  const char* name = "";  ///< "torch", "numpy", "dlpack"
  int32_t max_ndim = 0;
  bool negative_strides = false;  ///< accepts negative strides on extents above 1
  bool zero_strides = false;      ///< accepts broadcast dimensions
  bool partial_overlap = false;   ///< computes correctly on writable memory that overlaps itself
  bool read_only = false;         ///< marks memory as read-only
  bool misaligned = false;        ///< accepts data that is not aligned to its element
  bool packed_subbyte = false;    ///< accepts elements below a byte that are not padded
  bool every_dtype = false;       ///< holds any type that DLPack defines
  Float4 float4 = Float4::none;
  DTypeSet dtypes;
  DTypeSet dtypes_missing;             ///< held once an optional package is installed (ml_dtypes)
  uint32_t devices = 0;                ///< bit n: device type n
  uint32_t max_device_id = INT32_MAX;  ///< of devices other than the host
  bool host_only = false;        ///< lives in host memory: others must be staged with device="cpu"
  bool raises_on_write = false;  ///< holds read-only host memory where on_write="raise" is named
  bool copies_on_write = false;  ///< the same for on_write="copy"

  constexpr bool every_layout() const noexcept {
    return negative_strides & zero_strides & partial_overlap;
  }
  constexpr bool accepts_device(DLDevice device) const noexcept {
    const auto type = static_cast<uint32_t>(device.device_type);
    return type < 32 && (devices >> type & 1) != 0 &&
           (static_cast<uint32_t>(device.device_id) <= max_device_id || Device(device).is_host());
  }
};

/// The four states of `copy=`.
enum class CopyMode : uint8_t {
  unset,      ///< share, or refuse
  never,      ///< False: share, or refuse, also where device= or dtype= names a change
  if_needed,  ///< None: share, or copy
  always,     ///< True: copy
};

/// `on_write=`: what a write to a result over read-only memory does.
enum class OnWrite : uint8_t {
  unset,  ///< such memory is shared only with a target that marks it
  raise,  ///< raises
  copy,   ///< copies the memory first
};

/// What the call names.
struct Request {
  CopyMode copy = CopyMode::unset;
  bool into_existing = false;  ///< out= was given: a copy (and a cast to its dtype) is named
  bool row_major = false;      ///< order="C": the result lies row-major, without gaps
  OnWrite on_write = OnWrite::unset;
  bool assume_writable = false;  ///< memory of unknown access may be written
  bool source_casts = false;  ///< the source's framework casts: to the named dtype, if there is one
  std::optional<DLDevice> device;
  std::optional<DLDataType> dtype;

  /// Whether the call shares wherever sharing is possible.
  constexpr bool names_nothing() const noexcept {
    return copy <= CopyMode::if_needed && !into_existing && !row_major && !device && !dtype;
  }
};

enum class Verdict : uint8_t { share, copy, cast, stage, refuse };

/// "share", "copy", "cast", "stage" or "refuse".
DLBRIDGE_API std::string_view name(Verdict verdict) noexcept;

/// What a conversion will do.
struct Plan {
  Verdict verdict = Verdict::share;
  bool casts = false;   ///< the dtype changes
  bool stages = false;  ///< the device changes
  ReasonSet reasons;  ///< refuse: all reasons; copy: why sharing is not possible (empty: asked for)
  int64_t bytes = 0;  ///< written into new memory; 0 when shared. Refused: what the remedy copies,
                      ///< 0 where that is unknown or no copy
};

namespace detail {

/// True if each stride is positive and larger than the reach of the inner dimensions together: no
/// reversed, broadcast or overlapping dimension. False decides nothing.
[[gnu::always_inline]] inline bool is_plain_layout(const TensorView& view) noexcept {
  int64_t reach = 0;
  for (int32_t i = view.ndim - 1; i >= 0; --i) {
    const int64_t extent = view.shape[i];
    if (extent == 1) continue;
    if (extent == 0 || view.strides[i] <= reach) return false;
    // Unsigned: an empty view may have strides of any size, whose reach wraps before the zero
    // comes.
    reach =
        static_cast<int64_t>(static_cast<uint64_t>(reach) + static_cast<uint64_t>(view.strides[i]) *
                                                                static_cast<uint64_t>(extent - 1));
  }
  return true;
}

/// The same for dimensions in any order.
DLBRIDGE_API bool is_permuted_plain_layout(const TensorView& view) noexcept;

/// True in the common case: there is no reason against sharing. False decides nothing.
[[gnu::always_inline]] inline bool is_plainly_shareable(const TensorView& view,
                                                        const TargetTraits& target) noexcept {
  // Every single-lane type of whole bytes in a DTypeSet has a power of two as its size.
  const uintptr_t misaligned =
      reinterpret_cast<uintptr_t>(view.data) & (uintptr_t{view.dtype.bits} / 8 - 1);
  return view.reasons.empty() && view.dtype.bits >= 8 && target.dtypes.contains_bytes(view.dtype) &&
         target.accepts_device(view.device) && view.ndim <= target.max_ndim &&
         (view.access != Access::read_only || target.read_only) &&
         (misaligned == 0 || target.misaligned) &&
         (target.every_layout() || is_plain_layout(view) || is_permuted_plain_layout(view));
}

/// plan(), every case.
DLBRIDGE_API Plan plan_slow(const TensorView& view, const TargetTraits& target,
                            const Request& request) noexcept;

}  // namespace detail

/// Decides what a conversion does. Requires: a validated view, or one of an adapter. Thread: any.
inline Plan plan(const TensorView& view, const TargetTraits& target,
                 const Request& request) noexcept {
  assert(view.ndim == 0 || (view.ndim > 0 && view.shape != nullptr && view.strides != nullptr));
  if (request.names_nothing() && detail::is_plainly_shareable(view, target)) [[likely]]
    return {};
  return detail::plan_slow(view, target, request);
}

/// Whether plan() shares where the call names nothing. For hot paths.
[[gnu::always_inline]] inline bool shares_plainly(const TensorView& view,
                                                  const TargetTraits& target) noexcept {
  return detail::is_plainly_shareable(view, target) ||
         detail::plan_slow(view, target, {}).verdict == Verdict::share;
}

/// The error of a refused plan: field, found, expected, and the call that works. Requires: reasons.
DLBRIDGE_API Error refusal(const TensorView& view, const TargetTraits& target,
                           const Request& request, const Plan& plan);

/// One sentence about a plan.
DLBRIDGE_API std::string describe(const TensorView& view, const TargetTraits& target,
                                  const Request& request, const Plan& plan);

/// The steps a plan takes, in order ("share"; "cast float32"; "stage cuda:0 to cpu"). Empty when
/// refused.
DLBRIDGE_API std::vector<std::string> path(const TensorView& view, const Request& request,
                                           const Plan& plan);

/// What a Loan or a dlbridge.Tensor can hold: everything that a DLPack descriptor can describe.
DLBRIDGE_API const TargetTraits& neutral_traits() noexcept;

}  // namespace dlbridge
