// SPDX-License-Identifier: Apache-2.0
// dlbridge._torch_exchange: the capsule of the torch adapter through the exchange table.
#include "bridge/capsule_module.h"
#include "torch/exchange.h"

namespace dlbridge::python {
namespace {

PyModuleDef g_module = {PyModuleDef_HEAD_INIT, "_torch_exchange",
                        "The torch adapter of dlbridge, exchange tier.", -1};

}  // namespace
}  // namespace dlbridge::python

PyMODINIT_FUNC PyInit__torch_exchange() {
  using namespace dlbridge::python;
  return translated([] { return new_adapter_module(g_module, torch_exchange_adapter()); });
}
