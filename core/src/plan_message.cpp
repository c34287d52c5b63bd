// SPDX-License-Identifier: Apache-2.0
// The texts of plans: every refusal names field, found, expected, and the call that works.
#include <algorithm>
#include <cassert>
#include <cstdio>
#include <string>

#include "dlbridge/layout.h"
#include "dlbridge/plan.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge {
namespace {

using namespace std::string_literals;

// The texts of a reason: its row in reasons.def.
struct Row {
  std::string_view fields;
  const char* finding;
  const char* remedy;
};

constexpr Row kRows[] = {
#define DLBRIDGE_REASON(code, fields, kind, finding, remedy) {fields, finding, remedy},
#include "dlbridge/detail/reasons.def"
};

const Row& row_of(ErrorCode code) {
  assert(code < ErrorCode::reason_count_);
  return kRows[std::min(static_cast<size_t>(code), std::size(kRows) - 1)];
}

std::string byte_text(int64_t bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB"};
  if (bytes < 1000) return std::to_string(bytes) + " bytes";
  double value = static_cast<double>(bytes) / 1000;
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %s", value, kUnits[unit]);
  return text;
}

std::string address_text(const void* data) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", data);
  return text;
}

// "torch", "NumPy" …: how a sentence calls the target. A name that is not ours is said as it is.
std::string title(const TargetTraits& target) {
  if (target.name == "numpy"s) return "NumPy";
  if (target.name == "dlpack"s) return "DLPack";
  return target.name;
}

// What a sentence says of one thing that the target holds.
std::string holder(const TargetTraits& target) {
  return target.name == "torch"s ? "torch.Tensor" : title(target);
}

// Whether a cast is asked for that would have to be made where the memory is, on a device.
bool casts_on_device(const TensorView& view, const Request& request) {
  return request.dtype && !(DType(*request.dtype) == DType(view.dtype)) &&
         !Device(view.device).is_host() &&
         (!request.device || Device::same_place(*request.device, view.device));
}

bool is_float4(const TensorView& view) noexcept {
  return DType(view.dtype).code() == TypeCode::float4_e2m1fn;
}

// The reasons for which a source may know the remedy.
constexpr ReasonSet kRemediedAtSource =
    ReasonSet(ErrorCode::undefined_tensor) | ErrorCode::fake_tensor | ErrorCode::unsupported_dtype;

// The call that works for a dtype that the target lacks.
const char* dtype_remedy(const TensorView& view, const TargetTraits& target,
                         const Request& request) {
  if (request.dtype && is_float4(view)) {
    return view.subbyte_padded || DType(view.dtype) == kFloat4Pair
               ? "pass dlbridge.to_numpy(x, device=\"cpu\", copy=None).astype(dtype)"
               : "unpack it with its own framework first";
  }
  if (request.source_casts || target.dtypes.contains(view.dtype))
    return row_of(ErrorCode::unsupported_dtype).remedy;
  if (view.remedy() != nullptr) return view.remedy();
  return "cast it with its own framework first, to a dtype that {target} has";
}

// What was found, as a clause with words to be filled in.
const char* finding(ErrorCode code, const TensorView& view, const Request& request) {
  switch (code) {
    case ErrorCode::copy_forbidden:
      if (request.into_existing) return "copy=False forbids the copy that out= names";
      if (request.device && !Device::same_place(*request.device, view.device))
        return "copy=False forbids the staging from {device} to {new_device} that device= names";
      if (!request.dtype || DType(*request.dtype) == DType(view.dtype))
        return "copy=False forbids the copy into row-major order that order= names";
      break;
    case ErrorCode::no_staging:
      if (casts_on_device(view, request)) {
        return "device is {device}, and a cast to {new_dtype} was asked for; dlbridge casts in "
               "host memory only";
      }
      if (!request.device)
        return "device is {device}, and a copy on it was asked for; nothing here copies there";
      break;
    case ErrorCode::unsupported_dtype:
      if (request.dtype && is_float4(view)) return "dtype is {dtype}, which dlbridge does not cast";
      break;
    case ErrorCode::float4_packing:
      if (DType(view.dtype) == kFloat4Pair)
        return "dtype is float4_e2m1fn_x2, two elements in a byte; ml_dtypes keeps one in a byte";
      break;
    default:
      break;
  }
  return row_of(code).finding;
}

const char* read_only_remedy(const TensorView& view, const TargetTraits& target) {
  if (!target.raises_on_write || !Device(view.device).is_host())
    return row_of(ErrorCode::read_only).remedy;
  if (view.reasons.empty() && view.remedy() != nullptr) return view.remedy();
  return "pass on_write=\"raise\" to share it all the same, or pass copy=None to copy {bytes}";
}

// The call that works, with words to be filled in.
const char* remedy(ErrorCode code, const TensorView& view, const TargetTraits& target,
                   const Request& request) {
  const bool at_source = view.reasons.has(code) && kRemediedAtSource.has(code);
  // A target of every dtype is one whose functions take no dtype=.
  if (at_source && view.remedy() != nullptr && (!view.castable || target.every_dtype))
    return view.remedy();
  switch (code) {
    case ErrorCode::no_staging:
      if (casts_on_device(view, request))
        return "cast it with its own framework first, such as x.to(dtype) or x.astype(dtype)";
      if (!request.device) return "let its own framework copy it first";
      break;
    case ErrorCode::unsupported_device:
      if (target.host_only) return "leave device= out, or pass device=\"cpu\"";
      break;
    case ErrorCode::device_not_named:
      if (find_staging(view.device, Device(DeviceType::cpu)) == nullptr) {
        return "pass device=\"cpu\" to stage {bytes} where a CUDA module can be used; here let its "
               "own framework copy it to the host";
      }
      break;
    case ErrorCode::unsupported_dtype:
      return dtype_remedy(view, target, request);
    case ErrorCode::read_only:
      return read_only_remedy(view, target);
    case ErrorCode::on_write_unsupported:
      if (target.raises_on_write)
        return "pass on_write=\"raise\", or pass copy=None to copy {bytes}";
      break;
    case ErrorCode::missing_ml_dtypes:
      if (is_float4(view) || !(request.source_casts || target.dtypes.contains(view.dtype)))
        return "install ml_dtypes";
      break;
    default:
      break;
  }
  return row_of(code).remedy;
}

