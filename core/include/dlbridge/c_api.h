// SPDX-License-Identifier: Apache-2.0
// The stable C ABI of dlbridge: C11, and valid C++. Guide: docs/c.md.
//
// Status: every function returns a dlb_status, DLBRIDGE_OK (0) on success. After another status
// dlb_last_error() describes the error of the calling thread. No exception leaves these functions.
//
// Owns: a function that fails has consumed and made nothing. The owner of a tensor before the call
// owns it afterwards, its deleter was not called, and every `out` pointer is set to null.
//
// Structs: every struct begins with struct_size, which the caller sets to sizeof(the struct);
// fields that it does not use it sets to zero. A struct of another size is refused
// (DLBRIDGE_WRONG_STRUCT_SIZE), except a larger one whose additional bytes are zero.
//
// Texts that functions return by pointer are static unless said otherwise. Texts written into a
// caller's buffer are cut to what fits and always end with a zero byte; their full length in bytes,
// that zero not counted, is given beside them.
//
// Units: strides count elements, sizes and offsets count bytes.
//
// Thread: any thread may call any function, at the same time. A descriptor must not change, and its
// memory must not be freed, while a function reads it. A deleter runs on the thread that drops the
// last reference.
#pragma once

#include <dlpack/dlpack.h>
#include <stddef.h>
#include <stdint.h>

#include "dlbridge/export.h"

