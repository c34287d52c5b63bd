# SPDX-License-Identifier: Apache-2.0
# Lists the cases of PROGRAM into the file OUT, which CTest reads: a CTest test for each case. Where DLBRIDGE_BY_SUITE is
# set when CTest runs, a test for each suite, which starts a tenth of the processes; each suite's report (GTEST_OUTPUT)
# then goes into a folder of its own.
get_filename_component(name ${PROGRAM} NAME)
execute_process(COMMAND ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE lines COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE " *#[^\n]*" "" lines "${lines}")  # the parameters of a case
string(REPLACE "\n" ";" lines "${lines}")
set(cases "")
set(suites "")
foreach(line IN LISTS lines)
  if(line MATCHES "^  (.+)$")
    set(case ${suite}.${CMAKE_MATCH_1})
    string(APPEND cases "  add_test(${case} \"${PROGRAM}\" --gtest_filter=${case})\n"
      "  set_tests_properties(${case} PROPERTIES LABELS ${LABEL} TIMEOUT 600 SKIP_REGULAR_EXPRESSION \"SKIPPED\")\n")
  elseif(line MATCHES "^(.+)\\.$")
    set(suite ${CMAKE_MATCH_1})
    string(APPEND suites "  add_test(${suite} \"${PROGRAM}\" --gtest_brief=1 --gtest_filter=${suite}.*)\n"
      "  set_tests_properties(${suite} PROPERTIES LABELS ${LABEL} TIMEOUT 600"
      " ENVIRONMENT_MODIFICATION GTEST_OUTPUT=string_append:${name}/${suite}/)\n")
  endif()
endforeach()
file(WRITE ${OUT} "if(DEFINED ENV{DLBRIDGE_BY_SUITE})\n${suites}else()\n${cases}endif()\n")
