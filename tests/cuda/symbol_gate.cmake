# SPDX-License-Identifier: Apache-2.0
# Fails if an object of OBJECTS names a function of CUDA's: such a call goes past the function table, so that the library
# needs CUDA to load and the simulator sees nothing of it. Passed are NM and OBJECTS.
cmake_minimum_required(VERSION 3.25)
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --undefined-only --format=posix ${object}
    OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  if(symbols MATCHES "(^|\n)((cuda|cu[A-Z]|__cuda)[A-Za-z0-9_]*)")
    message(FATAL_ERROR "${object} names ${CMAKE_MATCH_2}, expected calls through the function table (cuda_api.h)")
  endif()
endforeach()
