# SPDX-License-Identifier: Apache-2.0
# Finds a CUDA toolkit: nvcc, the headers of the runtime and of the driver, and libcudart_static.a, all of one version,
# 12.8 or later. No GPU, driver or libcuda.so is needed, and enable_language(CUDA) is not called: it builds and links
# programs to learn what is known here.
#
# Looked at is DLBRIDGE_CUDA_TOOLKIT_DIR (from CMake or the environment) and nothing else where it is given; otherwise,
# the first that fits: CUDA_HOME and CUDA_PATH, the nvcc in PATH, /usr/local/cuda, what scripts/setup puts into the
# virtual environment (PREFIX/cuda-toolkit), the nvidia wheels of Python's site folder.
#
# Sets DLBRIDGE_CUDA_FOUND, DLBRIDGE_CUDA_VERSION, DLBRIDGE_CUDA_WHY, DLBRIDGE_NVCC; target dlbridge_cudart.

set(DLBRIDGE_CUDA_FOUND OFF)
set(DLBRIDGE_CUDA_VERSION "")
set(DLBRIDGE_CUDA_LEAST 12.8)  # the first that knows sm_120
if(NOT DLBRIDGE_CUDA)
  set(DLBRIDGE_CUDA_WHY "DLBRIDGE_CUDA is OFF")
  return()
endif()

# Sets `places` to the folders that may hold a toolkit.
function(dlbridge_cuda_places places)
  if(DLBRIDGE_CUDA_TOOLKIT_DIR)
    set(${places} ${DLBRIDGE_CUDA_TOOLKIT_DIR} PARENT_SCOPE)
    return()
  elseif(DEFINED ENV{DLBRIDGE_CUDA_TOOLKIT_DIR})
    set(${places} $ENV{DLBRIDGE_CUDA_TOOLKIT_DIR} PARENT_SCOPE)
    return()
  endif()
  set(found $ENV{CUDA_HOME} $ENV{CUDA_PATH})
  find_program(nvcc_in_path nvcc NO_CACHE NO_CMAKE_PATH NO_CMAKE_SYSTEM_PATH)
  if(nvcc_in_path)  # may be a link or a script: it knows itself where it lies
    execute_process(COMMAND ${nvcc_in_path} --dryrun -x cu -c /dev/null OUTPUT_VARIABLE said ERROR_VARIABLE said)
    if(said MATCHES "TOP=([^\n]+)")
      get_filename_component(folder ${CMAKE_MATCH_1} ABSOLUTE)
      list(APPEND found ${folder})
    endif()
  endif()
  list(APPEND found /usr/local/cuda)
  find_package(Python QUIET COMPONENTS Interpreter)
  if(Python_Interpreter_FOUND)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c "import sys, sysconfig; print(sys.prefix); print(sysconfig.get_path('platlib'))"
      OUTPUT_VARIABLE prefixes OUTPUT_STRIP_TRAILING_WHITESPACE)
    string(REPLACE "\n" ";" prefixes "${prefixes}")
    list(GET prefixes 0 prefix)
    list(GET prefixes 1 platlib)
    file(GLOB wheels ${prefix}/cuda-toolkit/nvidia/cu[0-9]* ${platlib}/nvidia/cu[0-9]*)
    list(APPEND found ${wheels})
  endif()
  list(REMOVE_DUPLICATES found)
  set(${places} ${found} PARENT_SCOPE)
endfunction()

# Sets `version` to X.Y as `macro` in a header says it (13000 is 13.0).
function(dlbridge_cuda_header_version header macro version)
  file(STRINGS ${header} line REGEX "^#define ${macro} +[0-9]+" LIMIT_COUNT 1)
  string(REGEX REPLACE ".* ([0-9]+).*" "\\1" number "${line}")
  math(EXPR major "${number} / 1000")
  math(EXPR minor "${number} % 1000 / 10")
  set(${version} ${major}.${minor} PARENT_SCOPE)
