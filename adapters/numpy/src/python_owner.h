// Giving back a reference to a Python object from any thread, at any time.
#pragma once

namespace dlbridge {

/// Drops one reference to the PyObject `object`. A thread that holds the GIL does it at once; one
/// that Python knows takes the GIL first; a thread that Python does not know never waits: it queues
/// the object and schedules a pending call. When the interpreter finalises or is gone, the
/// reference is leaked on purpose. Never throws, keeps a pending Python exception, safe in the
/// child of a fork.
void release_python_object(void* object) noexcept;

}  // namespace dlbridge
