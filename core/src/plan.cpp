// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/plan.h"

#include <array>
#include <limits>

#include "dlbridge/layout.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge {
namespace {

// The kinds of remedies in reasons.def.
enum class Remedy { never, copy, dtype, device };

constexpr ReasonSet reasons_with_remedy(Remedy wanted) {
  ReasonSet set;
#define DLBRIDGE_REASON(code, fields, kind, ...) \
  if (Remedy::kind == wanted) set.add(ErrorCode::code);
#include "dlbridge/detail/reasons.def"
  return set;
}

constexpr ReasonSet kRemediedByCopy = reasons_with_remedy(Remedy::copy);
constexpr ReasonSet kRemediedByCast = reasons_with_remedy(Remedy::dtype);
// Those whose remedy makes a copy of a known size.
constexpr ReasonSet kRemedyCopies =
    kRemediedByCopy | reasons_with_remedy(Remedy::device) | ErrorCode::copy_forbidden;

ReasonSet float4_reasons(const TensorView& view, const TargetTraits& target) noexcept {
  const DType type(view.dtype);
  if (target.float4 == Float4::both) return {};
  // First: it makes a target that lacks the package try to load it.
  if (target.dtypes_missing.contains(kFloat4Padded)) return ErrorCode::missing_ml_dtypes;
  if (type == kFloat4Pair) {
    if (target.float4 == Float4::pairs) return {};
    if (target.float4 == Float4::padded) return ErrorCode::float4_packing;
  }
  if (type == kFloat4Padded && view.subbyte_padded) {
    if (target.float4 == Float4::padded) return {};
    if (target.float4 == Float4::pairs) {
      const bool even = view.ndim > 0 && view.shape[view.ndim - 1] % 2 == 0;
      return even ? ErrorCode::float4_packing : ErrorCode::float4_odd_extent;
    }
  }
  return ErrorCode::unsupported_dtype;
}

ReasonSet dtype_reasons(const TensorView& view, const TargetTraits& target) noexcept {
  const DType type(view.dtype);
  if (target.dtypes.contains(type)) [[likely]] {
    if (type.is_subbyte() && !view.subbyte_padded && !target.packed_subbyte)
      return ErrorCode::packed_subbyte;
    return {};
  }
  if (type.code() == TypeCode::float4_e2m1fn) return float4_reasons(view, target);
  if (target.every_dtype && type.is_known()) return {};
  if (target.dtypes_missing.contains(type)) return ErrorCode::missing_ml_dtypes;
  return ErrorCode::unsupported_dtype;
}

// Whether a call may name this type.
bool can_hold(DType type, const TargetTraits& target) noexcept {
  return target.dtypes.contains(type) || (target.every_dtype && type.is_known());
}

ReasonSet access_reasons(const TensorView& view, const TargetTraits& target,
                         OnWrite on_write) noexcept {
  if (view.access != Access::read_only || target.read_only) return {};
  if (on_write == OnWrite::unset || !Device(view.device).is_host()) return ErrorCode::read_only;
  const bool held = on_write == OnWrite::raise ? target.raises_on_write : target.copies_on_write;
  return held ? ReasonSet{} : ErrorCode::on_write_unsupported;
}

ReasonSet layout_reasons(const TensorView& view, const TargetTraits& target,
                         OnWrite on_write) noexcept {
  const bool written = view.access != Access::read_only || on_write == OnWrite::copy;
  ReasonSet reasons;
  if (!is_contiguous(view)) {
    if (!target.negative_strides && negative_stride_dimension(view) >= 0)
      reasons.add(ErrorCode::negative_stride);
    if (!target.zero_strides && broadcast_dimension(view) >= 0) reasons.add(ErrorCode::overlap);
    if (!target.partial_overlap && written && has_partial_overlap(view))
      reasons.add(ErrorCode::overlap);
  }
  if (!target.misaligned && !is_aligned(view) && view.size() != 0) [[unlikely]]
    reasons.add(ErrorCode::misaligned);
  return reasons;
}

// INT64_MAX where the product does not fit: broadcast dimensions can have any size.
int64_t saturated_product(int64_t count, int64_t bytes) noexcept {
  int64_t product = 0;
  return __builtin_mul_overflow(count, bytes, &product) ? std::numeric_limits<int64_t>::max()
                                                        : product;
}

int64_t result_bytes(const TensorView& view, const TargetTraits& target, const Request& request,
                     bool casts) noexcept {
  if (casts) return saturated_product(view.size(), DType(*request.dtype).itemsize());
  const DType type(view.dtype);
  if (type == kFloat4Padded && target.float4 == Float4::pairs) return view.size() / 2;
  if (type == kFloat4Pair && target.float4 == Float4::padded)
    return saturated_product(view.size(), 2);
  return view.nbytes();
}

// The common case of a copy or cast in host memory: there is no reason against sharing either.
bool copies_plainly(const TensorView& view, const TargetTraits& target, const Request& request,
                    bool casts) noexcept {
  const bool named = casts
                         ? request.copy != CopyMode::never && target.dtypes.contains(*request.dtype)
                         : request.copy == CopyMode::always;
  return named && !request.device && !request.row_major && !request.into_existing &&
         view.device.device_type == kDLCPU && detail::is_plainly_shareable(view, target);
}

}  // namespace

std::string_view name(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::share:
      return "share";
    case Verdict::copy:
      return "copy";
    case Verdict::cast:
      return "cast";
    case Verdict::stage:
      return "stage";
    case Verdict::refuse:
      return "refuse";
  }
  return "unknown";
}

