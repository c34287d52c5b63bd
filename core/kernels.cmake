# SPDX-License-Identifier: Apache-2.0
# The instruction sets of the kernels, for each folder that compiles them.
set_source_files_properties(${PROJECT_SOURCE_DIR}/core/src/kernels/avx2.cpp PROPERTIES
  COMPILE_OPTIONS "-mavx2;-mf16c")
set_source_files_properties(${PROJECT_SOURCE_DIR}/core/src/kernels/avx512.cpp PROPERTIES
  COMPILE_OPTIONS "-mavx2;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vbmi;-mprefer-vector-width=512")
