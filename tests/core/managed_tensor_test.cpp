// SPDX-License-Identifier: Apache-2.0
// ManagedTensor and the ways between versioned, legacy and Loan: one deleter call on every path,
// none while the caller still owns.
#include "dlbridge/managed_tensor.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <type_traits>

#include "errors.h"
#include "memory.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::expect_error;
using test::LegacyProducer;
using test::ReleaseCounter;
using test::VersionedProducer;

static_assert(!std::is_copy_constructible_v<ManagedTensor>);
static_assert(!std::is_copy_assignable_v<ManagedTensor>);
static_assert(std::is_nothrow_move_constructible_v<ManagedTensor>);

// Of a described and owned (2, 3) loan.
class ToManaged : public testing::Test {
 protected:
  ReleaseCounter counter_;
  float values_[6] = {};
  Loan loan_ = test::make_loan({2, 3}, {3, 1}, test::kFloat32, values_, counter_.deleter());
};
class ToManagedLegacy : public ToManaged {};

TEST(ManagedTensor, ReleasesOnceAfterMove) {
  VersionedProducer producer;
  {
    ManagedTensor first = ManagedTensor::adopt(producer.get());
    ManagedTensor second(std::move(first));
    EXPECT_FALSE(first);
    ManagedTensor third;
    third = std::move(second);
    EXPECT_FALSE(second);
    EXPECT_EQ(third.get(), producer.get());
    EXPECT_EQ(producer.deletions(), 0);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(ManagedTensor, MoveAssignmentReleases) {
  VersionedProducer old_one;
  VersionedProducer new_one;
  ManagedTensor target = ManagedTensor::adopt(old_one.get());
  target = ManagedTensor::adopt(new_one.get());
  EXPECT_EQ(old_one.deletions(), 1);
  EXPECT_EQ(new_one.deletions(), 0);
}

TEST(ManagedTensor, SelfMoveKeepsTheTensor) {
  VersionedProducer producer;
  ManagedTensor tensor = ManagedTensor::adopt(producer.get());
  ManagedTensor& same = tensor;
  tensor = std::move(same);
  EXPECT_EQ(tensor.get(), producer.get());
  EXPECT_EQ(producer.deletions(), 0);
}

TEST(ManagedTensor, ReturnsItsDescriptor) {
  VersionedProducer producer;
  {
    ManagedTensor tensor = ManagedTensor::adopt(producer.get());
    EXPECT_EQ(tensor.release(), producer.get());
    EXPECT_EQ(tensor.release(), nullptr);
  }
  EXPECT_EQ(producer.deletions(), 0);
}

TEST(ManagedTensor, ResetTwiceReleasesOnce) {
  VersionedProducer producer;
  ManagedTensor tensor = ManagedTensor::adopt(producer.get());
  tensor.reset();
  tensor.reset();
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(ManagedTensor, NullDeleterIsTolerated) {
  VersionedProducer producer;
  producer.get()->deleter = nullptr;
  {
    const ManagedTensor tensor = ManagedTensor::adopt(producer.get());
  }
  {
    const Loan loan = ManagedTensor::adopt(producer.get()).to_loan();
  }
  LegacyProducer legacy;
  legacy.get()->deleter = nullptr;
  const Deleter deleter = deleter_of(legacy.get());
  deleter.release(deleter.context);
}

// Rule: 54
TEST(ManagedTensor, NullContextIsTolerated) {
  VersionedProducer producer;
  static int calls = 0;
  producer.get()->manager_ctx = nullptr;
  producer.get()->deleter = [](DLManagedTensorVersioned*) { ++calls; };
  {
    const Loan loan = ManagedTensor::adopt(producer.get()).to_loan();
  }
  EXPECT_EQ(calls, 1);
}

TEST(ManagedTensor, BecomesALoan) {
  VersionedProducer producer;
  producer.get()->flags = kIsCopied;
  {
    ManagedTensor tensor = ManagedTensor::adopt(producer.get());
    const Loan loan = std::move(tensor).to_loan();
    EXPECT_FALSE(tensor);
    EXPECT_EQ(loan.view().data, producer.values());
    EXPECT_EQ(loan.view().shape[1], 3);
    EXPECT_EQ(loan.view().access, Access::writable);
    EXPECT_TRUE(loan.view().is_copied);
    EXPECT_EQ(producer.deletions(), 0);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(ManagedTensor, RefusesNull) {
  Loan loan;
  expect_error(ErrorCode::null_descriptor, [&] {
    describe_managed(static_cast<const DLManagedTensorVersioned*>(nullptr), loan);
  });
  expect_error(ErrorCode::null_descriptor,
               [&] { describe_managed(static_cast<const DLManagedTensor*>(nullptr), loan); });
  expect_error(ErrorCode::null_descriptor, [] { ManagedTensor().to_loan(); });
}

class ForeignMajor : public testing::TestWithParam<uint32_t> {};

// The descriptor's flags and tensor lie on a page that may not be read: version and deleter are all
// there is.
// Rule: 3
TEST_P(ForeignMajor, ReadsOnlyTheVersion) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory =
      mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* managed = reinterpret_cast<DLManagedTensorVersioned*>(
      static_cast<char*>(memory) + page - offsetof(DLManagedTensorVersioned, flags));
  static int deletions;
  deletions = 0;
  managed->version = {GetParam(), 0};
  managed->deleter = [](DLManagedTensorVersioned*) { ++deletions; };
  ASSERT_EQ(mprotect(static_cast<char*>(memory) + page, page, PROT_NONE), 0);
  {
    ManagedTensor tensor = ManagedTensor::adopt(managed);
    expect_error(ErrorCode::unsupported_version, [&] { std::move(tensor).to_loan(); });
    EXPECT_EQ(deletions, 0);
  }
  EXPECT_EQ(deletions, 1);
  munmap(memory, 2 * page);
}

INSTANTIATE_TEST_SUITE_P(Majors, ForeignMajor, testing::Values(0u, 2u, 0xFFFFFFFFu),
                         testing::PrintToStringParamName());

// Rule: 4
TEST(ManagedTensor, AcceptsAnyMinorVersion) {
  VersionedProducer producer;
  for (uint32_t minor : {0u, 1u, 3u, 4u, 999u}) {
    producer.get()->version.minor = minor;
    Loan loan;
    EXPECT_NO_THROW(describe_managed(producer.get(), loan)) << minor;
  }
}

struct FlagRow {
  uint64_t flags;
  Access access;
  bool copied;
  bool padded;
  uint64_t exported;
};

void PrintTo(const FlagRow& row, std::ostream* out) { *out << row.flags; }

class Flags : public testing::TestWithParam<FlagRow> {};

// Rule: 7
TEST_P(Flags, SurviveARoundTrip) {
  VersionedProducer producer;
  producer.tensor().dtype = {kDLInt, 4, 1};
  producer.get()->flags = GetParam().flags;
  Loan loan = ManagedTensor::adopt(producer.get()).to_loan();
  EXPECT_EQ(loan.view().access, GetParam().access);
  EXPECT_EQ(loan.view().is_copied, GetParam().copied);
  EXPECT_EQ(loan.view().subbyte_padded, GetParam().padded);
  const ManagedTensor exported(std::move(loan));
  EXPECT_EQ(exported.get()->flags, GetParam().exported);
}

INSTANTIATE_TEST_SUITE_P(All, Flags,
                         testing::Values(FlagRow{0, Access::writable, false, false, 0},
                                         FlagRow{1, Access::read_only, false, false, 1},
                                         FlagRow{2, Access::writable, true, false, 2},
                                         FlagRow{4, Access::writable, false, true, 4},
                                         FlagRow{7, Access::read_only, true, true, 7},
                                         FlagRow{~uint64_t{7}, Access::writable, false, false, 0},
                                         FlagRow{~uint64_t{0}, Access::read_only, true, true, 7}),
                         testing::PrintToStringParamName());

TEST(ManagedTensor, DropsPaddingOfWholeBytes) {
  VersionedProducer producer;
  producer.get()->flags = kSubbytePadded;
  const ManagedTensor exported(ManagedTensor::adopt(producer.get()).to_loan());
  EXPECT_EQ(exported.get()->flags, 0u);
}

TEST(ManagedTensor, LegacyAccessIsUnknown) {
  LegacyProducer producer;
  {
    Loan loan;
    describe_managed(producer.get(), loan);
    EXPECT_EQ(loan.view().access, Access::unknown);
    loan.attach(deleter_of(producer.get()));
    const ManagedTensor exported(std::move(loan));
    EXPECT_EQ(exported.get()->flags & kReadOnly, kReadOnly);
    EXPECT_EQ(producer.deletions(), 0);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

TEST_F(ToManaged, WritesEveryField) {
  loan_.view().device = {kDLCUDA, 3};
  loan_.view().dtype = {kDLUInt, 32, 1};
  {
    const ManagedTensor tensor(std::move(loan_));
    const DLManagedTensorVersioned& managed = *tensor.get();
    EXPECT_EQ(managed.version.major, 1u);
    EXPECT_EQ(managed.version.minor, 3u);
    EXPECT_NE(managed.deleter, nullptr);
    EXPECT_EQ(managed.dl_tensor.data, values_);
    EXPECT_EQ(managed.dl_tensor.device.device_type, kDLCUDA);
    EXPECT_EQ(managed.dl_tensor.device.device_id, 3);
    EXPECT_EQ(managed.dl_tensor.dtype.code, kDLUInt);
    EXPECT_EQ(managed.dl_tensor.ndim, 2);
    EXPECT_EQ(managed.dl_tensor.shape[0], 2);
    EXPECT_EQ(managed.dl_tensor.shape[1], 3);
    EXPECT_EQ(managed.dl_tensor.strides[0], 3);
    EXPECT_EQ(managed.dl_tensor.strides[1], 1);
    EXPECT_EQ(managed.dl_tensor.byte_offset, 0u);
    EXPECT_FALSE(loan_.owns_memory());
    EXPECT_EQ(counter_.count(), 0);
  }
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToManaged, TakesLoansWithoutDeleter) {
  Loan loan;
  ManagedTensor tensor(std::move(loan));
  EXPECT_NE(tensor.get()->deleter, nullptr);
  tensor.reset();
}

TEST_F(ToManaged, KeepsOpaqueOffsets) {
  Loan loan;
  loan.view().device = {kDLOpenCL, 0};
  loan.view().byte_offset = 48;
  const ManagedTensor tensor(std::move(loan));
  EXPECT_EQ(tensor.get()->dl_tensor.byte_offset, 48u);
}

// docs/reference/rules.md#24: host memory has device id 0 on export, whatever id came in.
// Rule: 24
TEST_F(ToManaged, HostIdIsZero) {
  for (DLDeviceType type : {kDLCPU, kDLCUDAHost, kDLROCMHost}) {
    VersionedProducer producer;
    producer.tensor().device = {type, 5};
    const ManagedTensor exported(ManagedTensor::adopt(producer.get()).to_loan());
    EXPECT_EQ(exported.get()->dl_tensor.device.device_type, type);
    EXPECT_EQ(exported.get()->dl_tensor.device.device_id, 0) << "device type " << type;
  }
}

class Export : public testing::TestWithParam<int> {};

TEST_P(Export, CopiesShapeAndStrides) {
  Loan loan;
  loan.set_rank(GetParam());
  for (int32_t i = 0; i < GetParam(); ++i) {
    loan.shape()[i] = 1;
    loan.strides()[i] = i;
  }
  const ManagedTensor tensor(std::move(loan));
  const DLTensor& exported = tensor.get()->dl_tensor;
  loan.reset();
  ASSERT_EQ(exported.ndim, GetParam());
  ASSERT_TRUE(GetParam() == 0 || exported.strides != nullptr);
  for (int32_t i = 0; i < GetParam(); ++i) {
    EXPECT_EQ(exported.shape[i], 1);
    EXPECT_EQ(exported.strides[i], i);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Export, testing::Values(0, 1, 8, 9, 64),
                         testing::PrintToStringParamName());

TEST_F(ToManagedLegacy, RefusesReadOnly) {
  loan_.view().access = Access::read_only;
  expect_error(ErrorCode::read_only, [&] { to_managed_legacy(std::move(loan_)); });
  EXPECT_TRUE(loan_.owns_memory());
  EXPECT_EQ(counter_.count(), 0);
  loan_.reset();
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToManagedLegacy, RefusesPadding) {
  VersionedProducer producer;
  producer.tensor().dtype = {kDLInt, 4, 1};
  producer.get()->flags = kSubbytePadded;
  Loan loan = ManagedTensor::adopt(producer.get()).to_loan();
  expect_error(ErrorCode::unsupported_dtype, [&] { to_managed_legacy(std::move(loan)); });
  EXPECT_EQ(producer.deletions(), 0);
  loan.view().subbyte_padded = false;
  DLManagedTensor* packed = to_managed_legacy(std::move(loan));
  packed->deleter(packed);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST_F(ToManagedLegacy, KeepsUnknownAccess) {
  loan_.view().access = Access::unknown;
  DLManagedTensor* legacy = to_managed_legacy(std::move(loan_));
  EXPECT_EQ(legacy->dl_tensor.data, values_);
  EXPECT_EQ(legacy->dl_tensor.strides[0], 3);
  Loan again;
  describe_managed(legacy, again);
  EXPECT_EQ(again.view().access, Access::unknown);
  EXPECT_EQ(again.view().data, values_);
  EXPECT_EQ(counter_.count(), 0);
  legacy->deleter(legacy);
  EXPECT_EQ(counter_.count(), 1);
}

TEST_F(ToManagedLegacy, RoundTripReleasesOnce) {
  VersionedProducer producer;
  {
    DLManagedTensor* legacy = to_managed_legacy(ManagedTensor::adopt(producer.get()).to_loan());
    Loan loan;
    describe_managed(legacy, loan);
    loan.attach(deleter_of(legacy));
    const ManagedTensor versioned(std::move(loan));
    EXPECT_EQ(versioned.get()->dl_tensor.data, producer.values());
    EXPECT_EQ(producer.deletions(), 0);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

}  // namespace
}  // namespace dlbridge
