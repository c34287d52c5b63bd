// SPDX-License-Identifier: Apache-2.0
// dlbridge_sim: the CUDA simulator in Python, put into the libdlbridge_cuda that the package has
// loaded. For tests; tests/python/helpers/simulated_gpu.py is the interface that tests use.
//
// Addresses and stream handles are ints. Nothing here needs the GIL while it waits. A simulator
// that was not uninstalled is never destroyed: the library goes on calling it.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_sim/simulator.h"
#include "dlbridge/cuda/staging.h"
#include "exports.h"

namespace dlbridge::python_sim {
namespace nb = nanobind;
namespace {

using cuda_sim::Simulator;
using Bytes = std::vector<uint8_t>;
using WithoutGil = nb::call_guard<nb::gil_scoped_release>;

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }
CUstream stream(intptr_t handle) { return reinterpret_cast<CUstream>(handle); }

template <typename Value>
Value named(const std::map<std::string, Value>& values, const std::string& name) {
  const auto found = values.find(name);
  if (found != values.end()) return found->second;
  std::string known;
  for (const auto& [each, value] : values) known += " " + each;
  throw std::invalid_argument("'" + name + "' is none of" + known);
}

Bytes bytes_of(const nb::bytes& bytes) {
  const auto* first = static_cast<const uint8_t*>(bytes.data());
  return Bytes(first, first + bytes.size());
}

nb::bytes to_python(const Bytes& bytes) { return nb::bytes(bytes.data(), bytes.size()); }

/// What a kernel read, once it has run.
class PendingRead {
 public:
  explicit PendingRead(std::shared_ptr<Bytes> bytes) : bytes_(std::move(bytes)) {}
  nb::bytes bytes() const { return to_python(*bytes_); }

 private:
  std::shared_ptr<Bytes> bytes_;
};

/// A simulator and whether the library uses it.
class Gpu {
 public:
  Gpu(const std::string& schedule, uint64_t seed, int devices, std::vector<int> active,
      const std::string& driver) {
    using cuda_sim::Driver, cuda_sim::Schedule;
    cuda_sim::Config config;
    config.schedule = named<Schedule>(
        {{"eager", Schedule::eager}, {"lazy", Schedule::lazy}, {"random", Schedule::random}},
        schedule);
    config.driver = named<Driver>({{"present", Driver::present},
                                   {"absent", Driver::absent},
                                   {"too_old", Driver::too_old},
                                   {"no_device", Driver::no_device}},
                                  driver);
    config.seed = seed;
    config.devices = devices;
    config.active = std::move(active);
    sim_ = std::make_shared<Simulator>(std::move(config));
  }
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;
  ~Gpu() {
    if (installed_) new std::shared_ptr<Simulator>(sim_);
  }

  void install(size_t piece_bytes) {
    cuda::inject_cuda_api(&sim().api(), piece_bytes);
    installed_ = true;
  }
  void uninstall() {
    cuda::inject_cuda_api(nullptr);
    installed_ = false;
  }

  /// The simulator's end. Requires: it is not installed.
  void destroy() {
    if (installed_) throw std::logic_error("uninstall the simulator first");
    sim_.reset();
  }

  Simulator& sim() const {
    if (sim_ == nullptr) throw std::logic_error("the simulator is destroyed");
    return *sim_;
  }
  const std::shared_ptr<Simulator>& shared() const { return sim_; }

