// SPDX-License-Identifier: Apache-2.0
// runtime/driver.h against cuda.h, where a toolkit is found: numbers, layouts and functions.
#include <gtest/gtest.h>

#include "runtime/cuda_api.h"

#if __has_include(<cuda.h>)

namespace dlbridge {
namespace {

// Macros in cuda.h.
constexpr unsigned kRegister[] = {CU_MEMHOSTREGISTER_PORTABLE, CU_MEMHOSTREGISTER_DEVICEMAP,
                                  CU_MEMHOSTREGISTER_IOMEMORY, CU_MEMHOSTREGISTER_READ_ONLY};
const CUstream kStreams[] = {CU_STREAM_LEGACY, CU_STREAM_PER_THREAD};

}  // namespace
}  // namespace dlbridge

#include <cuda.h>

namespace dlbridge {
namespace {

#define SAME(name) static_assert(static_cast<int>(dlbridge::name) == static_cast<int>(::name))
#define SAME_RESULT(name, number) SAME(name);
DLBRIDGE_CUDA_RESULTS(SAME_RESULT)
SAME(CU_STREAM_CAPTURE_STATUS_NONE);
SAME(CU_STREAM_CAPTURE_STATUS_ACTIVE);
SAME(CU_STREAM_CAPTURE_STATUS_INVALIDATED);
SAME(CU_STREAM_CAPTURE_MODE_GLOBAL);
SAME(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
SAME(CU_STREAM_CAPTURE_MODE_RELAXED);
SAME(CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS);
SAME(CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
SAME(CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME(CU_POINTER_ATTRIBUTE_IS_MANAGED);
SAME(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME(CU_MEMORYTYPE_HOST);
SAME(CU_MEMORYTYPE_DEVICE);
SAME(CU_STREAM_DEFAULT);
SAME(CU_STREAM_NON_BLOCKING);
SAME(CU_EVENT_BLOCKING_SYNC);
SAME(CU_EVENT_DISABLE_TIMING);

#define SAME_MEMBER(type, member)                                              \
  static_assert(offsetof(dlbridge::type, member) == offsetof(::type, member)); \
  static_assert(sizeof(dlbridge::type::member) == sizeof(::type::member))
#define SAME_SIDES(type, member)  \
  SAME_MEMBER(type, src##member); \
  SAME_MEMBER(type, dst##member)
static_assert(sizeof(dlbridge::CUDA_MEMCPY2D) == sizeof(::CUDA_MEMCPY2D));
static_assert(sizeof(dlbridge::CUDA_MEMCPY3D) == sizeof(::CUDA_MEMCPY3D));
SAME_SIDES(CUDA_MEMCPY2D, XInBytes);
SAME_SIDES(CUDA_MEMCPY2D, Y);
SAME_SIDES(CUDA_MEMCPY2D, MemoryType);
SAME_SIDES(CUDA_MEMCPY2D, Host);
SAME_SIDES(CUDA_MEMCPY2D, Device);
SAME_SIDES(CUDA_MEMCPY2D, Pitch);
SAME_MEMBER(CUDA_MEMCPY2D, WidthInBytes);
SAME_MEMBER(CUDA_MEMCPY2D, Height);
SAME_SIDES(CUDA_MEMCPY3D, XInBytes);
SAME_SIDES(CUDA_MEMCPY3D, Z);
SAME_SIDES(CUDA_MEMCPY3D, LOD);
SAME_SIDES(CUDA_MEMCPY3D, MemoryType);
SAME_SIDES(CUDA_MEMCPY3D, Host);
SAME_SIDES(CUDA_MEMCPY3D, Device);
SAME_SIDES(CUDA_MEMCPY3D, Pitch);
SAME_SIDES(CUDA_MEMCPY3D, Height);
SAME_MEMBER(CUDA_MEMCPY3D, WidthInBytes);
SAME_MEMBER(CUDA_MEMCPY3D, Height);
SAME_MEMBER(CUDA_MEMCPY3D, Depth);

// As many parameters, and each as large and as much of a pointer or not: but for addresses of
// devices, which are integers in cuda.h.
template <class Ours, class Theirs>
constexpr bool kSameParameter =
    sizeof(Ours) == sizeof(Theirs) &&
    (std::is_pointer_v<Ours> == std::is_pointer_v<Theirs> || std::is_same_v<Theirs, CUdeviceptr>);
template <class Ours, class Theirs>
constexpr bool kSameFunction = false;
template <class... Ours, class... Theirs>
  requires(sizeof...(Ours) == sizeof...(Theirs))
constexpr bool kSameFunction<CUresult (*)(Ours...), ::CUresult (*)(Theirs...)> =
    (kSameParameter<Ours, Theirs> && ...);
#define DRIVER(member, symbol, parameters) \
  static_assert(kSameFunction<decltype(cuda::CudaApi::member), decltype(&::symbol)>);
#include "runtime/cuda_api.def"
#undef DRIVER

#pragma GCC diagnostic ignored "-Wold-style-cast"
TEST(DriverHeader, AgreesWithTheToolkits) {
  const unsigned theirs[] = {CU_MEMHOSTREGISTER_PORTABLE, CU_MEMHOSTREGISTER_DEVICEMAP,
                             CU_MEMHOSTREGISTER_IOMEMORY, CU_MEMHOSTREGISTER_READ_ONLY};
  for (size_t i = 0; i < std::size(theirs); ++i) EXPECT_EQ(kRegister[i], theirs[i]);
  EXPECT_EQ(kStreams[0], CU_STREAM_LEGACY);
  EXPECT_EQ(kStreams[1], CU_STREAM_PER_THREAD);
}

}  // namespace
}  // namespace dlbridge

#else

TEST(DriverHeader, AgreesWithTheToolkits) {
  GTEST_SKIP() << "no CUDA toolkit was found: no cuda.h";
}

#endif
