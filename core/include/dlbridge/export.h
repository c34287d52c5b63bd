// SPDX-License-Identifier: Apache-2.0
// Visibility of public symbols. Every module is compiled with hidden visibility; what a header
// promises carries DLBRIDGE_API, everything else stays inside its shared library.
#pragma once

#if !defined(__ELF__)
#error "dlbridge supports ELF platforms only"
#endif

#define DLBRIDGE_API __attribute__((visibility("default")))
