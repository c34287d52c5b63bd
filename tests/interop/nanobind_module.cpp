// SPDX-License-Identifier: Apache-2.0
// A module as others write them with nanobind: functions that take and give arrays. Knows nothing
// of dlbridge.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <vector>

namespace nb = nanobind;

namespace {

// What a function of the module saw of its argument.
nb::dict seen(const nb::ndarray<nb::ro>& x) {
  std::vector<int64_t> shape(x.ndim());
  std::vector<int64_t> strides(x.ndim());
  for (size_t i = 0; i < x.ndim(); ++i) {
    shape[i] = static_cast<int64_t>(x.shape(i));
    strides[i] = x.stride(i);
  }
  nb::dict answer;
  answer["address"] = reinterpret_cast<uintptr_t>(x.data());
  answer["shape"] = nb::tuple(nb::cast(shape));
  answer["strides"] = nb::tuple(nb::cast(strides));
  answer["dtype"] = nb::make_tuple(x.dtype().code, x.dtype().bits, x.dtype().lanes);
  answer["device"] = nb::make_tuple(x.device_type(), x.device_id());
  return answer;
}

// The argument itself, returned as an array without a framework.
nb::ndarray<nb::array_api> same(nb::ndarray<> x) { return nb::ndarray<nb::array_api>(x); }
nb::ndarray<nb::array_api, nb::ro> same_read_only(nb::ndarray<nb::ro> x) {
  return nb::ndarray<nb::array_api, nb::ro>(x);
}

using Vector = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void add_one(const Vector& x) {
  for (size_t i = 0; i < x.shape(0); ++i) x.data()[i] += 1;
}

int g_alive = 0;

// A fresh vector 0, 1, 2 ...; `Kind` says as whose array it is handed out.
template <typename Kind, typename Scalar>
nb::ndarray<Kind, Scalar, nb::ndim<1>> make(size_t count) {
  auto* memory = new float[count];
  ++g_alive;
  for (size_t i = 0; i < count; ++i) memory[i] = static_cast<float>(i);
  const nb::capsule owner(memory, [](void* p) noexcept {
    delete[] static_cast<float*>(p);
    --g_alive;
  });
  return nb::ndarray<Kind, Scalar, nb::ndim<1>>(memory, {count}, owner);
}

// Keeps what it takes until forget() is called.
std::vector<nb::ndarray<nb::ro>> g_kept;

}  // namespace

NB_MODULE(nanobind_peer, module) {
  module.def("seen", seen);
  module.def("same", same);
  module.def("same", same_read_only);
  module.def("add_one", add_one, nb::arg("x").noconvert());
  module.def("make", make<nb::array_api, float>);
  module.def("make_read_only", make<nb::array_api, const float>);
  module.def("make_numpy", make<nb::numpy, float>);
  module.def("make_torch", make<nb::pytorch, float>);
  module.def("alive", [] { return g_alive; });
  module.def("keep", [](nb::ndarray<nb::ro> x) { g_kept.push_back(std::move(x)); });
  module.def("take", [](const nb::ndarray<nb::ro>&) {});
  module.def("forget", [] { g_kept.clear(); });
}