#ifdef __cplusplus
#define DLBRIDGE_NOEXCEPT noexcept
extern "C" {
#else
#define DLBRIDGE_NOEXCEPT
#endif

/// The version of this ABI that the header describes.
#define DLBRIDGE_C_API_VERSION 1

/// The result of a call. dlb_last_error() has the details.
typedef enum dlb_status {
  DLBRIDGE_OK = 0,
  DLBRIDGE_INVALID_ARGUMENT = 1,     ///< a null pointer, a number out of range, an unknown name
  DLBRIDGE_WRONG_STRUCT_SIZE = 2,    ///< struct_size is not that of a struct known here
  DLBRIDGE_BUFFER_TOO_SMALL = 3,     ///< the caller's arrays are too short; the counts are written
  DLBRIDGE_OUT_OF_MEMORY = 4,        ///< an allocation failed
  DLBRIDGE_INVALID_DESCRIPTOR = 5,   ///< the descriptor breaks a rule of DLPack
  DLBRIDGE_UNSUPPORTED_VERSION = 6,  ///< the descriptor's major version is not 1
  DLBRIDGE_REFUSED = 7,              ///< well formed, but not possible for this memory
  DLBRIDGE_INTERNAL_ERROR = 8,       ///< a defect of dlbridge or of a StagingBackend module
  DLBRIDGE_UNAVAILABLE = 9,          ///< no driver, one too old, or no device on this machine
  DLBRIDGE_DEVICE_FAILED = 10,       ///< a device failed for good: start a new process
  DLBRIDGE_STATUS_RANGE_ = 0x7fffffff
} dlb_status;

/// What is known about write access. A legacy descriptor has no flag.
typedef enum dlb_access {
  DLBRIDGE_ACCESS_WRITABLE = 0,
  DLBRIDGE_ACCESS_READ_ONLY = 1,
  DLBRIDGE_ACCESS_UNKNOWN = 2  ///< exported as read-only
} dlb_access;

/// The four states of `copy=`: when a copy may be made.
typedef enum dlb_copy_mode {
  DLBRIDGE_COPY_UNSET = 0,  ///< share, or refuse; a named device or dtype is a copy that is named
  DLBRIDGE_COPY_NEVER = 1,  ///< share, or refuse, also where a device or dtype is named
  DLBRIDGE_COPY_IF_NEEDED = 2,  ///< share, or copy
  DLBRIDGE_COPY_ALWAYS = 3      ///< copy
} dlb_copy_mode;

/// What a conversion would do.
typedef enum dlb_verdict {
  DLBRIDGE_SHARE = 0,
  DLBRIDGE_COPY = 1,
  DLBRIDGE_CAST = 2,
  DLBRIDGE_STAGE = 3,
  DLBRIDGE_REFUSE = 4
} dlb_verdict;

/// How a target stores float4.
typedef enum dlb_float4 {
  DLBRIDGE_FLOAT4_NONE = 0,
  DLBRIDGE_FLOAT4_PADDED = 1,  ///< one in a byte
  DLBRIDGE_FLOAT4_PAIRS = 2,   ///< two in a byte
  DLBRIDGE_FLOAT4_BOTH = 3
} dlb_float4;

/// Bits of dlb_traits::accepts: what a target can hold.
enum {
  DLBRIDGE_ACCEPTS_NEGATIVE_STRIDES = 1 << 0,  ///< on extents above 1
  DLBRIDGE_ACCEPTS_ZERO_STRIDES = 1 << 1,      ///< broadcast dimensions
  DLBRIDGE_ACCEPTS_PARTIAL_OVERLAP = 1 << 2,   ///< writable memory that overlaps itself
  DLBRIDGE_ACCEPTS_READ_ONLY = 1 << 3,         ///< marks memory as read-only
  DLBRIDGE_ACCEPTS_MISALIGNED = 1 << 4,        ///< data that is not aligned to its element
  DLBRIDGE_ACCEPTS_PACKED_SUBBYTE = 1 << 5,    ///< elements below a byte that are not padded
  DLBRIDGE_ACCEPTS_EVERY_DTYPE = 1 << 6,       ///< any type that DLPack defines
  DLBRIDGE_ACCEPTS_HOST_ONLY = 1 << 7          ///< lives in host memory: others must be staged
};

/// Bits of dlb_request::named: what the call names.
enum {
  DLBRIDGE_NAMED_DEVICE = 1 << 0,       ///< dlb_request::device holds
  DLBRIDGE_NAMED_DTYPE = 1 << 1,        ///< dlb_request::dtype holds
  DLBRIDGE_NAMED_DESTINATION = 1 << 2,  ///< memory to copy into is given
  DLBRIDGE_NAMED_SOURCE_CASTS = 1 << 3  ///< the source's framework casts to a named dtype
};

/// The last error of this thread. The texts are never null and stay until the next failing call on
/// the same thread.
typedef struct dlb_error {
  size_t struct_size;  ///< in
  int32_t status;      ///< a dlb_status; DLBRIDGE_OK while no call has failed
  int32_t reserved;    ///< zero
  const char* code;    ///< "negative_extent": the same names as dlbridge.ExchangeError.code; static
  const char* field;   ///< "shape": the field or argument concerned; at most 63 bytes
  const char* message;  ///< one sentence: found, expected, remedy; at most 1023 bytes
} dlb_error;

/// The versions of the library.
typedef struct dlb_version_info {
  size_t struct_size;  ///< in
  int32_t major;
  int32_t minor;
  int32_t patch;
  int32_t c_api;  ///< DLBRIDGE_C_API_VERSION of the library
  int32_t dlpack_major;
  int32_t dlpack_minor;  ///< the DLPack version written into descriptors
} dlb_version_info;

/// What a checked descriptor says. The fields marked "in" are set by the caller.
typedef struct dlb_description {
  size_t struct_size;    ///< in
  int64_t* shape;        ///< in: room for `capacity` extents, or null
  int64_t* strides;      ///< in: room for `capacity` strides in elements, or null
  int32_t capacity;      ///< in
  int32_t ndim;          ///< how many extents and strides there are
  void* data;            ///< the first element; borrowed
  uint64_t byte_offset;  ///< folded into `data`; not zero only where `data` is an opaque handle
  int64_t size;          ///< elements
  int64_t nbytes;        ///< bytes of the elements packed densely
  DLDevice device;
  DLDataType dtype;
  uint32_t flags;         ///< DLPack's flag bits; bit 0 (read-only) also where access is unknown
  int32_t access;         ///< a dlb_access
  int32_t is_contiguous;  ///< 1: row-major without gaps; 0: not
  char dtype_name[32];    ///< "float32"
  char device_name[32];   ///< "cpu", "cuda:1"
} dlb_description;

/// What a target can hold.
typedef struct dlb_traits {
  size_t struct_size;        ///< in, like all of this
  const char* name;          ///< of the target in messages; null: "dlpack"
  const DLDataType* dtypes;  ///< the single-lane types it holds; borrowed for the call
  int32_t dtype_count;
  int32_t max_ndim;
  uint32_t accepts;  ///< DLBRIDGE_ACCEPTS_ bits
  uint32_t devices;  ///< bit n: DLPack device type n
  int32_t float4;    ///< a dlb_float4
  int32_t reserved;  ///< zero
} dlb_traits;

/// What a call names: the copy, the device, the dtype.
typedef struct dlb_request {
  size_t struct_size;  ///< in, like all of this
  int32_t copy;        ///< a dlb_copy_mode
  uint32_t named;      ///< DLBRIDGE_NAMED_ bits
  DLDevice device;     ///< read where DLBRIDGE_NAMED_DEVICE is set
  DLDataType dtype;    ///< read where DLBRIDGE_NAMED_DTYPE is set
  int32_t reserved;    ///< zero
} dlb_request;

/// A plan, and the caller's arrays for its texts.
typedef struct dlb_plan_result {
  size_t struct_size;        ///< in
  const char** reasons;      ///< in: room for `reasons_capacity` names, or null
  char* message;             ///< in: room for `message_capacity` bytes, or null: no text is made
  size_t message_capacity;   ///< in: bytes
  size_t message_length;     ///< bytes of the whole message
  int32_t reasons_capacity;  ///< in
  int32_t reasons_count;     ///< how many reasons there are; the most important come first
  int64_t bytes;             ///< written into new memory; refused: what the remedy would copy, 0
                             ///< where that is unknown or no copy
  int32_t verdict;           ///< a dlb_verdict
  int32_t casts;             ///< 1: the dtype changes
  int32_t stages;            ///< 1: the device changes
  int32_t reserved;          ///< zero
} dlb_plan_result;

/// A checked tensor with a counted reference to its memory. Immutable: threads may share one.
typedef struct dlb_tensor dlb_tensor;

// ---- The library, and errors

/// Writes the error of the calling thread's last failing call, which calls that succeed and this
/// function leave as it is. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_last_error(dlb_error* error) DLBRIDGE_NOEXCEPT;

/// Writes the versions of this library. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_version(dlb_version_info* info) DLBRIDGE_NOEXCEPT;

// ---- Data types

/// Writes the type called `name` ("float32", "bfloat16", "float8_e4m3fn") into `dtype`. An unknown
/// name is DLBRIDGE_INVALID_ARGUMENT. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_dtype_parse(const char* name, DLDataType* dtype) DLBRIDGE_NOEXCEPT;

/// Writes the name of `dtype` into `buffer` (`capacity` bytes; null where 0), and its length in
/// bytes into `length` (may be null). A type that DLPack does not define is spelt in numbers:
/// "code=40,bits=8,lanes=1". Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_dtype_name(DLDataType dtype, char* buffer, size_t capacity,
                                       size_t* length) DLBRIDGE_NOEXCEPT;

