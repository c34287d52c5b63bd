// SPDX-License-Identifier: Apache-2.0
// A module over dlbridge's casters, compiled once with nanobind and once with pybind11.
#ifdef CASTERS_PYBIND11
#include <pybind11/stl.h>

#include "dlbridge/pybind11.h"
namespace py = pybind11;
#define CASTERS_MODULE(m) PYBIND11_MODULE(casters_pybind11, m)
#else
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "dlbridge/nanobind.h"
namespace py = nanobind;
#define CASTERS_MODULE(m) NB_MODULE(casters_nanobind, m)
#endif

#include <atomic>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "dlbridge/loan_over.h"
#include "dlbridge/managed_tensor.h"
#include "dlbridge/require.h"

namespace {

using dlbridge::DType;
using dlbridge::Loan;
using dlbridge::TensorView;

uintptr_t address(const TensorView& x) { return reinterpret_cast<uintptr_t>(x.data); }

py::dict seen(const TensorView& x) {
  py::list shape;
  py::list strides;
  for (const int64_t extent : x.extents()) shape.append(extent);
  for (const int64_t stride : x.stride_elements()) strides.append(stride);
  py::dict answer;
  answer["address"] = address(x);
  answer["shape"] = py::tuple(shape);
  answer["strides"] = py::tuple(strides);
  answer["dtype"] = DType(x.dtype).name();
  answer["read_only"] = x.access != dlbridge::Access::writable;
  return answer;
}

std::atomic<int> g_released = 0;
std::atomic<int> g_released_with_gil = 0;

struct CountedVector : std::vector<float> {
  using std::vector<float>::vector;
  CountedVector(CountedVector&&) = default;
  ~CountedVector() {
    if (empty()) return;  // moved from
    ++g_released;
    g_released_with_gil += PyGILState_Check();
  }
};

// 0, 1, 2 ... in memory whose release is counted.
Loan make(int64_t count) {
  CountedVector memory(static_cast<size_t>(count));
  std::iota(memory.begin(), memory.end(), 0.0f);
  void* data = memory.data();
  return dlbridge::loan_over(std::move(memory), data, dlbridge::dtype_of<float>(), {count});
}

Loan make_read_only(int64_t count) {
  Loan loan = make(count);
  loan.view().access = dlbridge::Access::read_only;
  return loan;
}

Loan through_managed(Loan x) { return dlbridge::ManagedTensor(std::move(x)).to_loan(); }

void fill(const TensorView& x, float value) {
  dlbridge::require(
      x, {.dtype = dlbridge::dtype_of<float>(), .ndim = 1, .row_major = true, .writable = true});
  std::fill_n(static_cast<float*>(x.data), x.size(), value);
}

std::vector<Loan> g_kept;

void forget_on_thread() {
  std::thread([] { g_kept.clear(); }).join();  // one that Python does not know
}

// Their addresses, read after `call` has run.
std::vector<uintptr_t> addresses(const std::vector<TensorView>& xs, const py::object& call) {
  call();
  std::vector<uintptr_t> found;
  for (const TensorView& x : xs) found.push_back(address(x));
  return found;
}

}  // namespace

CASTERS_MODULE(m) {
  dlbridge::translate_errors(m);
  m.def("seen", seen);
  m.def("same", [](Loan x) { return x; });
  m.def("same_like",
        [](py::object x) { return dlbridge::like(x, dlbridge::share_object(x.ptr())); });
  m.def("through_managed", through_managed);
  m.def("make", make);
  m.def("make_like", [](py::object x, int64_t count) { return dlbridge::like(x, make(count)); });
  m.def("make_read_only", make_read_only);
  m.def("make_read_only_like", [](py::object x) { return dlbridge::like(x, make_read_only(2)); });
  m.def("make_some",
        [](int64_t count) { return count == 0 ? std::nullopt : std::optional(make(count)); });
  m.def("released", [] { return g_released.load(); });
  m.def("released_with_gil", [] { return g_released_with_gil.load(); });
  m.def("fill", fill, py::arg("x"), py::arg("value"));
  m.def("keep", [](Loan x) { g_kept.push_back(std::move(x)); });
  m.def("forget", [] { g_kept.clear(); }, py::call_guard<py::gil_scoped_release>());
  m.def("forget_on_thread", forget_on_thread, py::call_guard<py::gil_scoped_release>());
  m.def("maybe", [](const std::optional<Loan>& x) { return x ? address(x->view()) : 0; });
  m.def("maybe_view", [](const std::optional<TensorView>& x) { return x ? address(*x) : 0; });
  m.def("addresses", addresses);
  m.def("pick", [](const TensorView&) { return "array"; });
  m.def("pick", [](py::bytes) { return "bytes"; });
  m.def("pick", [](int) { return "int"; });
  m.def("strict", [](Loan) {}, py::arg("x").noconvert());
}
