// SPDX-License-Identifier: Apache-2.0
// plan(): the four-state table of copy=, cell by cell; every reason it finds by itself; what
// remedies each reason.
#include "dlbridge/plan.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <optional>

#include "dlbridge/layout.h"
#include "dlbridge/staging_backend.h"
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

constexpr CopyMode kModes[] = {CopyMode::unset, CopyMode::never, CopyMode::if_needed,
                               CopyMode::always};

// Connects the CPU with the first GPU while it lives.
class HostAndGpu final : public StagingBackend {
 public:
  HostAndGpu() { register_staging(*this); }
  ~HostAndGpu() override { unregister_staging(*this); }
  bool connects(Device from, Device to) const noexcept override {
    return (from == kGpu || from == kCpu) && (to == kGpu || to == kCpu);
  }
  void copy(const TensorView&, const TensorView&, Stream) override {}
};

void* odd_address() { return reinterpret_cast<void*>(uintptr_t{0x10001}); }

Shaped plain() { return Shaped({4, 6}); }

Shaped with(ErrorCode reason) {
  Shaped source = plain();
  source.fields().reasons.add(reason);
  return source;
}

Shaped frozen() {
  Shaped source = plain();
  source.fields().access = Access::read_only;
  return source;
}

Shaped on(Device device) {
  Shaped source = plain();
  source.fields().device = device;
  return source;
}

Shaped backwards() { return {{4, 6}, {-6, 1}, kFloat32, Shaped::aligned_address()}; }
Shaped sliding() { return {{4, 3}, {1, 1}, kFloat32, Shaped::aligned_address()}; }
Shaped askew() { return {{4, 6}, {6, 1}, kFloat32, odd_address()}; }

// The table of copy=.

struct Column {
  const char* name;
  Shaped source;
  TargetTraits target;
  std::optional<DLDevice> device;
  std::optional<DLDataType> dtype;
  Verdict expected[4];  // not given, False, None, True
};

void PrintTo(const Column& row, std::ostream* out) { *out << row.name; }

using enum Verdict;

std::vector<Column> columns() {
  const auto share_row = [](const char* name, Shaped source, TargetTraits target) {
    return Column{name, std::move(source), target, {}, {}, {share, share, share, copy}};
  };
  const auto unshareable = [](const char* name, Shaped source, TargetTraits target) {
    return Column{name, std::move(source), target, {}, {}, {refuse, refuse, copy, copy}};
  };
  const auto staged = [](const char* name, Shaped source, TargetTraits target, Device device) {
    return Column{name, std::move(source), target, device, {}, {stage, refuse, stage, stage}};
  };
  const auto cast_to = [](const char* name, Shaped source, TargetTraits target, DType dtype) {
    return Column{name, std::move(source), target, {}, dtype, {cast, refuse, cast, cast}};
  };
  return {
      share_row("TorchShareable", plain(), torch_like()),
      share_row("TorchBroadcast", {{4, 6}, {0, 1}, kFloat32, Shaped::aligned_address()},
                torch_like()),
      share_row("TorchOnItsGpu", on(kGpu), torch_like()),
      share_row("NumpyShareable", plain(), numpy_like()),
      share_row("NumpyNegativeStride", backwards(), numpy_like()),
      share_row("NumpyMisaligned", askew(), numpy_like()),
      share_row("NumpyReadOnly", frozen(), numpy_like()),
      share_row("NumpyOverlap", sliding(), numpy_like()),
      unshareable("TorchNegativeStride", backwards(), torch_like()),
      unshareable("TorchMisaligned", askew(), torch_like()),
      unshareable("TorchReadOnly", frozen(), torch_like()),
      unshareable("TorchOverlap", sliding(), torch_like()),
      unshareable("TorchForeignByteOrder", with(ErrorCode::byte_order), torch_like()),
      unshareable("TorchOddStride", with(ErrorCode::stride_not_multiple), torch_like()),
      unshareable("NumpyConjBit", with(ErrorCode::conj_bit), numpy_like()),
      unshareable("NumpyNegBit", with(ErrorCode::neg_bit), numpy_like()),
      unshareable("NumpyZeroTensor", with(ErrorCode::zero_tensor), numpy_like()),
      unshareable("NumpyCopyOnWrite", with(ErrorCode::copy_on_write), numpy_like()),
      staged("NumpyFromTheGpu", on(kGpu), numpy_like(), kCpu),
      staged("TorchFromTheGpu", on(kGpu), torch_like(), kCpu),
      staged("TorchToTheGpu", plain(), torch_like(), kGpu),
      staged("TorchToTheGpuNegativeStride", backwards(), torch_like(), kGpu),
      staged("TorchToTheGpuReadOnly", frozen(), torch_like(), kGpu),
      cast_to("NumpyCast", plain(), numpy_like(), kFloat64),
      cast_to("TorchCast", plain(), torch_like(), kFloat64),
      cast_to("TorchCastNegativeStride", backwards(), torch_like(), kFloat64),
      cast_to("TorchCastReadOnly", frozen(), torch_like(), kFloat64),
      cast_to("TorchCastMisaligned", askew(), torch_like(), kFloat64),
  };
}

