# SPDX-License-Identifier: Apache-2.0
# Takes headers and libraries from an installed torch wheel, without find_package(Torch), which probes for a GPU and
# wants a CUDA toolkit on CUDA builds. Nothing of torch is run: the version is read from its version.py.
#
# Under build isolation torch is not importable although the target environment has it, so the site folder of the
# environment is asked. Sets DLBRIDGE_TORCH_FOUND, DLBRIDGE_TORCH_VERSION, DLBRIDGE_TORCH_WHY; target dlbridge_libtorch.

set(DLBRIDGE_TORCH_FOUND OFF)
set(DLBRIDGE_TORCH_VERSION "")
if(NOT DLBRIDGE_TORCH)
  set(DLBRIDGE_TORCH_WHY "DLBRIDGE_TORCH is OFF")
  return()
endif()

set(torch_dir ${DLBRIDGE_TORCH_DIR})
if(NOT torch_dir AND DEFINED ENV{DLBRIDGE_TORCH_DIR})
  set(torch_dir $ENV{DLBRIDGE_TORCH_DIR})
endif()
if(NOT torch_dir)
  find_package(Python COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python_EXECUTABLE} -c "import sysconfig; print(sysconfig.get_path('platlib'))"
    OUTPUT_VARIABLE platlib OUTPUT_STRIP_TRAILING_WHITESPACE)
  set(torch_dir ${platlib}/torch)
endif()

if(NOT EXISTS ${torch_dir}/include/ATen/core/Tensor.h)
  set(DLBRIDGE_TORCH_WHY "no torch headers under ${torch_dir}")
  if(DLBRIDGE_TORCH STREQUAL ON)
    message(FATAL_ERROR "DLBRIDGE_TORCH is ON, but ${DLBRIDGE_TORCH_WHY}: pip install torch, or pass -DDLBRIDGE_TORCH_DIR=...")
  endif()
  return()
endif()

file(STRINGS ${torch_dir}/version.py version_line REGEX "^__version__ *=")
string(REGEX REPLACE ".*['\"](.*)['\"].*" "\\1" DLBRIDGE_TORCH_VERSION "${version_line}")
set(DLBRIDGE_TORCH_FOUND ON)
set(DLBRIDGE_TORCH_WHY "torch ${DLBRIDGE_TORCH_VERSION} in ${torch_dir}")

add_library(dlbridge_libtorch INTERFACE)
target_include_directories(dlbridge_libtorch SYSTEM INTERFACE ${torch_dir}/include)
# Torch's libraries are built with NDEBUG, and its headers' debug assertions expect the other kind of library.
target_compile_definitions(dlbridge_libtorch INTERFACE NDEBUG)
# Torch's assertions carry the path of their header.
target_compile_options(dlbridge_libtorch INTERFACE -ffile-prefix-map=${torch_dir}=torch)
target_link_libraries(dlbridge_libtorch INTERFACE ${torch_dir}/lib/libc10.so ${torch_dir}/lib/libtorch_cpu.so)
# libtorch_cpu.so needs libraries of other wheels, which its own RPATH finds at run time and the linker does not.
target_link_options(dlbridge_libtorch INTERFACE -Wl,--allow-shlib-undefined)
set(DLBRIDGE_TORCH_LIB_DIR ${torch_dir}/lib)
