#include "bridge/registry.h"

#include <array>
#include <atomic>
#include <cstring>

#include "support/errors.h"
#include "support/reference.h"

namespace dlbridge::python {
namespace {

// Append-only; written with the GIL held.
constexpr size_t kMaxAdapters = 8;
std::array<const Adapter*, kMaxAdapters> g_adapters{};
std::atomic<size_t> g_count{0};

const Adapter* find_named(const char* name) noexcept {
  for (size_t i = 0; i < g_count.load(std::memory_order_acquire); ++i) {
    if (std::strcmp(g_adapters[i]->traits->name, name) == 0) return g_adapters[i];
  }
  return nullptr;
}

const Adapter* find_accepting(PyObject* x) noexcept {
  for (size_t i = 0; i < g_count.load(std::memory_order_acquire); ++i) {
    if (g_adapters[i]->accepts(x)) return g_adapters[i];
  }
  return nullptr;
}

// Whether `x` is a torch.Tensor while no torch adapter is loaded. Does not import torch.
bool is_unadapted_tensor(PyObject* x) noexcept {
  if (find_named("torch") != nullptr) return false;
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* torch = modules ? PyDict_GetItemString(modules, "torch") : nullptr;
  if (torch == nullptr) return false;
  const Reference type(PyObject_GetAttrString(torch, "Tensor"));
  if (!type) PyErr_Clear();  // torch is half imported: then x cannot be one
  return type && PyType_Check(type.get()) &&
         PyObject_TypeCheck(x, reinterpret_cast<PyTypeObject*>(type.get()));
}

}  // namespace

const Adapter* adapter_by_type(PyTypeObject* type) noexcept {
  const size_t count = g_count.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) {
    const Adapter& adapter = *g_adapters[i];
    if (adapter.exact_types[0] == type || adapter.exact_types[1] == type) return &adapter;
  }
  return nullptr;
}

const Adapter* adapter_for(PyObject* x) noexcept {
  if (const Adapter* adapter = adapter_by_type(Py_TYPE(x))) return adapter;
  if (const Adapter* adapter = find_accepting(x)) return adapter;
  return is_unadapted_tensor(x) ? adapter_named("torch") : nullptr;
}

const Adapter* adapter_named(const char* name) noexcept {
  if (const Adapter* adapter = find_named(name)) return adapter;
  const Reference loader(PyImport_ImportModule("dlbridge._adapters"));
  if (!loader) return nullptr;
  const Reference done(PyObject_CallMethod(loader.get(), "load", "s", name));
  if (!done) return nullptr;
  const Adapter* adapter = find_named(name);
  if (adapter == nullptr)
    PyErr_Format(PyExc_SystemError, "dlbridge: no adapter %s was registered", name);
  return adapter;
}

const Adapter* adapter_if_loaded(const char* name) noexcept { return find_named(name); }

PyObject* register_adapter(PyObject* capsule) noexcept {
  const auto* adapter = static_cast<const Adapter*>(PyCapsule_GetPointer(capsule, kAdapterCapsule));
  if (adapter == nullptr) return nullptr;
  if (adapter->struct_size != sizeof(Adapter) || adapter->version != kAdapterVersion ||
      adapter->core != &neutral_traits()) {
    PyErr_SetString(
        PyExc_ImportError,
        "dlbridge: an adapter module of another build of dlbridge was loaded: reinstall dlbridge");
    return nullptr;
  }
  if (find_named(adapter->traits->name) == nullptr) add_adapter(adapter);
  Py_RETURN_NONE;
}

void add_adapter(const Adapter* adapter) noexcept {
  const size_t count = g_count.load();
  if (count == kMaxAdapters) return;
  g_adapters[count] = adapter;
  g_count.store(count + 1, std::memory_order_release);
}

}  // namespace dlbridge::python
