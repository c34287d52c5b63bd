# SPDX-License-Identifier: Apache-2.0
# What every target of the project shares: standard, warnings, visibility, sanitizers, names and install rules.

option(DLBRIDGE_WERROR "Take warnings as errors; OFF for a compiler that was not tried yet" ON)
add_library(dlbridge_flags INTERFACE)
target_compile_features(dlbridge_flags INTERFACE cxx_std_20)
target_compile_options(dlbridge_flags INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-qual -Woverloaded-virtual -Wformat=2 -Wno-missing-field-initializers $<$<BOOL:${DLBRIDGE_WERROR}>:-Werror>
  -fvisibility=hidden -fvisibility-inlines-hidden -fno-plt -fno-semantic-interposition)
# GCC 12 sees an overlap in "literal" + std::string (GCC's bug 105651).
target_compile_options(dlbridge_flags INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
target_link_options(dlbridge_flags INTERFACE -Wl,-z,now)
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag(-mtls-dialect=gnu2 DLBRIDGE_HAS_TLS_DESCRIPTORS)
if(DLBRIDGE_HAS_TLS_DESCRIPTORS)  # thread-local state without a function call
  target_compile_options(dlbridge_flags INTERFACE -mtls-dialect=gnu2)
endif()
if(DLBRIDGE_SANITIZE)
  set(sanitize -fsanitize=${DLBRIDGE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(dlbridge_flags INTERFACE ${sanitize})
  target_link_options(dlbridge_flags INTERFACE ${sanitize})
endif()

# No folder of the machine that built stands in what is shipped: not in assertions of headers, not in debug information
# (where sources stand relative to the top folder). The link takes part, since it is there that code is made.
foreach(map ${PROJECT_SOURCE_DIR}=. ${PROJECT_BINARY_DIR}=build)
  add_compile_options(-ffile-prefix-map=${map})
  add_link_options(-ffile-prefix-map=${map})
endforeach()

set(DLBRIDGE_SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
set(DLBRIDGE_COMPONENTS "" CACHE INTERNAL "")
set(DLBRIDGE_VERSION_SCRIPT ${CMAKE_CURRENT_LIST_DIR}/exports.map)
# One folder for all libraries of the build tree, so that RPATH $ORIGIN finds them there as it does when installed.
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/lib)

# What is shipped is optimised as a Release build is, also where debug information goes with it: -O3 makes the conversions
# a few per cent faster than RelWithDebInfo's -O2.
add_library(dlbridge_optimized INTERFACE)
target_compile_options(dlbridge_optimized INTERFACE $<$<CONFIG:RelWithDebInfo>:-O3>)

# dlbridge_library(target NAME file-name COMPONENT name [OPEN]): a public shared library in the module whose folder we are
# in. OPEN: symbols may be left to the process that loads it (Python's).
function(dlbridge_library target)
  cmake_parse_arguments(arg "OPEN" "NAME;COMPONENT" "" ${ARGN})
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:dlbridge_flags> $<BUILD_INTERFACE:dlbridge_optimized>)
  if(NOT arg_OPEN AND NOT DLBRIDGE_SANITIZE)  # a sanitizer's runtime comes with the executable
    target_link_options(${target} PRIVATE -Wl,--no-undefined)
  endif()
  if(NOT APPLE)
    target_link_options(${target} PRIVATE -Wl,--version-script=${DLBRIDGE_VERSION_SCRIPT})
    set_target_properties(${target} PROPERTIES LINK_DEPENDS ${DLBRIDGE_VERSION_SCRIPT})
  endif()
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
  set_target_properties(${target} PROPERTIES
    OUTPUT_NAME ${arg_NAME} EXPORT_NAME ${arg_COMPONENT}
    VERSION ${DLBRIDGE_SOVERSION} SOVERSION ${DLBRIDGE_SOVERSION}
    BUILD_RPATH_USE_ORIGIN ON INSTALL_RPATH "$ORIGIN" POSITION_INDEPENDENT_CODE ON)
  set(DLBRIDGE_COMPONENTS ${DLBRIDGE_COMPONENTS} ${arg_COMPONENT} CACHE INTERNAL "")
endfunction()
