// SPDX-License-Identifier: Apache-2.0
// Starts Python once for all tests of this executable, with the standard library and the
// site-packages of the Python that CMake was configured for.
#include "interpreter.h"

#include <gtest/gtest.h>

#include "dlbridge/numpy.h"

#if defined(__SANITIZE_ADDRESS__)
// CPython keeps interned strings, static types and module state until the process ends, and NumPy
// its dtype and ufunc tables; neither frees them in Py_Finalize. What our own code allocates with
// new and malloc is still reported.
extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  return "leak:libpython\nleak:_multiarray_umath\nleak:_umath_linalg\nleak:_ml_dtypes_ext\n";
}
#endif

namespace dlbridge::test {
namespace {

PyObject* g_globals = nullptr;

void start_python() {
  PyConfig config;
  PyConfig_InitIsolatedConfig(&config);
  PyConfig_SetString(&config, &config.home, L"" DLBRIDGE_TEST_PYTHON_HOME);
  const PyStatus status = Py_InitializeFromConfig(&config);
  PyConfig_Clear(&config);
  if (PyStatus_Exception(status)) Py_ExitStatusException(status);
  g_globals = PyDict_New();
  PyDict_SetItemString(g_globals, "__builtins__", PyEval_GetBuiltins());
  const char* setup =
      "import gc, sys\n"
      "sys.path.insert(0, r'" DLBRIDGE_TEST_SITE_PACKAGES
      "')\n"
      "import numpy as np\n";
  Ref done(PyRun_String(setup, Py_file_input, g_globals, g_globals));
  if (!done) {
    PyErr_Print();
    GTEST_FAIL() << "numpy could not be imported from " DLBRIDGE_TEST_SITE_PACKAGES;
  }
}

class PythonEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    start_python();
    if (!testing::Test::HasFatalFailure()) initialize_numpy();
  }
  void TearDown() override {
    Py_CLEAR(g_globals);
    Py_FinalizeEx();
  }
};

}  // namespace

Ref eval(const std::string& expression, PyObject* x) {
  PyDict_SetItemString(g_globals, "x", x != nullptr ? x : Py_None);
  Ref value(PyRun_String(expression.c_str(), Py_eval_input, g_globals, g_globals));
  PyDict_SetItemString(g_globals, "x", Py_None);
  if (!value) {
    PyErr_Print();
    ADD_FAILURE() << "raised: " << expression;
  }
  return value;
}

bool holds(const std::string& expression, PyObject* x) {
  const Ref value = eval(expression, x);
  return value && PyObject_IsTrue(value.get()) == 1;
}

void run_pending_calls() { ASSERT_EQ(Py_MakePendingCalls(), 0); }

}  // namespace dlbridge::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new dlbridge::test::PythonEnvironment);
  return RUN_ALL_TESTS();
}
