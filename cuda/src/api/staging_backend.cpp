// SPDX-License-Identifier: Apache-2.0
// Core's StagingBackend over the staging functions.
#include "dlbridge/staging_backend.h"

#include "dlbridge/cuda/staging.h"

namespace dlbridge::cuda {
namespace {

class CudaStagingBackend final : public StagingBackend {
 public:
  bool connects(Device from, Device to) const noexcept override {
    const bool ways = (from.is_cuda() && to.is_host()) || (from.is_host() && to.is_cuda()) ||
                      (from.is_cuda() && from == to);
    if (!ways) return false;
    try {
      const Availability found = availability();
      const auto is_there = [&](Device device) {
        return !device.is_cuda() || device.id() < found.device_count;
      };
      return is_there(from) && is_there(to);
    } catch (const Error& error) {
      return error.code() == ErrorCode::after_fork;  // the staging reports it
    } catch (const std::exception&) {
      return false;
    }
  }

  void copy(const TensorView& source, const TensorView& target, Stream stream) override {
    stage(source, target, stream);
  }
};

}  // namespace

void register_cuda_staging() {
  // Never destroyed: core uses it until the process ends.
  static auto& backend = *new CudaStagingBackend;
  static const bool registered = (register_staging(backend), true);
  static_cast<void>(registered);
}

}  // namespace dlbridge::cuda
