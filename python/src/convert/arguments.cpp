// SPDX-License-Identifier: Apache-2.0
#include "convert/arguments.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "bridge/registry.h"
#include "sources/capsule.h"

namespace dlbridge::python {
namespace {

// Refuses an argument that is a word.
[[noreturn]] void refuse_word(const char* name, PyObject* value, const std::string& expected) {
  refuse_argument(name, value, PyUnicode_Check(value), expected);
}

bool is_word(PyObject* value, const char* word) noexcept {
  return PyUnicode_Check(value) && PyUnicode_CompareWithASCIIString(value, word) == 0;
}

// Returns true for a torch.device, and for its name such as "mps" where torch is imported.
bool is_device_of_torch(PyObject* device) {
  if (std::string_view(Py_TYPE(device)->tp_name) == "torch.device") return true;
  PyObject* torch = PyDict_GetItemString(PyImport_GetModuleDict(), "torch");
  if (torch == nullptr || !PyUnicode_Check(device)) return false;
  const Reference made(PyObject_CallMethod(torch, "device", "O", device));
  if (!made) clear_exception();
  return static_cast<bool>(made);
}

[[noreturn]] void refuse_device(PyObject* device) {
  if (is_device_of_torch(device)) {
    throw Error(ErrorCode::unsupported_device, "device",
                "device is " + repr_of(device) +
                    ", to which nothing is copied here; expected a CPU or CUDA device: pass "
                    "dlbridge.to_torch(x).to(device)");
  }
  const bool right_kind =
      PyUnicode_Check(device) || PyTuple_Check(device) || attribute_of(device, "type");
  refuse_argument(
      "device", device, right_kind,
      "None, \"cpu\", \"cuda:0\" and the like, a torch.device or a DLPack pair such as (1, 0)",
      ErrorCode::invalid_device);
}

// A pair of integers (IntEnum members included).
std::optional<DLDevice> parse_pair(PyObject* pair) {
  const auto device = device_of_pair(pair);
  return device && device->is_known() && device->id() >= 0 ? device : std::nullopt;
}

// torch.device and its like: a type in words and an index or None.
std::optional<DLDevice> parse_device_object(PyObject* object) {
  const Reference type = attribute_of(object, "type");
  const Reference index = attribute_of(object, "index");
  const auto text = utf8_of(type.get());
  const auto device = text && index ? Device::parse(*text) : std::nullopt;
  if (!device || index.get() == Py_None) return device;
  const auto id = integer_of(index.get());
  if (!id || *id < 0 || *id > INT32_MAX) return std::nullopt;
  return Device(device->type(), static_cast<int32_t>(*id));
}

[[noreturn]] void refuse_keyword(const char* function, PyObject* name,
                                 std::span<const Keyword> keywords) {
  std::string text =
      std::string(function) + "() got an unexpected keyword argument " + repr_of(name);
  for (const Keyword& keyword : keywords)
    text += (&keyword == keywords.data() ? "; expected " : ", ") + std::string(keyword.name) + "=";
  if (PyUnicode_CompareWithASCIIString(name, "dtype") == 0)
    text += ": call to_numpy(x, dtype=...) or to_torch(x, dtype=...)";
  if (PyUnicode_CompareWithASCIIString(name, "out") == 0) text += ": call to_numpy(x, out=...)";
  throw_type_error(text);
}

}  // namespace

CallArguments read_call(const char* function, PyObject* const* args, Py_ssize_t nargs,
                        PyObject* names, std::span<const Keyword> keywords) {
  const auto called = [function] { return std::string(function) + "()"; };
  if (nargs < 1) throw_type_error(called() + " takes one positional argument, x");
  CallArguments call;
  call.x = args[0];
  Py_ssize_t taken = 1;
  if (nargs == 2 && !keywords.empty() && keywords.front().member == &CallArguments::to) {
    call.to = args[1];
    taken = 2;
  }
  if (nargs > taken) {
    throw_type_error(called() + " takes one positional argument, x, but " + std::to_string(nargs) +
                     " were given: name the others, as in " + function + "(x, device=...)");
  }
  const Py_ssize_t named = names ? PyTuple_GET_SIZE(names) : 0;
  for (Py_ssize_t i = 0; i < named; ++i) {
    PyObject* name = PyTuple_GET_ITEM(names, i);
    const auto match = std::ranges::find_if(keywords, [&](const Keyword& keyword) {
      return PyUnicode_CompareWithASCIIString(name, keyword.name) == 0;
    });
    if (match == keywords.end()) refuse_keyword(function, name, keywords);
    if (call.*(match->member) != nullptr)
      throw_type_error(called() + " got an unexpected keyword argument " + repr_of(name));
    call.*(match->member) = args[nargs + i];
  }
  return call;
}

CopyMode parse_copy(PyObject* copy) {
  if (copy == Py_True) return CopyMode::always;
  if (copy == Py_False) return CopyMode::never;
  if (copy == Py_None) return CopyMode::if_needed;
  if (is_word(copy, "named")) return CopyMode::unset;
  refuse_word("copy", copy, "True, False or None, or \"named\", the default");
}

bool parse_row_major(PyObject* order) {
  if (is_word(order, "C")) return true;
  if (is_word(order, "K")) return false;
  refuse_word("order", order, "\"C\", row-major, or \"K\", the default: the order of x");
}

OnWrite parse_on_write(PyObject* on_write) {
  if (on_write == Py_None) return OnWrite::unset;
  if (is_word(on_write, "raise")) return OnWrite::raise;
  if (is_word(on_write, "copy")) return OnWrite::copy;
  refuse_word("on_write", on_write, "\"raise\", \"copy\" or None, the default");
}

std::optional<DLDevice> parse_device(PyObject* device) {
  if (device == nullptr || device == Py_None) return std::nullopt;
  std::optional<DLDevice> parsed;
  if (PyUnicode_Check(device)) {
    const auto text = utf8_of(device);
    if (const auto named = text ? Device::parse(*text) : std::nullopt) parsed = *named;
  } else if (PyTuple_Check(device)) {
    parsed = parse_pair(device);
  } else {
    parsed = parse_device_object(device);
  }
  if (!parsed) refuse_device(device);
  return parsed;
}

std::optional<DLDevice> parse_cpu_or_cuda(PyObject* device) {
  const auto parsed = parse_device(device);
  if (parsed && parsed->device_type != kDLCPU && parsed->device_type != kDLCUDA)
    refuse_device(device);
  return parsed;
}

bool parse_bool(const char* name, PyObject* value) {
  if (!PyBool_Check(value)) refuse_argument(name, value, false, "True or False");
  return value == Py_True;
}

std::vector<int64_t> parse_shape(PyObject* shape) {
  constexpr const char* kExpected = "an integer of 64 bits or several, such as (2, 3)";
  if (const auto extent = integer_of(shape)) return {*extent};
  const bool several = Py_TYPE(shape)->tp_iter != nullptr || PySequence_Check(shape);
  const Reference items = checked(several ? PySequence_Tuple(shape) : PyTuple_Pack(1, shape));
  if (const auto extents = integers_of(items.get())) return *extents;
  bool integers = true;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(items.get()); ++i)
    integers = integers && PyIndex_Check(PyTuple_GET_ITEM(items.get(), i));
  refuse_argument("shape", shape, integers, kExpected);
}

