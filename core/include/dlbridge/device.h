// SPDX-License-Identifier: Apache-2.0
// Device: a value over DLDevice with names and parsing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "dlbridge/dlpack.h"
#include "dlbridge/export.h"

namespace dlbridge {

/// DLPack's device types as numbers, including those added after DLPack 1.0.
enum class DeviceType : int32_t {
  cpu = 1,
  cuda = 2,
  cuda_host = 3,
  opencl = 4,
  vulkan = 7,
  metal = 8,
  vpi = 9,
  rocm = 10,
  rocm_host = 11,
  ext_dev = 12,
  cuda_managed = 13,
  oneapi = 14,
  webgpu = 15,
  hexagon = 16,
  maia = 17,
  trn = 18,
  tpu = 19,
  tpu_host = 20,
  ascend = 21,
};

/// DLPack's device type and id.
class DLBRIDGE_API Device {
 public:
  constexpr Device(DLDevice value) noexcept
      : type_(static_cast<int32_t>(value.device_type)), id_(value.device_id) {}
  constexpr Device(DeviceType type, int32_t id = 0) noexcept
      : type_(static_cast<int32_t>(type)), id_(id) {}

  constexpr operator DLDevice() const noexcept {
    return DLDevice{static_cast<DLDeviceType>(type_), id_};
  }
  constexpr DeviceType type() const noexcept { return static_cast<DeviceType>(type_); }
  constexpr int32_t id() const noexcept { return id_; }

  /// Whether DLPack's tables define this device type (docs/reference/rules.md#6).
  constexpr bool is_known() const noexcept {
    return type_ >= 1 && type_ <= 21 && type_ != 5 && type_ != 6;
  }

  /// Whether the CPU may read and write it directly: ordinary and pinned memory.
  /// Managed memory is not among them: host access to it needs synchronisation first
  /// (docs/reference/rules.md#75).
  constexpr bool is_host() const noexcept {
    return type() == DeviceType::cpu || type() == DeviceType::cuda_host ||
           type() == DeviceType::rocm_host;
  }

  /// Whether it is memory of a CUDA device, managed memory included.
  constexpr bool is_cuda() const noexcept {
    return type() == DeviceType::cuda || type() == DeviceType::cuda_managed;
  }

  /// Whether `data` is an address, so that a byte_offset can be folded into it. Elsewhere it is an
  /// opaque handle.
  constexpr bool has_addresses() const noexcept {
    return is_host() || type() == DeviceType::cuda || type() == DeviceType::cuda_managed ||
           type() == DeviceType::rocm || type() == DeviceType::oneapi;
  }

  /// "cpu", "cuda:1", "cuda_host"; "device(40, 0)" if unknown. The id is left out for host memory.
  std::string name() const;

  /// Parses "cpu", "cuda" (id 0), "cuda:1" and the like.
  static std::optional<Device> parse(std::string_view text);

  /// Whether a call that names `b` means the memory of `a`: all host memory is "cpu".
  static constexpr bool same_place(Device a, Device b) noexcept {
    if (a.is_host() && b.is_host()) return true;
    return a.type_ == b.type_ && a.id_ == b.id_;
  }

  friend constexpr bool operator==(Device a, Device b) noexcept {
    return a.type_ == b.type_ && a.id_ == b.id_;
  }

 private:
  int32_t type_;
  int32_t id_;
};

}  // namespace dlbridge