// ---- Reading a descriptor without taking it
//
// `managed` is borrowed for the call: it is read, never changed, its deleter never called, whatever
// the status. Of a descriptor with another major version nothing but the version is read.

/// Checks every field of `managed`. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_validate(const DLManagedTensorVersioned* managed) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_validate_legacy(const DLManagedTensor* managed) DLBRIDGE_NOEXCEPT;

/// Checks `managed` and writes what it says into `description`. If `shape` or `strides` is given
/// and `capacity` is below ndim, neither is written, every other field is, and the status is
/// DLBRIDGE_BUFFER_TOO_SMALL. Another failure writes nothing. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_describe(const DLManagedTensorVersioned* managed,
                                     dlb_description* description) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_describe_legacy(const DLManagedTensor* managed,
                                            dlb_description* description) DLBRIDGE_NOEXCEPT;

/// Checks `managed` and writes what its conversion for a target would do. A refused conversion is a
/// result: the status is DLBRIDGE_OK, the verdict DLBRIDGE_REFUSE. `traits` null: a target that
/// holds all that DLPack can describe. `request` null: nothing is named. Messages name remedies as
/// in Python (docs/c.md has the table). Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_plan(const DLManagedTensorVersioned* managed, const dlb_traits* traits,
                                 const dlb_request* request,
                                 dlb_plan_result* result) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_plan_legacy(const DLManagedTensor* managed, const dlb_traits* traits,
                                        const dlb_request* request,
                                        dlb_plan_result* result) DLBRIDGE_NOEXCEPT;

/// Copies the elements of `source` into the memory of `destination`, in any layouts. Large copies
/// use several threads. Both are checked, must have the same shape and dtype, and lie in host
/// memory. DLBRIDGE_REFUSED, before a byte is written: the shapes or dtypes differ, the destination
/// is read-only, overlaps itself or has a byte in common with the source. Both are borrowed for the
/// call. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_copy(const DLManagedTensorVersioned* source,
                                 const DLManagedTensorVersioned* destination) DLBRIDGE_NOEXCEPT;

