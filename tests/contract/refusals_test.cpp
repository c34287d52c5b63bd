// SPDX-License-Identifier: Apache-2.0
// What is refused: each with its code, its field and the remedy, before anything is touched, and
// with every loan still the caller's.
#include <algorithm>
#include <functional>

#include "contract_test.h"
#include "dlbridge/cuda/pinned_memory.h"
#include "errors.h"
#include "memory.h"

namespace dlbridge::contract {
namespace {

const Device kCpu(DeviceType::cpu);

// The tensors of one call: fit for each other, to be spoilt.
struct Pair {
  test::Shaped source;
  test::Shaped target;
  Stream stream;
  int32_t other_device = -1;  // one that is there

  void set_target_layout(Dims shape, Dims strides) {
    const TensorView fields = target.fields();
    target = test::Shaped(std::move(shape), std::move(strides));
    target.fields() = fields;
  }
};

struct Expected {
  ErrorCode code;
  const char* field;               // null: of no matter
  std::vector<const char*> words;  // of the message
};

struct Refusal {
  const char* name;
  std::function<void(Pair&)> spoil;
  Expected expected;
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

Stream number_on(Pair& pair, intptr_t number) {
  return cuda::stream_of(pair.stream.device.device_id, number);
}

// What both directions refuse alike.
std::vector<Refusal> of_both() {
  return {
      {"another_shape",
       [](Pair& p) { p.set_target_layout({3, 8}, {8, 1}); },
       {ErrorCode::shape_mismatch, "shape", {"shape", "expected"}}},
      {"another_rank",
       [](Pair& p) { p.set_target_layout({32}, {1}); },
       {ErrorCode::shape_mismatch, "shape", {"expected"}}},
      {"another_dtype",
       [](Pair& p) { p.target.fields().dtype = test::kFloat32; },
       {ErrorCode::unsupported_dtype, "dtype", {"float32", "int32", "cast"}}},
      {"another_padding",
       [](Pair& p) {
         p.source.fields().dtype = p.target.fields().dtype = kFloat4Padded;
         p.source.fields().subbyte_padded = true;
       },
       {ErrorCode::unsupported_dtype, "dtype", {"padded"}}},
      {"a_read_only_target",
       [](Pair& p) { p.target.fields().access = Access::read_only; },
       {ErrorCode::read_only, "flags", {"writable"}}},
      {"a_target_that_may_be_read_only",
       [](Pair& p) { p.target.fields().access = Access::unknown; },
       {ErrorCode::read_only, "flags", {"writable"}}},
      {"a_broadcast_target",
       [](Pair& p) { p.set_target_layout({4, 8}, {0, 1}); },
       {ErrorCode::overlap, "strides", {"dimension 0", "expected"}}},
      {"a_target_over_itself",
       [](Pair& p) { p.set_target_layout({4, 8}, {3, 1}); },
       {ErrorCode::overlap, "strides", {"overlap", "expected"}}},
      {"stream_0",
       [](Pair& p) { p.stream = number_on(p, 0); },
       {ErrorCode::stream_invalid, "stream", {"1", "2"}}},
      {"a_negative_stream",
       [](Pair& p) { p.stream = number_on(p, -2); },
       {ErrorCode::stream_invalid, "stream", {"-2", "expected"}}},
      {"a_stream_of_another_device",
       [](Pair& p) { ++p.stream.device.device_id; },
       {ErrorCode::stream_invalid, "stream", {"pass a stream of the tensor's device"}}},
  };
}

// What is wrong about the side that is to be on the device, or on the host.
std::vector<Refusal> of_device_side(test::Shaped Pair::* side, const char* field) {
  return {
      {"opencl_memory",
       [side](Pair& p) { (p.*side).fields().device = Device(DeviceType::opencl); },
       {ErrorCode::unsupported_device, field, {"opencl:0", "CUDA", "to the host first"}}},
      {"host_memory",
       [side](Pair& p) { (p.*side).fields().device = kCpu; },
       {ErrorCode::unsupported_device, "device", {"host", "CUDA", "copy_host"}}},
      {"host_memory_that_claims_to_be_on_the_device",
       [side](Pair& p) {
         static uint8_t memory[4096];
         (p.*side).fields().data = memory;
       },
       {ErrorCode::invalid_device, "data", {"host memory", "cuda:", "fix the producer"}}},
      {"another_devices_id",
       [side](Pair& p) {
         (p.*side).fields().device.device_id = p.other_device;
         p.stream.device.device_id = p.other_device;
       },
       {ErrorCode::invalid_device, "device_id", {"data is on cuda:", "fix the producer"}}},
      {"a_device_that_is_not_there",
       [side](Pair& p) {
         (p.*side).fields().device.device_id = 63;
         p.stream.device.device_id = 63;
       },
       {ErrorCode::invalid_device, nullptr, {"cuda:63"}}},
  };
}

std::vector<Refusal> of_host_side(test::Shaped Pair::* side, const char* field) {
  return {
      {"metal_memory",
       [side](Pair& p) { (p.*side).fields().device = Device(DeviceType::metal); },
       {ErrorCode::unsupported_device, field, {"metal:0", "host", "its own library"}}},
      {"device_memory_that_claims_to_be_on_the_host",
       [side](Pair& p) {
         const bool is_source = side == &Pair::source;
         // Not the other side's own elements: those would overlap.
         (p.*side).fields().data =
             static_cast<uint8_t*>((is_source ? p.target : p.source).view().data) + 1024;
       },
       {ErrorCode::invalid_device, "data", {"cpu", "fix the producer"}}},
      {"device_memory_that_claims_to_be_pinned",
       [side](Pair& p) {
         const bool is_source = side == &Pair::source;
         (p.*side).fields().data =
             static_cast<uint8_t*>((is_source ? p.target : p.source).view().data) + 1024;
         (p.*side).fields().device = Device(DeviceType::cuda_host);
       },
       {ErrorCode::invalid_device, "data", {"cuda_host", "fix the producer"}}},
  };
}

std::vector<Refusal> to_host_refusals() {
  std::vector<Refusal> all = of_both();
  for (const auto& more :
       {of_device_side(&Pair::source, "x"), of_host_side(&Pair::target, "target")})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<Refusal> to_device_refusals() {
  std::vector<Refusal> all = of_both();
  for (const auto& more :
       {of_host_side(&Pair::source, "x"), of_device_side(&Pair::target, "target")})
    all.insert(all.end(), more.begin(), more.end());
  return all;
}

void expect_refused(const Expected& refusal, const std::function<void()>& call) {
  const auto error = test::error_of(call);
  ASSERT_TRUE(error.has_value()) << "nothing was thrown";
  EXPECT_EQ(name(error->code()), name(refusal.code)) << error->what();
  if (refusal.field != nullptr) {
    EXPECT_EQ(error->field(), refusal.field) << error->what();
  }
  for (const char* word : refusal.words)
    EXPECT_NE(std::string(error->what()).find(word), std::string::npos) << error->what();
}

class Refusing : public ContractOf<Refusal> {
 protected:
  void SetUp() override {
    Contract::SetUp();
    if (IsSkipped()) return;
    on_device_ = backend().allocate(kBytes);
    backend().write(on_device_, Bytes(kBytes, kPoison));
  }

  // Runs `call` with each side as a view, and with both as loans; nothing may have been touched.
  template <typename WithViews, typename WithLoans>
  void check(bool to_host, WithViews&& with_views, WithLoans&& with_loans) {
    if (std::string_view(GetParam().name) == "another_devices_id" && backend().other_device() < 0)
      GTEST_SKIP() << "this machine has one device";
    Bytes host(kBytes, kPoison);
    Pair pair{test::Shaped({4, 8}, {8, 1}, test::kInt32),
              test::Shaped({4, 8}, {8, 1}, test::kInt32), stream(), backend().other_device()};
    test::Shaped& device_side = to_host ? pair.source : pair.target;
    test::Shaped& host_side = to_host ? pair.target : pair.source;
    device_side.fields().data = on_device_;
    device_side.fields().device = gpu();
    host_side.fields().data = host.data();
    GetParam().spoil(pair);

    expect_refused(GetParam().expected, [&] { with_views(pair); });

    test::ReleaseCounter released;
    Loan source = test::loan_of(pair.source.view(), released);
    Loan target = test::loan_of(pair.target.view(), released);
    expect_refused(GetParam().expected,
                   [&] { with_loans(std::move(source), std::move(target), pair.stream); });
    EXPECT_TRUE(source.owns_memory());
    EXPECT_TRUE(target.owns_memory());
    EXPECT_EQ(released.count(), 0);
    EXPECT_EQ(source.view().data, pair.source.view().data);
    EXPECT_EQ(target.view().data, pair.target.view().data);
    EXPECT_EQ(target.view().ndim, pair.target.view().ndim);

    EXPECT_TRUE(cuda::drain(0));
    EXPECT_EQ(host, Bytes(kBytes, kPoison));
    EXPECT_EQ(backend().read(on_device_, kBytes), Bytes(kBytes, kPoison));
  }

 private:
  static constexpr size_t kBytes = 4096;
  void* on_device_ = nullptr;
};

class RefusingToHost : public Refusing {};
class RefusingToDevice : public Refusing {};

// Rule: 25
TEST_P(RefusingToHost, SaysWhyAndTakesNothing) {
  check(
      true, [](Pair& p) { cuda::stage(p.source.view(), p.target.view(), p.stream); },
      [](Loan&& source, Loan&& target, Stream stream) {
        static_cast<void>(cuda::stage_async(std::move(source), std::move(target), stream));
      });
}

TEST_P(RefusingToDevice, SaysWhyAndTakesNothing) {
  check(
      false, [](Pair& p) { cuda::stage(p.source.view(), p.target.view(), p.stream); },
      [](Loan&& source, Loan&& target, Stream stream) {
        static_cast<void>(cuda::stage_async(std::move(source), std::move(target), stream));
      });
}

std::string refusal_name(const testing::TestParamInfo<Refusal>& given) { return given.param.name; }

INSTANTIATE_TEST_SUITE_P(Table, RefusingToHost, testing::ValuesIn(to_host_refusals()),
                         refusal_name);
INSTANTIATE_TEST_SUITE_P(Table, RefusingToDevice, testing::ValuesIn(to_device_refusals()),
                         refusal_name);

class RefusedBatch : public Contract {
 protected:
  TensorView on_device(const test::Shaped& shaped, int32_t device) {
    TensorView view = shaped.view();
    view.data = backend().allocate(4096, device);
    view.device = Device(DeviceType::cuda, device);
    return view;
  }
};

TEST_F(RefusedBatch, TwoDevices) {
  if (backend().other_device() < 0) GTEST_SKIP() << "this machine has one device";
  const test::Shaped shaped({4, 4});
  const TensorView views[] = {on_device(shaped, gpu().id()),
                              on_device(shaped, backend().other_device())};
  const Expected refusal{ErrorCode::invalid_device, "device", {"expected one device", "batch"}};
  expect_refused(refusal, [&] { static_cast<void>(cuda::stage_to_host(views, stream())); });

  test::ReleaseCounter released;
  Loan loans[] = {test::loan_of(views[0], released), test::loan_of(views[1], released)};
  expect_refused(refusal, [&] { static_cast<void>(cuda::stage_to_host_async(loans, stream())); });
  EXPECT_EQ(released.count(), 0);
  EXPECT_TRUE(loans[0].owns_memory() && loans[1].owns_memory());

  const test::Shaped host({4, 4});
  const TensorView sources[] = {host.view(), host.view()};
  expect_refused(refusal, [&] { cuda::stage(sources, views, stream()); });
}

TEST_F(RefusedBatch, OneTensorMismatches) {
  const test::Shaped shaped({4, 4});
  const TensorView good = on_device(shaped, gpu().id());
  TensorView bad = good;
  bad.device = kCpu;
  const TensorView views[] = {good, bad};
  expect_refused({ErrorCode::unsupported_device, "x", {"cpu", "CUDA"}},
                 [&] { static_cast<void>(cuda::stage_to_host(views, stream())); });
  const TensorView targets[] = {good};
  Bytes memory(64);
  TensorView host = shaped.view();
  host.data = memory.data();
  const TensorView sources[] = {host, host};
  expect_refused({ErrorCode::invalid_argument, "targets", {"1", "2", "expected"}},
                 [&] { cuda::stage(sources, targets, stream()); });
  const TensorView there_and_back[] = {host, good};
  const TensorView back_and_there[] = {good, host};
  expect_refused({ErrorCode::invalid_argument, "targets", {"expected one direction"}},
                 [&] { cuda::stage(there_and_back, back_and_there, stream()); });
}

// Nibbles that are transposed, far apart, or one for all.
class RefusedPacked : public RefusedBatch, public testing::WithParamInterface<Dims> {};

TEST_P(RefusedPacked, HasNoAddresses) {
  const DType nibbles(TypeCode::uint, 4);
  const Dims shape{3, 5};
  const test::Shaped strided(shape, GetParam(), nibbles);
  const test::Shaped compact(shape, row_major(shape), nibbles);
  const TensorView there = on_device(strided, gpu().id());
  const TensorView target = on_device(compact, gpu().id());
  Bytes memory(4096, kPoison);
  TensorView source = strided.view();
  source.data = memory.data();
  TensorView out = compact.view();
  out.data = memory.data();
  const Expected refusal{ErrorCode::packed_subbyte, "dtype", {"uint4", "contiguous", "padded"}};

  // Each call with the loans it is given; both are still the caller's afterwards.
  const auto refused = [&](const TensorView& from, const TensorView& to, auto&& call) {
    test::ReleaseCounter released;
    Loan first = test::loan_of(from, released);
    Loan second = test::loan_of(to, released);
    expect_refused(refusal, [&] { call(std::move(first), std::move(second)); });
    EXPECT_TRUE(first.owns_memory() && second.owns_memory());
    EXPECT_EQ(first.view().data, from.data);
    EXPECT_EQ(second.view().data, to.data);
    EXPECT_EQ(released.count(), 0);
  };
  expect_refused(refusal, [&] { static_cast<void>(cuda::stage_to_host(there, stream())); });
  expect_refused(refusal, [&] { cuda::stage(there, out, stream()); });
  expect_refused(refusal, [&] { cuda::stage(source, target, stream()); });
  refused(there, out, [&](Loan&& from, Loan&&) {
    static_cast<void>(cuda::stage_to_host_async(std::move(from), stream()));
  });
  refused(there, out, [&](Loan&& from, Loan&& to) {
    static_cast<void>(cuda::stage_async(std::move(from), std::move(to), stream()));
  });
  refused(source, target, [&](Loan&& from, Loan&& to) {
    static_cast<void>(cuda::stage_async(std::move(from), std::move(to), stream()));
  });
  EXPECT_EQ(memory, Bytes(4096, kPoison));
}

INSTANTIATE_TEST_SUITE_P(Strides, RefusedPacked,
                         testing::Values(Dims{1, 3}, Dims{10, 2}, Dims{0, 1}, Dims{0, 0}));

class RefusedOnDevice : public Contract {};

TEST_F(RefusedOnDevice, WhatTheBackendCannotDo) {
  cuda::register_cuda_staging();
  StagingBackend& staging = *find_staging(gpu(), gpu());
  const test::Shaped shaped({4, 8}, {8, 1}, test::kInt32);
  TensorView view = shaped.view();
  view.data = backend().allocate(4096);
  view.device = gpu();
  TensorView shifted = view;
  shifted.data = static_cast<uint8_t*>(view.data) + 4;
  expect_refused({ErrorCode::overlap, "data", {"expected two separate"}},
                 [&] { staging.copy(view, shifted, stream()); });
  shifted.data = static_cast<uint8_t*>(view.data) + 1024;
  shifted.access = Access::read_only;
  expect_refused({ErrorCode::read_only, "flags", {"writable"}},
                 [&] { staging.copy(view, shifted, stream()); });
  shifted.access = Access::writable;
  expect_refused({ErrorCode::stream_invalid, "stream", {"0"}},
                 [&] { staging.copy(view, shifted, numbered(0)); });
  if (backend().other_device() < 0) return;
  TensorView far = shifted;
  far.data = backend().allocate(4096, backend().other_device());
  far.device = Device(DeviceType::cuda, backend().other_device());
  expect_refused({ErrorCode::invalid_device, "device", {"expected one device"}},
                 [&] { staging.copy(view, far, stream()); });
}

class RefusedPinnedMemory : public Contract {};

TEST_F(RefusedPinnedMemory, RecordStreamChecksArguments) {
  const test::Shaped like({100});
  const Loan pinned = cuda::pinned_empty(like.view());
  EXPECT_TRUE(cuda::record_stream(pinned.view().data, stream()));
  int mine = 0;
  EXPECT_FALSE(cuda::record_stream(&mine, stream()));
  std::vector<Stream> refused{numbered(cuda::kNoSync), numbered(0), numbered(-2)};
  if (backend().other_device() >= 0)
    refused.push_back({Device(DeviceType::cuda, backend().other_device()), stream().handle});
  for (const Stream given : refused) {
    expect_refused({ErrorCode::stream_invalid, "stream", {}},
                   [&] { cuda::record_stream(pinned.view().data, given); });
  }
}

}  // namespace
}  // namespace dlbridge::contract
