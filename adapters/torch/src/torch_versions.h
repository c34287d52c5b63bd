// SPDX-License-Identifier: Apache-2.0
// What differs between the versions of torch that the adapter is compiled for (2.6 and later). Asks
// the headers for what they have; no version number is compared.
#pragma once

#include <c10/core/ScalarType.h>
#include <c10/core/StorageImpl.h>
#include <c10/core/impl/COW.h>

#include <exception>

namespace dlbridge {

/// Scalar types that torch does not have in every version; Undefined where it has none.
template <typename Scalar>
constexpr Scalar float8_e8m0fnu_of() {
  if constexpr (requires { Scalar::Float8_e8m0fnu; }) return Scalar::Float8_e8m0fnu;
  return Scalar::Undefined;
}
template <typename Scalar>
constexpr Scalar float4_pair_of() {
  if constexpr (requires { Scalar::Float4_e2m1fn_x2; }) return Scalar::Float4_e2m1fn_x2;
  return Scalar::Undefined;
}
inline constexpr at::ScalarType kFloat8E8m0fnu = float8_e8m0fnu_of<at::ScalarType>();
inline constexpr at::ScalarType kFloat4PairScalar = float4_pair_of<at::ScalarType>();

/// Torch has materializers beside deleters from 2.13 on; before, a deleter tells a copy-on-write
/// storage.
template <typename Storage>
bool is_copy_on_write(const Storage& storage) {
  if constexpr (requires { storage.has_materializer(); }) return storage.has_materializer();
  return c10::impl::cow::is_cow_data_ptr(storage.data_ptr());
}

/// Whether torch tells the owner of a storage about its first write.
template <typename Storage>
constexpr bool has_materializers() {
  return requires(Storage& storage) { storage.set_materializer(nullptr); };
}
inline constexpr bool kHasMaterializers = has_materializers<c10::StorageImpl>();

/// Sets what is called before the first write; older torch throws its own error instead.
template <typename Storage>
void set_materializer([[maybe_unused]] Storage& storage,
                      [[maybe_unused]] void (*materialize)(c10::StorageImpl*)) {
  if constexpr (has_materializers<Storage>())
    storage.set_materializer(materialize);
  else
    storage.set_throw_on_mutable_data_ptr();
}

/// Whether the storage throws when its memory is accessed.
template <typename Storage>
bool is_inaccessible(const Storage& storage) {
  if constexpr (requires { storage.throw_on_immutable_data_ptr(); })
    return storage.throw_on_immutable_data_ptr() || storage.throw_on_mutable_data_ptr();
  // Older torch checks on access only. Writable access would make the copy of a copy-on-write
  // storage.
  try {
    (void)storage.data_ptr();
    if (!is_copy_on_write(storage)) (void)const_cast<Storage&>(storage).mutable_data();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

}  // namespace dlbridge
