// SPDX-License-Identifier: Apache-2.0
#include "convert/containers.h"

#include <algorithm>
#include <string>
#include <vector>

#include "bridge/registry.h"
#include "support/errors.h"

namespace dlbridge::python {
namespace {

// What was converted already: objects and their results, by address. Holds references to both.
class Converted {
 public:
  Converted() = default;
  Converted(const Converted&) = delete;
  Converted& operator=(const Converted&) = delete;
  ~Converted() {
    for (const Pair& pair : pairs_) {
      Py_XDECREF(pair.object);
      Py_XDECREF(pair.result);
    }
  }

  /// The result for `object`, borrowed, or null.
  PyObject* find(PyObject* object) const noexcept {
    return pairs_.empty() ? nullptr : pairs_[place_of(object)].result;
  }

  void add(PyObject* object, PyObject* result) {
    if (2 * (count_ + 1) > pairs_.size()) grow();
    ++count_;
    pairs_[place_of(object)] = {Py_NewRef(object), Py_NewRef(result)};
  }

 private:
  struct Pair {
    PyObject* object = nullptr;
    PyObject* result = nullptr;
  };

  // Where `object` is, or belongs.
  size_t place_of(PyObject* object) const noexcept {
    size_t place = (reinterpret_cast<uintptr_t>(object) / 16) & (pairs_.size() - 1);
    while (pairs_[place].object != nullptr && pairs_[place].object != object)
      place = (place + 1) & (pairs_.size() - 1);
    return place;
  }

  void grow() {
    std::vector<Pair> old(std::max<size_t>(16, 2 * pairs_.size()));
    old.swap(pairs_);
    for (const Pair& pair : old) {
      if (pair.object != nullptr) pairs_[place_of(pair.object)] = pair;
    }
  }

  std::vector<Pair> pairs_;  // a power of two
  size_t count_ = 0;
};

// Where a value lies in the container: the steps from the root, innermost first.
struct Step {
  const Step* outer;
  PyObject* key;  // of a mapping; the name of a field; null for an index
  Py_ssize_t index = 0;
  bool field = false;
};

std::string path_of(const Step* step, const char* root) {
  if (step == nullptr) return root;
  const std::string outer = path_of(step->outer, root);
  if (step->key == nullptr) return outer + "[" + std::to_string(step->index) + "]";
  if (!step->field) return outer + "[" + repr_of(step->key) + "]";
  return outer + "." + std::string(utf8_of(step->key).value_or("?"));
}

// Throws the error of a leaf with its path; a Python exception gets a note.
[[noreturn]] void throw_with_path(const Error& error, const std::string& path) {
  if (error.code() == ErrorCode::python_exception) {
#if PY_VERSION_HEX >= 0x030B0000
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    const Reference noted(PyObject_CallMethod(value, "add_note", "s", ("in " + path).c_str()));
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
#endif
    throw_pending();
  }
  const Reference text =
      call_python("dlbridge._advice", "at_path", "(ss)", error.what(), path.c_str());
  throw Error(error.code(), error.field(), text_of(text.get()));
}

// Whether a type has the attribute; no code of a metaclass runs.
bool has_attribute(PyTypeObject* type, const char* name) noexcept {
  const Reference text(PyUnicode_InternFromString(name));
  PyObject* found = text ? _PyType_Lookup(type, text.get()) : nullptr;
  PyErr_Clear();
  return found != nullptr && found != Py_None;
}

// Lists of numbers, of such lists ...: data that numpy.asarray() takes, not a container of arrays.
bool holds_numbers(PyObject* x, int depth = 0) noexcept {
  if (!(PyList_Check(x) || PyTuple_Check(x)) || depth > 32) return false;
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(x);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* item = PySequence_Fast_GET_ITEM(x, i);
    const bool number =
        PyFloat_CheckExact(item) || PyLong_Check(item) || PyComplex_CheckExact(item);
    if (!number && !holds_numbers(item, depth + 1)) return false;
  }
  return count > 0;
}

class Walk {
 public:
  Walk(const char* root, const std::function<PyObject*(PyObject*)>& convert_leaf) noexcept
      : root_(root), convert_leaf_(convert_leaf) {}

  // A new reference.
  Reference convert(PyObject* x, const Step* step) {
    if (x == Py_None) return Reference(Py_NewRef(x));  // a field without a value
    if (PyObject* seen = converted_.find(x)) return Reference(Py_NewRef(seen));
    if (adapter_by_type(Py_TYPE(x)) == nullptr && is_container(x)) {
      if (Py_EnterRecursiveCall(" while dlbridge converts a container") != 0) throw_pending();
      const Leave leave;
      return remember(x, convert_inside(x, step));
    }
    try {
      return remember(x, Reference(convert_leaf_(x)));
    } catch (const Error& error) {
      throw_with_path(error, path_of(step, root_));
    }
  }

