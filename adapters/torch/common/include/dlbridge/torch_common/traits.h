// SPDX-License-Identifier: Apache-2.0
// What a torch.Tensor can hold, for both tiers. Needs no torch header.
#pragma once

#include "dlbridge/plan.h"

namespace dlbridge::torch_common {

/// The element types of torch that DLPack has, one in an item. Pairs of float4 come beside them.
inline constexpr DType kDTypes[] = {
    {TypeCode::boolean, 8},        {TypeCode::uint, 8},
    {TypeCode::uint, 16},          {TypeCode::uint, 32},
    {TypeCode::uint, 64},          {TypeCode::int_, 8},
    {TypeCode::int_, 16},          {TypeCode::int_, 32},
    {TypeCode::int_, 64},          {TypeCode::float_, 16},
    {TypeCode::float_, 32},        {TypeCode::float_, 64},
    {TypeCode::bfloat, 16},        {TypeCode::complex, 32},
    {TypeCode::complex, 64},       {TypeCode::complex, 128},
    {TypeCode::float8_e5m2, 8},    {TypeCode::float8_e5m2fnuz, 8},
    {TypeCode::float8_e4m3fn, 8},  {TypeCode::float8_e4m3fnuz, 8},
    {TypeCode::float8_e8m0fnu, 8},
};

/// What a tensor of a type without operators can be passed as.
constexpr const char* remedy_for_itemsize(int64_t itemsize) noexcept {
  return itemsize == 1   ? "pass x.view(torch.uint8)"
         : itemsize == 2 ? "pass x.view(torch.int16)"
                         : "pass x.view(torch.int32)";
}

/// Said of a tensor over read-only memory, where another one is asked for.
inline constexpr ReasonDetail kGuarded{
    nullptr,
    "use x itself, which guards it, or pass on_write= again, or copy=None to copy {bytes}"};

/// The traits without the dtypes, which depend on torch's version.
inline constexpr TargetTraits kTraitsWithoutDTypes = [] {
  TargetTraits traits;
  traits.name = "torch";
  traits.max_ndim = 64;  // TensorIterator's limit
  traits.zero_strides = true;
  for (DeviceType type :
       {DeviceType::cpu, DeviceType::cuda, DeviceType::cuda_host, DeviceType::cuda_managed})
    traits.devices |= 1u << static_cast<int>(type);
  traits.max_device_id = INT8_MAX;  // what torch counts devices with
  return traits;
}();

}  // namespace dlbridge::torch_common
