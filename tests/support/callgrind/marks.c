// SPDX-License-Identifier: Apache-2.0
// Callgrind's client requests as functions, for benchmarks/instructions.py.
#include <valgrind/callgrind.h>

void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(const char* name) { CALLGRIND_DUMP_STATS_AT(name); }