bool detail::is_permuted_plain_layout(const TensorView& view) noexcept {
  constexpr int32_t kMost = 8;
  std::array<int64_t, kMost> extents;
  std::array<int64_t, kMost> strides;
  TensorView sorted = view;  // longest stride first
  sorted.ndim = 0;
  sorted.shape = extents.data();
  sorted.strides = strides.data();
  for (int32_t i = 0; i < view.ndim; ++i) {
    if (view.shape[i] == 1) continue;
    if (sorted.ndim == kMost) return false;
    int32_t place = sorted.ndim++;
    for (; place > 0 && strides[place - 1] < view.strides[i]; --place) {
      strides[place] = strides[place - 1];
      extents[place] = extents[place - 1];
    }
    strides[place] = view.strides[i];
    extents[place] = view.shape[i];
  }
  return is_plain_layout(sorted);
}

Plan detail::plan_slow(const TensorView& view, const TargetTraits& target,
                       const Request& request) noexcept {
  Plan result;
  result.casts = request.dtype && !(DType(*request.dtype) == DType(view.dtype));
  if (copies_plainly(view, target, request, result.casts)) {
    result.verdict = result.casts ? Verdict::cast : Verdict::copy;
    result.bytes = result_bytes(view, target, request, result.casts);
    return result;
  }
  ReasonSet reasons = view.reasons;
  const bool reorders = request.row_major && !is_contiguous(view);
  result.stages = request.device && !Device::same_place(*request.device, view.device);

  if (view.ndim > target.max_ndim) reasons.add(ErrorCode::too_many_dimensions);
  // A reason of the source means that the view has no dtype of its own.
  if (!reasons.has(ErrorCode::unsupported_dtype)) reasons.add(dtype_reasons(view, target));
  if (result.stages) {
    if (!target.accepts_device(*request.device)) reasons.add(ErrorCode::unsupported_device);
    if (!find_staging(view.device, *request.device)) reasons.add(ErrorCode::no_staging);
  } else if (!target.accepts_device(view.device)) {
    reasons.add(target.host_only ? ErrorCode::device_not_named : ErrorCode::unsupported_device);
  }
  reasons.add(access_reasons(view, target, request.on_write));
  reasons.add(layout_reasons(view, target, request.on_write));

  if (reasons.empty() && request.copy <= CopyMode::if_needed && !request.into_existing &&
      !result.casts && !result.stages && !reorders) [[likely]] {
    return result;
  }

  const bool makes_memory = result.casts || result.stages || request.into_existing || reorders;
  const bool repacks = reasons.has(ErrorCode::float4_packing) && !result.casts && !result.stages &&
                       !request.into_existing;
  if (makes_memory) reasons = reasons.without(kRemediedByCopy);
  if (reorders && repacks) reasons.add(ErrorCode::float4_packing);  // still to be done
  if (result.casts) {
    if (request.source_casts && (view.castable || !view.reasons.has(ErrorCode::unsupported_dtype)))
      reasons = reasons.without(kRemediedByCast);
    const bool float4 = DType(view.dtype).code() == TypeCode::float4_e2m1fn;  // has no casts
    if (float4 || !can_hold(*request.dtype, target)) {
      reasons.add(target.dtypes_missing.contains(*request.dtype) ? ErrorCode::missing_ml_dtypes
                                                                 : ErrorCode::unsupported_dtype);
    }
  }
  if (makes_memory && request.copy == CopyMode::never) reasons.add(ErrorCode::copy_forbidden);
  // A copy that stays on its device needs the module that can copy there; casts are made on the
  // host alone.
  const bool copies = makes_memory || request.copy == CopyMode::always ||
                      (request.copy == CopyMode::if_needed && !reasons.empty());
  if (copies && !result.stages && target.accepts_device(view.device) &&
      !Device(view.device).is_host() && (result.casts || !find_staging(view.device, view.device)))
    reasons.add(ErrorCode::no_staging);

  result.reasons = reasons;
  result.bytes = result_bytes(view, target, request, result.casts);
  const bool copy_named = makes_memory || request.copy >= CopyMode::if_needed;
  if (!reasons.without(copy_named ? kRemediedByCopy : ReasonSet{}).empty()) {
    result.verdict = Verdict::refuse;
    const bool has_dtype = result.casts || !view.reasons.has(ErrorCode::unsupported_dtype);
    if (!has_dtype || !kRemedyCopies.has(reasons.first())) result.bytes = 0;
  } else if (result.stages) {
    result.verdict = Verdict::stage;
  } else if (result.casts) {
    result.verdict = Verdict::cast;
  } else {
    result.verdict = Verdict::copy;
  }
  return result;
}

const TargetTraits& neutral_traits() noexcept {
  static const TargetTraits traits = [] {
    TargetTraits t;
    t.name = "dlpack";
    for (int code = 0; code < 32; ++code) {
      for (const int bits : {8, 16, 32, 64, 128}) {
        const DType type(static_cast<TypeCode>(code), bits);
        if (type.is_known()) t.dtypes.add(type);  // the common ones are found at once
      }
    }
    t.max_ndim = std::numeric_limits<int32_t>::max();
    t.negative_strides = t.zero_strides = t.partial_overlap = true;
    t.read_only = t.misaligned = t.packed_subbyte = t.every_dtype = true;
    t.float4 = Float4::both;
    t.devices = ~0u;
    return t;
  }();
  return traits;
}

}  // namespace dlbridge