 private:
  struct Leave {
    ~Leave() { Py_LeaveRecursiveCall(); }
  };

  Reference remember(PyObject* x, Reference result) {
    converted_.add(x, result.get());
    return result;
  }

  Reference convert_inside(PyObject* x, const Step* step) {
    if (PyDict_Check(x)) return convert_dict(x, step);
    if (PyList_Check(x)) return convert_list(x, step);
    if (PyTuple_Check(x)) return convert_tuple(x, step);
    return convert_dataclass(x, step);
  }

  // A shallow copy, as copy.copy() makes it.
  static Reference copy_of(PyObject* x) {
    if (PyDict_CheckExact(x)) return checked(PyDict_Copy(x));
    if (PyList_CheckExact(x)) return checked(PyList_GetSlice(x, 0, PyList_GET_SIZE(x)));
    return call_python("copy", "copy", "(O)", x);
  }

  Reference convert_dict(PyObject* x, const Step* step) {
    Reference result = copy_of(x);
    const Reference items = checked(PyDict_Items(x));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.get()); ++i) {
      PyObject* item = PyList_GET_ITEM(items.get(), i);
      const Step here{.outer = step, .key = PyTuple_GET_ITEM(item, 0)};
      const Reference value = convert(PyTuple_GET_ITEM(item, 1), &here);
      if (PyObject_SetItem(result.get(), here.key, value.get()) < 0) throw_pending();
    }
    return result;
  }

  Reference convert_list(PyObject* x, const Step* step) {
    Reference result = copy_of(x);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(result.get()); ++i) {
      const Step here{.outer = step, .key = nullptr, .index = i};
      const Reference item(Py_NewRef(PyList_GET_ITEM(result.get(), i)));
      Reference value = convert(item.get(), &here);
      if (PyList_SetItem(result.get(), i, value.release()) < 0) throw_pending();
    }
    return result;
  }

  // A namedtuple is made by _make(), another subclass by its type; its attributes are kept.
  Reference convert_tuple(PyObject* x, const Step* step) {
    Reference items = checked(PyTuple_New(PyTuple_GET_SIZE(x)));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(x); ++i) {
      const Step here{.outer = step, .key = nullptr, .index = i};
      PyTuple_SET_ITEM(items.get(), i, convert(PyTuple_GET_ITEM(x, i), &here).release());
    }
    if (PyTuple_CheckExact(x)) return items;
    auto* type = reinterpret_cast<PyObject*>(Py_TYPE(x));
    Reference result = checked(has_attribute(Py_TYPE(x), "_make")
                                   ? PyObject_CallMethod(type, "_make", "(O)", items.get())
                                   : PyObject_CallOneArg(type, items.get()));
    if (!has_attribute(Py_TYPE(x), "__dict__")) return result;
    const Reference from = checked(PyObject_GenericGetDict(x, nullptr));
    const Reference to = checked(PyObject_GenericGetDict(result.get(), nullptr));
    if (PyDict_Update(to.get(), from.get()) < 0) throw_pending();
    return result;
  }

  // Fields are set as object.__setattr__ sets them: frozen dataclasses are converted, too.
  Reference convert_dataclass(PyObject* x, const Step* step) {
    Reference result = copy_of(x);
    const Reference names = call_python("dlbridge._advice", "field_names", "(O)", Py_TYPE(x));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names.get()); ++i) {
      const Step here{
          .outer = step, .key = PyList_GET_ITEM(names.get(), i), .index = 0, .field = true};
      const Reference value = checked(PyObject_GetAttr(x, here.key));
      const Reference made = convert(value.get(), &here);
      if (PyObject_GenericSetAttr(result.get(), here.key, made.get()) < 0) throw_pending();
    }
    return result;
  }

  const char* root_;
  const std::function<PyObject*(PyObject*)>& convert_leaf_;
  Converted converted_;
};

}  // namespace

bool is_container(PyObject* x) {
  if (PyDict_CheckExact(x)) return true;
  if (PyList_CheckExact(x) || PyTuple_CheckExact(x)) return !holds_numbers(x);
  if (has_attribute(Py_TYPE(x), "__dlpack__")) return false;
  if (PyDict_Check(x)) return true;
  if (PyList_Check(x) || PyTuple_Check(x)) return !holds_numbers(x);
  return has_attribute(Py_TYPE(x), "__dataclass_fields__") &&
         !has_attribute(Py_TYPE(x), "__array__") &&
         call_python("dlbridge._advice", "is_record", "(O)", Py_TYPE(x)).get() == Py_True;
}

PyObject* map_container(PyObject* x, const char* root,
                        const std::function<PyObject*(PyObject*)>& convert) {
  return Walk(root, convert).convert(x, nullptr).release();
}

}  // namespace dlbridge::python
