// SPDX-License-Identifier: Apache-2.0
// The registry of adapters, by exact type and by name. Written with the GIL held, append-only.
#pragma once

#include <Python.h>

#include <atomic>
#include <span>
#include <string>
#include <string_view>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// An exact type and its adapter.
struct KnownType {
  PyTypeObject* type = nullptr;
  const Adapter* adapter = nullptr;
};

inline constexpr KnownType kNoType;

/// The entry whose exact type `type` is, or kNoType. Lives as long as the process.
const KnownType& find_type(PyTypeObject* type) noexcept;

/// The adapter whose exact type `type` is, or null. A few comparisons.
inline const Adapter* adapter_by_type(PyTypeObject* type) noexcept {
  return find_type(type).adapter;
}

/// The same for the hot paths: `recent` holds what the caller was given last, kNoType to begin
/// with.
using RecentType = std::atomic<const KnownType*>;
[[gnu::always_inline]] inline const Adapter* adapter_by_type(PyTypeObject* type,
                                                             RecentType& recent) noexcept {
  const KnownType* known = recent.load(std::memory_order_acquire);
  if (known->type != type) [[unlikely]] {
    known = &find_type(type);
    recent.store(known, std::memory_order_release);
  }
  return known->adapter;
}

/// The adapter that takes `x`, subclasses included; null if none does. Loads an expected adapter
/// whose framework is imported and whose type `x` has. Throws where loading fails.
const Adapter* adapter_for(PyObject* x);

/// The adapter called `name`, loaded if it is an expected one. Throws where it cannot be loaded;
/// null where the name is unknown.
const Adapter* find_adapter(std::string_view name);

/// The same; throws Error (invalid_argument) for an unknown name.
const Adapter& adapter_named(const char* name);

/// The adapter of an imported framework that can allocate on a device here, or null.
const Adapter* device_adapter();

/// All adapters that are loaded.
std::span<const Adapter* const> adapters() noexcept;

/// The names that find_adapter() knows, quoted and separated by ", ".
std::string adapter_names();

/// Adds an adapter, which lives as long as the process. One whose name is taken is ignored.
void add_adapter(const Adapter* adapter);

/// Adds the adapter of a module's capsule. Throws where it is of another build.
void register_adapter(PyObject* capsule);

/// Announces an adapter that dlbridge._adapters.load(name) registers when it is first needed:
/// objects of `module`.`type` are its.
void expect_adapter(const char* name, const char* module, const char* type);

/// Returns true if the type's module is `package` or lies in it.
bool is_of_package(PyTypeObject* type, std::string_view package);

/// Announces a module whose arrays are never writable though a legacy capsule cannot say so.
void add_immutable_module(const char* name);

/// Returns true if objects of this type are never writable.
bool is_immutable_producer(PyTypeObject* type);

}  // namespace dlbridge::python
