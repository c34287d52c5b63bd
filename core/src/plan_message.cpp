// The words for plans: every refusal names field, found, expected, and the call that works.
#include <cstdio>
#include <string>

#include "dlbridge/layout.h"
#include "dlbridge/plan.h"
#include "dlbridge/staging_backend.h"

namespace dlbridge {
namespace {

using namespace std::string_literals;

std::string_view field_of(ErrorCode code) {
  switch (code) {
#define DLBRIDGE_X(code, field, remedy) \
  case ErrorCode::code:                 \
    return field;
    DLBRIDGE_REASON_CODES(DLBRIDGE_X)
#undef DLBRIDGE_X
    default:
      return "";
  }
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

// What was found, as a clause. `found` is the source's own word for it, where it has one.
std::string finding(ErrorCode code, const TensorView& view, const TargetTraits& target,
                    const Request& request) {
  const std::string found = view.found ? view.found : "";
  const std::string to = title(target);
  const std::string dtype = DType(view.dtype).name();
  const std::string device = Device(view.device).name();
  switch (code) {
    case ErrorCode::undefined_tensor:
      return "the tensor is undefined; expected one with memory";
    case ErrorCode::masked_array:
      return "x is a MaskedArray, whose mask would be lost; expected a plain array";
    case ErrorCode::writeback_if_copy:
      return "x has WRITEBACKIFCOPY set: it is a temporary that is written back later; expected "
             "the array itself";
    case ErrorCode::sparse_layout:
      return "layout is sparse; expected strided memory";
    case ErrorCode::nested_tensor:
      return "x is a nested tensor; expected one strided tensor";
    case ErrorCode::quantized_tensor:
      return "x is quantised; its scale and zero point would be lost";
    case ErrorCode::mkldnn_layout:
      return "layout is mkldnn; expected strided memory";
    case ErrorCode::fake_tensor:
      return "x is a tensor without memory of its own (FakeTensor or another __torch_dispatch__ "
             "subclass)";
    case ErrorCode::functorch_tensor:
      return "x is wrapped by a functorch transform (vmap, grad, jvp); expected a plain tensor";
    case ErrorCode::functional_tensor:
      return "x is wrapped by functionalization; expected a plain tensor";
    case ErrorCode::meta_tensor:
      return "device is meta, which has no memory; expected a tensor with data";
    case ErrorCode::unsupported_keys:
      return "x has dispatch keys beyond those of a dense CPU or CUDA tensor" +
             (found.empty() ? "" : " (" + found + ")");
    case ErrorCode::symbolic_shape:
      return "shape is symbolic; expected concrete sizes";
    case ErrorCode::storage_inaccessible:
      return "the storage refuses access to its data";
    case ErrorCode::storage_too_small:
      return "the storage is smaller than the tensor's shape and strides reach; expected one that "
             "holds all of it";
    case ErrorCode::requires_grad:
      return "x requires grad; sharing it would let writes pass autograd by";
    case ErrorCode::copy_forbidden: {
      if (request.into_existing) return "copy=False forbids the copy that out= names";
      if (request.device && !Device::same_place(*request.device, view.device))
        return "copy=False forbids the staging from " + device + " to " +
               Device(*request.device).name() + " that device= names";
      return "copy=False forbids the cast from " + dtype + " to " + DType(*request.dtype).name() +
             " that dtype= names";
    }
    case ErrorCode::no_staging:
      if (casts_on_device(view, request)) {
        return "device is " + device + ", and a cast to " + DType(*request.dtype).name() +
               " was asked for; dlbridge casts in host memory only";
      }
      return "device is " + device + ", " +
             (request.device ? Device(*request.device).name() + " was" : "a copy on it was"s) +
             " asked for, and nothing can be staged between them here";
    case ErrorCode::unsupported_device:
      return "device is " + (request.device ? Device(*request.device).name() : device) +
             ", which " + to + " does not hold";
    case ErrorCode::device_not_named:
      return "device is " + device + "; " + to + " arrays live in host memory";
    case ErrorCode::unsupported_dtype: {
      const bool named =
          request.dtype && !target.dtypes.contains(*request.dtype) && !view.reasons.has(code);
      return "dtype is " +
             (named           ? DType(*request.dtype).name()
              : found.empty() ? dtype
                              : found) +
             ", which " + to + " cannot share";
    }
    case ErrorCode::missing_ml_dtypes:
      return "dtype is " + dtype + ", which NumPy has only with the package ml_dtypes";
    case ErrorCode::too_many_dimensions:
      return "ndim is " + std::to_string(view.ndim) + "; " + to + " has at most " +
             std::to_string(target.max_ndim) + " dimensions";
    case ErrorCode::float4_odd_extent:
      return "the last extent is " +
             (view.ndim > 0 ? std::to_string(view.shape[view.ndim - 1]) : "absent"s) +
             "; torch packs two float4 in a byte and needs an even one";
    case ErrorCode::float4_packing:
      return DType(view.dtype) == kFloat4Pair
                 ? "dtype is float4_e2m1fn_x2, two elements in a byte; ml_dtypes keeps one in a "
                   "byte"
                 : "dtype is float4_e2m1fn, one element in a byte; torch packs two in a byte";
    case ErrorCode::packed_subbyte:
      return "dtype is " + dtype + ", packed below a byte; " + to + " keeps one element in a byte";
    case ErrorCode::byte_order:
      return "dtype is in foreign byte order; expected native";
    case ErrorCode::stride_not_multiple:
      return "a stride is no multiple of the element's " + std::to_string(view.itemsize()) +
             " bytes; DLPack counts strides in elements";
    case ErrorCode::negative_stride: {
      const int32_t dim = negative_stride_dimension(view);
      return "stride in dimension " + std::to_string(dim) + " is " +
             std::to_string(view.strides[dim]) + " elements; " + holder(target) +
             " has no negative strides";
    }
    case ErrorCode::overlap:
      return "strides let elements overlap in writable memory; " + to +
             " would compute wrong values";
    case ErrorCode::misaligned:
      return "data is at " + address_text(view.data) + "; " + dtype + " needs alignment to " +
             std::to_string(view.itemsize() >= 16 ? 16 : view.itemsize()) + " bytes";
    case ErrorCode::conj_bit:
      return "the conj bit is set: the memory holds the conjugate";
    case ErrorCode::neg_bit:
      return "the neg bit is set: the memory holds the negative";
    case ErrorCode::zero_tensor:
      return "x is a zero tensor without memory";
    case ErrorCode::copy_on_write:
      return "the storage is copy-on-write: a shared view would see or cause the copy";
    case ErrorCode::read_only:
      return "the memory is read-only; " + holder(target) + " cannot promise not to write";
    default:
      return std::string(name(code));
  }
}

// The call that works.
std::string remedy(ErrorCode code, const TensorView& view, const TargetTraits& target,
                   const Request& request, int64_t bytes) {
  switch (code) {
    case ErrorCode::masked_array:
      return "pass x.filled(value)";
    case ErrorCode::writeback_if_copy:
      return "pass x.copy()";
    case ErrorCode::sparse_layout:
    case ErrorCode::mkldnn_layout:
      return "pass x.to_dense()";
    case ErrorCode::nested_tensor:
      return "pass torch.nested.to_padded_tensor(x, padding)";
    case ErrorCode::quantized_tensor:
      return "pass x.dequantize() or x.int_repr()";
    case ErrorCode::fake_tensor:
    case ErrorCode::functorch_tensor:
    case ErrorCode::functional_tensor:
      return "convert before the mode or transform begins, or after it ends";
    case ErrorCode::meta_tensor:
      return "pass torch.empty_like(x, device=\"cpu\") or the real tensor";
    case ErrorCode::unsupported_keys:
      return "pass a dense tensor, such as x.to_dense() or x.clone()";
    case ErrorCode::undefined_tensor:
      return "pass a defined tensor";
    case ErrorCode::symbolic_shape:
      return "convert outside of tracing";
    case ErrorCode::storage_inaccessible:
      return "pass x.clone() taken where its data may be read";
    case ErrorCode::storage_too_small:
      return "give it a shape that fits first, such as x.set_(x.untyped_storage(), 0, shape)";
    case ErrorCode::requires_grad:
      return "pass x.detach()";
    case ErrorCode::copy_forbidden:
      return "leave copy= out, or pass copy=None";
    case ErrorCode::no_staging:
      if (casts_on_device(view, request))
        return "cast it with its own framework first, such as x.to(dtype) or x.astype(dtype)";
      if (!request.device) return "let its own framework copy it first, such as x.clone()";
      return "move it with its own framework first, such as dlbridge.to_torch(x).to(\"" +
             Device(*request.device).name() + "\")";
    case ErrorCode::unsupported_device:
      return target.host_only ? "leave device= out, or pass device=\"cpu\""
                              : "move it with its own framework first";
    case ErrorCode::device_not_named:
      return "pass device=\"cpu\" to stage " + byte_text(bytes) +
             (find_staging(view.device, Device(DeviceType::cpu))
                  ? ""
                  : " (which needs a CUDA module that can be used here: tensor.cpu() copies, too)");
    case ErrorCode::unsupported_dtype:
      if (view.reasons.has(code))
        return "convert it with its own framework first, such as x.astype(...) or x.to(...)";
      if (DType(view.dtype).code() == TypeCode::float4_e2m1fn && request.dtype)
        return "leave dtype= out, pass copy=None to repack it, and cast the result";
      if (request.dtype && target.dtypes.contains(*request.dtype) && !request.source_casts)
        return "convert it with its own framework first; its producer offers no cast here";
      return "pass a dtype= that " + title(target) + " has, to cast";
    case ErrorCode::missing_ml_dtypes:
      return "install ml_dtypes, or pass dtype=\"float32\" to cast";
    case ErrorCode::packed_subbyte:
      return "unpack it with its own framework first";
    case ErrorCode::too_many_dimensions:
      return "reshape it to fewer dimensions";
    case ErrorCode::float4_odd_extent:
      return "pad the last dimension to an even extent";
    default:
      return "pass copy=None to copy " + byte_text(bytes);
  }
}

}  // namespace

Error refusal(const TensorView& view, const TargetTraits& target, const Request& request,
              const Plan& plan) {
  const ErrorCode code = plan.reasons.first();
  return Error(code, std::string(field_of(code)),
               finding(code, view, target, request) + ": " +
                   remedy(code, view, target, request, plan.bytes));
}

std::string describe(const TensorView& view, const TargetTraits& target, const Request& request,
                     const Plan& plan) {
  if (plan.verdict == Verdict::refuse) return refusal(view, target, request, plan).what();
  if (plan.verdict == Verdict::share) {
    std::string text = "shares " + byte_text(view.nbytes()) + " at " + address_text(view.data);
    if (view.access == Access::unknown)
      text += "; whether they are read-only is unknown (a legacy capsule cannot say)";
    return text;
  }
  std::string text;
  for (const std::string& step : path(view, request, plan))
    text += (text.empty() ? "" : ", ") + step;
  text += ": " + byte_text(plan.bytes);
  if (!plan.reasons.empty())
    text += ", because " + finding(plan.reasons.first(), view, target, request);
  return text;
}

std::vector<std::string> path(const TensorView& view, const Request& request, const Plan& plan) {
  switch (plan.verdict) {
    case Verdict::refuse:
      return {};
    case Verdict::share:
      return {"share"};
    case Verdict::copy:
      return {Device(view.device).is_host() ? "host copy"
                                            : "copy on " + Device(view.device).name()};
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
    steps.insert(first ? steps.begin() : steps.end(), "cast to " + DType(*request.dtype).name());
  }
  return steps;
}

}  // namespace dlbridge
