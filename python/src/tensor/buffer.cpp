// SPDX-License-Identifier: Apache-2.0
#include "tensor/exports.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>

#include "dlbridge/layout.h"
#include "support/errors.h"
#include "tensor/value.h"

namespace dlbridge::python {
namespace {

struct Format {
  DType dtype;
  const char* native;
  const char* unaligned;  // "=": of standard size, not aligned
};

// As NumPy exports them: int64 is C's long where that has 64 bits.
constexpr bool kLongIs64 = sizeof(long) == 8;
constexpr std::array kFormats{
    Format{{TypeCode::boolean, 8}, "?", "?"},
    Format{{TypeCode::int_, 8}, "b", "b"},
    Format{{TypeCode::int_, 16}, "h", "=h"},
    Format{{TypeCode::int_, 32}, "i", "=i"},
    Format{{TypeCode::int_, 64}, kLongIs64 ? "l" : "q", "=q"},
    Format{{TypeCode::uint, 8}, "B", "B"},
    Format{{TypeCode::uint, 16}, "H", "=H"},
    Format{{TypeCode::uint, 32}, "I", "=I"},
    Format{{TypeCode::uint, 64}, kLongIs64 ? "L" : "Q", "=Q"},
    Format{{TypeCode::float_, 16}, "e", "=e"},
    Format{{TypeCode::float_, 32}, "f", "=f"},
    Format{{TypeCode::float_, 64}, "d", "=d"},
    Format{{TypeCode::complex, 64}, "Zf", "=Zf"},
    Format{{TypeCode::complex, 128}, "Zd", "=Zd"},
};

// Null where there is none.
const char* format_of(const TensorView& view) noexcept {
  for (const Format& row : kFormats) {
    if (row.dtype == DType(view.dtype)) return is_aligned(view) ? row.native : row.unaligned;
  }
  return nullptr;
}

// Stands in for the null pointer of an empty tensor: consumers take null for a failure.
char g_no_elements = 0;

constexpr bool asks_for(int flags, int wanted) noexcept { return (flags & wanted) == wanted; }

bool is_read_only(const TensorView& view) noexcept {
  return view.access != Access::writable || broadcast_dimension(view) >= 0;
}

// Returns true if an element is whole bytes.
bool has_whole_bytes(const TensorView& view) noexcept {
  return !DType(view.dtype).is_subbyte() || view.subbyte_padded;
}

std::string dtype_remedy(const TensorView& view) {
  const DType dtype(view.dtype);
  if (dtype.code() == TypeCode::complex || dtype == kFloat4Pair) return "pass x.torch()";
  if (!has_whole_bytes(view)) return "unpack it with its own framework first";
  return "ask for no format, as file.write() does, or pass x.numpy(), whose dtype is one of "
         "ml_dtypes, or x.numpy().view(\"uint8\") for its "
         "bytes";
}

void require_writable(const TensorView& view) {
  if (view.access != Access::writable) {
    throw Error(ErrorCode::read_only, "flags",
                "a writable buffer was asked for, the memory is read-only: ask for a read-only "
                "one, or pass dlbridge.from_dlpack(x, copy=True)");
  }
  if (broadcast_dimension(view) >= 0) {
    throw Error(
        ErrorCode::overlap, "strides",
        "a writable buffer was asked for, but a stride is 0, so one write would change several "
        "elements: ask for a read-only one, or pass dlbridge.from_dlpack(x, copy=True)");
  }
}

void require_described(const TensorView& view, int flags) {
  const bool shaped = asks_for(flags, PyBUF_ND);
  if ((asks_for(flags, PyBUF_FORMAT) && format_of(view) == nullptr) ||
      (shaped && !has_whole_bytes(view))) {
    throw Error(ErrorCode::unsupported_dtype, "dtype",
                "dtype is " + DType(view.dtype).name() +
                    ", for which the buffer protocol has no format: " + dtype_remedy(view));
  }
  if (shaped && view.ndim > PyBUF_MAX_NDIM) {
    throw Error(ErrorCode::too_many_dimensions, "ndim",
                "ndim is " + std::to_string(view.ndim) + "; a buffer has at most " +
                    std::to_string(PyBUF_MAX_NDIM) + " dimensions: reshape it to fewer dimensions");
  }
}

void require(const TensorView& view, int flags) {
  if (!Device(view.device).is_host()) {
    throw Error(ErrorCode::device_not_named, "device",
                "device is " + Device(view.device).name() +
                    "; the buffer protocol reaches host memory alone: pass dlbridge.to_numpy(x, "
                    "device=\"cpu\")");
  }
  if (asks_for(flags, PyBUF_WRITABLE)) require_writable(view);
  require_described(view, flags);
}

[[noreturn]] void refuse_order(const char* expected) {
  throw Error(ErrorCode::invalid_argument, "strides",
              std::string("a buffer that is ") + expected +
                  " was asked for, the elements do not lie so: pass numpy." +
                  (expected[0] == 'F' ? "asfortranarray(x)" : "ascontiguousarray(x)"));
}

// CPython's own test, over a buffer with shape and strides.
void require_order(const Py_buffer& buffer, bool contiguous, int flags) {
  const bool c_order = !asks_for(flags, PyBUF_STRIDES) || asks_for(flags, PyBUF_C_CONTIGUOUS);
  if (c_order && !contiguous) refuse_order("C-contiguous");
  if (asks_for(flags, PyBUF_F_CONTIGUOUS) && !PyBuffer_IsContiguous(&buffer, 'F'))
    refuse_order("Fortran-contiguous");
  if (asks_for(flags, PyBUF_ANY_CONTIGUOUS) && !PyBuffer_IsContiguous(&buffer, 'A'))
    refuse_order("contiguous");
}

// Shape, then strides in bytes, in an allocation that goes with the buffer.
std::unique_ptr<Py_ssize_t[]> describe_layout(const TensorView& view, bool contiguous) {
  const auto ndim = static_cast<size_t>(view.ndim);
  auto layout = std::make_unique_for_overwrite<Py_ssize_t[]>(2 * ndim);
  Py_ssize_t* strides = std::copy_n(view.shape, ndim, layout.get());
  // Strides that mean nothing (size 1, empty) may be any number: where that is possible they become
  // what every consumer expects.
  std::array<int64_t, PyBUF_MAX_NDIM> compact;
  if (contiguous) compact_strides(view.extents(), compact.data());
  const int64_t* elements = contiguous ? compact.data() : view.strides;
  const auto itemsize = static_cast<uint64_t>(view.itemsize());
  for (size_t i = 0; i < ndim; ++i)
    strides[i] = static_cast<Py_ssize_t>(static_cast<uint64_t>(elements[i]) * itemsize);
  return layout;
}

void fill(const TensorView& view, int flags, Py_buffer& out) {
  require(view, flags);
  const bool contiguous = is_contiguous(view);
  out.buf = view.data ? view.data : &g_no_elements;
  out.len = view.nbytes();
  out.itemsize = view.itemsize();
  out.readonly = is_read_only(view) ? 1 : 0;
  out.format = nullptr;
  out.suboffsets = nullptr;
  out.internal = nullptr;
  if (asks_for(flags, PyBUF_FORMAT)) out.format = const_cast<char*>(format_of(view));
  if (!asks_for(flags, PyBUF_ND)) {
    out.ndim = 1;
    out.shape = out.strides = nullptr;
    return require_order(out, contiguous, flags);
  }
  auto layout = describe_layout(view, contiguous);
  out.ndim = view.ndim;
  out.shape = layout.get();
  out.strides = layout.get() + view.ndim;
  require_order(out, contiguous, flags);
  if (!asks_for(flags, PyBUF_STRIDES) || view.ndim == 0) out.strides = nullptr;
  if (view.ndim == 0) out.shape = nullptr;
  out.internal = layout.release();
}

}  // namespace

int get_buffer(PyObject* self, Py_buffer* out, int flags) noexcept {
  out->obj = nullptr;
  const int status = translated_status([&] { fill(unpack_tensor(self).view(), flags, *out); });
  if (status != 0) return status;
  out->obj = Py_NewRef(self);
  return 0;
}

void release_buffer(PyObject*, Py_buffer* buffer) noexcept {
  delete[] static_cast<Py_ssize_t*>(buffer->internal);
}

}  // namespace dlbridge::python
