// SPDX-License-Identifier: Apache-2.0
#include "pinned/pool.h"

#include <cassert>

#include "pinned/core.h"

namespace dlbridge::cuda {
namespace {

void release_result(void* context) noexcept {
  auto* const block = static_cast<pinned::Block*>(context);
  block->core->defer_free(block);
}

}  // namespace

FenceSource::~FenceSource() = default;

size_t PinnedBlock::capacity() const noexcept { return block_->bytes(); }

void PinnedBlock::free(pinned::Block* block) noexcept { block->core->free(block); }

pinned::Block* PinnedBlock::release() noexcept {
  assert(block_ != nullptr);
  data_ = nullptr;
  size_ = 0;
  return std::exchange(block_, nullptr);
}

void PinnedBlock::retire(PooledEvent ticket) && noexcept {
  pinned::Block* const block = release();
  block->core->retire(block, {&ticket, 1});
}

void PinnedBlock::retire(std::vector<PooledEvent> tickets) && noexcept {
  pinned::Block* const block = release();
  block->core->retire(block, tickets);
}

Deleter PinnedBlock::into_deleter() && noexcept {
  block_->core->give_out(block_);
  return {release(), release_result};
}

void PinnedBlock::leak() && noexcept {
  pinned::Block* const block = release();
  block->core->leak(block);
}

PinnedPool::PinnedPool(const CudaApi& api, FenceSource& fences, size_t limit, size_t piece_bytes)
    : core_(std::make_shared<pinned::Core>(api, fences, limit, piece_bytes)) {}

PinnedPool::~PinnedPool() { core_->close(); }

PinnedBlock PinnedPool::take(size_t bytes) { return core_->take(bytes); }

bool PinnedPool::add_ticket(const void* address, PooledEvent event) {
  return core_->add_ticket(address, std::move(event));
}

bool PinnedPool::holds(const void* address) const noexcept { return core_->holds(address); }

size_t PinnedPool::bytes_to_seam(const void* address) const noexcept {
  return core_->bytes_to_seam(address);
}

void PinnedPool::poll() { core_->poll(); }

void PinnedPool::poll_if_due() noexcept { core_->poll_if_due(); }

void PinnedPool::device_fails() noexcept { core_->device_fails(); }

size_t PinnedPool::trim(size_t keep_bytes) { return core_->trim(keep_bytes); }

void PinnedPool::set_limit(size_t limit) { core_->set_limit(limit); }

PinnedStats PinnedPool::stats() const noexcept { return core_->stats(); }

}  // namespace dlbridge::cuda
