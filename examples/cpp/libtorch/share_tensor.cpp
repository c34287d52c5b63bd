// SPDX-License-Identifier: Apache-2.0
// LibTorch without Python: a tensor goes out as a DLPack descriptor and comes back, and memory of
// the program's own becomes a tensor. Every claim is checked; a false one makes the program fail.
#include <ATen/ops/arange.h>

#include <cstdio>
#include <stdexcept>
#include <utility>
#include <vector>

#include "dlbridge/loan_over.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/torch.h"

namespace {

void check(bool holds, const char* claim) {
  std::printf("%s: %s\n", claim, holds ? "yes" : "no");
  if (!holds) throw std::runtime_error(claim);
}

// Exports a tensor as a DLManagedTensorVersioned, which any DLPack library accepts, and imports it.
at::Tensor there_and_back(at::Tensor tensor) {
  dlbridge::ManagedTensor managed(dlbridge::share(tensor));
  tensor.reset();                                            // the export keeps the memory
  return dlbridge::to_tensor(std::move(managed).to_loan());  // checks every field; copies nothing
}

// Returns a tensor over a vector, which the tensor's storage owns. It is destroyed once, on any
// thread.
at::Tensor tensor_over(std::vector<float> values) {
  return dlbridge::to_tensor(dlbridge::loan_over(std::move(values)));
}

}  // namespace

int main() try {
  const at::Tensor tensor = at::arange(20).view({4, 5});
  const at::Tensor back = there_and_back(tensor);
  check(back.const_data_ptr() == tensor.const_data_ptr(), "the tensor came back to its memory");
  check(back.sizes() == tensor.sizes(), "and to its shape");

  std::vector<float> values(6, 1.5f);
  const float* address = values.data();
  const at::Tensor wrapped = tensor_over(std::move(values));
  check(wrapped.const_data_ptr() == address, "the vector became a tensor where it is");

  // A refusal has a code, and a message that says what was found and which call works.
  try {
    dlbridge::share(tensor.to(at::kFloat).set_requires_grad(true));
    check(false, "a tensor that requires grad is refused");
  } catch (const dlbridge::Error& error) {
    check(error.code() == dlbridge::ErrorCode::requires_grad,
          "a tensor that requires grad is refused");
    std::printf("  %s\n", error.what());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
