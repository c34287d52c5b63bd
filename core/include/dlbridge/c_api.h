// The stable C ABI of dlbridge: C11, and valid C++. Guide: docs/c.md.
//
// Status: every function returns a dlb_status, DLBRIDGE_OK (0) on success. After anything else,
// dlb_last_error() tells the calling thread what was wrong. No exception leaves these functions.
//
// Owns: on failure nothing was consumed and nothing was made. Whoever owned a tensor before the
// call owns it afterwards, its deleter was not called, and every `out` pointer is set to null.
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
// memory must not be freed, while a function reads it. Deleters run on the thread that drops the
// last share.
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

/// What became of a call. dlb_last_error() has the particulars.
typedef enum dlb_status {
  DLBRIDGE_OK = 0,
  DLBRIDGE_INVALID_ARGUMENT = 1,     ///< a null pointer, a number out of range, an unknown name
  DLBRIDGE_WRONG_STRUCT_SIZE = 2,    ///< struct_size is not that of a struct known here
  DLBRIDGE_BUFFER_TOO_SMALL = 3,     ///< the caller's arrays are too short; the counts are written
  DLBRIDGE_OUT_OF_MEMORY = 4,        ///< an allocation failed
  DLBRIDGE_INVALID_DESCRIPTOR = 5,   ///< the descriptor breaks a rule of DLPack
  DLBRIDGE_UNSUPPORTED_VERSION = 6,  ///< the descriptor's major version is not 1
  DLBRIDGE_REFUSED = 7,              ///< well formed, but it cannot be done without harm
  DLBRIDGE_INTERNAL_ERROR = 8,       ///< a defect of dlbridge or of a StagingBackend module
  DLBRIDGE_UNAVAILABLE = 9,          ///< this machine lacks it: no driver, one too old, no device
  DLBRIDGE_DEVICE_FAILED = 10,       ///< a device failed for good in this process: start a new one
  DLBRIDGE_STATUS_RANGE_ = 0x7fffffff
} dlb_status;

/// What is known about whether memory may be written. A legacy descriptor cannot say.
typedef enum dlb_access {
  DLBRIDGE_ACCESS_WRITABLE = 0,
  DLBRIDGE_ACCESS_READ_ONLY = 1,
  DLBRIDGE_ACCESS_UNKNOWN = 2  ///< counts as read-only where memory is handed on
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
  DLBRIDGE_ACCEPTS_READ_ONLY = 1 << 3,         ///< can promise not to write
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
  DLBRIDGE_NAMED_SOURCE_CASTS = 1 << 3  ///< the source's side can cast to what the target has
};

/// What went wrong last on this thread. The texts are never null; they stay until the next failing
/// call on the same thread.
typedef struct dlb_error {
  size_t struct_size;  ///< in
  int32_t status;      ///< a dlb_status; DLBRIDGE_OK while no call has failed
  int32_t reserved;    ///< zero
  const char* code;    ///< "negative_extent": the same names as dlbridge.ExchangeError.code; static
  const char* field;   ///< "shape": the field or argument concerned; at most 63 bytes
  const char* message;  ///< one sentence: found, expected, remedy; at most 1023 bytes
} dlb_error;

/// Which library this is.
typedef struct dlb_version_info {
  size_t struct_size;  ///< in
  int32_t major;
  int32_t minor;
  int32_t patch;
  int32_t c_api;  ///< DLBRIDGE_C_API_VERSION of the library
  int32_t dlpack_major;
  int32_t dlpack_minor;  ///< the DLPack version written into descriptors
} dlb_version_info;

