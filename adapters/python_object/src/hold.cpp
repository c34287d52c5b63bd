// SPDX-License-Identifier: Apache-2.0
#include "dlbridge/python_object/hold.h"

#include <atomic>
#include <new>

#include "dlbridge/python_object/gil.h"

namespace dlbridge {
namespace {

// Objects that threads unknown to Python want to drop: a stack without a lock, since a fork may
// happen at any time.
struct Dropped {
  PyObject* object;
  Dropped* next;
};
std::atomic<Dropped*> g_dropped{nullptr};
std::atomic<bool> g_scheduled{false};

// Drops with the GIL held; whatever the object's destructor raises or clears, the caller's
// exception stays.
void drop(PyObject* object) noexcept {
  if (Py_REFCNT(object) > 1) {
    Py_DECREF(object);
    return;
  }
  PyObject *type, *value, *traceback;
  PyErr_Fetch(&type, &value, &traceback);
  Py_DECREF(object);
  PyErr_Restore(type, value, traceback);
}

void drain() noexcept {
  g_scheduled.store(false);
  Dropped* entry = g_dropped.exchange(nullptr);
  while (entry != nullptr) {
    Dropped* next = entry->next;
    drop(entry->object);
    delete entry;
    entry = next;
  }
}

void enqueue(PyObject* object) noexcept {
  auto* entry = new (std::nothrow) Dropped{object, g_dropped.load()};
  if (entry == nullptr) return;  // no memory to remember it: leaked
  while (!g_dropped.compare_exchange_weak(entry->next, entry)) {
  }
  if (g_scheduled.exchange(true)) return;
  const auto call = [](void*) noexcept {
    drain();
    return 0;
  };
  // The interpreter's queue of pending calls is short; when it is full, the next release tries
  // again.
  if (Py_AddPendingCall(call, nullptr) != 0) g_scheduled.store(false);
}

// Takes the GIL for this thread's own state.
void take_gil(PyThreadState* mine) noexcept {
  parked_at_exit([mine] { PyEval_RestoreThread(mine); });
}

}  // namespace

void release_python_object(void* context) noexcept {
  auto* object = static_cast<PyObject*>(context);
  PyThreadState* mine = PyGILState_GetThisThreadState();  // null, too, without an interpreter
  if (holds_gil(mine)) {
    drop(object);
    if (g_dropped.load(std::memory_order_relaxed) != nullptr) drain();
    return;
  }
  if (is_finalizing()) return;
  if (mine == nullptr) {
    if (Py_IsInitialized()) enqueue(object);
    return;
  }
  take_gil(mine);
  drop(object);
  PyEval_SaveThread();
}

}  // namespace dlbridge
