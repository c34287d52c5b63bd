// SPDX-License-Identifier: Apache-2.0
// The C ABI over the C++ core: checks the arguments, makes one call, returns a status.
#include "dlbridge/c_api.h"

#include <algorithm>
#include <bit>

#include "dlbridge/copy.h"
#include "dlbridge/detail/c_boundary.h"
#include "dlbridge/dlpack.h"
#include "dlbridge/layout.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/plan.h"
#include "dlbridge/shared_loan.h"
#include "dlbridge/staging_backend.h"

/// A counted loan and the descriptor that shows it.
struct dlb_tensor final : dlbridge::CountedLoan {
  explicit dlb_tensor(dlbridge::Loan&& taken) noexcept : CountedLoan(std::move(taken)) {
    const dlbridge::TensorView& view = loan().view();
    DLDevice device = view.device;
    if (dlbridge::Device(device).is_host()) device.device_id = 0;  // as an export says it
    descriptor.version = {dlbridge::kDLPackMajor, dlbridge::kDLPackMinor};
    descriptor.flags = view.flags();
    descriptor.dl_tensor = {view.data,      device,           view.ndim,       view.dtype,
                            loan().shape(), loan().strides(), view.byte_offset};
  }

  DLManagedTensorVersioned descriptor{};
};

namespace dlbridge::c_api {
namespace {

static_assert(static_cast<int>(Access::read_only) == DLBRIDGE_ACCESS_READ_ONLY &&
              static_cast<int>(Access::unknown) == DLBRIDGE_ACCESS_UNKNOWN);
static_assert(static_cast<int>(CopyMode::never) == DLBRIDGE_COPY_NEVER &&
              static_cast<int>(CopyMode::if_needed) == DLBRIDGE_COPY_IF_NEEDED &&
              static_cast<int>(CopyMode::always) == DLBRIDGE_COPY_ALWAYS);
static_assert(static_cast<int>(Verdict::share) == DLBRIDGE_SHARE &&
              static_cast<int>(Verdict::copy) == DLBRIDGE_COPY &&
              static_cast<int>(Verdict::cast) == DLBRIDGE_CAST &&
              static_cast<int>(Verdict::stage) == DLBRIDGE_STAGE &&
              static_cast<int>(Verdict::refuse) == DLBRIDGE_REFUSE);
static_assert(static_cast<int>(Float4::padded) == DLBRIDGE_FLOAT4_PADDED &&
              static_cast<int>(Float4::pairs) == DLBRIDGE_FLOAT4_PAIRS &&
              static_cast<int>(Float4::both) == DLBRIDGE_FLOAT4_BOTH);

// All known bits of each set.
constexpr int64_t kAllAccepts = 2 * DLBRIDGE_ACCEPTS_HOST_ONLY - 1;
constexpr int64_t kAllNamed = 2 * DLBRIDGE_NAMED_SOURCE_CASTS - 1;

// Gives `managed` to the loan, and takes it back at the end of the scope: after a failed call the
// caller still owns it. A call that succeeded has moved the deleter out.
class CallerKeeps {
 public:
  template <typename Managed>
  CallerKeeps(Loan& loan, Managed* managed) noexcept : loan_(loan) {
    loan.attach(deleter_of(managed));
  }
  CallerKeeps(const CallerKeeps&) = delete;
  CallerKeeps& operator=(const CallerKeeps&) = delete;
  ~CallerKeeps() { static_cast<void>(loan_.release_deleter()); }

