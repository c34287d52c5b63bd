// SPDX-License-Identifier: Apache-2.0
// dlbridge._torch_exchange: the torch adapter through torch's DLPack exchange table, without
// torch's headers: one binary for every torch from 2.10 on. Refuses what the direct adapter refuses
// (dlbridge/torch_common/ is shared with it). docs/tiers.md lists what it cannot keep.
#include <dlpack/dlpack.h>

#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bridge/capsule_module.h"
#include "bridge/exchange_table.h"
#include "dlbridge/copy.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/python_object/hold.h"
#include "dlbridge/torch_common/dispatch_keys.h"
#include "dlbridge/torch_common/layout.h"
#include "dlbridge/torch_common/traits.h"
#include "support/dtype_argument.h"
#include "torch/device_slots.h"
#include "torch/subclasses.h"

namespace dlbridge::python {
namespace {

Reference call(PyObject* function, PyObject* x) {
  return checked(parked_at_exit([&] { return PyObject_CallOneArg(function, x); }));
}

Reference get(PyObject* descriptor, PyObject* x) {
  return checked(
      Py_TYPE(descriptor)->tp_descr_get(descriptor, x, reinterpret_cast<PyObject*>(Py_TYPE(x))));
}

int64_t to_int(const Reference& number) {
  const int64_t value = PyLong_AsLongLong(number.get());
  if (value == -1 && PyErr_Occurred()) throw_pending();
  return value;
}

bool is_true(const Reference& answer) {
  const int truth = PyObject_IsTrue(answer.get());
  if (truth < 0) throw_pending();
  return truth == 1;
}
bool holds(PyObject* function) {
  return is_true(checked(parked_at_exit([&] { return PyObject_CallNoArgs(function); })));
}
bool holds_of(PyObject* function, PyObject* x) { return is_true(call(function, x)); }

struct NamedDType {
  PyObject* object;                // a torch.dtype; torch keeps it
  std::optional<DLDataType> held;  // its DLPack type, where it has one
  std::string name;
  ReasonDetail detail = {};  // of a type without one, once it was met
};

constexpr const char* kCalls = "dlbridge._torch_calls";

// A function of torch that this adapter calls, or a type. References are never dropped: torch lives
// as long as the process.
PyObject* taken(const char* name) { return python_attribute(kCalls, name).release(); }

struct Torch {
  Torch();
  void find_dtype(DType dtype, const char* name);

  PyTypeObject* tensor_type = reinterpret_cast<PyTypeObject*>(taken("tensor_type"));
  PyTypeObject* parameter_type = reinterpret_cast<PyTypeObject*>(taken("parameter_type"));
  PyObject* dispatch_keys = taken("dispatch_keys");
  PyObject* raw_repr = taken("raw_repr");
  PyObject* is_copy_on_write = taken("is_copy_on_write");
  PyObject* is_grad_enabled = taken("is_grad_enabled");
  PyObject* untyped_storage = taken("untyped_storage");
  PyObject* storage_nbytes = taken("storage_nbytes");
  PyObject* storage_offset = taken("storage_offset");
  PyObject* dtype = taken("dtype");
  PyObject* requires_grad = taken("requires_grad");
  PyObject* dispatch_stack_length = taken("dispatch_stack_length");
  PyObject* functorch_level = taken("functorch_level");
  PyObject* lift = taken("lift");
  PyObject* look = taken("look");
  PyObject* copy_into = taken("copy_into");
  PyObject* guard = taken("guard");