 private:
  std::shared_ptr<Simulator> sim_;
  bool installed_ = false;
};

// A member function of the simulator, as one of Gpu.
template <auto kMember>
struct Forward;
template <typename Result, typename... Arguments, Result (Simulator::*kMember)(Arguments...)>
struct Forward<kMember> {
  static Result call(Gpu& self, Arguments... arguments) {
    return (self.sim().*kMember)(arguments...);
  }
};
template <typename Result, typename... Arguments, Result (Simulator::*kMember)(Arguments...) const>
struct Forward<kMember> {
  static Result call(Gpu& self, Arguments... arguments) {
    return (self.sim().*kMember)(arguments...);
  }
};
template <auto kMember>
constexpr auto forward = &Forward<kMember>::call;

std::string library_path() {
  Dl_info info{};
  auto* const function = reinterpret_cast<void*>(&cuda::inject_cuda_api);
  if (dladdr(function, &info) == 0 || info.dli_fname == nullptr) return "";
  return info.dli_fname;
}

void check(CUresult error, const char* what) {
  if (error == CUDA_SUCCESS) return;
  throw std::runtime_error(std::string(what) + " answers " + std::to_string(error));
}

nb::list reports(const Gpu& gpu) {
  nb::list all;
  for (const cuda_sim::Report& each : gpu.sim().reports()) {
    all.append(nb::make_tuple(cuda_sim::name(each.kind), each.text));
  }
  return all;
}

nb::dict counts(const Gpu& gpu) {
  nb::dict all;
#define OWN(member, parameters) all[#member] = gpu.sim().calls(#member);
#define DRIVER(member, symbol, parameters) OWN(member, parameters)
#include "runtime/cuda_api.def"
#undef DRIVER
#undef OWN
  return all;
}

nb::list used_streams(const Gpu& gpu) {
  nb::list all;
  for (const CUstream each : gpu.sim().used_streams()) {
    all.append(reinterpret_cast<intptr_t>(each));
  }
  return all;
}

nb::object capsule(const std::shared_ptr<Ledger>& ledger, uintptr_t data,
                   std::vector<int64_t> shape, const nb::object& strides,
                   const std::vector<int>& dtype, const std::vector<int>& device,
                   uint64_t byte_offset, uint64_t flags, bool versioned) {
  Description description;
  description.data = data;
  description.shape = std::move(shape);
  description.has_strides = !strides.is_none();
  if (description.has_strides) description.strides = nb::cast<std::vector<int64_t>>(strides);
  description.dtype = {static_cast<uint8_t>(dtype.at(0)), static_cast<uint8_t>(dtype.at(1)),
                       static_cast<uint16_t>(dtype.at(2))};
  description.device = {static_cast<DLDeviceType>(device.at(0)), device.at(1)};
  description.byte_offset = byte_offset;
  description.flags = flags;
  return to_capsule(ledger, std::move(description), versioned);
}

void bind_memory(nb::class_<Gpu>& gpu) {
  gpu.def(
         "device_alloc",
         [](Gpu& self, size_t bytes, int device) {
           return reinterpret_cast<uintptr_t>(self.sim().device_alloc(bytes, device));
         },
         WithoutGil())
      .def(
          "device_free",
          [](Gpu& self, uintptr_t memory) { self.sim().device_free(pointer(memory)); },
          WithoutGil())
      .def(
          "managed_alloc",
          [](Gpu& self, size_t bytes, int device) {
            return reinterpret_cast<uintptr_t>(self.sim().managed_alloc(bytes, device));
          },
          WithoutGil())
      .def(
          "register_host",
          [](Gpu& self, uintptr_t memory, size_t bytes) {
            check(
                self.sim().api().host_register(pointer(memory), bytes, CU_MEMHOSTREGISTER_PORTABLE),
                "cuMemHostRegister");
          },
          WithoutGil(), "Pages that were pinned outside of dlbridge.")
      .def(
          "unregister_host",
          [](Gpu& self, uintptr_t memory) {
            check(self.sim().api().host_unregister(pointer(memory)), "cuMemHostUnregister");
          },
          WithoutGil())
      .def(
          "poke",
          [](Gpu& self, uintptr_t memory, const nb::bytes& bytes) {
            self.sim().write(pointer(memory), bytes_of(bytes));
          },
          "Writes device memory behind the back of all streams.");
}

void bind_streams(nb::class_<Gpu>& gpu) {
  gpu.def(
         "make_stream",
         [](Gpu& self, int device, bool blocking) {
           const unsigned flags = blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING;
           return reinterpret_cast<intptr_t>(self.sim().make_stream(flags, device));
         },
         WithoutGil())
      .def("enqueue_write",
           [](Gpu& self, intptr_t handle, uintptr_t memory, const nb::bytes& bytes) {
             self.sim().enqueue_write(stream(handle), pointer(memory), bytes_of(bytes));
           })
      .def("enqueue_read",
           [](Gpu& self, intptr_t handle, uintptr_t memory, size_t count) {
             return PendingRead(self.sim().enqueue_read(stream(handle), pointer(memory), count));
           })
      .def(
          "enqueue_fault",
          [](Gpu& self, intptr_t handle, int code) {
            self.sim().enqueue_fault(stream(handle), static_cast<CUresult>(code));
          },
          "A kernel that kills its device when it runs.")
      .def(
          "order",
          [](Gpu& self, intptr_t earlier, intptr_t later, int device) {
            check(self.sim().order(stream(earlier), stream(later), device), "the wait");
          },
          WithoutGil(), "`later` waits for what `earlier` has so far.")
      .def(
          "synchronize", [](Gpu& self, intptr_t handle) { self.sim().synchronize(stream(handle)); },
          WithoutGil())
      .def("go", forward<&Simulator::go>, WithoutGil())
      .def("hold_stream",
           [](Gpu& self, intptr_t handle) { self.sim().hold_stream(stream(handle)); })
      .def(
          "go_stream", [](Gpu& self, intptr_t handle) { self.sim().go_stream(stream(handle)); },
          WithoutGil())
      .def("finish", forward<&Simulator::finish>, WithoutGil())
      .def("used_streams", used_streams)
      .def("begin_capture",
           [](Gpu& self, intptr_t handle) {
             check(self.sim().begin_capture(stream(handle)), "cuStreamBeginCapture");
           })
      .def(
          "end_capture",
          [](Gpu& self, intptr_t handle) {
            return static_cast<int>(self.sim().end_capture(stream(handle)));
          },
          "The code that cuStreamEndCapture answers.")
      .def("capture_mode", [](Gpu& self) { return static_cast<int>(self.sim().capture_mode()); });
}

void bind_contexts_and_faults(nb::class_<Gpu>& gpu) {
  gpu.def("use_device", forward<&Simulator::use_device>)
      .def("use_no_device", forward<&Simulator::use_no_device>)
      .def("context_active", forward<&Simulator::context_active>)
      .def("context_stack", forward<&Simulator::context_stack>,
           "The calling thread's, the current device last.")
      .def("fail",
           [](Gpu& self, const std::string& function, uint64_t nth, int code, bool sticky) {
             if (!function.empty() && !counts(self).contains(function.c_str())) {
               throw std::invalid_argument("no function of the table is called " + function);
             }
             self.sim().fail({function, nth, static_cast<CUresult>(code), sticky});
           })
      .def("clear_faults", forward<&Simulator::clear_faults>)
      .def("faults_struck", forward<&Simulator::faults_struck>)
      .def("kill_device",
           [](Gpu& self, int device, int code) {
             self.sim().kill_device(device, static_cast<CUresult>(code));
           })
      .def("set_device_memory_limit", forward<&Simulator::set_device_memory_limit>);
}

void bind_observation(nb::class_<Gpu>& gpu) {
  gpu.def("reports", reports, "Pairs of a kind and a text.")
      .def("complaint", forward<&Simulator::complaint>)
      .def("clear_reports", forward<&Simulator::clear_reports>)
      .def("counts", counts)
      .def("spinning_waits", forward<&Simulator::spinning_waits>)
      .def("leaks", [](Gpu& self) { return self.sim().leaks().named(); })
      .def("async_bytes", forward<&Simulator::async_bytes>);
}

}  // namespace
}  // namespace dlbridge::python_sim

