// SPDX-License-Identifier: Apache-2.0
// The engine as a Python extension module. A picture becomes an array in two ways:
//
//     engine = gpu_engine.Engine(1080, 1920)
//     engine.draw(7)
//     dlbridge.to_numpy(engine.picture(), device="cpu")    Python stages it: Picture has __dlpack__
//     coming = engine.frame()                              the engine stages it and continues
//     engine.draw(8)
//     coming.array()                                       still 7
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "dlbridge/cuda/stream_order.h"
#include "dlbridge/error.h"
#include "dlbridge/managed_tensor.h"
#include "engine.h"

namespace nb = nanobind;

namespace {

constexpr const char* kCapsule = "dltensor_versioned";

// Returns a capsule that owns the loan. Its destructor frees the memory if no consumer takes it.
nb::object capsule_of(dlbridge::Loan&& loan) {
  dlbridge::ManagedTensor managed(std::move(loan));
  const nb::object capsule = nb::steal(PyCapsule_New(
      const_cast<DLManagedTensorVersioned*>(managed.get()), kCapsule, [](PyObject* self) {
        if (!PyCapsule_IsValid(self, kCapsule)) return;  // renamed: its consumer owns
        dlbridge::ManagedTensor::adopt(
            static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(self, kCapsule)));
      }));
  if (!capsule) throw nb::python_error();
  (void)managed.release();  // the capsule owns
  return capsule;
}

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

// The picture on the GPU, for DLPack consumers: dlbridge, torch, CuPy.
class Picture {
 public:
  Picture(const engine::Engine& engine) : engine_(&engine) {}

  // The consumer names the stream that it will read on; that stream waits for the drawing.
  nb::object dlpack(std::optional<intptr_t> stream) const {
    const dlbridge::Stream own = engine_->stream();
    const intptr_t consumer = stream.value_or(dlbridge::cuda::kLegacyStream);
    std::optional<dlbridge::Loan> loan;
    {
      const nb::gil_scoped_release released;  // CUDA is called without the GIL
      dlbridge::cuda::order_streams(own, dlbridge::cuda::stream_of(own.device.device_id, consumer));
      loan = engine_->acquire();
    }
    return capsule_of(std::move(*loan));
  }

  nb::object device() const {
    const DLDevice device = engine_->stream().device;
    return nb::make_tuple(static_cast<int>(device.device_type), device.device_id);
  }

 private:
  const engine::Engine* engine_;  // kept alive by Python: nb::keep_alive
};

// A picture that is copied to the host.
class Frame {
 public:
  explicit Frame(dlbridge::cuda::Future&& future) : future_(std::move(future)) {}

  bool done() const { return future_.done(); }

  // Waits with the GIL released; the array is the pinned memory that the copy wrote.
  nb::object array() const {
    std::optional<dlbridge::Loan> loan;
    {
      const nb::gil_scoped_release released;
      loan = future_.result();
    }
    const nb::object from_dlpack = nb::module_::import_("dlbridge").attr("from_dlpack");
    return from_dlpack(capsule_of(std::move(*loan))).attr("numpy")();
  }

 private:
  dlbridge::cuda::Future future_;
};

}  // namespace

NB_MODULE(gpu_engine, module) {
  // A refusal becomes the package's own exception, with code and field.
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const dlbridge::Error& error) {
      const nb::object type = nb::module_::import_("dlbridge").attr("ExchangeError");
      const std::string code(dlbridge::name(error.code()));
      const nb::object raised = type(error.what(), code.c_str(), error.field().c_str());
      PyErr_SetObject(type.ptr(), raised.ptr());
    }
  });
  const nb::call_guard<nb::gil_scoped_release> kWithoutGil;
  nb::class_<PyEngine>(module, "Engine")
      .def(nb::init<int64_t, int64_t>(), nb::arg("rows"), nb::arg("columns"), kWithoutGil)
      .def(
          "draw", [](PyEngine& self, uint8_t value) { self->draw(value); }, nb::arg("value"),
          kWithoutGil)
      .def(
          "picture", [](const PyEngine& self) { return Picture(self.get()); },
          nb::keep_alive<0, 1>())
      .def("frame", [](PyEngine& self) { return Frame(self->bring()); }, kWithoutGil);
  nb::class_<Picture>(module, "Picture")
      .def(
          "__dlpack__",
          [](const Picture& self, std::optional<intptr_t> stream, const nb::kwargs&) {
            return self.dlpack(stream);
          },
          nb::kw_only(), nb::arg("stream") = nb::none(), nb::arg("kwargs"))
      .def("__dlpack_device__", &Picture::device);
  nb::class_<Frame>(module, "Frame").def("done", &Frame::done).def("array", &Frame::array);
}