/// Copies the elements of `source` into the memory of `destination`, between the host and a device
/// or on one device, by the module registered for these two, such as that of dlbridge/cuda/c_api.h.
/// When it returns, the host may read a host destination; work enqueued on `stream` from then on
/// may use a device destination. `stream` belongs to the device: DLPack's number or the device
/// API's own handle. Both are checked and must have the same shape and dtype. DLBRIDGE_REFUSED,
/// before a byte is written: no module connects the two, and what dlb_copy refuses. If the module
/// itself fails, the destination's elements are undefined. Both are borrowed. Owns: nothing changes
/// hands.
DLBRIDGE_API dlb_status dlb_stage(const DLManagedTensorVersioned* source,
                                  const DLManagedTensorVersioned* destination,
                                  intptr_t stream) DLBRIDGE_NOEXCEPT;

// ---- Handles

/// Checks `managed` and takes it. Owns: on success the handle owns `managed` and calls its deleter
/// when the last reference is dropped; the caller drops `*tensor` with dlb_tensor_release. On
/// failure the caller still owns `managed`, also if its version is unsupported.
DLBRIDGE_API dlb_status dlb_adopt(DLManagedTensorVersioned* managed,
                                  dlb_tensor** tensor) DLBRIDGE_NOEXCEPT;
/// The same for the legacy struct. `access` (a dlb_access) is what the caller knows.
DLBRIDGE_API dlb_status dlb_adopt_legacy(DLManagedTensor* managed, int32_t access,
                                         dlb_tensor** tensor) DLBRIDGE_NOEXCEPT;

/// Adds a reference. Owns: on success the caller drops it with dlb_tensor_release.
DLBRIDGE_API dlb_status dlb_tensor_retain(dlb_tensor* tensor) DLBRIDGE_NOEXCEPT;

/// Drops a reference; null is ignored. Owns: with the last one, exports included, the deleter is
/// called. It does not fail.
DLBRIDGE_API dlb_status dlb_tensor_release(dlb_tensor* tensor) DLBRIDGE_NOEXCEPT;

/// Borrows a descriptor of the handle, for the functions that read one. Owns: nothing changes
/// hands; `*managed` has no deleter and lives as long as the caller's reference. It must not be
/// adopted, converted or put into a capsule: use dlb_export for that.
DLBRIDGE_API dlb_status dlb_tensor_borrow(
    const dlb_tensor* tensor, const DLManagedTensorVersioned** managed) DLBRIDGE_NOEXCEPT;

/// Makes a new descriptor over the handle's memory. Owns: on success the caller calls its deleter
/// once; it keeps the memory alive without the handle. The handle stays the caller's.
DLBRIDGE_API dlb_status dlb_export(dlb_tensor* tensor,
                                   DLManagedTensorVersioned** managed) DLBRIDGE_NOEXCEPT;
/// The same as a legacy struct. Read-only memory and elements below a byte that are padded are
/// DLBRIDGE_REFUSED: a legacy struct has no flags to say so. Unknown access stays unknown.
DLBRIDGE_API dlb_status dlb_export_legacy(dlb_tensor* tensor,
                                          DLManagedTensor** managed) DLBRIDGE_NOEXCEPT;

// ---- Between the two structs

/// Turns a versioned descriptor into a legacy one. DLBRIDGE_REFUSED as in dlb_export_legacy. Owns:
/// on success `managed` is consumed, and `*legacy` is the caller's, whose deleter calls that of
/// `managed`. On failure nothing was consumed: the caller still owns `managed`.
DLBRIDGE_API dlb_status dlb_to_legacy(DLManagedTensorVersioned* managed,
                                      DLManagedTensor** legacy) DLBRIDGE_NOEXCEPT;

/// Turns a legacy descriptor into a versioned one. `access` (a dlb_access) is what the caller knows
/// about the memory; unknown becomes read-only. Owns: on success `legacy` is consumed, and
/// `*managed` is the caller's, whose deleter calls that of `legacy`. On failure nothing was
/// consumed: the caller still owns `legacy`.
DLBRIDGE_API dlb_status dlb_to_versioned(DLManagedTensor* legacy, int32_t access,
                                         DLManagedTensorVersioned** managed) DLBRIDGE_NOEXCEPT;

#ifdef __cplusplus
}  // extern "C"
#endif
