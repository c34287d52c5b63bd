# SPDX-License-Identifier: Apache-2.0
# The Python to build for, with NumPy's headers (>= 2, which run on 1.26 and 2.x).

# scikit-build-core passes Python's facts under both names; a plain build passes Python_EXECUTABLE or takes the first one.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module OPTIONAL_COMPONENTS Development.Embed)
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import numpy; print(numpy.get_include()); print(numpy.__version__)"
  OUTPUT_VARIABLE numpy_facts OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE numpy_missing ERROR_QUIET)
if(numpy_missing)
  message(FATAL_ERROR "NumPy was not found by ${Python_EXECUTABLE}: pip install 'numpy>=2', or pass -DDLBRIDGE_NUMPY=OFF -DDLBRIDGE_PYTHON=OFF")
endif()
string(REPLACE "\n" ";" numpy_facts "${numpy_facts}")
list(GET numpy_facts 0 DLBRIDGE_NUMPY_INCLUDE_DIR)
list(GET numpy_facts 1 DLBRIDGE_NUMPY_VERSION)
if(DLBRIDGE_NUMPY_VERSION VERSION_LESS 2)
  message(FATAL_ERROR "NumPy ${DLBRIDGE_NUMPY_VERSION} headers found; building needs NumPy 2 or later (the result runs on 1.26 too)")
endif()
