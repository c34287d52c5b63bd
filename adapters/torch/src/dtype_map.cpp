#include <c10/core/ScalarType.h>

#include <array>

#include "dlbridge/torch.h"

namespace dlbridge {
namespace {

struct Row {
  at::ScalarType scalar;
  DType dtype;
};

constexpr std::array kRows{
    Row{at::kBool, {TypeCode::boolean, 8}},
    Row{at::kByte, {TypeCode::uint, 8}},
    Row{at::kUInt16, {TypeCode::uint, 16}},
    Row{at::kUInt32, {TypeCode::uint, 32}},
    Row{at::kUInt64, {TypeCode::uint, 64}},
    Row{at::kChar, {TypeCode::int_, 8}},
    Row{at::kShort, {TypeCode::int_, 16}},
    Row{at::kInt, {TypeCode::int_, 32}},
    Row{at::kLong, {TypeCode::int_, 64}},
    Row{at::kHalf, {TypeCode::float_, 16}},
    Row{at::kFloat, {TypeCode::float_, 32}},
    Row{at::kDouble, {TypeCode::float_, 64}},
    Row{at::kBFloat16, {TypeCode::bfloat, 16}},
    Row{at::kComplexHalf, {TypeCode::complex, 32}},
    Row{at::kComplexFloat, {TypeCode::complex, 64}},
    Row{at::kComplexDouble, {TypeCode::complex, 128}},
    Row{at::kFloat8_e5m2, {TypeCode::float8_e5m2, 8}},
    Row{at::kFloat8_e5m2fnuz, {TypeCode::float8_e5m2fnuz, 8}},
    Row{at::kFloat8_e4m3fn, {TypeCode::float8_e4m3fn, 8}},
    Row{at::kFloat8_e4m3fnuz, {TypeCode::float8_e4m3fnuz, 8}},
    Row{at::kFloat8_e8m0fnu, {TypeCode::float8_e8m0fnu, 8}},
};

constexpr auto kScalarTypes = static_cast<size_t>(at::ScalarType::NumOptions);

struct Entry {
  DLDataType dtype{};
  bool held = false;
};

constexpr auto kByScalar = [] {
  std::array<Entry, kScalarTypes> table{};
  for (const Row& row : kRows) table[static_cast<size_t>(row.scalar)] = {row.dtype, true};
  table[static_cast<size_t>(at::ScalarType::Float4_e2m1fn_x2)] = {kFloat4Pair, true};
  return table;
}();

constexpr auto kByDType = [] {
  std::array<at::ScalarType, DTypeSet::kSlots> table{};
  for (auto& scalar : table) scalar = at::ScalarType::Undefined;
  for (const Row& row : kRows) table[static_cast<size_t>(DTypeSet::slot(row.dtype))] = row.scalar;
  return table;
}();

constexpr TargetTraits kTraits = [] {
  TargetTraits traits;
  traits.name = "torch";
  traits.max_ndim = 64;  // TensorIterator's limit: beyond it hardly an operator runs
  traits.zero_strides = true;
  traits.float4 = Float4::pairs;
  for (const Row& row : kRows) traits.dtypes.add(row.dtype);
  for (DeviceType type :
       {DeviceType::cpu, DeviceType::cuda, DeviceType::cuda_host, DeviceType::cuda_managed})
    traits.devices |= 1u << static_cast<int>(type);
  return traits;
}();

}  // namespace

const TargetTraits& torch_traits() noexcept { return kTraits; }

std::optional<at::ScalarType> scalar_type_of(DLDataType dtype) noexcept {
  if (DType(dtype) == kFloat4Pair) return at::ScalarType::Float4_e2m1fn_x2;
  const int slot = DTypeSet::slot(dtype);
  if (slot < 0) return std::nullopt;
  const at::ScalarType scalar = kByDType[static_cast<size_t>(slot)];
  if (scalar == at::ScalarType::Undefined) return std::nullopt;
  return scalar;
}

std::optional<DLDataType> dtype_of(at::ScalarType type) noexcept {
  const auto index = static_cast<size_t>(type);
  if (index >= kByScalar.size() || !kByScalar[index].held) return std::nullopt;
  return kByScalar[index].dtype;
}

}  // namespace dlbridge
