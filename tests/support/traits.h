// SPDX-License-Identifier: Apache-2.0
// Targets like those of the two frameworks, without the frameworks, so that core's tests need
// neither.
#pragma once

#include "dlbridge/plan.h"

namespace dlbridge::test {

inline void accept(TargetTraits& traits, DeviceType type) {
  traits.devices |= 1u << static_cast<int>(type);
}

/// NumPy: any layout, may be read-only, host memory only, ml_dtypes not loaded.
inline TargetTraits numpy_like() {
  TargetTraits t;
  t.name = "numpy";
  t.max_ndim = 64;
  t.negative_strides = t.zero_strides = t.partial_overlap = t.read_only = t.misaligned = true;
  t.float4 = Float4::padded;
  t.host_only = true;
  accept(t, DeviceType::cpu);
  accept(t, DeviceType::cuda_host);
  for (const char* name : {"bool", "uint8", "int8", "int32", "int64", "float32", "float64"})
    t.dtypes.add(*DType::parse(name));
  t.dtypes_missing.add(*DType::parse("bfloat16"));
  return t;
}

/// torch: writable, aligned, no negative strides; CPU and CUDA.
inline TargetTraits torch_like() {
  TargetTraits t;
  t.name = "torch";
  t.max_ndim = 64;
  t.zero_strides = true;
  t.float4 = Float4::pairs;
  for (DeviceType type : {DeviceType::cpu, DeviceType::cuda, DeviceType::cuda_host})
    accept(t, type);
  for (const char* name : {"bool", "uint8", "int8", "int32", "int64", "float32", "float64",
                           "bfloat16", "complex64", "complex128"})
    t.dtypes.add(*DType::parse(name));
  return t;
}

}  // namespace dlbridge::test