class CopyTable : public testing::TestWithParam<Column> {};

TEST_P(CopyTable, GivesTheVerdict) {
  const HostAndGpu backend;
  const Column& column = GetParam();
  for (size_t i = 0; i < 4; ++i) {
    const Request request{.copy = kModes[i], .device = column.device, .dtype = column.dtype};
    const Plan decision = plan(column.source.view(), column.target, request);
    EXPECT_EQ(name(decision.verdict), name(column.expected[i])) << "state " << i;
    EXPECT_EQ(decision.casts, column.dtype.has_value());
    EXPECT_EQ(decision.stages, column.device.has_value());
    if (decision.verdict == share) {
      EXPECT_EQ(decision.bytes, 0);
      EXPECT_TRUE(decision.reasons.empty());
    } else {
      const int64_t itemsize = column.dtype ? DType(*column.dtype).itemsize() : 4;
      EXPECT_EQ(decision.bytes, column.source.view().size() * itemsize);
    }
    EXPECT_TRUE(decision.verdict != refuse || !decision.reasons.empty());
  }
}

// copy=False with a named change is refused for that and nothing else.
TEST_P(CopyTable, FalseForbidsNamedChanges) {
  const HostAndGpu backend;
  const Column& column = GetParam();
  if (!column.device && !column.dtype) return;
  const Request request{.copy = CopyMode::never, .device = column.device, .dtype = column.dtype};
  EXPECT_EQ(plan(column.source.view(), column.target, request).reasons,
            ReasonSet(ErrorCode::copy_forbidden));
}

// Naming the device and the dtype that the source has changes nothing.
TEST_P(CopyTable, UnnecessaryChangeShares) {
  const HostAndGpu backend;
  const Column& column = GetParam();
  if (column.device || column.dtype) return;
  const TensorView view = column.source.view();
  for (size_t i = 0; i < 4; ++i) {
    const Request request{.copy = kModes[i], .device = view.device, .dtype = view.dtype};
    EXPECT_EQ(name(plan(view, column.target, request).verdict), name(column.expected[i]));
  }
}