// The dtype that the target does not have, as its source calls it.
std::string found_dtype(const TensorView& view, const TargetTraits& target,
                        const Request& request) {
  if (request.dtype && !target.dtypes.contains(*request.dtype) &&
      (view.castable || !view.reasons.has(ErrorCode::unsupported_dtype)))
    return DType(*request.dtype).name();
  return view.found() != nullptr ? view.found() : DType(view.dtype).name();
}

// What stands for a word in braces.
std::string word_for(std::string_view word, const TensorView& view, const TargetTraits& target,
                     const Request& request, int64_t bytes) {
  const int32_t dim = negative_stride_dimension(view);
  if (word == "dtype") return view.found() != nullptr ? view.found() : DType(view.dtype).name();
  if (word == "found") return found_dtype(view, target, request);
  if (word == "new_dtype") return DType(*request.dtype).name();
  if (word == "device") return Device(view.device).name();
  if (word == "new_device") return Device(request.device ? *request.device : view.device).name();
  if (word == "target") return title(target);
  if (word == "holder") return holder(target);
  if (word == "bytes") return byte_text(bytes);
  if (word == "on_write") return request.on_write == OnWrite::raise ? "raise" : "copy";
  if (word == "ndim") return std::to_string(view.ndim);
  if (word == "max_ndim") return std::to_string(target.max_ndim);
  if (word == "dim") return std::to_string(dim);
  if (word == "stride") return dim < 0 ? "negative" : std::to_string(view.strides[dim]);
  if (word == "last_extent")
    return view.ndim > 0 ? std::to_string(view.shape[view.ndim - 1]) : "absent";
  if (word == "itemsize") return std::to_string(view.itemsize());
  if (word == "alignment") return std::to_string(std::min<int64_t>(view.itemsize(), 16));
  assert(word == "address");
  return address_text(view.data);
}

std::string fill(std::string_view text, const TensorView& view, const TargetTraits& target,
                 const Request& request, int64_t bytes) {
  std::string filled;
  for (size_t open = 0; (open = text.find('{')) != std::string_view::npos;) {
    const size_t close = text.find('}');
    filled += text.substr(0, open);
    filled += word_for(text.substr(open + 1, close - open - 1), view, target, request, bytes);
    text.remove_prefix(close + 1);
  }
  return filled += text;
}

}  // namespace

Error refusal(const TensorView& view, const TargetTraits& target, const Request& request,
              const Plan& plan) {
  const ErrorCode code = plan.reasons.first();
  const std::string_view fields = row_of(code).fields;
  const std::string text =
      finding(code, view, request) + ": "s + remedy(code, view, target, request);
  return Error(code, std::string(fields.substr(0, fields.find(','))),
               fill(text, view, target, request, plan.bytes));
}

std::string describe(const TensorView& view, const TargetTraits& target, const Request& request,
                     const Plan& plan) {
  if (plan.verdict == Verdict::refuse) return refusal(view, target, request, plan).what();
  if (plan.verdict == Verdict::share) {
    std::string text = "shares " + byte_text(view.nbytes()) + " at " + address_text(view.data);
    if (request.on_write != OnWrite::unset && view.access != Access::writable)
      return text + (request.on_write == OnWrite::raise ? "; a write raises"
                                                        : "; the first write copies them");
    if (view.access == Access::unknown)
      text +=
          "; whether they are read-only is unknown (a legacy capsule cannot say): "
          "assume_writable=True says that they are not";
    return text;
  }
  std::string text;
  for (const std::string& step : path(view, request, plan))
    text += (text.empty() ? "" : ", ") + step;
  text += ": " + byte_text(plan.bytes);
  if (!plan.reasons.empty())
    text += ", because " +
            fill(finding(plan.reasons.first(), view, request), view, target, request, plan.bytes);
  return text;
}

std::vector<std::string> path(const TensorView& view, const Request& request, const Plan& plan) {
  const std::string order = request.row_major ? " in row-major order" : "";
  switch (plan.verdict) {
    case Verdict::refuse:
      return {};
    case Verdict::share:
      return {"share"};
    case Verdict::copy:
      return {
          (Device(view.device).is_host() ? "host copy" : "copy on " + Device(view.device).name()) +
          order};
    case Verdict::cast:
    case Verdict::stage:
      break;
  }
  std::vector<std::string> steps;
  if (plan.stages)
    steps.push_back("stage " + Device(view.device).name() + " to " +
                    Device(*request.device).name());
  // Casts are made in host memory: after the staging to it, before the one from it.
  if (plan.casts) {
    const bool first = plan.stages && !Device(*request.device).is_host();
    steps.insert(first ? steps.begin() : steps.end(),
                 "cast to " + DType(*request.dtype).name() + order);
  }
  return steps;
}

}  // namespace dlbridge
