// Tensor: the neutral handle that from_dlpack() returns, and its adapter.
#pragma once

#include <Python.h>

#include <atomic>
#include <utility>

#include "bridge/adapter.h"

namespace dlbridge::python {

/// A loan that several holders share: the handle itself and every export of it. Needs no GIL;
/// released on any thread.
class SharedLoan {
 public:
  explicit SharedLoan(Loan&& loan) : block_(new Block{1, std::move(loan)}) {}
  SharedLoan(SharedLoan&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  SharedLoan(const SharedLoan&) = delete;
  SharedLoan& operator=(const SharedLoan&) = delete;
  SharedLoan& operator=(SharedLoan&&) = delete;
  ~SharedLoan() {
    if (block_ != nullptr) release(block_);
  }

  const TensorView& view() const noexcept { return block_->loan.view(); }

  /// One more share in the memory.
  Deleter share() const noexcept {
    block_->references.fetch_add(1, std::memory_order_relaxed);
    return {block_, release};
  }

  /// The deepest owner behind the memory, as Loan::original.
  Deleter original() const noexcept {
    return block_->loan.original ? block_->loan.original : block_->loan.deleter();
  }

 private:
  struct Block {
    std::atomic<int64_t> references;
    Loan loan;
  };
  static void release(void* context) noexcept {
    auto* block = static_cast<Block*>(context);
    if (block->references.fetch_sub(1, std::memory_order_acq_rel) == 1) delete block;
  }
  Block* block_;
};

/// The Python class's content.
struct Tensor {
  SharedLoan memory;
  /// The stream behind which elements on a device are, as DLPack numbers them; 0: not known.
  intptr_t stream = 0;
};

/// Adds the class to the module and its adapter to the registry.
void bind_tensor(PyObject* module);

/// The Tensor that `x` is. Requires: tensor_adapter().accepts(x).
const Tensor& unpack_tensor(PyObject* x) noexcept;

/// Where `x` is a Tensor on a device: its elements are behind `stream`.
void set_stream(PyObject* x, intptr_t stream) noexcept;

/// The adapter that makes and takes Tensors.
const Adapter& tensor_adapter() noexcept;

}  // namespace dlbridge::python