  const DLPackExchangeAPI* table = exchange_table_of(tensor_type);
  std::optional<torch_common::KeyJudge> keys;
  std::deque<NamedDType> dtypes;  // those without a DLPack type are added when they are met
  DTypeSet ambiguous;             // DLPack types that stand for more than one of torch's
  TargetTraits traits = torch_common::kTraitsWithoutDTypes;
};

Torch::Torch() {
  if (table == nullptr || table->managed_tensor_to_py_object_no_sync == nullptr ||
      table->dltensor_from_py_object_no_sync == nullptr) {
    PyErr_SetString(PyExc_ImportError,
                    "torch.Tensor has no DLPack exchange table with all slots; expected torch 2.10 "
                    "or later");
    throw_pending();
  }
  traits.raises_on_write = python_attribute(kCalls, "set_guard").get() != Py_None;
  keys.emplace([](const char* name) {
    return static_cast<uint64_t>(to_int(call_python(kCalls, "key_bits", "(s)", name)));
  });
  for (const DType type : torch_common::kDTypes) find_dtype(type, type.name().c_str());
  find_dtype(kFloat4Pair, "float4_e2m1fn_x2");
  // Torch calls its int1 to int7 an int8.
  ambiguous.add({TypeCode::int_, 8});
  ambiguous.add({TypeCode::uint, 8});
  if (dtypes.empty()) {
    PyErr_SetString(PyExc_ImportError, "torch brought no dtype through its own DLPack");
    throw_pending();
  }
}

void Torch::find_dtype(DType type, const char* name) {
  const Reference found = call_python(kCalls, "dtype_named", "(s)", name);
  if (found.get() == Py_None) return;
  dtypes.push_back({Py_NewRef(found.get()), type, name});
  if (type == kFloat4Pair)
    traits.float4 = Float4::pairs;
  else
    traits.dtypes.add(type);
}

Torch* g_torch = nullptr;  // set once, before the adapter is registered; changed under the GIL

NamedDType& named(PyObject* dtype) {
  for (NamedDType& row : g_torch->dtypes) {
    if (row.object == dtype) return row;
  }
  const Reference name = checked(PyObject_Str(dtype));
  g_torch->dtypes.push_back({Py_NewRef(dtype), {}, text_of(name.get())});
  return g_torch->dtypes.back();
}

// ---- out of torch ----

void describe_dtype(PyObject* dtype, TensorView& view) {
  NamedDType& row = named(dtype);
  if (row.held) [[likely]] {
    view.dtype = *row.held;
    return;
  }
  view.reasons.add(ErrorCode::unsupported_dtype);
  const int64_t itemsize = to_int(checked(PyObject_GetAttrString(dtype, "itemsize")));
  row.detail = {row.name.c_str(), torch_common::remedy_for_itemsize(itemsize)};
  view.detail = &row.detail;
}

void describe_gradient(bool required, TensorView& view) {
  if (required && holds(g_torch->is_grad_enabled)) view.reasons.add(ErrorCode::requires_grad);
}

uint64_t keys_beyond_plain(PyObject* x) {
  const Reference set = call(g_torch->dispatch_keys, x);
  const Reference bits = call(g_torch->raw_repr, set.get());
  const uint64_t keys = PyLong_AsUnsignedLongLong(bits.get());
  if (keys == UINT64_MAX && PyErr_Occurred()) throw_pending();
  return g_torch->keys->beyond_plain(keys);
}

// The end of both ways of describing: checks that the storage holds all elements, and holds it.
// The storage is held, not the tensor, whose memory `set_` and `.data =` exchange.
void describe_storage(PyObject* storage, int64_t offset, int64_t reach, Loan& loan) {
  TensorView& view = loan.view();
  const int64_t bytes = to_int(call(g_torch->storage_nbytes, storage));
  if (!view.reasons.has(ErrorCode::unsupported_dtype) &&
      !torch_common::fits(offset, reach, view.itemsize(), bytes)) [[unlikely]]
    view.reasons.add(ErrorCode::storage_too_small);
  loan.attach(hold(storage));
}

// Any tensor whose keys leave it a layout, by its attributes.
void describe_by_attributes(PyObject* x, Loan& loan) {
  const Reference seen = call(g_torch->look, x);
  PyObject *shape, *strides, *dtype, *storage, *address;
  const char* device;
  long long offset, index;
  int required, copy_on_write, guarded;
  if (!PyArg_ParseTuple(seen.get(), "O!O!LOsLppOOp", &PyTuple_Type, &shape, &PyTuple_Type, &strides,
                        &offset, &dtype, &device, &index, &required, &copy_on_write, &storage,
                        &address, &guarded)) {
    throw_pending();
  }
  TensorView& view = loan.view();
  const auto extents = integers_of(shape), steps = integers_of(strides);
  if (!extents || !steps) {
    view.reasons.add(ErrorCode::symbolic_shape);
    return;
  }
  const int64_t reach = torch_common::copy_layout(*extents, *steps, loan);
  describe_dtype(dtype, view);
  view.device = std::strcmp(device, "cpu") == 0 ? Device(DeviceType::cpu)
                                                : Device(DeviceType::cuda, static_cast<int>(index));
  describe_gradient(required != 0, view);
  if (address == Py_None) {
    view.reasons.add(ErrorCode::storage_inaccessible);
    return;
  }
  if (copy_on_write) view.reasons.add(ErrorCode::copy_on_write);
  if (guarded) {
    view.access = Access::read_only;
    if (view.detail == nullptr) view.detail = &torch_common::kGuarded;
  }
  view.data = PyLong_AsVoidPtr(address);
  if (view.data == nullptr && PyErr_Occurred()) throw_pending();
  describe_storage(storage, offset, reach, loan);
}

// Describes a plain tensor through the exchange table, without a new object. Returns false where
// the attributes have to be read.
bool describe_by_table(PyObject* x, Loan& loan) {
  if (holds_of(g_torch->is_copy_on_write, x)) return false;  // the table would make it copy
  DLTensor tensor;
  if (g_torch->table->dltensor_from_py_object_no_sync(x, &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  TensorView& view = loan.view();
  const auto rank = static_cast<size_t>(tensor.ndim);
  const int64_t reach =
      torch_common::copy_layout({tensor.shape, rank}, {tensor.strides, rank}, loan);
  view.dtype = tensor.dtype;
  if (g_torch->ambiguous.contains(tensor.dtype)) describe_dtype(get(g_torch->dtype, x).get(), view);
  view.device = tensor.device;
  view.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  describe_gradient(get(g_torch->requires_grad, x).get() == Py_True, view);
  describe_storage(call(g_torch->untyped_storage, x).get(),
                   to_int(call(g_torch->storage_offset, x)), reach, loan);
  return true;
}

// The real type: what isinstance() answers may come from the object's __class__ (a mock, a proxy).
bool accepts(PyObject* x) noexcept { return PyObject_TypeCheck(x, g_torch->tensor_type); }

// Overridden attributes (a subclass with __torch_function__) are read past, in Python.
bool has_own_attributes(PyObject* x) noexcept {
  return Py_TYPE(x) == g_torch->tensor_type || Py_TYPE(x) == g_torch->parameter_type;
}

Error* describe(PyObject* x, Loan* loan) noexcept {
  return guarded([&] {
    const uint64_t beyond = keys_beyond_plain(x);
    if (beyond == 0 && has_own_attributes(x) && describe_by_table(x, *loan)) [[likely]]
      return;
    if (torch_common::describe_keys(*g_torch->keys, beyond, *loan))
      describe_by_attributes(x, *loan);
    describe_subclass(x, loan->view());
  });
}

// describe() has acquired the storage already, which it had at hand.
Error* acquire(PyObject*, Loan*) noexcept { return nullptr; }

// ---- into torch ----

// Each question costs a tenth of a conversion: those two are asked whose answer changes the tensor.
bool dispatch_is_plain() {
  return !holds(g_torch->dispatch_stack_length) && !holds(g_torch->functorch_level);
}

Reference lifted(Reference tensor) {
  if (dispatch_is_plain()) [[likely]]
    return tensor;
  return call(g_torch->lift, tensor.get());
}

// Adapts the descriptor to torch's importer, which rejects pinned and managed device types and the
// read-only flag.
void adapt_for_importer(Loan& loan) noexcept {
  torch_common::normalize_strides(loan);
  TensorView& view = loan.view();
  view.access = Access::writable;
  const DeviceType device = Device(view.device).type();
  if (device == DeviceType::cuda_host) view.device = Device(DeviceType::cpu);
  if (device == DeviceType::cuda_managed) view.device.device_type = kDLCUDA;
}

// A tensor over the loan's memory; the loan is consumed.
Reference make_tensor(Loan&& loan) {
  adapt_for_importer(loan);
  // Torch's importer may refuse a device or a type, which the plan has done before; whatever it
  // raises else comes after it has taken the tensor.
  void* made = nullptr;
  if (g_torch->table->managed_tensor_to_py_object_no_sync(to_managed(std::move(loan)), &made) != 0)
    throw_pending();
  return Reference(static_cast<PyObject*>(made));
}

// A tensor over memory that someone else keeps alive while it is used.
Reference borrow(const TensorView& memory) { return make_tensor(torch_common::borrow(memory)); }

Error* wrap(Loan* loan, PyObject** out) noexcept {
  return guarded([&] { *out = lifted(make_tensor(std::move(*loan))).release(); });
}

// on_write="raise" alone: the traits have no other.
Error* wrap_guarded(Loan* loan, OnWrite, PyObject** out) noexcept {
  return guarded([&] {
    const bool empty = loan->view().is_empty();  // then there is nothing to write
    Reference tensor = make_tensor(std::move(*loan));
    if (!empty) call(g_torch->guard, tensor.get());
    *out = lifted(std::move(tensor)).release();
  });
}

Error* empty(const TensorView* like, DLDataType dtype, PyObject** out, Loan* memory) noexcept {
  return guarded([&] {
    TensorView shape = *like;
    shape.dtype = dtype;
    shape.subbyte_padded = false;
    Loan loan = allocate_like(shape);
    memory->describe(loan.view());
    *out = make_tensor(std::move(loan)).release();
  });
}

Error* finish(PyObject* made, PyObject** out) noexcept {
  return guarded([&] {
    Reference result = lifted(Reference(Py_NewRef(made)));
    Py_DECREF(made);
    *out = result.release();
  });
}

// The pending exception as an Error of torch's.
[[noreturn]] void throw_framework_error() {
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw_pending();
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  const Reference owned[] = {Reference(type), Reference(value), Reference(traceback)};
  const Reference text(value ? PyObject_Str(value) : nullptr);
  PyErr_Clear();
  throw Error(ErrorCode::framework_error, "tensor",
              "torch could not copy the tensor: " +
                  std::string(utf8_of(text.get()).value_or("it did not say why")));
}

void copy_into(PyObject* target, PyObject* source) {
  const Reference done(parked_at_exit(
      [&] { return PyObject_CallFunctionObjArgs(g_torch->copy_into, target, source, nullptr); }));
  if (!done) throw_framework_error();
}

Error* fill(PyObject* x, const TensorView* dst) noexcept {
  return guarded([&] { copy_into(borrow(*dst).get(), x); });
}

Error* cast(const TensorView* src, const TensorView* dst) noexcept {
  return guarded([&] { copy_into(borrow(*dst).get(), borrow(*src).get()); });
}

Error* parse_dtype(PyObject* object, DLDataType* out) noexcept {
  return guarded([&] {
    if (Py_TYPE(object) != Py_TYPE(g_torch->dtypes.front().object)) {
      *out = parse_named_dtype(object, g_torch->traits);
      return;
    }
    const NamedDType& row = named(object);
    if (!row.held) refuse_dtype(object, true, g_torch->traits);
    *out = *row.held;
  });
}

Adapter make_adapter() noexcept {
  Adapter adapter;
  adapter.traits = &g_torch->traits;
  adapter.exact_types[0] = g_torch->tensor_type;
  adapter.exact_types[1] = g_torch->parameter_type;
  adapter.threaded_casts = true;
  adapter.accepts = accepts;
  adapter.describe = describe;
  adapter.acquire = acquire;
  adapter.wrap = wrap;
  adapter.wrap_guarded = wrap_guarded;
  adapter.empty = empty;
  adapter.finish = finish;
  adapter.fill = fill;
  adapter.cast = cast;
  adapter.parse_dtype = parse_dtype;
  add_device_slots(adapter);
  return adapter;
}

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "_torch_exchange",
                        "The torch adapter of dlbridge, exchange tier.", -1};

}  // namespace
}  // namespace dlbridge::python

// Raises ImportError where torch lacks what the adapter needs.
PyMODINIT_FUNC PyInit__torch_exchange() {
  using namespace dlbridge::python;
  return translated([] {
    if (g_torch == nullptr) g_torch = new Torch;
    static Adapter adapter = make_adapter();
    return new_adapter_module(g_module, adapter);
  });
}
