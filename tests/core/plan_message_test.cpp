// SPDX-License-Identifier: Apache-2.0
// The words of a refusal: field, found, expected and the call that works; and the sentence of every
// other plan.
#include <gtest/gtest.h>

#include <deque>
#include <string>

#include "dlbridge/plan.h"
#include "shaped.h"
#include "traits.h"

namespace dlbridge {
namespace {

using test::kFloat32;
using test::kFloat64;
using test::numpy_like;
using test::Shaped;
using test::torch_like;

const Device kCpu(DeviceType::cpu);
const Device kGpu(DeviceType::cuda, 0);

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

Shaped on_gpu(std::vector<int64_t> shape) {
  Shaped source(std::move(shape));
  source.fields().device = kGpu;
  return source;
}

Shaped with(ErrorCode reason, const char* found = nullptr, const char* remedy = nullptr) {
  Shaped source({4, 6});
  source.fields().reasons.add(reason);
  static std::deque<ReasonDetail> details;  // as old as the sources
  source.fields().detail = &details.emplace_back(ReasonDetail{found, remedy});
  return source;
}

Shaped frozen() {
  Shaped source({4, 6});
  source.fields().access = Access::read_only;
  return source;
}

Shaped float4(int64_t extent) {
  Shaped source({extent}, {1}, kFloat4Padded, Shaped::aligned_address());
  source.fields().subbyte_padded = true;
  return source;
}

struct Refused {
  ErrorCode code;
  Shaped source;
  TargetTraits target;
  Request request;
  const char* field;
};

struct Message {
  Refused plan;
  const char* text;
  const char* variant = "";
};

void PrintTo(const Message& row, std::ostream* out) { *out << name(row.plan.code); }

std::vector<Message> messages() {
  using enum ErrorCode;
  TargetTraits int4_holder = torch_like();
  int4_holder.dtypes.add(DType(TypeCode::int_, 4));
  return {
      {{negative_stride, {{4}, {-4}, kFloat32, at(0x10000)}, torch_like(), {}, "strides"},
       "stride in dimension 0 is -4 elements; torch.Tensor has no negative strides: "
       "pass copy=None to copy 16 bytes"},
      {{negative_stride,
        {{3, 1048576}, {1048576, -1}, kFloat32, at(0x10000)},
        torch_like(),
        {},
        "strides"},
       "stride in dimension 1 is -1 elements; torch.Tensor has no negative strides: "
       "pass copy=None to copy 12.6 MB",
       "Megabytes"},
      {{overlap, {{4, 3}, {1, 1}, kFloat32, at(0x10000)}, torch_like(), {}, "strides"},
       "strides let elements overlap in writable memory; torch would compute wrong values: "
       "pass copy=None to copy 48 bytes"},
      {{misaligned, {{4}, {1}, kFloat32, at(0x10002)}, torch_like(), {}, "data"},
       "data is at 0x10002; float32 needs alignment to 4 bytes: pass copy=None to copy 16 bytes"},
      {{read_only, frozen(), torch_like(), {}, "flags"},
       "the memory is read-only; torch.Tensor cannot promise not to write: "
       "pass copy=None to copy 96 bytes"},
      {{device_not_named, on_gpu({1000, 1000}), numpy_like(), {}, "device"},
       "device is cuda:0; NumPy arrays live in host memory: pass device=\"cpu\" to stage 4.0 MB "
       "where a CUDA module can be used; here let its own framework copy it to the host"},
      {{no_staging, on_gpu({4}), numpy_like(), {.device = kCpu}, "device"},
       "device is cuda:0, cpu was asked for; nothing here stages between them: "
       "move it with its own framework first: dlbridge.to_torch(x).to(\"cpu\")"},
      {{copy_forbidden,
        Shaped({4}),
        numpy_like(),
        {.copy = CopyMode::never, .dtype = kFloat64},
        "copy"},
       "copy=False forbids the cast from float32 to float64 that dtype= names: "
       "leave copy= out, or pass copy=None",
       "Cast"},
      {{copy_forbidden,
        Shaped({4}),
        numpy_like(),
        {.copy = CopyMode::never, .into_existing = true},
        "copy"},
       "copy=False forbids the copy that out= names: leave copy= out, or pass copy=None",
       "Out"},
      {{too_many_dimensions, Shaped(std::vector<int64_t>(65, 1)), numpy_like(), {}, "ndim"},
       "ndim is 65; NumPy has at most 64 dimensions: reshape it to fewer dimensions"},
      {{unsupported_dtype,
        Shaped({4}, DType(TypeCode::complex, 32)),
        numpy_like(),
        {.source_casts = true},
        "dtype"},
       "dtype is complex32, which NumPy cannot share: pass a dtype= that NumPy has, to cast"},
      {{unsupported_dtype, Shaped({4}, DType(TypeCode::complex, 32)), numpy_like(), {}, "dtype"},
       "dtype is complex32, which NumPy cannot share: "
       "cast it with its own framework first, to a dtype that NumPy has",
       "NotCastAtSource"},
      {{unsupported_dtype,
        with(unsupported_dtype, "datetime64", "pass x.view(\"int64\")"),
        torch_like(),
        {},
        "dtype"},
       "dtype is datetime64, which torch cannot share: pass x.view(\"int64\")",
       "SaidByTheSource"},
      {{unsupported_dtype,
        Shaped({4}),
        numpy_like(),
        {.dtype = DType(TypeCode::complex, 32)},
        "dtype"},
       "dtype is complex32, which NumPy cannot share: pass a dtype= that NumPy has, to cast",
       "Named"},
      {{missing_ml_dtypes,
        Shaped({4}, DType(TypeCode::bfloat, 16)),
        numpy_like(),
        {.source_casts = true},
        "dtype"},
       "dtype is bfloat16, which NumPy has only with the package ml_dtypes: "
       "install ml_dtypes, or pass dtype=\"float32\" to cast"},
      {{missing_ml_dtypes,
        Shaped({4}, DType(TypeCode::bfloat, 16)),
        numpy_like(),
        {.dtype = kFloat32},
        "dtype"},
       "dtype is bfloat16, which NumPy has only with the package ml_dtypes: install ml_dtypes",
       "NotCastAtSource"},
      {{float4_odd_extent, float4(3), torch_like(), {}, "shape"},
       "the last extent is 3; torch packs two float4 in a byte and needs an even one: "
       "pad the last dimension to an even extent"},
      {{float4_packing, float4(4), torch_like(), {}, "dtype"},
       "dtype is float4_e2m1fn, one element in a byte; torch packs two in a byte: "
       "pass copy=None to copy 2 bytes",
       "IntoPairs"},
      {{float4_packing, Shaped({4}, kFloat4Pair), numpy_like(), {}, "dtype"},
       "dtype is float4_e2m1fn_x2, two elements in a byte; ml_dtypes keeps one in a byte: "
       "pass copy=None to copy 8 bytes",
       "OutOfPairs"},
      {{unsupported_dtype, float4(4), torch_like(), {.dtype = kFloat32}, "dtype"},
       "dtype is float4_e2m1fn, which dlbridge does not cast: "
       "pass dlbridge.to_numpy(x, device=\"cpu\", copy=None).astype(dtype)",
       "CastOfFloat4"},
      {{packed_subbyte, Shaped({4}, DType(TypeCode::int_, 4)), int4_holder, {}, "dtype"},
       "dtype is int4, packed below a byte; torch keeps one element in a byte: "
       "unpack it with its own framework first"},
      {{masked_array, with(masked_array), torch_like(), {}, "type"},
       "x is a MaskedArray, whose mask would be lost; expected a plain array: pass "
       "x.filled(value)"},
      // copy=None would not help a masked array, so it must not be what the message offers.
      {{masked_array,
        with(masked_array),
        torch_like(),
        {.copy = CopyMode::never, .dtype = kFloat64},
        "type"},
       "x is a MaskedArray, whose mask would be lost; expected a plain array: pass x.filled(value)",
       "BesideAForbiddenCopy"},
      {{requires_grad, with(requires_grad), numpy_like(), {}, "requires_grad"},
       "x requires grad; autograd would not see writes to shared memory: pass x.detach()"},
      {{unsupported_keys, with(unsupported_keys), numpy_like(), {}, "dispatch keys"},
       "x has dispatch keys beyond those of a dense CPU or CUDA tensor: "
       "pass a dense tensor, such as x.to_dense() or x.clone()"},
      {{byte_order, with(byte_order), torch_like(), {}, "dtype"},
       "dtype is in foreign byte order; expected native: pass copy=None to copy 96 bytes"},
      {{stride_not_multiple, with(stride_not_multiple), torch_like(), {}, "strides"},
       "a stride is no multiple of the element's 4 bytes; DLPack counts strides in elements: "
       "pass copy=None to copy 96 bytes"},
  };
}

class Refusal : public testing::TestWithParam<Message> {};

TEST_P(Refusal, HasFieldAndText) {
  const Refused& row = GetParam().plan;
  const Plan decision = plan(row.source.view(), row.target, row.request);
  ASSERT_EQ(decision.verdict, Verdict::refuse);
  const Error error = refusal(row.source.view(), row.target, row.request, decision);
  EXPECT_EQ(name(error.code()), name(row.code));
  EXPECT_EQ(error.field(), row.field);
  EXPECT_STREQ(error.what(), GetParam().text);
  EXPECT_EQ(describe(row.source.view(), row.target, row.request, decision), GetParam().text);
}

INSTANTIATE_TEST_SUITE_P(All, Refusal, testing::ValuesIn(messages()), [](const auto& row_info) {
  return std::string(name(row_info.param.plan.code)) + row_info.param.variant;
});

TEST(Refusal, EveryReasonHasTexts) {
  const Shaped source({4}, {-1}, kFloat32, at(0x10000));
  const Request request{.copy = CopyMode::never, .device = kGpu, .dtype = kFloat64};
  const auto error_of = [&](ErrorCode code) {
    return refusal(source.view(), torch_like(), request,
                   {.verdict = Verdict::refuse, .reasons = code});
  };
  for (int code = 0; code < static_cast<int>(ErrorCode::reason_count_); ++code) {
    const Error error = error_of(static_cast<ErrorCode>(code));
    const std::string text = error.what();
    EXPECT_NE(error.field(), "") << text;
    EXPECT_EQ(error.field().find(','), std::string::npos) << text;
    EXPECT_NE(text.find(": "), std::string::npos) << text;
    EXPECT_EQ(text.find_first_of("{}"), std::string::npos) << text;
  }
}

TEST(Refusal, WritesDecimalUnits) {
  const auto said = [](int64_t elements) {
    const Shaped source({elements}, {-1}, test::kInt8, at(0x10000));
    const Plan decision = plan(source.view(), torch_like(), {});
    const std::string text = refusal(source.view(), torch_like(), {}, decision).what();
    return text.substr(text.find("to copy ") + 8);
  };
  EXPECT_EQ(said(2), "2 bytes");
  EXPECT_EQ(said(999), "999 bytes");
  EXPECT_EQ(said(1000), "1.0 kB");
  EXPECT_EQ(said(999'949), "999.9 kB");
  EXPECT_EQ(said(999'950), "1.0 MB");
  EXPECT_EQ(said(12'582'912), "12.6 MB");
  EXPECT_EQ(said(3'000'000'000), "3.0 GB");
  EXPECT_EQ(said(7'000'000'000'000'000), "7000.0 TB");
}

TEST(Describe, DescribesSharing) {
  Shaped source({4, 6});
  EXPECT_EQ(describe(source.view(), torch_like(), {}, {}), "shares 96 bytes at 0x10000");
  source.fields().access = Access::unknown;
  EXPECT_EQ(
      describe(source.view(), torch_like(), {}, {}),
      "shares 96 bytes at 0x10000; whether they are read-only is unknown (a legacy capsule cannot "
      "say): assume_writable=True says that they are not");
}

TEST(Describe, DescribesCopies) {
  const Shaped source({4}, {-1}, kFloat32, at(0x10000));
  const Request request{.copy = CopyMode::if_needed};
  const Plan decision = plan(source.view(), torch_like(), request);
  EXPECT_EQ(
      describe(source.view(), torch_like(), request, decision),
      "host copy: 16 bytes, because stride in dimension 0 is -1 elements; torch.Tensor has no "
      "negative strides");
}

TEST(Describe, DescribesCasts) {
  const Shaped source({4});
  const Request request{.dtype = kFloat64};
  EXPECT_EQ(
      describe(source.view(), torch_like(), request, plan(source.view(), torch_like(), request)),
      "cast to float64: 32 bytes");
}

TEST(Refusal, NamesOtherTargets) {
  TargetTraits engine = torch_like();
  engine.name = "engine";
  struct Row {
    Shaped source;
    const char* words;
  };
  const Row rows[] = {
      {{{4}, {-4}, kFloat32, at(0x10000)}, "engine has no negative strides"},
      {{{4, 3}, {1, 1}, kFloat32, at(0x10000)}, "engine would compute wrong values"},
      {frozen(), "engine cannot promise not to write"},
      {Shaped({2}, DType(TypeCode::float_, 16)), "dtype is float16, which engine cannot share"},
  };
  for (const Row& row : rows) {
    const Plan decision = plan(row.source.view(), engine, {});
    const std::string text = refusal(row.source.view(), engine, {}, decision).what();
    EXPECT_NE(text.find(row.words), std::string::npos) << text;
  }
}

TEST(Verdict, Names) {
  EXPECT_EQ(name(Verdict::share), "share");
  EXPECT_EQ(name(Verdict::copy), "copy");
  EXPECT_EQ(name(Verdict::cast), "cast");
  EXPECT_EQ(name(Verdict::stage), "stage");
  EXPECT_EQ(name(Verdict::refuse), "refuse");
}

}  // namespace
}  // namespace dlbridge
