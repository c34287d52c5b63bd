#include "dlbridge/torch.h"
#include "dtype_table.h"

namespace dlbridge {
namespace {

constexpr TargetTraits kTraits = [] {
  TargetTraits traits;
  traits.name = "torch";
  traits.max_ndim = 64;  // TensorIterator's limit: beyond it hardly an operator runs
  traits.zero_strides = true;
  traits.float4 = Float4::pairs;
  for (const DTypeRow& row : kDTypeRows) traits.dtypes.add(row.dtype);
  for (DeviceType type :
       {DeviceType::cpu, DeviceType::cuda, DeviceType::cuda_host, DeviceType::cuda_managed})
    traits.devices |= 1u << static_cast<int>(type);
  return traits;
}();

}  // namespace

const TargetTraits& torch_traits() noexcept { return kTraits; }

std::optional<at::ScalarType> scalar_type_of(DLDataType dtype) noexcept {
  const at::ScalarType scalar = lookup_scalar_type(dtype);
  if (scalar == at::ScalarType::Undefined) return std::nullopt;
  return scalar;
}

std::optional<DLDataType> dtype_of(at::ScalarType type) noexcept {
  const auto index = static_cast<size_t>(type);
  if (index >= kByScalar.size() || !kByScalar[index].held) return std::nullopt;
  return kByScalar[index].dtype;
}

}  // namespace dlbridge
