// SPDX-License-Identifier: Apache-2.0
// What an exchange costs in C++, without Python: exports and imports of torch tensors, descriptors,
// plans. Google Benchmark.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <benchmark/benchmark.h>

#include "dlbridge/managed_tensor.h"
#include "dlbridge/plan.h"
#include "dlbridge/torch.h"

namespace {

using dlbridge::Loan;

void share(benchmark::State& state) {
  const at::Tensor tensor = at::zeros({4, 5});
  for (auto _ : state) benchmark::DoNotOptimize(dlbridge::share(tensor));
}
BENCHMARK(share);

void share_and_back(benchmark::State& state) {
  const at::Tensor tensor = at::zeros({4, 5});
  for (auto _ : state) benchmark::DoNotOptimize(dlbridge::to_tensor(dlbridge::share(tensor)));
}
BENCHMARK(share_and_back);

void detach(benchmark::State& state) {  // the least that makes a second tensor over a storage
  const at::Tensor tensor = at::zeros({4, 5});
  for (auto _ : state) benchmark::DoNotOptimize(tensor.detach());
}
BENCHMARK(detach);

Loan loan_over(float* memory) {
  Loan loan;
  loan.set_rank(2);
  loan.shape()[0] = 4;
  loan.shape()[1] = 5;
  loan.strides()[0] = 5;
  loan.strides()[1] = 1;
  loan.view().data = memory;
  loan.view().device = dlbridge::Device(dlbridge::DeviceType::cpu);
  loan.attach({memory, [](void*) noexcept {}});
  return loan;
}

void to_tensor(benchmark::State& state) {
  alignas(64) float memory[20] = {};
  for (auto _ : state) benchmark::DoNotOptimize(dlbridge::to_tensor(loan_over(memory)));
}
BENCHMARK(to_tensor);

void from_blob(benchmark::State& state) {
  alignas(64) float memory[20] = {};
  for (auto _ : state)
    benchmark::DoNotOptimize(at::from_blob(memory, {4, 5}, {5, 1}, [](void*) {}));
}
BENCHMARK(from_blob);

void managed_and_back(benchmark::State& state) {
  alignas(64) float memory[20] = {};
  for (auto _ : state) {
    dlbridge::ManagedTensor managed(loan_over(memory));
    benchmark::DoNotOptimize(std::move(managed).to_loan());
  }
}
BENCHMARK(managed_and_back);

void plan(benchmark::State& state) {
  alignas(64) float memory[20] = {};
  const Loan loan = loan_over(memory);
  for (auto _ : state)
    benchmark::DoNotOptimize(dlbridge::plan(loan.view(), dlbridge::torch_traits(), {}));
}
BENCHMARK(plan);

}  // namespace

BENCHMARK_MAIN();