 private:
  Loan& loan_;
};

Access access_of(int32_t access) {
  require_range(access, DLBRIDGE_ACCESS_UNKNOWN, "access");
  return static_cast<Access>(access);
}

TargetTraits traits_of(const dlb_traits* given) {
  if (given == nullptr) return neutral_traits();
  const dlb_traits& traits = sized(given, "dlb_traits");
  require_range(traits.max_ndim, INT32_MAX, "max_ndim");
  require_range(traits.accepts, kAllAccepts, "accepts");
  require_range(traits.float4, DLBRIDGE_FLOAT4_BOTH, "float4");
  require_range(traits.dtype_count, INT32_MAX, "dtype_count");
  require_range(traits.reserved, 0, "reserved");
  if (traits.dtype_count > 0) required(traits.dtypes, "dtypes");
  const auto accepts = [&](uint32_t bit) { return (traits.accepts & bit) != 0; };
  TargetTraits target;
  target.name = traits.name != nullptr ? traits.name : neutral_traits().name;
  target.max_ndim = traits.max_ndim;
  target.negative_strides = accepts(DLBRIDGE_ACCEPTS_NEGATIVE_STRIDES);
  target.zero_strides = accepts(DLBRIDGE_ACCEPTS_ZERO_STRIDES);
  target.partial_overlap = accepts(DLBRIDGE_ACCEPTS_PARTIAL_OVERLAP);
  target.read_only = accepts(DLBRIDGE_ACCEPTS_READ_ONLY);
  target.misaligned = accepts(DLBRIDGE_ACCEPTS_MISALIGNED);
  target.packed_subbyte = accepts(DLBRIDGE_ACCEPTS_PACKED_SUBBYTE);
  target.every_dtype = accepts(DLBRIDGE_ACCEPTS_EVERY_DTYPE);
  target.host_only = accepts(DLBRIDGE_ACCEPTS_HOST_ONLY);
  target.float4 = static_cast<Float4>(traits.float4);
  target.devices = traits.devices;
  for (int32_t i = 0; i < traits.dtype_count; ++i) {
    const DType dtype(traits.dtypes[i]);
    if (DTypeSet::slot(dtype) < 0) {
      throw Error(ErrorCode::invalid_dtype, "dtypes",
                  "dtypes[" + std::to_string(i) + "] is " + dtype.name() +
                      "; expected a single-lane type (pairs of float4: set float4)");
    }
    target.dtypes.add(dtype);
  }
  return target;
}

Request request_of(const dlb_request* given) {
  if (given == nullptr) return {};
  const dlb_request& named = sized(given, "dlb_request");
  require_range(named.copy, DLBRIDGE_COPY_ALWAYS, "copy");
  require_range(named.named, kAllNamed, "named");
  require_range(named.reserved, 0, "reserved");
  Request request;
  request.copy = static_cast<CopyMode>(named.copy);
  request.into_existing = (named.named & DLBRIDGE_NAMED_DESTINATION) != 0;
  request.source_casts = (named.named & DLBRIDGE_NAMED_SOURCE_CASTS) != 0;
  if (named.named & DLBRIDGE_NAMED_DEVICE) {
    if (!Device(named.device).is_known())
      throw Error(ErrorCode::invalid_device, "device",
                  "device is " + Device(named.device).name() + "; expected one DLPack defines");
    request.device = named.device;
  }
  if (named.named & DLBRIDGE_NAMED_DTYPE) {
    if (!DType(named.dtype).is_known())
      throw Error(ErrorCode::invalid_dtype, "dtype",
                  "dtype is " + DType(named.dtype).name() + "; expected one DLPack defines");
    request.dtype = named.dtype;
  }
  return request;
}

template <typename Managed>
dlb_status validate(const Managed* managed) noexcept {
  return guarded([&] {
    Loan loan;
    describe_managed(managed, loan);
  });
}

void write_description(const TensorView& view, dlb_description& out) {
  // What can throw comes first: a failure leaves the caller's struct as it was.
  const std::string dtype_name = DType(view.dtype).name();
  const std::string device_name = Device(view.device).name();
  const bool fits = out.capacity >= view.ndim;
  const bool wanted = out.shape != nullptr || out.strides != nullptr;
  if (fits && out.shape != nullptr) std::copy_n(view.shape, view.ndim, out.shape);
  if (fits && out.strides != nullptr) std::copy_n(view.strides, view.ndim, out.strides);
  out.ndim = view.ndim;
  out.data = view.data;
  out.byte_offset = view.byte_offset;
  out.size = view.size();
  out.nbytes = view.nbytes();
  out.device = view.device;
  out.dtype = view.dtype;
  out.flags = view.flags();
  out.access = static_cast<int32_t>(view.access);
  out.is_contiguous = is_contiguous(view);
  write_text(dtype_name, out.dtype_name, sizeof out.dtype_name);
  write_text(device_name, out.device_name, sizeof out.device_name);
  if (wanted && !fits) {
    throw StatusError(DLBRIDGE_BUFFER_TOO_SMALL, "capacity",
                      "capacity is " + std::to_string(out.capacity) + "; expected at least " +
                          std::to_string(view.ndim) + ", the tensor's ndim");
  }
}

template <typename Managed>
dlb_status describe(const Managed* managed, dlb_description* description) noexcept {
  return guarded([&] {
    dlb_description& out = sized(description, "dlb_description");
    require_range(out.capacity, INT32_MAX, "capacity");
    Loan loan;
    describe_managed(managed, loan);
    write_description(loan.view(), out);
  });
}

// The names of `reasons` in order of precedence; returns how many there are.
int32_t write_reasons(ReasonSet reasons, const char** out, int32_t capacity) noexcept {
  int32_t count = 0;
  for (; !reasons.empty(); ++count) {
    const ErrorCode code = reasons.first();
    if (count < capacity) out[count] = name(code).data();  // a literal: ends with a zero byte
    reasons = reasons.without(code);
  }
  return count;
}

template <typename Managed>
dlb_status plan(const Managed* managed, const dlb_traits* traits, const dlb_request* request,
                dlb_plan_result* result) noexcept {
  return guarded([&] {
    dlb_plan_result& out = sized(result, "dlb_plan_result");
    require_range(out.reasons_capacity, INT32_MAX, "reasons_capacity");
    const TargetTraits target = traits_of(traits);
    const Request named = request_of(request);
    Loan loan;
    describe_managed(managed, loan);
    const Plan decision = dlbridge::plan(loan.view(), target, named);
    std::string message;
    if (out.message != nullptr) {
      message = dlbridge::describe(loan.view(), target, named, decision);
      write_text(message, out.message, out.message_capacity);
    }
    out.message_length = message.size();
    out.reasons_count = write_reasons(decision.reasons, out.reasons,
                                      out.reasons == nullptr ? 0 : out.reasons_capacity);
    out.bytes = decision.bytes;
    out.verdict = static_cast<int32_t>(decision.verdict);
    out.casts = decision.casts;
    out.stages = decision.stages;
    out.reserved = 0;
  });
}

// `access`: what the caller knows of a legacy descriptor.
template <typename Managed>
Loan described(const Managed* managed, std::optional<Access> access = {}) {
  Loan loan;
  describe_managed(managed, loan);
  if (access) loan.view().access = *access;
  return loan;
}

template <typename Managed>
dlb_tensor* adopt(Managed* managed, std::optional<Access> access = {}) {
  Loan loan = described(managed, access);
  const CallerKeeps guard(loan, managed);
  return make_handle(std::move(loan));
}

// The device that the stream of a copy belongs to.
Device stream_device(const TensorView& source, const TensorView& destination) {
  const Device from(source.device);
  return from.is_host() ? Device(destination.device) : from;
}

StagingBackend& staging_between(Device from, Device to) {
  if (StagingBackend* backend = find_staging(from, to)) return *backend;
  throw Error(ErrorCode::no_staging, "device",
              "no registered module copies from " + from.name() + " to " + to.name() +
                  " on this machine: " +
                  (from.is_host() && to.is_host() ? "dlb_copy does" : "register one that does"));
}

}  // namespace

dlb_tensor* make_handle(Loan&& loan) { return new dlb_tensor(std::move(loan)); }

Loan share_handle(dlb_tensor* tensor, const char* field) { return required(tensor, field).share(); }

}  // namespace dlbridge::c_api

