// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/device.h"

#include <array>
#include <charconv>

namespace dlbridge {
namespace {

struct NamedDevice {
  DeviceType type;
  std::string_view name;
};

constexpr std::array kNamedDevices{
    NamedDevice{DeviceType::cpu, "cpu"},
    NamedDevice{DeviceType::cuda, "cuda"},
    NamedDevice{DeviceType::cuda_host, "cuda_host"},
    NamedDevice{DeviceType::opencl, "opencl"},
    NamedDevice{DeviceType::vulkan, "vulkan"},
    NamedDevice{DeviceType::metal, "metal"},
    NamedDevice{DeviceType::vpi, "vpi"},
    NamedDevice{DeviceType::rocm, "rocm"},
    NamedDevice{DeviceType::rocm_host, "rocm_host"},
    NamedDevice{DeviceType::ext_dev, "ext_dev"},
    NamedDevice{DeviceType::cuda_managed, "cuda_managed"},
    NamedDevice{DeviceType::oneapi, "oneapi"},
    NamedDevice{DeviceType::webgpu, "webgpu"},
    NamedDevice{DeviceType::hexagon, "hexagon"},
    NamedDevice{DeviceType::maia, "maia"},
    NamedDevice{DeviceType::trn, "trn"},
    NamedDevice{DeviceType::tpu, "tpu"},
    NamedDevice{DeviceType::tpu_host, "tpu_host"},
    NamedDevice{DeviceType::ascend, "ascend"},
};

}  // namespace

std::string Device::name() const {
  for (const NamedDevice& row : kNamedDevices) {
    if (row.type != type()) continue;
    std::string text(row.name);
    if (!is_host()) text += ":" + std::to_string(id_);
    return text;
  }
  return "device(" + std::to_string(type_) + ", " + std::to_string(id_) + ")";
}

std::optional<Device> Device::parse(std::string_view text) {
  int32_t id = 0;
  const size_t colon = text.find(':');
  if (colon != std::string_view::npos) {
    const std::string_view digits = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (error != std::errc{} || end != digits.data() + digits.size() || id < 0) return std::nullopt;
    text = text.substr(0, colon);
  }
  for (const NamedDevice& row : kNamedDevices) {
    if (row.name == text) return Device(row.type, id);
  }
  return std::nullopt;
}

}  // namespace dlbridge