const Adapter& parse_target(PyObject* to) {
  const auto name = utf8_of(to);
  if (const Adapter* adapter = name ? find_adapter(*name) : nullptr) return *adapter;
  if (to == nullptr) throw_type_error("to was not given; expected one of " + adapter_names());
  refuse_word("to", to, "one of " + adapter_names());
}

Request read_request(const CallArguments& call, const Adapter& target) {
  Request request;
  if (call.copy != nullptr) request.copy = parse_copy(call.copy);
  if (call.order != nullptr) request.row_major = parse_row_major(call.order);
  if (request.row_major && call.out != nullptr && call.out != Py_None) {
    throw Error(ErrorCode::invalid_argument, "order",
                "order=\"C\" and out= were given; the layout is that of out: leave order= out");
  }
  if (call.assume_writable != nullptr)
    request.assume_writable = parse_bool("assume_writable", call.assume_writable);
  if (call.on_write != nullptr) request.on_write = parse_on_write(call.on_write);
  if (request.on_write != OnWrite::unset && target.wrap_guarded == nullptr)
    throw_type_error("on_write= is not taken here: pass it to to_torch()");
  if (call.device != nullptr) request.device = parse_device(call.device);
  if (call.dtype != nullptr && call.dtype != Py_None) {
    if (target.parse_dtype == nullptr)
      throw_type_error("dtype= is not taken here: pass it to to_numpy() or to_torch()");
    DLDataType dtype;
    check(target.parse_dtype(call.dtype, &dtype));
    request.dtype = dtype;
  }
  return request;
}

Reference array_of_scalar(PyObject* x, bool copy_named) {
  if (!copy_named || adapter_by_type(Py_TYPE(x)) != nullptr) return {};
  Reference array = call_python("dlbridge._advice", "array_of_scalar", "(O)", x);
  return array.get() == Py_None ? Reference() : std::move(array);
}

bool wants_versioned(PyObject* max_version) {
  if (max_version == Py_None) return false;
  const bool pair = PyTuple_Check(max_version) && PyTuple_GET_SIZE(max_version) == 2;
  const auto major = pair ? integer_of(PyTuple_GET_ITEM(max_version, 0)) : std::nullopt;
  if (!major)
    refuse_argument("max_version", max_version,
                    pair && PyLong_Check(PyTuple_GET_ITEM(max_version, 0)),
                    "None or a pair (major, minor)");
  return *major >= 1;
}

DLDevice export_device(PyObject* dl_device, DLDevice place) {
  if (dl_device == Py_None) return place;
  const auto asked = parse_pair(dl_device);
  if (!asked)
    refuse_argument("dl_device", dl_device, PyTuple_Check(dl_device),
                    "None or a DLPack pair such as (1, 0), the CPU", ErrorCode::invalid_device);
  const DeviceType type = Device(*asked).type();
  if (type == DeviceType::cpu && Device(place).is_host()) return *asked;
  // The id of host memory says nothing.
  if (type == Device(place).type() && Device(*asked).is_host()) return place;
  if (Device(*asked) == Device(place)) return place;
  throw Error(ErrorCode::unsupported_device, "device",
              "device " + Device(*asked).name() + " was asked for, the memory is on " +
                  Device(place).name() +
                  ": leave dl_device out, or pass device= to dlbridge.from_dlpack");
}

}  // namespace dlbridge::python