/// What a descriptor says, checked. The three fields marked "in" are the caller's arrays.
typedef struct dlb_description {
  size_t struct_size;    ///< in
  int64_t* shape;        ///< in: room for `capacity` extents, or null where they are not wanted
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

/// What a target can hold, said as data.
typedef struct dlb_traits {
  size_t struct_size;        ///< in, like all of this
  const char* name;          ///< how messages call the target; null: "dlpack"
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

/// The answer of a plan, and the caller's arrays for its texts.
typedef struct dlb_plan_result {
  size_t struct_size;        ///< in
  const char** reasons;      ///< in: room for `reasons_capacity` names, or null
  char* message;             ///< in: room for `message_capacity` bytes, or null: no text is made
  size_t message_capacity;   ///< in: bytes
  size_t message_length;     ///< bytes of the whole message
  int32_t reasons_capacity;  ///< in
  int32_t reasons_count;     ///< how many reasons there are; the most important come first
  int64_t bytes;             ///< written into new memory; refused: what the remedy would copy
  int32_t verdict;           ///< a dlb_verdict
  int32_t casts;             ///< 1: the dtype changes
  int32_t stages;            ///< 1: the device changes
  int32_t reserved;          ///< zero
} dlb_plan_result;

/// A checked tensor with a share in its memory, counted. Immutable: threads may use one together.
typedef struct dlb_tensor dlb_tensor;

// ---- The library, and errors

/// Writes what the calling thread's last failing call left. Calls that succeed leave it as it is,
/// and so does this one. Owns: nothing changes hands.
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

// ---- Looking at a descriptor without taking it
//
// `managed` is borrowed for the call: it is read, never changed, its deleter never called, whatever
// the status. Of a descriptor with another major version nothing but the version is read.

/// Checks every field of `managed`. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_validate(const DLManagedTensorVersioned* managed) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_validate_legacy(const DLManagedTensor* managed) DLBRIDGE_NOEXCEPT;

/// Checks `managed` and writes what it says into `description`. Where shape or strides are asked
/// for and `capacity` is below ndim, neither is written, everything else is, and the status is
/// DLBRIDGE_BUFFER_TOO_SMALL. After another failure only what the caller set is there. Owns:
/// nothing changes hands.
DLBRIDGE_API dlb_status dlb_describe(const DLManagedTensorVersioned* managed,
                                     dlb_description* description) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_describe_legacy(const DLManagedTensor* managed,
                                            dlb_description* description) DLBRIDGE_NOEXCEPT;

/// Checks `managed` and says what handing it to a target would do: nothing is done. A refusal is an
/// answer: the status is DLBRIDGE_OK, the verdict DLBRIDGE_REFUSE. `traits` null: a target that
/// holds all that DLPack can say. `request` null: nothing is named. The remedies in messages are
/// spelt as in Python (docs/c.md has the table). Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_plan(const DLManagedTensorVersioned* managed, const dlb_traits* traits,
                                 const dlb_request* request,
                                 dlb_plan_result* result) DLBRIDGE_NOEXCEPT;
DLBRIDGE_API dlb_status dlb_plan_legacy(const DLManagedTensor* managed, const dlb_traits* traits,
                                        const dlb_request* request,
                                        dlb_plan_result* result) DLBRIDGE_NOEXCEPT;

/// Copies the elements of `source` into the memory of `destination`, in any layouts, on several
/// threads from the size where that pays. Both are checked, and must have the same shape and dtype,
/// and lie in host memory. DLBRIDGE_REFUSED, before a byte is written: the shapes or dtypes differ,
/// the destination is read-only, overlaps itself or has a byte in common with the source. Both are
/// borrowed for the call. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_copy(const DLManagedTensorVersioned* source,
                                 const DLManagedTensorVersioned* destination) DLBRIDGE_NOEXCEPT;

/// Copies the elements of `source` into the memory of `destination`, which is in another place (a
/// device and the host, or the same device), by the module registered for these two places, such as
/// that of dlbridge/cuda/c_api.h. When it returns the host may read a host destination; a device
/// destination holds the elements for what is enqueued on `stream` from then on. `stream` belongs
/// to the device: DLPack's number or the device API's own handle. Both are checked, and must have
/// the same shape and dtype. DLBRIDGE_REFUSED, before a byte is written: no module connects the
/// two places, and what dlb_copy refuses. After a failure of the module itself the destination's
/// elements are undefined. Both are borrowed for the call. Owns: nothing changes hands.
DLBRIDGE_API dlb_status dlb_stage(const DLManagedTensorVersioned* source,
                                  const DLManagedTensorVersioned* destination,
                                  intptr_t stream) DLBRIDGE_NOEXCEPT;

// ---- Handles

/// Checks `managed` and takes it. Owns: on success the handle owns `managed`, whose deleter is
/// called once, when the last share is dropped, and `*tensor` is one share that the caller gives
/// back with dlb_tensor_release. On failure nothing was consumed: the caller still owns `managed`,
/// also where its version is unsupported.
DLBRIDGE_API dlb_status dlb_adopt(DLManagedTensorVersioned* managed,
                                  dlb_tensor** tensor) DLBRIDGE_NOEXCEPT;
/// The same for the legacy struct. `access` (a dlb_access) is what the caller knows about it.
DLBRIDGE_API dlb_status dlb_adopt_legacy(DLManagedTensor* managed, int32_t access,
                                         dlb_tensor** tensor) DLBRIDGE_NOEXCEPT;

/// One share more. Owns: on success the caller gives it back with dlb_tensor_release. On failure
/// there is no new share.
DLBRIDGE_API dlb_status dlb_tensor_retain(dlb_tensor* tensor) DLBRIDGE_NOEXCEPT;

/// Drops one share; null is ignored. Owns: the caller's share is gone; with the last one, exports
/// included, the memory goes back to its producer. It does not fail.
DLBRIDGE_API dlb_status dlb_tensor_release(dlb_tensor* tensor) DLBRIDGE_NOEXCEPT;

/// A look at the handle as a descriptor, for the functions that take one. Owns: nothing changes
/// hands: `*managed` is borrowed, has no deleter, and lives as long as the caller's share. It must
/// not be adopted, converted or put into a capsule: dlb_export makes what may be.
DLBRIDGE_API dlb_status dlb_tensor_borrow(
    const dlb_tensor* tensor, const DLManagedTensorVersioned** managed) DLBRIDGE_NOEXCEPT;

/// A new descriptor over the handle's memory. Owns: on success `*managed` is the caller's, who has
/// its deleter called once; it keeps the memory alive also when the handle is gone. On failure
/// there is no new descriptor. The handle stays the caller's either way.
DLBRIDGE_API dlb_status dlb_export(dlb_tensor* tensor,
                                   DLManagedTensorVersioned** managed) DLBRIDGE_NOEXCEPT;
/// The same as a legacy struct. Read-only memory and elements below a byte that are padded are
/// DLBRIDGE_REFUSED: a legacy struct has no flags to say so. Memory of unknown access, which only
/// another legacy struct brings, stays unknown.
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
