# SPDX-License-Identifier: Apache-2.0
# Finds <dlpack/dlpack.h>, version 1.3 or later: DLPACK_INCLUDE_DIR, a dlpack CMake package, or the header that the
# apache-tvm-ffi wheel carries. Sets DLBRIDGE_DLPACK_INCLUDE_DIR and DLBRIDGE_DLPACK_VERSION.

set(DLPACK_INCLUDE_DIR "" CACHE PATH "Folder that holds dlpack/dlpack.h")
set(DLBRIDGE_DLPACK_INCLUDE_DIR ${DLPACK_INCLUDE_DIR})
if(NOT DLBRIDGE_DLPACK_INCLUDE_DIR)
  find_package(dlpack QUIET CONFIG)
  if(TARGET dlpack::dlpack)
    get_target_property(DLBRIDGE_DLPACK_INCLUDE_DIR dlpack::dlpack INTERFACE_INCLUDE_DIRECTORIES)
  endif()
endif()
if(NOT DLBRIDGE_DLPACK_INCLUDE_DIR)
  find_package(Python COMPONENTS Interpreter)
  if(Python_Interpreter_FOUND)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c
        "import importlib.util as u, pathlib; s = u.find_spec('tvm_ffi'); print(pathlib.Path(s.origin).parent / 'include') if s else None"
      OUTPUT_VARIABLE wheel_include OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(EXISTS "${wheel_include}/dlpack/dlpack.h")
      set(DLBRIDGE_DLPACK_INCLUDE_DIR ${wheel_include})
    endif()
  endif()
endif()
if(NOT EXISTS "${DLBRIDGE_DLPACK_INCLUDE_DIR}/dlpack/dlpack.h")
  message(FATAL_ERROR "dlpack/dlpack.h was not found: pass -DDLPACK_INCLUDE_DIR=..., install a dlpack CMake package, "
                      "or pip install apache-tvm-ffi into the Python that CMake finds")
endif()

file(STRINGS ${DLBRIDGE_DLPACK_INCLUDE_DIR}/dlpack/dlpack.h version_lines REGEX "define DLPACK_M(AJOR|INOR)_VERSION")
string(REGEX REPLACE ".*MAJOR_VERSION ([0-9]+).*MINOR_VERSION ([0-9]+).*" "\\1.\\2" DLBRIDGE_DLPACK_VERSION "${version_lines}")
if(DLBRIDGE_DLPACK_VERSION VERSION_LESS 1.3)
  message(FATAL_ERROR "${DLBRIDGE_DLPACK_INCLUDE_DIR}/dlpack/dlpack.h is version ${DLBRIDGE_DLPACK_VERSION}; 1.3 or later is needed")
endif()

# Only the dlpack folder is exposed: what else lies beside it in that include folder is none of our business.
set(dlpack_only ${CMAKE_BINARY_DIR}/dlpack-include)
file(COPY ${DLBRIDGE_DLPACK_INCLUDE_DIR}/dlpack DESTINATION ${dlpack_only})
set(DLBRIDGE_DLPACK_SOURCE ${DLBRIDGE_DLPACK_INCLUDE_DIR})
set(DLBRIDGE_DLPACK_INCLUDE_DIR ${dlpack_only})
