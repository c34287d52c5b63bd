#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The recipe's build script. rattler-build sets PYTHON and runs it in the source folder, the host environment active.
set -euo pipefail
"$PYTHON" -m pip install . --no-deps --no-build-isolation -vv \
  --config-settings=cmake.define.DLBRIDGE_TORCH=OFF --config-settings=cmake.define.DLBRIDGE_CUDA=OFF