endfunction()

# Whether `place` holds a whole toolkit. Sets `problem`, empty where it does, and then `nvcc`, `include`, `cudart` and
# `version`.
macro(dlbridge_cuda_check place problem)
  file(GLOB include ${place}/include/cuda_runtime_api.h
    ${place}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/include/cuda_runtime_api.h)
  file(GLOB cudart ${place}/lib64/libcudart_static.a ${place}/lib/libcudart_static.a
    ${place}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib/libcudart_static.a)
  set(nvcc ${place}/bin/nvcc)
  set(${problem} "")
  if(NOT EXISTS ${nvcc})
    set(${problem} "no bin/nvcc")
  elseif(NOT include)
    set(${problem} "no include/cuda_runtime_api.h")
  elseif(NOT cudart)
    set(${problem} "no libcudart_static.a")
  else()
    list(GET include 0 include)
    list(GET cudart 0 cudart)
    get_filename_component(include ${include} DIRECTORY)
    execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE failed)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" matched "${said}")
    set(version ${CMAKE_MATCH_1})
    dlbridge_cuda_header_version(${include}/cuda_runtime_api.h CUDART_VERSION headers)
    if(failed OR NOT matched)
      set(${problem} "bin/nvcc does not run: ${said}")
    elseif(NOT EXISTS ${include}/cuda.h)
      set(${problem} "no include/cuda.h")
    elseif(NOT headers VERSION_EQUAL version)
      # Wheels of several versions share one folder: torch brings headers and the runtime, but no nvcc.
      set(${problem} "nvcc is of ${version}, the headers are of ${headers}")
    elseif(version VERSION_LESS DLBRIDGE_CUDA_LEAST)
      set(${problem} "found CUDA ${version}, expected ${DLBRIDGE_CUDA_LEAST} or later")
    else()  # an empty source: whether all of nvcc's parts are there, and whether it takes this compiler
      execute_process(
        COMMAND ${nvcc} -std=c++20 -ccbin ${CMAKE_CXX_COMPILER} -x cu -c /dev/null
          -o ${CMAKE_BINARY_DIR}/CMakeFiles/nvcc_probe.o
        OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE failed)
      if(failed)
        string(STRIP "${said}" said)
        set(${problem} "nvcc compiles nothing with ${CMAKE_CXX_COMPILER}: ${said}")
      endif()
    endif()
  endif()
endmacro()

dlbridge_cuda_places(places)
set(looked "")
foreach(place IN LISTS places)
  dlbridge_cuda_check(${place} problem)
  if(problem STREQUAL "")
    set(DLBRIDGE_CUDA_FOUND ON)
    set(DLBRIDGE_CUDA_WHY "CUDA ${version} in ${place}")
    break()
  endif()
  list(APPEND looked "${place}: ${problem}")
endforeach()
if(NOT DLBRIDGE_CUDA_FOUND)
  list(JOIN looked ", " looked)
  set(DLBRIDGE_CUDA_WHY "no CUDA toolkit (${looked})")
  if(DLBRIDGE_CUDA STREQUAL ON)
    message(FATAL_ERROR "DLBRIDGE_CUDA is ON, but ${DLBRIDGE_CUDA_WHY}: install CUDA ${DLBRIDGE_CUDA_LEAST} or later, "
                        "run DLBRIDGE_CUDA=ON scripts/setup, or pass -DDLBRIDGE_CUDA_TOOLKIT_DIR=...")
  endif()
  return()
endif()

set(DLBRIDGE_NVCC ${nvcc})
set(DLBRIDGE_CUDA_VERSION ${version})
# Linked statically, so the library loads where there is neither a driver nor a toolkit.
add_library(dlbridge_cudart INTERFACE)
target_include_directories(dlbridge_cudart SYSTEM INTERFACE ${include})
target_link_libraries(dlbridge_cudart INTERFACE ${cudart} Threads::Threads ${CMAKE_DL_LIBS} rt)