INSTANTIATE_TEST_SUITE_P(Cells, CopyTable, testing::ValuesIn(columns()),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

// Memory that the host cannot reach is copied by a device module or not at all.
TEST(Plan, DeviceCopyNeedsABackend) {
  const Shaped source = on(kGpu);
  for (CopyMode mode : {CopyMode::unset, CopyMode::never, CopyMode::if_needed})
    EXPECT_EQ(plan(source.view(), torch_like(), {.copy = mode}).verdict, share);
  const Plan refused = plan(source.view(), torch_like(), {.copy = CopyMode::always});
  EXPECT_EQ(refused.verdict, refuse);
  EXPECT_EQ(refused.reasons, ReasonSet(ErrorCode::no_staging));
  EXPECT_EQ(plan(source.view(), torch_like(), {.dtype = kFloat64}).reasons,
            ReasonSet(ErrorCode::no_staging));
  const HostAndGpu backend;
  EXPECT_EQ(plan(source.view(), torch_like(), {.copy = CopyMode::always}).verdict, copy);
}

TEST(Plan, StagesAndCasts) {
  const HostAndGpu backend;
  const Shaped source = on(kGpu);
  const Plan decision = plan(source.view(), numpy_like(), {.device = kCpu, .dtype = kFloat64});
  EXPECT_EQ(decision.verdict, stage);
  EXPECT_TRUE(decision.casts);
  EXPECT_TRUE(decision.stages);
  EXPECT_EQ(decision.bytes, 24 * 8);
}

TEST(Plan, OutNamesACopy) {
  const Shaped source = backwards();
  for (CopyMode mode : {CopyMode::unset, CopyMode::if_needed, CopyMode::always}) {
    EXPECT_EQ(plan(source.view(), torch_like(), {.copy = mode, .into_existing = true}).verdict,
              copy);
  }
  const Plan refused =
      plan(source.view(), torch_like(), {.copy = CopyMode::never, .into_existing = true});
  EXPECT_EQ(refused.verdict, refuse);
  EXPECT_EQ(refused.reasons, ReasonSet(ErrorCode::copy_forbidden));
}

TEST(Plan, CopyHasReasons) {
  const Shaped source = backwards();
  const Plan decision = plan(source.view(), torch_like(), {.copy = CopyMode::if_needed});
  EXPECT_EQ(decision.verdict, copy);
  EXPECT_EQ(decision.reasons, ReasonSet(ErrorCode::negative_stride));
  const Shaped good = plain();
  EXPECT_TRUE(plan(good.view(), torch_like(), {.copy = CopyMode::always}).reasons.empty());
}

TEST(Plan, CollectsAllReasons) {
  Shaped source({4, 6}, {-6, 1}, kFloat32, odd_address());
  source.fields().access = Access::read_only;
  const Plan decision = plan(source.view(), torch_like(), {});
  EXPECT_EQ(decision.reasons,
            ReasonSet(ErrorCode::negative_stride) | ErrorCode::misaligned | ErrorCode::read_only);
}

// The reasons that plan finds by itself.

struct Reason {
  ErrorCode code;
  Shaped source;
  TargetTraits target;
  Request request;
  Verdict with_copy_none;  // what copy=None makes of it
  const char* name = "";
};

void PrintTo(const Reason& row, std::ostream* out) { *out << name(row.code); }

std::vector<Reason> reasons() {
  using enum ErrorCode;
  TargetTraits no_broadcast = torch_like();
  no_broadcast.zero_strides = false;
  Shaped odd_float4({3}, {1}, kFloat4Padded, Shaped::aligned_address());
  odd_float4.fields().subbyte_padded = true;
  Shaped even_float4({4}, {1}, kFloat4Padded, Shaped::aligned_address());
  even_float4.fields().subbyte_padded = true;
  TargetTraits no_float4 = torch_like();
  no_float4.float4 = Float4::none;
  TargetTraits float4_missing = numpy_like();  // until it is loaded
  float4_missing.dtypes_missing.add(kFloat4Padded);
  TargetTraits int4_holder = torch_like();
  int4_holder.dtypes.add(DType(TypeCode::int_, 4));
  Shaped rank65(std::vector<int64_t>(65, 1));
  return {
      {too_many_dimensions, rank65, torch_like(), {}, refuse},
      {unsupported_dtype, Shaped({4}, DType(TypeCode::uint, 64)), torch_like(), {}, refuse},
      {missing_ml_dtypes, Shaped({4}, DType(TypeCode::bfloat, 16)), numpy_like(), {}, refuse},
      {float4_odd_extent, odd_float4, torch_like(), {}, refuse},
      {float4_packing, even_float4, torch_like(), {}, copy, "IntoPairs"},
      {float4_packing, Shaped({4}, kFloat4Pair), numpy_like(), {}, copy, "OutOfPairs"},
      {missing_ml_dtypes, even_float4, float4_missing, {}, refuse, "Float4"},
      {missing_ml_dtypes, Shaped({4}, kFloat4Pair), float4_missing, {}, refuse, "Float4Pair"},
      {unsupported_dtype, even_float4, no_float4, {}, refuse, "PaddedFloat4"},
      {unsupported_dtype, Shaped({4}, kFloat4Pair), no_float4, {}, refuse, "Float4Pair"},
      {packed_subbyte, Shaped({4}, DType(TypeCode::int_, 4)), int4_holder, {}, refuse},
      {unsupported_device, on(Device(DeviceType::metal)), torch_like(), {}, refuse},
      {unsupported_device,
       on(kGpu),
       torch_like(),
       {.device = Device(DeviceType::metal)},
       refuse,
       "Named"},
      {device_not_named, on(kGpu), numpy_like(), {}, refuse},
      {no_staging, on(kGpu), torch_like(), {.device = kCpu}, refuse},
      {copy_forbidden, plain(), torch_like(), {.copy = CopyMode::never, .dtype = kFloat64}, cast},
      {negative_stride, backwards(), torch_like(), {}, copy},
      {overlap, sliding(), torch_like(), {}, copy, "SlidingWindow"},
      {overlap,
       {{4, 6}, {0, 1}, kFloat32, Shaped::aligned_address()},
       no_broadcast,
       {},
       copy,
       "Broadcast"},
      {misaligned, askew(), torch_like(), {}, copy},
      {read_only, frozen(), torch_like(), {}, copy},
  };
}

class PlanReason : public testing::TestWithParam<Reason> {};

TEST_P(PlanReason, RefusesForIt) {
  const Reason& row = GetParam();
  const Plan decision = plan(row.source.view(), row.target, row.request);
  EXPECT_EQ(decision.verdict, refuse);
  EXPECT_TRUE(decision.reasons.has(row.code));
  EXPECT_EQ(name(decision.reasons.first()), name(row.code));
}

TEST_P(PlanReason, HasItsRemedy) {
  const Reason& row = GetParam();
  Request request = row.request;
  request.copy = CopyMode::if_needed;
  EXPECT_EQ(name(plan(row.source.view(), row.target, request).verdict), name(row.with_copy_none));
}

INSTANTIATE_TEST_SUITE_P(All, PlanReason, testing::ValuesIn(reasons()), [](const auto& row_info) {
  return std::string(name(row_info.param.code)) + row_info.param.name;
});

// What a source says of itself.

struct ReasonCase {
  ErrorCode code;
  bool copy_remedies;
};

void PrintTo(const ReasonCase& row, std::ostream* out) { *out << name(row.code); }

// Design, section 7: a copy remedies layouts and pending operations; never a kind of object or a
// promise.
constexpr ReasonCase kReasonCases[] = {
    {ErrorCode::undefined_tensor, false},  {ErrorCode::masked_array, false},
    {ErrorCode::writeback_if_copy, false}, {ErrorCode::sparse_layout, false},
    {ErrorCode::nested_tensor, false},     {ErrorCode::quantized_tensor, false},
    {ErrorCode::mkldnn_layout, false},     {ErrorCode::fake_tensor, false},
    {ErrorCode::functorch_tensor, false},  {ErrorCode::functional_tensor, false},
    {ErrorCode::meta_tensor, false},       {ErrorCode::unsupported_keys, false},
    {ErrorCode::symbolic_shape, false},    {ErrorCode::storage_inaccessible, false},
    {ErrorCode::requires_grad, false},     {ErrorCode::unsupported_dtype, false},
    {ErrorCode::byte_order, true},         {ErrorCode::stride_not_multiple, true},
    {ErrorCode::conj_bit, true},           {ErrorCode::neg_bit, true},
    {ErrorCode::zero_tensor, true},        {ErrorCode::copy_on_write, true},
};

class PlanSourceReason : public testing::TestWithParam<ReasonCase> {};

TEST_P(PlanSourceReason, HasItsRemedy) {
  const Shaped source = with(GetParam().code);
  for (const TargetTraits& target : {torch_like(), numpy_like(), neutral_traits()}) {
    const auto verdict = [&](const Request& request) {
      return plan(source.view(), target, request).verdict;
    };
    const Verdict remedied = GetParam().copy_remedies ? copy : refuse;
    EXPECT_EQ(verdict({}), refuse);
    EXPECT_EQ(verdict({.copy = CopyMode::never}), refuse);
    EXPECT_EQ(verdict({.copy = CopyMode::if_needed}), remedied);
    EXPECT_EQ(verdict({.copy = CopyMode::always}), remedied);
    EXPECT_EQ(verdict({.dtype = kFloat64}), GetParam().copy_remedies ? cast : refuse);
    EXPECT_EQ(verdict({.into_existing = true}), remedied);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PlanSourceReason, testing::ValuesIn(kReasonCases),
                         [](const auto& row_info) {
                           return std::string(name(row_info.param.code));
                         });

// Single rules.

struct Rule {
  const char* name;
  Shaped source;
  TargetTraits target;
  Request request;
  Verdict verdict;
  ReasonSet reasons = {};
};

void PrintTo(const Rule& row, std::ostream* out) { *out << row.name; }

std::vector<Rule> rules() {
  using enum ErrorCode;
  Shaped unknown = plain();
  unknown.fields().access = Access::unknown;
  Shaped frozen_overlap = sliding();
  frozen_overlap.fields().access = Access::read_only;
  Shaped float4({4}, {1}, kFloat4Padded, Shaped::aligned_address());
  float4.fields().subbyte_padded = true;
  const Shaped one({1, 6}, {-999, 1}, kFloat32, Shaped::aligned_address());
  const Shaped empty({0, 6}, {-5, -7}, kFloat32, odd_address());
  const Shaped bfloat({4}, DType(TypeCode::bfloat, 16));
  const Shaped pinned = on(Device(DeviceType::cuda_host));
  const DType complex32(TypeCode::complex, 32);
  return {
      {"OutNamesACast", plain(), numpy_like(), {.into_existing = true, .dtype = kFloat64}, cast},
      {"UnknownAccessIsShared", unknown, torch_like(), {}, share},
      {"ReadOnlyOverlapIsAllowed", frozen_overlap, torch_like(), {}, refuse, read_only},
      {"StrideOfOneElementIsIgnored", one, torch_like(), {}, share},
      {"StridesOfNothingAreIgnored", empty, torch_like(), {}, share},
      {"PinnedMemoryIsHost", pinned, numpy_like(), {}, share},
      {"PinnedMemoryIsTheCpu", pinned, numpy_like(), {.device = kCpu}, share},
      {"SourceCasts", bfloat, numpy_like(), {.source_casts = true, .dtype = kFloat32}, cast},
      {"OthersCannotCast", bfloat, numpy_like(), {.dtype = kFloat32}, refuse},
      {"NoCastToMissing", plain(), numpy_like(), {.dtype = complex32}, refuse, unsupported_dtype},
      {"NoCastOfFloat4", float4, torch_like(), {.source_casts = true, .dtype = kFloat32}, refuse},
  };
}

class PlanRule : public testing::TestWithParam<Rule> {};

TEST_P(PlanRule, GivesTheVerdict) {
  const Rule& row = GetParam();
  const Plan decision = plan(row.source.view(), row.target, row.request);
  EXPECT_EQ(name(decision.verdict), name(row.verdict));
  if (!row.reasons.empty()) {
    EXPECT_EQ(decision.reasons, row.reasons);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PlanRule, testing::ValuesIn(rules()),
                         [](const auto& row_info) { return std::string(row_info.param.name); });

TEST(Plan, AlignsUpToSixteenBytes) {
  const auto verdict = [](DType dtype, uintptr_t address) {
    const Shaped source({4}, {1}, dtype, reinterpret_cast<void*>(address));
    return plan(source.view(), torch_like(), {}).verdict;
  };
  EXPECT_EQ(verdict(test::kInt8, 0x10001), share);
  EXPECT_EQ(verdict(kFloat32, 0x10004), share);
  EXPECT_EQ(verdict(kFloat32, 0x10002), refuse);
  EXPECT_EQ(verdict(kFloat64, 0x10004), refuse);
  EXPECT_EQ(verdict(DType(TypeCode::complex, 128), 0x10008), refuse);
  EXPECT_EQ(verdict(DType(TypeCode::complex, 128), 0x10010), share);
}

TEST(Plan, CountsRepackedBytes) {
  Shaped padded({6}, {1}, kFloat4Padded, Shaped::aligned_address());
  padded.fields().subbyte_padded = true;
  EXPECT_EQ(plan(padded.view(), torch_like(), {.copy = CopyMode::if_needed}).bytes, 3);
  const Shaped pairs({6}, kFloat4Pair);
  EXPECT_EQ(plan(pairs.view(), numpy_like(), {.copy = CopyMode::if_needed}).bytes, 12);
}

TEST(Plan, BytesSaturate) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const Shaped broadcast({int64_t{1} << 62}, {0}, test::kUint8, Shaped::aligned_address());
  EXPECT_EQ(plan(broadcast.view(), numpy_like(), {.dtype = kFloat64}).bytes, kLargest);
  const Shaped pairs({int64_t{1} << 62}, {0}, kFloat4Pair, Shaped::aligned_address());
  EXPECT_EQ(plan(pairs.view(), numpy_like(), {.copy = CopyMode::if_needed}).bytes, kLargest);
}

TEST(TensorView, CountsPackedBytes) {
  const auto nbytes = [](int64_t extent, int bits) {
    return Shaped({extent}, {1}, DType(TypeCode::int_, bits)).view().nbytes();
  };
  EXPECT_EQ(nbytes(int64_t{1} << 62, 4), int64_t{1} << 61);
  EXPECT_EQ(nbytes(std::numeric_limits<int64_t>::max(), 1), int64_t{1} << 60);
  for (int64_t extent = 0; extent < 40; ++extent) {
    for (const int bits : {1, 2, 4}) EXPECT_EQ(nbytes(extent, bits), (extent * bits + 7) / 8);
  }
}

TEST(Plan, NeutralTargetHoldsAll) {
  for (const Shaped& source :
       {plain(), backwards(), askew(), frozen(), sliding(), on(kGpu),
        on(Device(DeviceType::ascend, 7)), Shaped({4}, kFloat4Pair),
        Shaped({4}, DType(TypeCode::int_, 4)), Shaped(std::vector<int64_t>(64, 1))}) {
    EXPECT_EQ(plan(source.view(), neutral_traits(), {}).verdict, share);
  }
}

TEST(Path, NamesTheStepsInOrder) {
  const HostAndGpu backend;
  const auto steps = [](const Shaped& source, const TargetTraits& target, const Request& request) {
    return path(source.view(), request, plan(source.view(), target, request));
  };
  using Steps = std::vector<std::string>;
  EXPECT_EQ(steps(plain(), torch_like(), {}), Steps{"share"});
  EXPECT_EQ(steps(plain(), torch_like(), {.copy = CopyMode::always}), Steps{"host copy"});
  EXPECT_EQ(steps(backwards(), torch_like(), {}), Steps{});
  EXPECT_EQ(steps(plain(), torch_like(), {.dtype = kFloat64}), Steps{"cast to float64"});
  EXPECT_EQ(steps(on(kGpu), numpy_like(), {.device = kCpu, .dtype = kFloat64}),
            (Steps{"stage cuda:0 to cpu", "cast to float64"}));
}

// The shortcut for dimensions in any order says yes to no layout that overlaps or is reversed.
TEST(PermutedPlainLayout, IsWhatTheSearchFindsFree) {
  int plain = 0;
  for (int64_t a : {-1, 0, 1, 2, 3, 4, 6}) {
    for (int64_t b : {-2, 0, 1, 2, 3, 4, 8}) {
      for (int64_t c : {0, 1, 2, 5, 9, 24}) {
        for (const std::vector<int64_t>& shape :
             {std::vector<int64_t>{2, 3, 4}, {3, 1, 2}, {2, 0, 2}}) {
          const Shaped source(shape, {a, b, c});
          if (!detail::is_permuted_plain_layout(source.view())) continue;
          ++plain;
          EXPECT_FALSE(has_partial_overlap(source.view())) << a << ' ' << b << ' ' << c;
          EXPECT_LT(broadcast_dimension(source.view()), 0);
          EXPECT_LT(negative_stride_dimension(source.view()), 0);
        }
      }
    }
  }
  EXPECT_GT(plain, 40);
  EXPECT_TRUE(detail::is_permuted_plain_layout(Shaped({4, 6, 2}, {2, 8, 1}).view()));
  EXPECT_FALSE(detail::is_permuted_plain_layout(Shaped(std::vector<int64_t>(9, 2)).view()));
}

// A plain copy or cast is decided at once; the answer is that of the whole table.
TEST(Plan, DecidesPlainCopiesAndCasts) {
  for (CopyMode mode : kModes) {
    for (DType dtype : {kFloat32, kFloat64, DType(TypeCode::complex, 64)}) {
      const Request request{.copy = mode, .dtype = dtype};
      const bool casts = !(dtype == DType(plain().view().dtype));
      const Plan found = plan(plain().view(), numpy_like(), request);
      const Verdict copies = mode == CopyMode::always ? Verdict::copy : Verdict::share;
      const Verdict cast = mode == CopyMode::never ? Verdict::refuse : Verdict::cast;
      const bool held = numpy_like().dtypes.contains(dtype);
      EXPECT_EQ(found.verdict, casts ? (held ? cast : Verdict::refuse) : copies);
      if (found.verdict == Verdict::refuse) continue;
      const int64_t bytes = found.verdict == Verdict::share ? 0 : 24 * dtype.itemsize();
      EXPECT_EQ(found.bytes, bytes);
    }
  }
}

TEST(DTypeSet, HoldsEachKnownTypeAlone) {
  std::vector<DType> known;
  for (int code = 0; code < 32; ++code) {
    for (int bits : {1, 2, 4, 6, 8, 16, 32, 64, 128}) {
      const DType type(static_cast<TypeCode>(code), bits);
      if (type.is_known()) known.push_back(type);
    }
  }
  ASSERT_GT(known.size(), 30u);
  for (DType one : known) {
    DTypeSet set;
    set.add(one);
    for (DType other : known) EXPECT_EQ(set.contains(other), one == other) << other.name();
    set.remove(one);
    EXPECT_FALSE(set.contains(one));
  }
}

TEST(DTypeSet, HasNoSlotForStrangeTypes) {
  for (DLDataType type : {DLDataType{200, 8, 1}, DLDataType{2, 32, 2}, DLDataType{2, 0, 1},
                          DLDataType{2, 24, 1}, DLDataType{2, 255, 1}}) {
    EXPECT_EQ(DTypeSet::slot(type), -1);
    DTypeSet set;
    set.add(type);
    EXPECT_FALSE(set.contains(type));
  }
}

}  // namespace
}  // namespace dlbridge
