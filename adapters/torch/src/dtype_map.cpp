// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "dlbridge/torch.h"
#include "dlbridge/torch_common/traits.h"
#include "dtype_table.h"

namespace dlbridge {
namespace {

constexpr TargetTraits kTraits = [] {
  TargetTraits traits = torch_common::kTraitsWithoutDTypes;
  traits.raises_on_write = true;
  traits.copies_on_write = kHasMaterializers;
  if (kFloat4PairScalar != at::ScalarType::Undefined) traits.float4 = Float4::pairs;
  for (const DTypeRow& row : kDTypeRows) {
    if (row.scalar != at::ScalarType::Undefined) traits.dtypes.add(row.dtype);
  }
  return traits;
}();

// Both ways to torch know the same types.
static_assert(std::ranges::equal(kDTypeRows, torch_common::kDTypes, {}, &DTypeRow::dtype));

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
