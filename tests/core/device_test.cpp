// SPDX-License-Identifier: Apache-2.0
// Device: names, parsing, which device types are known, which memory the host may touch.
#include "dlbridge/device.h"

#include <gtest/gtest.h>

#include <set>

namespace dlbridge {
namespace {

struct Row {
  int type;
  const char* name;  // with id 1
  bool host;
  bool addresses;
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.name; }

constexpr Row kRows[] = {
    {1, "cpu", true, true},
    {2, "cuda:1", false, true},
    {3, "cuda_host", true, true},
    {4, "opencl:1", false, false},
    {7, "vulkan:1", false, false},
    {8, "metal:1", false, false},
    {9, "vpi:1", false, false},
    {10, "rocm:1", false, true},
    {11, "rocm_host", true, true},
    {12, "ext_dev:1", false, false},
    {13, "cuda_managed:1", false, true},
    {14, "oneapi:1", false, true},
    {15, "webgpu:1", false, false},
    {16, "hexagon:1", false, false},
    {17, "maia:1", false, false},
    {18, "trn:1", false, false},
    {19, "tpu:1", false, false},
    {20, "tpu_host:1", false, false},
    {21, "ascend:1", false, false},
};

class DeviceTable : public testing::TestWithParam<Row> {};

TEST_P(DeviceTable, IsNamedAndPlaced) {
  const Device device = DLDevice{static_cast<DLDeviceType>(GetParam().type), 1};
  EXPECT_TRUE(device.is_known());
  EXPECT_EQ(device.name(), GetParam().name);
  EXPECT_EQ(device.is_host(), GetParam().host);
  EXPECT_EQ(device.has_addresses(), GetParam().addresses);
}

TEST_P(DeviceTable, ParsesItsName) {
  const std::string text = GetParam().name;
  const std::string type = text.substr(0, text.find(':'));
  EXPECT_EQ(Device::parse(type), Device(static_cast<DeviceType>(GetParam().type), 0));
  EXPECT_EQ(Device::parse(type + ":3"), Device(static_cast<DeviceType>(GetParam().type), 3));
}

INSTANTIATE_TEST_SUITE_P(All, DeviceTable, testing::ValuesIn(kRows), [](const auto& row_info) {
  const std::string text = row_info.param.name;
  return text.substr(0, text.find(':'));
});

TEST(Device, OnlyTheTableIsKnown) {
  std::set<int> known;
  for (const Row& row : kRows) known.insert(row.type);
  for (int type = -1; type < 70; ++type) {
    EXPECT_EQ(Device(static_cast<DeviceType>(type)).is_known(), known.count(type) == 1) << type;
  }
}

// Rule: 9
TEST(Device, PrintsUnknownTypes) {
  const Device device(static_cast<DeviceType>(40), -7);
  EXPECT_EQ(device.name(), "device(40, -7)");
  const DLDevice back = device;
  EXPECT_EQ(back.device_id, -7);
  EXPECT_FALSE(device.is_host());
}

TEST(Device, ParsesNothingElse) {
  for (const char* text : {"", "gpu", "CPU", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda:1:2",
                           "cuda:99999999999", ":0", " cpu"})
    EXPECT_FALSE(Device::parse(text).has_value()) << text;
}

TEST(Device, AllHostMemoryIsOnePlace) {
  const Device cpu(DeviceType::cpu);
  EXPECT_TRUE(Device::same_place(cpu, Device(DeviceType::cuda_host, 2)));
  EXPECT_TRUE(Device::same_place(Device(DeviceType::rocm_host), Device(DeviceType::cpu, 5)));
  EXPECT_FALSE(cpu == Device(DeviceType::cuda_host));
}

TEST(Device, TypeAndIdAreOnePlace) {
  const Device first(DeviceType::cuda, 0);
  EXPECT_TRUE(Device::same_place(first, Device(DeviceType::cuda, 0)));
  EXPECT_FALSE(Device::same_place(first, Device(DeviceType::cuda, 1)));
  EXPECT_FALSE(Device::same_place(first, Device(DeviceType::rocm, 0)));
  EXPECT_FALSE(Device::same_place(first, Device(DeviceType::cpu)));
}

TEST(Device, ManagedMemoryIsNotHost) {
  const Device managed(DeviceType::cuda_managed);
  EXPECT_FALSE(managed.is_host());
  EXPECT_FALSE(Device::same_place(managed, Device(DeviceType::cpu)));
}

}  // namespace
}  // namespace dlbridge
