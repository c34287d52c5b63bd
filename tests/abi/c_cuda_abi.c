// SPDX-License-Identifier: Apache-2.0
/* The C ABI of the CUDA module as a C11 compiler sees it, as c_abi.c does it for core: what is
 * pinned here is a promise. Then a short use of the library with whatever driver there is. */
#include <stdio.h>
#include <string.h>

#include "dlbridge/cuda/c_api.h"

#define PIN_SIZE(type, size) _Static_assert(sizeof(type) == (size), "size of " #type)
#define PIN(type, field, offset) \
  _Static_assert(offsetof(type, field) == (offset), "offset of " #type "." #field)
#define PIN_VALUE(name, value) _Static_assert((name) == (value), "value of " #name)

PIN_SIZE(dlb_cuda_options, 16);
PIN(dlb_cuda_options, struct_size, 0);
PIN(dlb_cuda_options, flags, 8);
PIN(dlb_cuda_options, reserved, 12);

PIN_SIZE(dlb_cuda_info, 56);
PIN(dlb_cuda_info, struct_size, 0);
PIN(dlb_cuda_info, message, 8);
PIN(dlb_cuda_info, message_capacity, 16);
PIN(dlb_cuda_info, message_length, 24);
PIN(dlb_cuda_info, reason, 32);
PIN(dlb_cuda_info, usable, 40);
PIN(dlb_cuda_info, driver_version, 44);
PIN(dlb_cuda_info, runtime_version, 48);
PIN(dlb_cuda_info, device_count, 52);

PIN_SIZE(dlb_pinned_stats, 104);
PIN(dlb_pinned_stats, struct_size, 0);
PIN(dlb_pinned_stats, registered, 8);
PIN(dlb_pinned_stats, limit, 16);
PIN(dlb_pinned_stats, free, 24);
PIN(dlb_pinned_stats, owned, 32);
PIN(dlb_pinned_stats, in_flight, 40);
PIN(dlb_pinned_stats, quarantined, 48);
PIN(dlb_pinned_stats, leaked, 56);
PIN(dlb_pinned_stats, hits, 64);
PIN(dlb_pinned_stats, misses, 72);
PIN(dlb_pinned_stats, grows, 80);
PIN(dlb_pinned_stats, refused, 88);
PIN(dlb_pinned_stats, register_failed, 96);

PIN_VALUE(DLBRIDGE_CUDA_LEGACY_STREAM, 1);
PIN_VALUE(DLBRIDGE_CUDA_PER_THREAD_STREAM, 2);
PIN_VALUE(DLBRIDGE_CUDA_NO_SYNC, -1);
PIN_VALUE(DLBRIDGE_CUDA_NO_SNAPSHOT, 1);
PIN_VALUE(DLBRIDGE_CUDA_BORROW, 2);
PIN_VALUE(DLBRIDGE_CUDA_ROW_MAJOR, 4);

typedef const DLManagedTensorVersioned* view;

/* Each initializer compiles only while the function keeps its type. */
static const struct {
  dlb_status (*availability)(dlb_cuda_info*);
  dlb_status (*register_staging)(void);
  dlb_status (*drain)(double, int32_t*);
  dlb_status (*stage_to_host)(const view*, size_t, intptr_t, const dlb_cuda_options*, dlb_tensor**);
  dlb_status (*stage)(const view*, const view*, size_t, intptr_t);
  dlb_status (*stage_to_host_async)(dlb_tensor* const*, size_t, intptr_t, const dlb_cuda_options*,
                                    dlb_future**);
  dlb_status (*stage_async)(dlb_tensor* const*, dlb_tensor* const*, size_t, intptr_t,
                            const dlb_cuda_options*, dlb_future**);
  dlb_status (*done)(const dlb_future*, int32_t*);
  dlb_status (*wait)(const dlb_future*, double, int32_t*);
  dlb_status (*count)(const dlb_future*, size_t*);
  dlb_status (*result)(const dlb_future*, size_t, dlb_tensor**);
  dlb_status (*fd)(const dlb_future*, int32_t*);
  dlb_status (*drop)(dlb_future*);
  dlb_status (*pinned_empty)(DLDataType, int32_t, const int64_t*, dlb_tensor**);
  dlb_status (*pinned_stats)(dlb_pinned_stats*);
  dlb_status (*reserve_pinned)(size_t);
  dlb_status (*set_pinned_limit)(size_t);
  dlb_status (*trim_pinned)(size_t, size_t*);
  dlb_status (*record_stream)(const void*, int32_t, intptr_t, int32_t*);
} kFunctions = {dlb_cuda_availability,
                dlb_cuda_register_staging,
                dlb_cuda_drain,
                dlb_cuda_stage_to_host,
                dlb_cuda_stage,
                dlb_cuda_stage_to_host_async,
                dlb_cuda_stage_async,
                dlb_future_done,
                dlb_future_wait,
                dlb_future_count,
                dlb_future_result,
                dlb_future_fd,
                dlb_future_drop,
                dlb_cuda_pinned_empty,
                dlb_cuda_pinned_stats,
                dlb_cuda_reserve_pinned,
                dlb_cuda_set_pinned_limit,
                dlb_cuda_trim_pinned,
                dlb_cuda_record_stream};

static int failures = 0;

static void check(int holds, const char* what) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "failed: %s\n", what);
}

int main(void) {
  char message[512] = "";
  dlb_cuda_info info = {
      .struct_size = sizeof info, .message = message, .message_capacity = sizeof message};
  check(kFunctions.availability(&info) == DLBRIDGE_OK, "availability");
  check(info.runtime_version > 0, "the runtime has a version");

  const int64_t shape[2] = {2, 3};
  dlb_tensor* tensor = NULL;
  const dlb_status status = dlb_cuda_pinned_empty((DLDataType){kDLFloat, 32, 1}, 2, shape, &tensor);
  if (info.usable) {
    check(status == DLBRIDGE_OK && tensor != NULL, "pinned memory");
  } else {
    dlb_error error = {.struct_size = sizeof error};
    check(status == DLBRIDGE_UNAVAILABLE && tensor == NULL, "no pinned memory without a GPU");
    check(dlb_last_error(&error) == DLBRIDGE_OK && strcmp(error.code, info.reason) == 0,
          "the error is the reason");
    check(strcmp(error.message, message) == 0, "in the same words");
  }
  check(dlb_tensor_release(tensor) == DLBRIDGE_OK, "release");

  int32_t drained = 0;
  check(dlb_cuda_drain(1, &drained) == DLBRIDGE_OK && drained == 1, "drain");
  check(dlb_future_drop(NULL) == DLBRIDGE_OK, "drop of nothing");
  if (failures == 0)
    printf("the C ABI of the CUDA module holds%s%s\n", info.usable ? "" : ": ", message);
  return failures != 0;
}
