// SPDX-License-Identifier: Apache-2.0
#include "bridge/registry.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "bridge/capsule_module.h"

namespace dlbridge::python {
namespace {

constexpr size_t kMaxAdapters = 8;
std::array<const Adapter*, kMaxAdapters> g_adapters{};
std::atomic<size_t> g_count{0};

// The exact types of all adapters.
std::array<KnownType, 2 * kMaxAdapters> g_types{};
std::atomic<size_t> g_type_count{0};

struct ExpectedAdapter {
  std::string name;
  std::string module;
  std::string type;
};
// Never destroyed: threads of the interpreter may ask after static destruction has begun.
std::vector<ExpectedAdapter>& expected_adapters() {
  static auto* const all = new std::vector<ExpectedAdapter>;
  return *all;
}
std::vector<std::string>& immutable_modules() {
  static auto* const all = new std::vector<std::string>;
  return *all;
}

const Adapter* find_loaded(std::string_view name) noexcept {
  for (const Adapter* adapter : adapters()) {
    if (adapter->traits->name == name) return adapter;
  }
  return nullptr;
}

// Imports the module of an adapter. Its load() registers the adapter.
const Adapter* load(const char* name) {
  call_python("dlbridge._adapters", "load", "(s)", name);
  const Adapter* adapter = find_loaded(name);
  if (adapter == nullptr)
    throw Error(ErrorCode::adapter_unavailable, name, std::string(name) + " was not registered");
  return adapter;
}

// The module if it is imported, else null. Borrowed.
PyObject* imported(const char* module) noexcept {
  PyObject* modules = PyImport_GetModuleDict();
  return modules ? PyDict_GetItemString(modules, module) : nullptr;
}

bool is_instance_of(PyObject* x, const ExpectedAdapter& expected) noexcept {
  PyObject* module = imported(expected.module.c_str());
  if (module == nullptr) return false;
  const Reference type(PyObject_GetAttrString(module, expected.type.c_str()));
  if (!type) PyErr_Clear();  // the framework is half imported: then x cannot be its
  return type && PyType_Check(type.get()) &&
         PyObject_TypeCheck(x, reinterpret_cast<PyTypeObject*>(type.get()));
}

}  // namespace

std::span<const Adapter* const> adapters() noexcept {
  return {g_adapters.data(), g_count.load(std::memory_order_acquire)};
}

const KnownType& find_type(PyTypeObject* type) noexcept {
  const size_t count = g_type_count.load(std::memory_order_acquire);
  for (const KnownType& known : std::span(g_types.data(), count)) {
    if (known.type == type) return known;
  }
  return kNoType;
}

const Adapter* adapter_for(PyObject* x) {
  if (const Adapter* adapter = adapter_by_type(Py_TYPE(x))) return adapter;
  for (const Adapter* adapter : adapters()) {
    if (adapter->accepts(x)) return adapter;
  }
  for (const ExpectedAdapter& expected : expected_adapters()) {
    if (find_loaded(expected.name.c_str()) == nullptr && is_instance_of(x, expected))
      return load(expected.name.c_str());
  }
  return nullptr;
}

const Adapter* find_adapter(std::string_view name) {
  if (const Adapter* adapter = find_loaded(name)) return adapter;
  for (const ExpectedAdapter& expected : expected_adapters()) {
    if (expected.name == name) return load(expected.name.c_str());
  }
  return nullptr;
}

const Adapter& adapter_named(const char* name) {
  if (const Adapter* adapter = find_adapter(name)) return *adapter;
  throw Error(ErrorCode::invalid_argument, "to",
              "to is \"" + std::string(name) + "\"; expected one of " + adapter_names());
}

const Adapter* device_adapter() {
  for (const ExpectedAdapter& expected : expected_adapters()) {
    if (imported(expected.module.c_str()) != nullptr) find_adapter(expected.name.c_str());
  }
  for (const Adapter* adapter : adapters()) {
    if (adapter->device_empty != nullptr && adapter->has_device()) return adapter;
  }
  return nullptr;
}

std::string adapter_names() {
  std::string names;
  const auto add = [&](const std::string& name) {
    if (names.find("\"" + name + "\"") != std::string::npos) return;
    names += (names.empty() ? "\"" : ", \"") + name + "\"";
  };
  for (const Adapter* adapter : adapters()) add(adapter->traits->name);
  for (const ExpectedAdapter& expected : expected_adapters()) add(expected.name);
  return names;
}

void add_adapter(const Adapter* adapter) {
  const size_t count = g_count.load();
  if (find_loaded(adapter->traits->name) != nullptr) return;
  if (count == kMaxAdapters)
    throw Error(ErrorCode::adapter_unavailable, adapter->traits->name, "too many adapters");
  size_t types = g_type_count.load();
  for (PyTypeObject* type : adapter->exact_types) {
    if (type != nullptr) g_types[types++] = {type, adapter};
  }
  g_type_count.store(types, std::memory_order_release);
  g_adapters[count] = adapter;
  g_count.store(count + 1, std::memory_order_release);
}

void register_adapter(PyObject* capsule) {
  add_adapter(table_of<Adapter>(capsule, kAdapterCapsule));
}

void expect_adapter(const char* name, const char* module, const char* type) {
  expected_adapters().push_back({name, module, type});
}

void add_immutable_module(const char* name) { immutable_modules().push_back(name); }

bool is_of_package(PyTypeObject* type, std::string_view package) {
  const Reference module(PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__module__"));
  if (!module) PyErr_Clear();
  const std::string_view found = utf8_of(module.get()).value_or("");
  return found == package || (found.starts_with(package) && found[package.size()] == '.');
}

bool is_immutable_producer(PyTypeObject* type) {
  return std::ranges::any_of(immutable_modules(),
                             [type](const std::string& name) { return is_of_package(type, name); });
}

}  // namespace dlbridge::python
