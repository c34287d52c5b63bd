// SPDX-License-Identifier: Apache-2.0
// The engine as a Python extension module. A picture becomes an array in two ways:
//
//     engine = gpu_engine.Engine(1080, 1920)
//     engine.draw(7)
//     dlbridge.to_numpy(engine.picture(), device="cpu")    Python stages it
//     coming = engine.frame()                              the engine stages it and continues
//     engine.draw(8)
//     coming.pixels().numpy()                              still 7
#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <utility>

#include "dlbridge/cuda/stream_order.h"
#include "dlbridge/nanobind.h"
#include "engine.h"

namespace nb = nanobind;

namespace {

// The engine as Python holds it. CUDA is called without the GIL, also where its memory is freed: a
// thread of the driver's may hold a lock of CUDA's while it waits for the GIL.
class PyEngine {
 public:
  PyEngine(int64_t rows, int64_t columns) : engine_(std::in_place, rows, columns) {}
  ~PyEngine() {
    const nb::gil_scoped_release released;
    engine_.reset();
  }

  engine::Engine* operator->() noexcept { return &*engine_; }
  const engine::Engine& get() const noexcept { return *engine_; }

 private:
  std::optional<engine::Engine> engine_;
};

// The picture on the GPU: a dlbridge.Tensor, which torch and CuPy take. The legacy default stream,
// after which the result of a function is valid, waits for the drawing.
dlbridge::Loan picture(const PyEngine& self) {
  const dlbridge::Stream own = self.get().stream();
  dlbridge::cuda::order_streams(
      own, dlbridge::cuda::stream_of(own.device.device_id, dlbridge::cuda::kLegacyStream));
  return self.get().acquire();
}

// A picture that is copied to the host.
class Frame {
 public:
  explicit Frame(dlbridge::cuda::Future&& future) : future_(std::move(future)) {}

  bool done() const { return future_.done(); }

  // Waits. The pixels lie in the pinned memory that the copy wrote.
  dlbridge::Loan pixels() const { return future_.result(); }

 private:
  dlbridge::cuda::Future future_;
};

}  // namespace

NB_MODULE(gpu_engine, module) {
  dlbridge::translate_errors(module);
  const nb::call_guard<nb::gil_scoped_release> kWithoutGil;  // CUDA is called without the GIL
  nb::class_<PyEngine>(module, "Engine")
      .def(nb::init<int64_t, int64_t>(), nb::arg("rows"), nb::arg("columns"), kWithoutGil)
      .def(
          "draw", [](PyEngine& self, uint8_t value) { self->draw(value); }, nb::arg("value"),
          kWithoutGil)
      .def("picture", picture, kWithoutGil)
      .def("frame", [](PyEngine& self) { return Frame(self->bring()); }, kWithoutGil);
  nb::class_<Frame>(module, "Frame")
      .def("done", &Frame::done)
      .def("pixels", &Frame::pixels, kWithoutGil);
}
