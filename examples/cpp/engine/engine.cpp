// SPDX-License-Identifier: Apache-2.0
// A C++ program with Python inside: it reads and writes a NumPy array of the script, and the script
// gets an array over a buffer of the program. No element is copied.
//
//     engine HOME SITE_PACKAGES
//
// HOME is where that Python's standard library is (sys.base_prefix), SITE_PACKAGES where NumPy is.
#include <Python.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <stdexcept>

#include "dlbridge/loan_over.h"
#include "dlbridge/numpy.h"
#include "dlbridge/require.h"

namespace {

struct DropReference {
  void operator()(PyObject* object) const noexcept { Py_DECREF(object); }
};
using Reference = std::unique_ptr<PyObject, DropReference>;

std::weak_ptr<std::array<float, 12>> watched;  // to see when the script lets a frame go

void check(bool holds, const char* claim) {
  std::printf("%s: %s\n", claim, holds ? "yes" : "no");
  if (!holds) throw std::runtime_error(claim);
}

void start_python(const char* home) {
  PyConfig config;
  PyConfig_InitIsolatedConfig(&config);
  PyConfig_SetBytesString(&config, &config.home, home);
  const PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) Py_ExitStatusException(status);
}

// Returns the value of a Python expression; None for a statement.
Reference run(PyObject* names, const char* code, int start) {
  Reference value(PyRun_String(code, start, names, names));
  if (!value) {
    PyErr_Print();
    throw std::runtime_error(code);
  }
  return value;
}

uintptr_t address_of(PyObject* names, const char* expression) {
  return PyLong_AsSize_t(run(names, expression, Py_eval_input).get());
}

// Python to C++: the loan holds a reference to the array, so the address is valid until the loan is
// destroyed. It may be destroyed on any thread, with or without the GIL.
void brighten(PyObject* array, float by) {
  const dlbridge::Loan loan = dlbridge::share_ndarray(array);
  const dlbridge::TensorView& view = loan.view();
  dlbridge::require(view,
                    {.dtype = dlbridge::dtype_of<float>(), .row_major = true, .writable = true});
  for (float& pixel : std::span(static_cast<float*>(view.data), view.size())) pixel += by;
}

// C++ to Python: the array's base owns the loan, and the loan a reference to the frame. Returns a
// new reference.
PyObject* array_over(const std::shared_ptr<std::array<float, 12>>& frame) {
  return dlbridge::to_ndarray(
      dlbridge::loan_over(frame, frame->data(), dlbridge::dtype_of<float>(), {3, 4}));
}

void read_and_write_an_array(PyObject* names) {
  run(names, "pixels = numpy.arange(12, dtype='float32').reshape(3, 4)", Py_file_input);
  brighten(run(names, "pixels", Py_eval_input).get(), 0.5f);
  check(run(names, "float(pixels.sum()) == 72", Py_eval_input).get() == Py_True,
        "the engine writes into the array where it is");
}

void share_a_frame(PyObject* names) {
  const auto frame = std::make_shared<std::array<float, 12>>();
  const Reference array(array_over(frame));
  PyDict_SetItemString(names, "frame", array.get());
  check(reinterpret_cast<uintptr_t>(frame->data()) == address_of(names, "frame.ctypes.data"),
        "the script gets the frame where it is");
  run(names, "frame[2, 3] = 7", Py_file_input);
  check((*frame)[11] == 7.0f, "the engine sees what the script drew");
  watched = frame;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("engine HOME SITE_PACKAGES");
  start_python(argv[1]);
  {
    const Reference names(PyDict_New());
    const Reference site_packages(PyUnicode_DecodeFSDefault(argv[2]));
    PyDict_SetItemString(names.get(), "place", site_packages.get());
    run(names.get(), "import sys\nsys.path.append(place)\nimport numpy", Py_file_input);
    dlbridge::initialize_numpy();  // once, before anything else of the adapter

    read_and_write_an_array(names.get());
    share_a_frame(names.get());
    check(!watched.expired(), "the script keeps the frame after the engine dropped it");
    run(names.get(), "del frame", Py_file_input);
    check(watched.expired(), "and gave it back");
  }
  return Py_FinalizeEx() == 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