using namespace dlbridge;

dlb_status dlb_version(dlb_version_info* info) noexcept {
  return c_api::guarded([&] {
    dlb_version_info& out = c_api::sized(info, "dlb_version_info");
    out.major = DLBRIDGE_VERSION_MAJOR;
    out.minor = DLBRIDGE_VERSION_MINOR;
    out.patch = DLBRIDGE_VERSION_PATCH;
    out.c_api = DLBRIDGE_C_API_VERSION;
    out.dlpack_major = kDLPackMajor;
    out.dlpack_minor = kDLPackMinor;
  });
}

dlb_status dlb_dtype_parse(const char* name, DLDataType* dtype) noexcept {
  return c_api::guarded([&] {
    const std::string text = &c_api::required(name, "name");
    DLDataType& out = c_api::required(dtype, "dtype");
    const std::optional<DType> type = DType::parse(text);
    if (!type) {
      throw Error(ErrorCode::invalid_dtype, "name",
                  "\"" + text + "\" names no data type; expected one such as float32 or bfloat16");
    }
    out = *type;
  });
}

dlb_status dlb_dtype_name(DLDataType dtype, char* buffer, size_t capacity,
                          size_t* length) noexcept {
  return c_api::guarded([&] {
    if (capacity > 0) c_api::required(buffer, "buffer");
    const std::string text = DType(dtype).name();
    c_api::write_text(text, buffer, capacity);
    if (length != nullptr) *length = text.size();
  });
}