NB_MODULE(dlbridge_sim, module) {
  namespace nb = nanobind;
  using namespace dlbridge::python_sim;
  nb::set_leak_warnings(false);  // a test that fails leaves things behind
  dlbridge::cuda_sim::set_interpreter_check(
      [] { return Py_IsInitialized() != 0 && PyGILState_Check() == 1; });
  module.def(
      "drain", [](double seconds) { return dlbridge::cuda::drain(seconds); }, WithoutGil(),
      "Waits until no staging is under way.");
  module.def("library_path", library_path, "The file of the libdlbridge_cuda that is simulated.");

  nb::class_<PendingRead>(module, "PendingRead")
      .def("bytes", &PendingRead::bytes, "Empty before the kernel has run.");
  nb::class_<Ledger>(module, "Ledger")
      .def_prop_ro("exported", &Ledger::exported)
      .def_prop_ro("released", &Ledger::released)
      .def_prop_ro("freed", &Ledger::freed)
      .def("call_on_release", &Ledger::call_on_release)
      .def("free_on_release", [](Ledger& self, const Gpu& gpu, uintptr_t memory) {
        self.free_on_release(gpu.shared(), memory);
      });
  // Made here, so that what shares in it is no Python object, which would need the GIL to let go.
  module.def("new_ledger", [] { return std::make_shared<Ledger>(); });
  module.def("capsule", capsule, nb::arg("ledger"), nb::arg("data"), nb::arg("shape"),
             nb::arg("strides").none(), nb::arg("dtype"), nb::arg("device"),
             nb::arg("byte_offset") = 0, nb::arg("flags") = 0, nb::arg("versioned") = true);

  nb::class_<Gpu> gpu(module, "Gpu");
  gpu.def(nb::init<const std::string&, uint64_t, int, std::vector<int>, const std::string&>(),
          nb::arg("schedule") = "lazy", nb::arg("seed") = 1, nb::arg("devices") = 1,
          nb::arg("active") = std::vector<int>{0}, nb::arg("driver") = "present")
      .def("install", &Gpu::install, nb::arg("piece_bytes") = 0, WithoutGil())
      .def("uninstall", &Gpu::uninstall, WithoutGil())
      .def("destroy", &Gpu::destroy, WithoutGil());
  bind_memory(gpu);
  bind_streams(gpu);
  bind_contexts_and_faults(gpu);
  bind_observation(gpu);
}
