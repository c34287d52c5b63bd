# SPDX-License-Identifier: Apache-2.0
# The versions of torch that direct adapters are built for: their headers, without find_package(Torch), which probes for a
# GPU and wants a CUDA toolkit on CUDA builds. Nothing of torch is run: the version is read from its version.py.
#
# DLBRIDGE_TORCH_DIR (from CMake or the environment) is a folder that holds torch's include/ and version.py, or a list of
# such folders, one for each minor version (scripts/wheel). Without it, it is the torch that the environment imports, also
# under pip's build isolation.
#
# Sets DLBRIDGE_TORCH_FOUND, DLBRIDGE_TORCH_WHY, DLBRIDGE_TORCH_VERSIONS (such as 2.14.1;2.15.0+cu132) and
# DLBRIDGE_TORCH_TAGS (2_14;2_15); targets dlbridge_torch_headers_TAG. Where there is one, with its libraries:
# DLBRIDGE_TORCH_VERSION, DLBRIDGE_TORCH_LIB_DIR and the target dlbridge_libtorch, which links them.

set(DLBRIDGE_TORCH_FOUND OFF)
set(DLBRIDGE_TORCH_VERSION "")
set(DLBRIDGE_TORCH_VERSIONS "")
set(DLBRIDGE_TORCH_TAGS "")
if(NOT DLBRIDGE_TORCH)
  set(DLBRIDGE_TORCH_WHY "DLBRIDGE_TORCH is OFF")
  return()
endif()

set(torch_dirs ${DLBRIDGE_TORCH_DIR})
if(NOT torch_dirs AND DEFINED ENV{DLBRIDGE_TORCH_DIR})
  set(torch_dirs $ENV{DLBRIDGE_TORCH_DIR})
endif()
set(why "no torch that ${Python_EXECUTABLE} imports")
if(NOT torch_dirs)
  find_package(Python COMPONENTS Interpreter)
  execute_process(COMMAND ${Python_EXECUTABLE} -E ${CMAKE_CURRENT_LIST_DIR}/find_torch.py
    OUTPUT_VARIABLE torch_dirs OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
foreach(torch_dir IN LISTS torch_dirs)
  if(NOT EXISTS ${torch_dir}/include/ATen/core/Tensor.h OR NOT EXISTS ${torch_dir}/version.py)
    set(why "no torch headers in ${torch_dir}")
    set(torch_dirs "")
  endif()
endforeach()
if(NOT torch_dirs)
  if(DLBRIDGE_TORCH STREQUAL ON)
    message(FATAL_ERROR "DLBRIDGE_TORCH is ON, but there is ${why}: pip install torch, or pass -DDLBRIDGE_TORCH_DIR=...")
  endif()
  set(DLBRIDGE_TORCH_WHY "${why}; torch 2.10 or later is reached without it, slower. For the direct adapter install torch, \
then dlbridge again, or set DLBRIDGE_TORCH_DIR to torch's folder")
  return()
endif()

# Modules name torch's libraries, so that the loader finds those that torch has loaded; the symbols are looked up there and
# then. Linked are empty libraries of these names: only headers of torch are needed to build.
file(WRITE ${CMAKE_BINARY_DIR}/torch-names/empty.cpp "")
set(names "")
foreach(library c10 torch_cpu torch_python)
  add_library(dlbridge_name_${library} SHARED ${CMAKE_BINARY_DIR}/torch-names/empty.cpp)
  set_target_properties(dlbridge_name_${library} PROPERTIES
    OUTPUT_NAME ${library} LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/torch-names)
  list(APPEND names $<TARGET_FILE:dlbridge_name_${library}>)
endforeach()
add_library(dlbridge_torch_names INTERFACE)
target_link_options(dlbridge_torch_names INTERFACE LINKER:--push-state,--no-as-needed ${names} LINKER:--pop-state)
add_dependencies(dlbridge_torch_names dlbridge_name_c10 dlbridge_name_torch_cpu dlbridge_name_torch_python)

foreach(torch_dir IN LISTS torch_dirs)
  file(STRINGS ${torch_dir}/version.py version_line REGEX "^__version__ *=")
  string(REGEX REPLACE ".*['\"](.*)['\"].*" "\\1" version "${version_line}")
  string(REGEX REPLACE "^([0-9]+)\\.([0-9]+).*" "\\1_\\2" tag "${version}")
  if(tag IN_LIST DLBRIDGE_TORCH_TAGS)
    message(FATAL_ERROR "DLBRIDGE_TORCH_DIR has two folders of one minor version of torch, ${version}: ${torch_dirs}")
  endif()
  list(APPEND DLBRIDGE_TORCH_VERSIONS ${version})
  list(APPEND DLBRIDGE_TORCH_TAGS ${tag})
  set(headers dlbridge_torch_headers_${tag})
  add_library(${headers} INTERFACE)
  target_include_directories(${headers} SYSTEM INTERFACE ${torch_dir}/include)
  # Torch's libraries are built with NDEBUG, and its headers' debug assertions expect the other kind of library.
  target_compile_definitions(${headers} INTERFACE NDEBUG)
  # Torch's assertions carry the path of their header.
  target_compile_options(${headers} INTERFACE -ffile-prefix-map=${torch_dir}=torch)
endforeach()
set(DLBRIDGE_TORCH_FOUND ON)
list(JOIN DLBRIDGE_TORCH_VERSIONS ", " said)
set(DLBRIDGE_TORCH_WHY "torch ${said}")

list(LENGTH torch_dirs count)
if(count EQUAL 1 AND EXISTS "${torch_dirs}/lib/libtorch_cpu.so")
  set(DLBRIDGE_TORCH_WHY "torch ${said} in ${torch_dirs}")
  set(DLBRIDGE_TORCH_VERSION ${DLBRIDGE_TORCH_VERSIONS})
  set(DLBRIDGE_TORCH_LIB_DIR ${torch_dirs}/lib)
  add_library(dlbridge_libtorch INTERFACE)
  target_link_libraries(dlbridge_libtorch INTERFACE dlbridge_torch_headers_${DLBRIDGE_TORCH_TAGS}
    ${DLBRIDGE_TORCH_LIB_DIR}/libc10.so ${DLBRIDGE_TORCH_LIB_DIR}/libtorch_cpu.so)
  # libtorch_cpu.so needs libraries of other wheels, which its own RPATH finds at run time and the linker does not.
  target_link_options(dlbridge_libtorch INTERFACE -Wl,--allow-shlib-undefined)
endif()