dlb_status dlb_validate(const DLManagedTensorVersioned* managed) noexcept {
  return c_api::validate(managed);
}
dlb_status dlb_validate_legacy(const DLManagedTensor* managed) noexcept {
  return c_api::validate(managed);
}

dlb_status dlb_describe(const DLManagedTensorVersioned* managed,
                        dlb_description* description) noexcept {
  return c_api::describe(managed, description);
}
dlb_status dlb_describe_legacy(const DLManagedTensor* managed,
                               dlb_description* description) noexcept {
  return c_api::describe(managed, description);
}

dlb_status dlb_plan(const DLManagedTensorVersioned* managed, const dlb_traits* traits,
                    const dlb_request* request, dlb_plan_result* result) noexcept {
  return c_api::plan(managed, traits, request, result);
}
dlb_status dlb_plan_legacy(const DLManagedTensor* managed, const dlb_traits* traits,
                           const dlb_request* request, dlb_plan_result* result) noexcept {
  return c_api::plan(managed, traits, request, result);
}

dlb_status dlb_copy(const DLManagedTensorVersioned* source,
                    const DLManagedTensorVersioned* destination) noexcept {
  return c_api::guarded([&] {
    const Loan src = c_api::described(source);
    const Loan dst = c_api::described(destination);
    require_copyable(src.view(), dst.view());
    copy_host(src.view(), dst.view());
  });
}

dlb_status dlb_stage(const DLManagedTensorVersioned* source,
                     const DLManagedTensorVersioned* destination, intptr_t stream) noexcept {
  return c_api::guarded([&] {
    const Loan src = c_api::described(source);
    const Loan dst = c_api::described(destination);
    StagingBackend& backend = c_api::staging_between(src.view().device, dst.view().device);
    require_same_elements(src.view(), dst.view());
    backend.copy(src.view(), dst.view(),
                 {c_api::stream_device(src.view(), dst.view()), reinterpret_cast<void*>(stream)});
  });
}

dlb_status dlb_adopt(DLManagedTensorVersioned* managed, dlb_tensor** tensor) noexcept {
  return c_api::make_into(tensor, "tensor", [&] { return c_api::adopt(managed); });
}
dlb_status dlb_adopt_legacy(DLManagedTensor* managed, int32_t access,
                            dlb_tensor** tensor) noexcept {
  return c_api::make_into(tensor, "tensor",
                          [&] { return c_api::adopt(managed, c_api::access_of(access)); });
}

dlb_status dlb_tensor_retain(dlb_tensor* tensor) noexcept {
  return c_api::guarded([&] { static_cast<void>(c_api::required(tensor, "tensor").reference()); });
}

dlb_status dlb_tensor_release(dlb_tensor* tensor) noexcept {
  if (tensor != nullptr) tensor->drop();
  return DLBRIDGE_OK;
}

dlb_status dlb_tensor_borrow(const dlb_tensor* tensor,
                             const DLManagedTensorVersioned** managed) noexcept {
  return c_api::make_into(managed, "managed",
                          [&] { return &c_api::required(tensor, "tensor").descriptor; });
}

dlb_status dlb_export(dlb_tensor* tensor, DLManagedTensorVersioned** managed) noexcept {
  return c_api::make_into(managed, "managed",
                          [&] { return to_managed(c_api::share_handle(tensor, "tensor")); });
}
dlb_status dlb_export_legacy(dlb_tensor* tensor, DLManagedTensor** managed) noexcept {
  return c_api::make_into(managed, "managed",
                          [&] { return to_managed_legacy(c_api::share_handle(tensor, "tensor")); });
}

dlb_status dlb_to_legacy(DLManagedTensorVersioned* managed, DLManagedTensor** legacy) noexcept {
  return c_api::make_into(legacy, "legacy", [&] {
    Loan loan = c_api::described(managed);
    const c_api::CallerKeeps guard(loan, managed);
    return to_managed_legacy(std::move(loan));
  });
}

dlb_status dlb_to_versioned(DLManagedTensor* legacy, int32_t access,
                            DLManagedTensorVersioned** managed) noexcept {
  return c_api::make_into(managed, "managed", [&] {
    Loan loan = c_api::described(legacy, c_api::access_of(access));
    const c_api::CallerKeeps guard(loan, legacy);
    return to_managed(std::move(loan));
  });
}
