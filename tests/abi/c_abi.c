// SPDX-License-Identifier: Apache-2.0
/* The C ABI as a C11 compiler sees it: sizes and offsets of every public struct, the values of
 * every constant, the type of every function, and one short use of the library from C. What is
 * pinned here is a promise: a line may be added, none may be changed. */
#include <stdio.h>
#include <string.h>

#include "dlbridge/c_api.h"

#define PIN_SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define PIN(type, field, offset) \
  _Static_assert(offsetof(type, field) == (offset), "offset of " #type "." #field)
#define PIN_VALUE(name, value) _Static_assert((name) == (value), "value of " #name)

PIN_SIZE(dlb_status, 4);

PIN_SIZE(dlb_error, 40);
PIN(dlb_error, struct_size, 0);
PIN(dlb_error, status, 8);
PIN(dlb_error, reserved, 12);
PIN(dlb_error, code, 16);
PIN(dlb_error, field, 24);
PIN(dlb_error, message, 32);

PIN_SIZE(dlb_version_info, 32);
PIN(dlb_version_info, struct_size, 0);
PIN(dlb_version_info, major, 8);
PIN(dlb_version_info, minor, 12);
PIN(dlb_version_info, patch, 16);
PIN(dlb_version_info, c_api, 20);
PIN(dlb_version_info, dlpack_major, 24);
PIN(dlb_version_info, dlpack_minor, 28);

PIN_SIZE(dlb_description, 152);
PIN(dlb_description, struct_size, 0);
PIN(dlb_description, shape, 8);
PIN(dlb_description, strides, 16);
PIN(dlb_description, capacity, 24);
PIN(dlb_description, ndim, 28);
PIN(dlb_description, data, 32);
PIN(dlb_description, byte_offset, 40);
PIN(dlb_description, size, 48);
PIN(dlb_description, nbytes, 56);
PIN(dlb_description, device, 64);
PIN(dlb_description, dtype, 72);
PIN(dlb_description, flags, 76);
PIN(dlb_description, access, 80);
PIN(dlb_description, is_contiguous, 84);
PIN(dlb_description, dtype_name, 88);
PIN(dlb_description, device_name, 120);

PIN_SIZE(dlb_traits, 48);
PIN(dlb_traits, struct_size, 0);
PIN(dlb_traits, name, 8);
PIN(dlb_traits, dtypes, 16);
PIN(dlb_traits, dtype_count, 24);
PIN(dlb_traits, max_ndim, 28);
PIN(dlb_traits, accepts, 32);
PIN(dlb_traits, devices, 36);
PIN(dlb_traits, float4, 40);
PIN(dlb_traits, reserved, 44);

PIN_SIZE(dlb_request, 32);
PIN(dlb_request, struct_size, 0);
PIN(dlb_request, copy, 8);
PIN(dlb_request, named, 12);
PIN(dlb_request, device, 16);
PIN(dlb_request, dtype, 24);
PIN(dlb_request, reserved, 28);

PIN_SIZE(dlb_plan_result, 72);
PIN(dlb_plan_result, struct_size, 0);
PIN(dlb_plan_result, reasons, 8);
PIN(dlb_plan_result, message, 16);
PIN(dlb_plan_result, message_capacity, 24);
PIN(dlb_plan_result, message_length, 32);
PIN(dlb_plan_result, reasons_capacity, 40);
PIN(dlb_plan_result, reasons_count, 44);
PIN(dlb_plan_result, bytes, 48);
PIN(dlb_plan_result, verdict, 56);
PIN(dlb_plan_result, casts, 60);
PIN(dlb_plan_result, stages, 64);
PIN(dlb_plan_result, reserved, 68);

PIN_VALUE(DLBRIDGE_C_API_VERSION, 1);
PIN_VALUE(DLBRIDGE_OK, 0);
PIN_VALUE(DLBRIDGE_INVALID_ARGUMENT, 1);
PIN_VALUE(DLBRIDGE_WRONG_STRUCT_SIZE, 2);
PIN_VALUE(DLBRIDGE_BUFFER_TOO_SMALL, 3);
PIN_VALUE(DLBRIDGE_OUT_OF_MEMORY, 4);
PIN_VALUE(DLBRIDGE_INVALID_DESCRIPTOR, 5);
PIN_VALUE(DLBRIDGE_UNSUPPORTED_VERSION, 6);
PIN_VALUE(DLBRIDGE_REFUSED, 7);
PIN_VALUE(DLBRIDGE_INTERNAL_ERROR, 8);
PIN_VALUE(DLBRIDGE_UNAVAILABLE, 9);
PIN_VALUE(DLBRIDGE_DEVICE_FAILED, 10);
PIN_VALUE(DLBRIDGE_ACCESS_WRITABLE, 0);
PIN_VALUE(DLBRIDGE_ACCESS_READ_ONLY, 1);
PIN_VALUE(DLBRIDGE_ACCESS_UNKNOWN, 2);
PIN_VALUE(DLBRIDGE_COPY_UNSET, 0);
PIN_VALUE(DLBRIDGE_COPY_NEVER, 1);
PIN_VALUE(DLBRIDGE_COPY_IF_NEEDED, 2);
PIN_VALUE(DLBRIDGE_COPY_ALWAYS, 3);
PIN_VALUE(DLBRIDGE_SHARE, 0);
PIN_VALUE(DLBRIDGE_COPY, 1);
PIN_VALUE(DLBRIDGE_CAST, 2);
PIN_VALUE(DLBRIDGE_STAGE, 3);
PIN_VALUE(DLBRIDGE_REFUSE, 4);
PIN_VALUE(DLBRIDGE_FLOAT4_NONE, 0);
PIN_VALUE(DLBRIDGE_FLOAT4_PADDED, 1);
PIN_VALUE(DLBRIDGE_FLOAT4_PAIRS, 2);
PIN_VALUE(DLBRIDGE_FLOAT4_BOTH, 3);
PIN_VALUE(DLBRIDGE_ACCEPTS_NEGATIVE_STRIDES, 1);
PIN_VALUE(DLBRIDGE_ACCEPTS_ZERO_STRIDES, 2);
PIN_VALUE(DLBRIDGE_ACCEPTS_PARTIAL_OVERLAP, 4);
PIN_VALUE(DLBRIDGE_ACCEPTS_READ_ONLY, 8);
PIN_VALUE(DLBRIDGE_ACCEPTS_MISALIGNED, 16);
PIN_VALUE(DLBRIDGE_ACCEPTS_PACKED_SUBBYTE, 32);
PIN_VALUE(DLBRIDGE_ACCEPTS_EVERY_DTYPE, 64);
PIN_VALUE(DLBRIDGE_ACCEPTS_HOST_ONLY, 128);
PIN_VALUE(DLBRIDGE_NAMED_DEVICE, 1);
PIN_VALUE(DLBRIDGE_NAMED_DTYPE, 2);
PIN_VALUE(DLBRIDGE_NAMED_DESTINATION, 4);
PIN_VALUE(DLBRIDGE_NAMED_SOURCE_CASTS, 8);

/* Each initializer compiles only while the function keeps its type. */
static const struct {
  dlb_status (*last_error)(dlb_error*);
  dlb_status (*version)(dlb_version_info*);
  dlb_status (*dtype_parse)(const char*, DLDataType*);
  dlb_status (*dtype_name)(DLDataType, char*, size_t, size_t*);
  dlb_status (*validate)(const DLManagedTensorVersioned*);
  dlb_status (*validate_legacy)(const DLManagedTensor*);
  dlb_status (*describe)(const DLManagedTensorVersioned*, dlb_description*);
  dlb_status (*describe_legacy)(const DLManagedTensor*, dlb_description*);
  dlb_status (*plan)(const DLManagedTensorVersioned*, const dlb_traits*, const dlb_request*,
                     dlb_plan_result*);
  dlb_status (*plan_legacy)(const DLManagedTensor*, const dlb_traits*, const dlb_request*,
                            dlb_plan_result*);
  dlb_status (*copy)(const DLManagedTensorVersioned*, const DLManagedTensorVersioned*);
  dlb_status (*stage)(const DLManagedTensorVersioned*, const DLManagedTensorVersioned*, intptr_t);
  dlb_status (*adopt)(DLManagedTensorVersioned*, dlb_tensor**);
  dlb_status (*adopt_legacy)(DLManagedTensor*, int32_t, dlb_tensor**);
  dlb_status (*retain)(dlb_tensor*);
  dlb_status (*release)(dlb_tensor*);
  dlb_status (*borrow)(const dlb_tensor*, const DLManagedTensorVersioned**);
  dlb_status (*export_versioned)(dlb_tensor*, DLManagedTensorVersioned**);
  dlb_status (*export_legacy)(dlb_tensor*, DLManagedTensor**);
  dlb_status (*to_legacy)(DLManagedTensorVersioned*, DLManagedTensor**);
  dlb_status (*to_versioned)(DLManagedTensor*, int32_t, DLManagedTensorVersioned**);
} kFunctions = {dlb_last_error,    dlb_version,         dlb_dtype_parse,   dlb_dtype_name,
                dlb_validate,      dlb_validate_legacy, dlb_describe,      dlb_describe_legacy,
                dlb_plan,          dlb_plan_legacy,     dlb_copy,          dlb_stage,
                dlb_adopt,         dlb_adopt_legacy,    dlb_tensor_retain, dlb_tensor_release,
                dlb_tensor_borrow, dlb_export,          dlb_export_legacy, dlb_to_legacy,
                dlb_to_versioned};

static int failures = 0;

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "failed: %s\n", what);
}

