// SPDX-License-Identifier: Apache-2.0
/* dlbridge from C: describes, plans, adopts and copies a producer's tensor, and exports it to two
 * consumers. The producer's memory is freed once, when the last of them is done.
 *
 * Prints what happens; the exit status is 0 if everything is as expected. */
#include <dlbridge/c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints the error of this thread's last call, and exits. */
static void require(dlb_status status, const char* what) {
  if (status == DLBRIDGE_OK) return;
  dlb_error error = {.struct_size = sizeof error};
  dlb_last_error(&error);
  fprintf(stderr, "%s: %s (%s)\n", what, error.message, error.code);
  exit(1);
}

/* A producer: rows x columns float32, freed by its deleter. */
typedef struct matrix {
  DLManagedTensorVersioned managed;
  int64_t shape[2];
  int64_t strides[2];
  float values[];
} matrix;

static int freed = 0;

static void free_matrix(DLManagedTensorVersioned* managed) {
  free(managed->manager_ctx);
  ++freed;
}

static DLManagedTensorVersioned* new_matrix(int64_t rows, int64_t columns) {
  matrix* m = calloc(1, sizeof *m + (size_t)(rows * columns) * sizeof(float));
  if (m == NULL) exit(1);
  m->shape[0] = rows;
  m->shape[1] = columns;
  m->strides[0] = columns;
  m->strides[1] = 1;
  m->managed.version.major = 1;
  m->managed.version.minor = 3;
  m->managed.manager_ctx = m;
  m->managed.deleter = free_matrix;
  DLTensor* tensor = &m->managed.dl_tensor;
  tensor->data = m->values;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = 2;
  tensor->shape = m->shape;
  tensor->strides = m->strides;
  require(dlb_dtype_parse("float32", &tensor->dtype), "dtype");
  return &m->managed;
}

/* Checks every field before it reads the memory. */
static void describe(const DLManagedTensorVersioned* managed) {
  int64_t shape[8];
  dlb_description found = {.struct_size = sizeof found, .shape = shape, .capacity = 8};
  require(dlb_describe(managed, &found), "describe");
  printf("a %s tensor on %s,", found.dtype_name, found.device_name);
  for (int32_t i = 0; i < found.ndim; ++i) printf("%s%lld", i ? " x " : " ", (long long)shape[i]);
  printf(", %lld bytes\n", (long long)found.nbytes);
}

/* Plans a conversion to an engine that writes to its tensors. */
static dlb_verdict plan(const DLManagedTensorVersioned* managed, dlb_copy_mode copy) {
  DLDataType dtypes[1];
  require(dlb_dtype_parse("float32", &dtypes[0]), "dtype");
  const dlb_traits engine = {.struct_size = sizeof engine,
                             .name = "engine",
                             .dtypes = dtypes,
                             .dtype_count = 1,
                             .max_ndim = 4,
                             .accepts = DLBRIDGE_ACCEPTS_ZERO_STRIDES,
                             .devices = 1u << kDLCPU};
  const dlb_request request = {.struct_size = sizeof request, .copy = copy};
  char message[256];
  dlb_plan_result answer = {
      .struct_size = sizeof answer, .message = message, .message_capacity = sizeof message};
  require(dlb_plan(managed, &engine, &request, &answer), "plan");
  if (answer.verdict != DLBRIDGE_SHARE) printf("plan: %s\n", message);
  return (dlb_verdict)answer.verdict;
}

int main(void) {
  dlb_version_info version = {.struct_size = sizeof version};
  require(dlb_version(&version), "version");
  printf("dlbridge %d.%d.%d, DLPack %d.%d\n", version.major, version.minor, version.patch,
         version.dlpack_major, version.dlpack_minor);

  DLManagedTensorVersioned* source = new_matrix(2, 3);
  float* values = source->dl_tensor.data;
  for (int i = 0; i < 6; ++i) values[i] = (float)i;
  describe(source);

  /* A writable tensor is shared. A read-only one is refused without a named copy. */
  if (plan(source, DLBRIDGE_COPY_UNSET) != DLBRIDGE_SHARE) return 1;
  source->flags |= DLPACK_FLAG_BITMASK_READ_ONLY;
  if (plan(source, DLBRIDGE_COPY_UNSET) != DLBRIDGE_REFUSE) return 1;
  if (plan(source, DLBRIDGE_COPY_IF_NEEDED) != DLBRIDGE_COPY) return 1;

  /* A copy into new memory, transposed. */
  DLManagedTensorVersioned* copy = new_matrix(2, 3);
  copy->dl_tensor.strides[0] = 1;
  copy->dl_tensor.strides[1] = 2;
  require(dlb_copy(source, copy), "copy");
  const float* copied = copy->dl_tensor.data;
  printf("copied column by column: %g %g %g %g %g %g\n", copied[0], copied[1], copied[2], copied[3],
         copied[4], copied[5]);

  /* Refused, because a legacy struct has no read-only flag; nothing was consumed. */
  DLManagedTensor* legacy = NULL;
  if (dlb_to_legacy(source, &legacy) != DLBRIDGE_REFUSED) return 1;

  /* A writable tensor is converted there and back; each step consumes its input. */
  require(dlb_to_legacy(copy, &legacy), "to legacy");
  require(dlb_to_versioned(legacy, DLBRIDGE_ACCESS_WRITABLE, &copy), "to versioned");
  if (copy->dl_tensor.data != copied || freed != 0) return 1;
  copy->deleter(copy);

  /* A handle adopts the source; each export keeps its memory alive. */
  dlb_tensor* tensor = NULL;
  require(dlb_adopt(source, &tensor), "adopt");
  DLManagedTensorVersioned* first = NULL;
  DLManagedTensorVersioned* second = NULL;
  require(dlb_export(tensor, &first), "export");
  require(dlb_export(tensor, &second), "export");
  require(dlb_tensor_release(tensor), "release");
  if (first->dl_tensor.data != values || second->dl_tensor.data != values) return 1;
  first->deleter(first);
  printf("freed before the last consumer is done: %d of 2\n", freed);
  second->deleter(second);
  printf("freed after: %d of 2\n", freed);
  return freed == 2 ? 0 : 1;
}
