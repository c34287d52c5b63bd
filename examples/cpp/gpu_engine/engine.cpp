// SPDX-License-Identifier: Apache-2.0
#include "engine.h"

#include <utility>

#include "dlbridge/cuda/device_memory.h"
#include "dlbridge/cuda/stream_order.h"

namespace engine {

namespace {

using Share = std::shared_ptr<const dlbridge::Loan>;

dlbridge::Loan empty_picture(int64_t rows, int64_t columns, dlbridge::Stream stream) {
  dlbridge::Loan like;
  like.set_rank(2);
  like.shape()[0] = rows, like.shape()[1] = columns;
  like.strides()[0] = columns, like.strides()[1] = 1;
  like.view().dtype = {kDLUInt, 8, 1};
  return dlbridge::cuda::device_empty(like.view(), stream);
}

}  // namespace

Engine::Engine(int64_t rows, int64_t columns)
    : stream_(dlbridge::cuda::allocation_stream(0)),
      picture_(std::make_shared<const dlbridge::Loan>(empty_picture(rows, columns, stream_))) {}

dlbridge::Loan Engine::acquire() const {
  dlbridge::Loan loan;
  loan.describe(picture_->view());
  loan.attach(
      {new Share(picture_), [](void* context) noexcept { delete static_cast<Share*>(context); }});
  return loan;
}

dlbridge::cuda::Future Engine::bring() const {
  return dlbridge::cuda::stage_to_host_async(acquire(), stream_, {.row_major = true});
}

}  // namespace engine
