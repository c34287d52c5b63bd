// Adapter: what a framework's extension module puts into the capsule that _core takes. The only
// place where two modules meet; plain data and function pointers, so that _core links no adapter.
//
// Every function is noexcept and called with the GIL held. Those that can fail return null on
// success, or an Error that the caller owns; after an Error nothing was consumed or leaked. Error
// code python_exception means that a Python exception is set.
#pragma once

#include <Python.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "dlbridge/error.h"
#include "dlbridge/loan.h"
#include "dlbridge/plan.h"
#include "dlbridge/python_object/interpreter_exit.h"

namespace dlbridge::python {

inline constexpr uint32_t kAdapterVersion = 1;
inline constexpr const char* kAdapterCapsule = "dlbridge.adapter";

/// An Error or nothing, as it crosses between extension modules.
using Failure = std::unique_ptr<Error>;

/// Throws what crossed; takes it.
inline void check(Error* error) {
  if (error != nullptr) throw Error(*Failure(error));
}

struct Adapter {
  uint32_t struct_size = sizeof(Adapter);
  uint32_t version = kAdapterVersion;
  /// Address of neutral_traits(): proves that both sides use the same libdlbridge.
  const void* core = nullptr;
  const TargetTraits* traits = nullptr;
  /// Exact types that are taken without asking accepts(); null where there are fewer.
  PyTypeObject* exact_types[2] = {nullptr, nullptr};
  /// Casts run on several threads: preferred when both sides could cast.
  bool threaded_casts = false;

  /// Whether `x` is this framework's, subclasses included.
  bool (*accepts)(PyObject* x) noexcept = nullptr;
  /// Fills a loan without an owner; `original` where it is known without one.
  Error* (*describe)(PyObject* x, Loan* loan) noexcept = nullptr;
  /// Gives a described loan its owner.
  Error* (*acquire)(PyObject* x, Loan* loan) noexcept = nullptr;
  /// A new reference to this framework's object over the very storage that a described, ownerless
  /// loan says it came from (`original`); null in `out` where there is no such way back. Null if
  /// the framework has none.
  Error* (*reuse_storage)(Loan* loan, PyObject** out) noexcept = nullptr;
  /// Consumes the loan: a new reference to this framework's object over its memory.
  Error* (*wrap)(Loan* loan, PyObject** out) noexcept = nullptr;
  /// Fresh memory: a new reference, and a borrowed writable view of it.
  Error* (*empty)(const TensorView* like, DLDataType dtype, PyObject** out,
                  Loan* memory) noexcept = nullptr;
  /// What `empty` gave, once it is filled: takes that reference and gives one back. Null if nothing
  /// is to be done.
  Error* (*finish)(PyObject* made, PyObject** out) noexcept = nullptr;
  /// Lets the framework write its object's elements into memory, casting. Null if it cannot.
  Error* (*fill)(PyObject* x, const TensorView* dst) noexcept = nullptr;
  /// Lets the framework cast between two memories. Null if it cannot.
  Error* (*cast)(const TensorView* src, const TensorView* dst) noexcept = nullptr;
  /// The DLPack type that a dtype= argument names. Null if it takes none.
  Error* (*parse_dtype)(PyObject* dtype, DLDataType* out) noexcept = nullptr;
  /// Tries to load an optional package that widens the traits; whether they grew. Null if there is
  /// none.
  bool (*extend)() noexcept = nullptr;
};

/// Runs `body` and turns what it throws into an Error for the caller to own. A thread that the
/// interpreter ends in it is parked (interpreter_exit.h).
template <typename Body>
Error* guarded(Body&& body) noexcept {
  try {
    parked_at_exit(std::forward<Body>(body));
    return nullptr;
  } catch (const Error& error) {
    return new Error(error);
  } catch (const std::bad_alloc&) {
    return new Error(ErrorCode::out_of_memory, "memory", "no memory left for the exchange");
  } catch (const std::exception& error) {
    return new Error(ErrorCode::framework_error, "framework", error.what());
  }
}

}  // namespace dlbridge::python
