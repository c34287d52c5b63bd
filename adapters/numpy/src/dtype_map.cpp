// SPDX-License-Identifier: Apache-2.0
#include "dtype_map.h"

#include <algorithm>
#include <array>
#include <limits>
#include <type_traits>

#include "dlbridge/numpy.h"

namespace dlbridge {
namespace {

struct Builtin {
  int type_num;
  DType dtype;
};

// C types come before their fixed-width twins, so that the canonical descriptor of a width is the
// one NumPy prints without a surprise (int64 is NPY_LONG here, longlong only maps one way).
constexpr std::array kBuiltins{
    Builtin{NPY_LONGLONG, {TypeCode::int_, 64}},
    Builtin{NPY_ULONGLONG, {TypeCode::uint, 64}},
    Builtin{NPY_BOOL, {TypeCode::boolean, 8}},
    Builtin{NPY_BYTE, {TypeCode::int_, 8}},
    Builtin{NPY_UBYTE, {TypeCode::uint, 8}},
    Builtin{NPY_SHORT, {TypeCode::int_, 16}},
    Builtin{NPY_USHORT, {TypeCode::uint, 16}},
    Builtin{NPY_INT, {TypeCode::int_, 32}},
    Builtin{NPY_UINT, {TypeCode::uint, 32}},
    Builtin{NPY_LONG, {TypeCode::int_, 8 * sizeof(long)}},
    Builtin{NPY_ULONG, {TypeCode::uint, 8 * sizeof(long)}},
    Builtin{NPY_HALF, {TypeCode::float_, 16}},
    Builtin{NPY_FLOAT, {TypeCode::float_, 32}},
    Builtin{NPY_DOUBLE, {TypeCode::float_, 64}},
    Builtin{NPY_CFLOAT, {TypeCode::complex, 64}},
    Builtin{NPY_CDOUBLE, {TypeCode::complex, 128}},
};

struct Packaged {
  const char* name;
  DType dtype;
};

// ml_dtypes keeps every type in whole bytes: those below a byte are padded.
constexpr std::array kPackaged{
    Packaged{"bfloat16", {TypeCode::bfloat, 16}},
    Packaged{"float8_e3m4", {TypeCode::float8_e3m4, 8}},
    Packaged{"float8_e4m3", {TypeCode::float8_e4m3, 8}},
    Packaged{"float8_e4m3b11fnuz", {TypeCode::float8_e4m3b11fnuz, 8}},
    Packaged{"float8_e4m3fn", {TypeCode::float8_e4m3fn, 8}},
    Packaged{"float8_e4m3fnuz", {TypeCode::float8_e4m3fnuz, 8}},
    Packaged{"float8_e5m2", {TypeCode::float8_e5m2, 8}},
    Packaged{"float8_e5m2fnuz", {TypeCode::float8_e5m2fnuz, 8}},
    Packaged{"float8_e8m0fnu", {TypeCode::float8_e8m0fnu, 8}},
    Packaged{"float6_e2m3fn", {TypeCode::float6_e2m3fn, 6}},
    Packaged{"float6_e3m2fn", {TypeCode::float6_e3m2fn, 6}},
    Packaged{"float4_e2m1fn", kFloat4Padded},
    Packaged{"int1", {TypeCode::int_, 1}},
    Packaged{"int2", {TypeCode::int_, 2}},
    Packaged{"int4", {TypeCode::int_, 4}},
    Packaged{"uint1", {TypeCode::uint, 1}},
    Packaged{"uint2", {TypeCode::uint, 2}},
    Packaged{"uint4", {TypeCode::uint, 4}},
};

constexpr int kFirstUserType = 256;
constexpr int kUserTypes = 128;

// Built under the GIL; entries change only from "not there" to "there".
struct Maps {
  std::array<NumpyDType, NPY_HALF + 1> builtin{};
  std::array<NumpyDType, kUserTypes> user{};
  std::array<PyArray_Descr*, DTypeSet::kSlots> descriptors{};
  TargetTraits traits;
  bool ml_dtypes_loaded = false;
};

// Never destroyed: arrays may be described until the process ends.
static_assert(std::is_trivially_destructible_v<Maps>);
constinit Maps g_maps;

constexpr NumpyDType kUnknown{};

void put(DType dtype, PyArray_Descr* descriptor) noexcept {
  const int slot = DTypeSet::slot(dtype);
  if (slot < 0) return;
  g_maps.descriptors[static_cast<size_t>(slot)] = descriptor;
  g_maps.traits.dtypes.add(dtype);
  g_maps.traits.dtypes_missing.remove(dtype);
}

bool ml_dtypes_is_imported() noexcept {
  PyObject* modules = PyImport_GetModuleDict();
  return modules != nullptr && PyDict_GetItemString(modules, "ml_dtypes") != nullptr;
}

void register_packaged(PyObject* module) noexcept {
  for (const Packaged& row : kPackaged) {
    PyObject* type = PyObject_GetAttrString(module, row.name);
    if (type == nullptr) {
      PyErr_Clear();  // an older ml_dtypes
      continue;
    }
    PyArray_Descr* descriptor = nullptr;
    if (PyArray_DescrConverter(type, &descriptor) == NPY_SUCCEED) {
      const int slot = descriptor->type_num - kFirstUserType;
      if (slot >= 0 && slot < kUserTypes) {
        g_maps.user[static_cast<size_t>(slot)] = NumpyDType(row.dtype);
        put(row.dtype, descriptor);  // kept for good
      } else {
        Py_DECREF(descriptor);
      }
    } else {
      PyErr_Clear();
    }
    Py_DECREF(type);
  }
}

}  // namespace

void initialize_dtype_map() {
  Maps& tables = g_maps;
  TargetTraits& traits = tables.traits;
  traits.name = "numpy";
  traits.max_ndim = PyArray_RUNTIME_VERSION >= NPY_2_0_API_VERSION ? 64 : 32;
  traits.negative_strides = traits.zero_strides = traits.partial_overlap = true;
  traits.read_only = traits.misaligned = true;
  traits.float4 = Float4::padded;
  traits.host_only = true;
  for (DeviceType type : {DeviceType::cpu, DeviceType::cuda_host, DeviceType::rocm_host})
    traits.devices |= 1u << static_cast<int>(type);
  for (const Packaged& row : kPackaged) traits.dtypes_missing.add(row.dtype);
  for (const Builtin& row : kBuiltins) {
    tables.builtin[static_cast<size_t>(row.type_num)] = NumpyDType(row.dtype);
    put(row.dtype, PyArray_DescrFromType(row.type_num));
  }
}

const TargetTraits& numpy_traits() noexcept { return g_maps.traits; }

bool load_ml_dtypes() noexcept {
  if (g_maps.ml_dtypes_loaded) return true;
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  PyObject* module = PyImport_ImportModule("ml_dtypes");
  if (module != nullptr) {
    register_packaged(module);
    Py_DECREF(module);
    g_maps.ml_dtypes_loaded = true;
  } else {
    PyErr_Clear();
  }
  PyErr_Restore(type, value, traceback);
  return g_maps.ml_dtypes_loaded;
}

const RefusedDType& refused_dtype(const PyArray_Descr* descriptor) noexcept {
  static constexpr const char* kNoText = "pass numbers: DLPack has no element type for text";
  static constexpr RefusedDType kObject{
      {"object", "pass x.astype(\"float64\") if its elements are numbers"}};
  static constexpr RefusedDType kBytes{{"bytes (S)", kNoText}};
  static constexpr RefusedDType kStr{{"str (U)", kNoText}};
  static constexpr RefusedDType kStringDType{{"StringDType", kNoText}};
  static constexpr RefusedDType kStructured{
      {"structured",
       "pass a field such as x[\"name\"], or "
       "numpy.lib.recfunctions.structured_to_unstructured(x)"}};
  static constexpr RefusedDType kVoid{{"void", "pass numpy.ascontiguousarray(x).view(\"uint8\")"}};
  static constexpr const char* kView = "pass x.view(\"int64\")";
  static constexpr const char* kSwap = "pass x.astype(\"int64\")";
  static constexpr RefusedDType kDates[2][2] = {
      {{{"datetime64", kSwap}}, {{"datetime64", kView}}},
      {{{"timedelta64", kSwap}}, {{"timedelta64", kView}}}};
  static constexpr RefusedDType kLongDouble{{"longdouble", "pass x.astype(\"float64\")"}, true};
  static constexpr RefusedDType kComplexLongDouble{{"clongdouble", "pass x.astype(\"complex128\")"},
                                                   true};
  static constexpr RefusedDType kOther{
      {"one that DLPack does not have", "pass x.astype(dtype) with a dtype that DLPack has"}};
  switch (descriptor->type_num) {
    case NPY_OBJECT:
      return kObject;
    case NPY_STRING:
      return kBytes;
    case NPY_UNICODE:
      return kStr;
    case NPY_VSTRING:
      return kStringDType;
    case NPY_VOID:
      return PyDataType_HASFIELDS(descriptor) ? kStructured : kVoid;
    case NPY_DATETIME:
    case NPY_TIMEDELTA:
      return kDates[descriptor->type_num == NPY_TIMEDELTA][PyArray_ISNBO(descriptor->byteorder)];
    case NPY_LONGDOUBLE:
      return kLongDouble;
    case NPY_CLONGDOUBLE:
      return kComplexLongDouble;
    default:
      return kOther;
  }
}

const NumpyDType& entry_for(int type_num) noexcept {
  if (type_num >= 0 && type_num <= NPY_HALF) [[likely]]
    return g_maps.builtin[static_cast<size_t>(type_num)];
  const int slot = type_num - kFirstUserType;
  if (slot < 0 || slot >= kUserTypes) return kUnknown;
  if (!g_maps.ml_dtypes_loaded && ml_dtypes_is_imported()) load_ml_dtypes();
  const NumpyDType& entry = g_maps.user[static_cast<size_t>(slot)];
  return entry.held ? entry : kUnknown;
}

PyArray_Descr* descriptor_for(DLDataType dtype) noexcept {
  const int slot = DTypeSet::slot(dtype);
  return slot < 0 ? nullptr : g_maps.descriptors[static_cast<size_t>(slot)];
}

DLDataType parse_numpy_dtype(PyObject* object) {
  if (PyUnicode_Check(object)) {
    // Names of ml_dtypes become known to NumPy only with the package.
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(object, &size);
    const auto named = text ? DType::parse({text, static_cast<size_t>(size)}) : std::nullopt;
    if (!text) PyErr_Clear();
    if (named && g_maps.traits.dtypes_missing.contains(*named)) load_ml_dtypes();
    if (named) return *named;
  }
  PyArray_Descr* descriptor = nullptr;
  if (PyArray_DescrConverter(object, &descriptor) != NPY_SUCCEED) throw_python_error();
  const RefusedDType& refused = refused_dtype(descriptor);
  const NumpyDType& entry = entry_for(descriptor->type_num);
  const bool swapped = !PyArray_ISNBO(descriptor->byteorder);
  Py_DECREF(descriptor);
  if (!entry.held) {
    throw Error(ErrorCode::invalid_dtype, "dtype",
                std::string("dtype is ") + refused.found +
                    "; expected one that DLPack has, such as numpy.float32");
  }
  if (swapped) {
    throw Error(ErrorCode::byte_order, "dtype",
                "dtype is in foreign byte order; expected native: pass dtype.newbyteorder(\"=\")");
  }
  return entry.dtype;
}

}  // namespace dlbridge