static int deletions = 0;

static void count_deletion(DLManagedTensorVersioned* self) {
  (void)self;
  ++deletions;
}

int main(void) {
  float values[4] = {0, 1, 2, 3};
  int64_t shape[2] = {2, 2};
  DLManagedTensorVersioned managed = {.version = {1, 0}, .deleter = count_deletion};
  managed.dl_tensor.data = values;
  managed.dl_tensor.device.device_type = kDLCPU;
  managed.dl_tensor.ndim = 2;
  managed.dl_tensor.shape = shape;

  dlb_error error = {.struct_size = sizeof error};
  check(kFunctions.adopt(&managed, NULL) == DLBRIDGE_INVALID_ARGUMENT, "adopt into nothing");
  check(dlb_last_error(&error) == DLBRIDGE_OK && strcmp(error.field, "tensor") == 0, "the error");

  check(dlb_dtype_parse("float32", &managed.dl_tensor.dtype) == DLBRIDGE_OK, "dtype");
  dlb_tensor* tensor = NULL;
  check(dlb_adopt(&managed, &tensor) == DLBRIDGE_OK, "adopt");
  DLManagedTensorVersioned* exported = NULL;
  check(dlb_export(tensor, &exported) == DLBRIDGE_OK, "export");
  check(dlb_tensor_release(tensor) == DLBRIDGE_OK && deletions == 0, "release");
  check(exported->dl_tensor.data == values, "address");
  exported->deleter(exported);
  check(deletions == 1, "one deletion");
  if (failures == 0) puts("the C ABI holds");
  return failures != 0;
}
