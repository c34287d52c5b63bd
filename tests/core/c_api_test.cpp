// SPDX-License-Identifier: Apache-2.0
// The C ABI: what each function answers, who owns what after success and after failure (counted in
// deleter calls), the rules of struct_size, and errors kept apart for each thread.
#include "dlbridge/c_api.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "c_calls.h"
#include "dlbridge/dlpack.h"
#include "producer.h"

namespace dlbridge {
namespace {

using test::expect_failure;
using test::expect_invalid;
using test::last_error;
using test::LegacyProducer;
using test::poison;
using test::sized;
using test::VersionedProducer;

dlb_tensor* adopted(VersionedProducer& producer) {
  dlb_tensor* tensor = nullptr;
  EXPECT_OK(dlb_adopt(producer.get(), &tensor));
  return tensor;
}

// ---- Versions, types

TEST(CApiVersion, SaysWhatWasBuilt) {
  auto info = sized<dlb_version_info>();
  info.major = info.minor = info.patch = -1;
  ASSERT_OK(dlb_version(&info));
  EXPECT_EQ(info.major, DLBRIDGE_TEST_MAJOR);
  EXPECT_EQ(info.minor, DLBRIDGE_TEST_MINOR);
  EXPECT_EQ(info.patch, DLBRIDGE_TEST_PATCH);
  EXPECT_EQ(info.c_api, DLBRIDGE_C_API_VERSION);
  EXPECT_EQ(info.dlpack_major, 1);
  EXPECT_EQ(info.dlpack_minor, 3);
}

TEST(CApiDtype, ParsesWhatItNames) {
  for (const char* name : {"bool", "float32", "bfloat16", "float8_e4m3fn", "float4_e2m1fn_x2"}) {
    DLDataType dtype{};
    ASSERT_OK(dlb_dtype_parse(name, &dtype));
    char text[32];
    size_t length = 0;
    ASSERT_OK(dlb_dtype_name(dtype, text, sizeof text, &length));
    EXPECT_STREQ(text, name);
    EXPECT_EQ(length, std::strlen(name));
  }
}

TEST(CApiDtype, CutsTheName) {
  char text[8];
  std::memset(text, '#', sizeof text);
  size_t length = 0;
  ASSERT_OK(dlb_dtype_name({2, 32, 1}, text, 5, &length));
  EXPECT_EQ(std::string(text, 8), std::string("floa\0###", 8));
  EXPECT_EQ(length, 7u);
  ASSERT_OK(dlb_dtype_name({40, 8, 1}, nullptr, 0, &length));
  EXPECT_EQ(length, std::strlen("code=40,bits=8,lanes=1"));
  EXPECT_OK(dlb_dtype_name({2, 32, 1}, text, sizeof text, nullptr));
}

TEST(CApiDtype, RefusesUnknownNames) {
  DLDataType dtype{9, 9, 9};
  expect_failure(dlb_dtype_parse("float33", &dtype), DLBRIDGE_INVALID_ARGUMENT, "invalid_dtype",
                 "name");
  EXPECT_EQ(dtype.bits, 9);
  expect_invalid(dlb_dtype_parse(nullptr, &dtype), "name");
  expect_invalid(dlb_dtype_parse("int8", nullptr), "dtype");
  expect_invalid(dlb_dtype_name(dtype, nullptr, 4, nullptr), "buffer");
}

// ---- Looking without taking

struct Hostile {
  const char* code;
  dlb_status status;
  const char* field;
  std::function<void(DLTensor&)> spoil;
};

const std::vector<Hostile>& hostile() {
  static int64_t gaps[] = {9, 2};
  static const std::vector<Hostile> rows = {
      {"invalid_ndim", DLBRIDGE_INVALID_DESCRIPTOR, "ndim", [](auto& t) { t.ndim = -1; }},
      {"unknown_dtype", DLBRIDGE_INVALID_DESCRIPTOR, "dtype", [](auto& t) { t.dtype.code = 99; }},
      {"null_data", DLBRIDGE_INVALID_DESCRIPTOR, "data", [](auto& t) { t.data = nullptr; }},
      {"address_overflow", DLBRIDGE_INVALID_DESCRIPTOR, "byte_offset",
       [](auto& t) { t.byte_offset = ~uint64_t{0}; }},
      {"packed_subbyte", DLBRIDGE_INVALID_DESCRIPTOR, "strides",
       [](auto& t) {
         t.dtype = {0, 4, 1};
         t.strides = gaps;
       }},
  };
  return rows;
}

// Every function that reads a descriptor of type Managed and does not return one.
template <typename Managed>
std::vector<dlb_status> look(const Managed* managed) {
  auto description = sized<dlb_description>();
  auto plan = sized<dlb_plan_result>();
  if constexpr (requires { managed->version; }) {
    VersionedProducer other;
    return {dlb_validate(managed), dlb_describe(managed, &description),
            dlb_plan(managed, nullptr, nullptr, &plan), dlb_copy(managed, other.get()),
            dlb_copy(other.get(), managed)};
  } else {
    return {dlb_validate_legacy(managed), dlb_describe_legacy(managed, &description),
            dlb_plan_legacy(managed, nullptr, nullptr, &plan)};
  }
}

template <typename Managed>
class CApi : public ::testing::Test {
 protected:
  static dlb_status adopt(Managed* managed, dlb_tensor** tensor) {
    if constexpr (requires { managed->version; })
      return dlb_adopt(managed, tensor);
    else
      return dlb_adopt_legacy(managed, DLBRIDGE_ACCESS_WRITABLE, tensor);
  }

  // Turns `managed` into the other struct; the result's address only, deleted at once if asked.
  static dlb_status convert(Managed* managed, bool* made) {
    if constexpr (requires { managed->version; }) {
      auto* out = poison<DLManagedTensor>();
      const dlb_status status = dlb_to_legacy(managed, &out);
      if ((*made = out != nullptr)) out->deleter(out);
      return status;
    } else {
      auto* out = poison<DLManagedTensorVersioned>();
      const dlb_status status = dlb_to_versioned(managed, DLBRIDGE_ACCESS_WRITABLE, &out);
      if ((*made = out != nullptr)) out->deleter(out);
      return status;
    }
  }
};
using Structs = ::testing::Types<DLManagedTensorVersioned, DLManagedTensor>;
TYPED_TEST_SUITE(CApi, Structs);

TYPED_TEST(CApi, LooksWithoutTaking) {
  test::Producer<TypeParam> producer;
  for (const dlb_status status : look<TypeParam>(producer.get())) EXPECT_OK(status);
  EXPECT_EQ(producer.deletions(), 0);
}

TYPED_TEST(CApi, RefusesHostileDescriptors) {
  for (const Hostile& row : hostile()) {
    test::Producer<TypeParam> producer;
    row.spoil(producer.tensor());
    for (const dlb_status status : look<TypeParam>(producer.get()))
      EXPECT_EQ(status, row.status) << row.code;
    auto* tensor = poison<dlb_tensor>();
    expect_failure(this->adopt(producer.get(), &tensor), row.status, row.code, row.field);
    EXPECT_EQ(tensor, nullptr) << row.code;
    bool made = true;
    expect_failure(this->convert(producer.get(), &made), row.status, row.code, row.field);
    EXPECT_FALSE(made);
    EXPECT_EQ(producer.deletions(), 0) << row.code;
  }
}

TYPED_TEST(CApi, RefusesNull) {
  for (const dlb_status status : look<TypeParam>(nullptr))
    EXPECT_EQ(status, DLBRIDGE_INVALID_DESCRIPTOR);
  auto* tensor = poison<dlb_tensor>();
  expect_failure(this->adopt(nullptr, &tensor), DLBRIDGE_INVALID_DESCRIPTOR, "null_descriptor",
                 "descriptor");
  EXPECT_EQ(tensor, nullptr);
  test::Producer<TypeParam> producer;
  expect_invalid(this->adopt(producer.get(), nullptr), "tensor");
  EXPECT_EQ(producer.deletions(), 0);
}

TYPED_TEST(CApi, DeletesAdoptedOnce) {
  test::Producer<TypeParam> producer;
  dlb_tensor* tensor = nullptr;
  ASSERT_OK(this->adopt(producer.get(), &tensor));
  ASSERT_OK(dlb_tensor_retain(tensor));
  DLManagedTensorVersioned* versioned = nullptr;
  ASSERT_OK(dlb_export(tensor, &versioned));
  DLManagedTensor* legacy = nullptr;
  ASSERT_OK(dlb_export_legacy(tensor, &legacy));
  EXPECT_OK(dlb_tensor_release(tensor));
  EXPECT_OK(dlb_tensor_release(tensor));
  EXPECT_EQ(producer.deletions(), 0);
  EXPECT_EQ(versioned->dl_tensor.data, producer.values());
  EXPECT_EQ(legacy->dl_tensor.shape[1], 3);
  versioned->deleter(versioned);
  EXPECT_EQ(producer.deletions(), 0);
  legacy->deleter(legacy);
  EXPECT_EQ(producer.deletions(), 1);
}

TYPED_TEST(CApi, DeletesConvertedOnce) {
  test::Producer<TypeParam> producer;
  bool made = false;
  ASSERT_OK(this->convert(producer.get(), &made));
  EXPECT_TRUE(made);
  EXPECT_EQ(producer.deletions(), 1);
}

TYPED_TEST(CApi, TakesNullDeleters) {
  test::Producer<TypeParam> producer;
  producer.get()->deleter = nullptr;
  dlb_tensor* tensor = nullptr;
  ASSERT_OK(this->adopt(producer.get(), &tensor));
  EXPECT_OK(dlb_tensor_release(tensor));
}

TEST(CApiVersion, ReadsOnlyTheMajorVersion) {
  VersionedProducer producer;
  producer.get()->version.major = 2;
  producer.tensor().shape = poison<int64_t>();
  producer.tensor().ndim = INT32_MAX;
  for (const dlb_status status : look<DLManagedTensorVersioned>(producer.get()))
    EXPECT_EQ(status, DLBRIDGE_UNSUPPORTED_VERSION);
  auto* tensor = poison<dlb_tensor>();
  expect_failure(dlb_adopt(producer.get(), &tensor), DLBRIDGE_UNSUPPORTED_VERSION,
                 "unsupported_version", "version");
  EXPECT_EQ(tensor, nullptr);
  auto* legacy = poison<DLManagedTensor>();
  expect_failure(dlb_to_legacy(producer.get(), &legacy), DLBRIDGE_UNSUPPORTED_VERSION,
                 "unsupported_version", "version");
  EXPECT_EQ(legacy, nullptr);
  EXPECT_EQ(producer.deletions(), 0);
}

TEST(CApiDescribe, FillsEveryField) {
  VersionedProducer producer;
  producer.get()->flags = kReadOnly | kIsCopied;
  producer.tensor().strides = nullptr;
  producer.tensor().byte_offset = 4;
  producer.tensor().device.device_type = kDLCUDAHost;
  int64_t shape[3] = {-7, -7, -7};
  int64_t strides[3] = {-7, -7, -7};
  auto d = sized<dlb_description>();
  d.shape = shape;
  d.strides = strides;
  d.capacity = 3;
  ASSERT_OK(dlb_describe(producer.get(), &d));
  EXPECT_EQ(d.ndim, 2);
  EXPECT_EQ(std::vector<int64_t>(shape, shape + 3), (std::vector<int64_t>{2, 3, -7}));
  EXPECT_EQ(std::vector<int64_t>(strides, strides + 3), (std::vector<int64_t>{3, 1, -7}));
  EXPECT_EQ(d.data, producer.values() + 1);
  EXPECT_EQ(d.byte_offset, 0u);
  EXPECT_EQ(d.size, 6);
  EXPECT_EQ(d.nbytes, 24);
  EXPECT_EQ(d.device.device_type, kDLCUDAHost);
  EXPECT_EQ(d.dtype.bits, 32);
  EXPECT_EQ(d.flags, kReadOnly | kIsCopied);
  EXPECT_EQ(d.access, DLBRIDGE_ACCESS_READ_ONLY);
  EXPECT_EQ(d.is_contiguous, 1);
  EXPECT_STREQ(d.dtype_name, "float32");
  EXPECT_STREQ(d.device_name, "cuda_host");
}

TEST(CApiDescribe, LegacyAccessIsUnknown) {
  LegacyProducer producer;
  auto d = sized<dlb_description>();
  ASSERT_OK(dlb_describe_legacy(producer.get(), &d));
  EXPECT_EQ(d.access, DLBRIDGE_ACCESS_UNKNOWN);
  EXPECT_EQ(d.flags, kReadOnly);
}

TEST(CApiDescribe, TellsTheNeededCapacity) {
  VersionedProducer producer;
  int64_t shape[2] = {-7, -7};
  auto d = sized<dlb_description>();
  d.shape = shape;
  d.capacity = 1;
  expect_failure(dlb_describe(producer.get(), &d), DLBRIDGE_BUFFER_TOO_SMALL, "invalid_argument",
                 "capacity");
  EXPECT_EQ(d.ndim, 2);
  EXPECT_EQ(d.nbytes, 24);
  EXPECT_EQ(shape[0], -7);
  d.shape = nullptr;
  d.capacity = 0;
  EXPECT_OK(dlb_describe(producer.get(), &d));
  d.capacity = -1;
  expect_invalid(dlb_describe(producer.get(), &d), "capacity");
}

// ---- struct_size

// Calls the function that takes `value`, with everything else in order.
template <typename T>
dlb_status call_with(T& value) {
  VersionedProducer producer;
  auto result = sized<dlb_plan_result>();
  if constexpr (std::is_same_v<T, dlb_error>) {
    return dlb_last_error(&value);
  } else if constexpr (std::is_same_v<T, dlb_version_info>) {
    return dlb_version(&value);
  } else if constexpr (std::is_same_v<T, dlb_description>) {
    return dlb_describe(producer.get(), &value);
  } else if constexpr (std::is_same_v<T, dlb_traits>) {
    return dlb_plan(producer.get(), &value, nullptr, &result);
  } else if constexpr (std::is_same_v<T, dlb_request>) {
    return dlb_plan(producer.get(), nullptr, &value, &result);
  } else {
    return dlb_plan(producer.get(), nullptr, nullptr, &value);
  }
}

template <typename T>
class CApiStruct : public ::testing::Test {};
using SizedStructs = ::testing::Types<dlb_error, dlb_version_info, dlb_description, dlb_traits,
                                      dlb_request, dlb_plan_result>;
TYPED_TEST_SUITE(CApiStruct, SizedStructs);

TYPED_TEST(CApiStruct, AcceptsLargerWithZeros) {
  struct Newer {
    TypeParam known;
    unsigned char more[24];
  };
  Newer newer{};
  for (const size_t size : {sizeof(TypeParam), sizeof(TypeParam) + 1, sizeof(Newer)}) {
    newer.known.struct_size = size;
    EXPECT_EQ(call_with(newer.known), DLBRIDGE_OK) << size;
    EXPECT_EQ(newer.known.struct_size, size);
  }
  for (const size_t size : {size_t{0}, sizeof(size_t), sizeof(TypeParam) - 1, size_t{4097},
                            std::numeric_limits<size_t>::max()}) {
    newer.known.struct_size = size;
    EXPECT_EQ(call_with(newer.known), DLBRIDGE_WRONG_STRUCT_SIZE) << size;
  }
  newer.known.struct_size = sizeof(Newer);
  newer.more[23] = 1;
  EXPECT_EQ(call_with(newer.known), DLBRIDGE_WRONG_STRUCT_SIZE);
}

TEST(CApiStructSize, IsNamedInTheError) {
  dlb_version_info info{};
  info.struct_size = 3;
  expect_failure(dlb_version(&info), DLBRIDGE_WRONG_STRUCT_SIZE, "invalid_argument", "struct_size");
  EXPECT_STREQ(last_error().message,
               "struct_size of dlb_version_info is 3; expected sizeof(dlb_version_info), which is "
               "32");
  EXPECT_EQ(info.dlpack_major, 0);
  expect_invalid(dlb_version(nullptr), "dlb_version_info");
}

// ---- Handles, and the two structs

TEST(CApiTensor, OnlyReleaseTakesNull) {
  EXPECT_OK(dlb_tensor_release(nullptr));
  expect_invalid(dlb_tensor_retain(nullptr), "tensor");
  auto* managed = poison<DLManagedTensorVersioned>();
  expect_invalid(dlb_export(nullptr, &managed), "tensor");
  EXPECT_EQ(managed, nullptr);
  const auto* borrowed =
      static_cast<const DLManagedTensorVersioned*>(poison<DLManagedTensorVersioned>());
  expect_invalid(dlb_tensor_borrow(nullptr, &borrowed), "tensor");
  EXPECT_EQ(borrowed, nullptr);
}

TEST(CApiTensor, BorrowsItsDescriptor) {
  for (const int32_t rank : {0, 2, 9}) {
    VersionedProducer producer;
    producer.set_layout(std::vector<int64_t>(static_cast<size_t>(rank), 1),
                        std::vector<int64_t>(static_cast<size_t>(rank), 1));
    producer.tensor().device.device_id = 5;
    producer.tensor().byte_offset = 8;
    producer.get()->flags = kIsCopied | 1u << 20;
    dlb_tensor* tensor = adopted(producer);
    const DLManagedTensorVersioned* borrowed = nullptr;
    ASSERT_OK(dlb_tensor_borrow(tensor, &borrowed));
    EXPECT_EQ(borrowed->deleter, nullptr);
    EXPECT_EQ(borrowed->flags, kIsCopied);
    EXPECT_EQ(borrowed->dl_tensor.data, producer.values() + 2);
    EXPECT_EQ(borrowed->dl_tensor.device.device_id, 0);
    EXPECT_EQ(borrowed->dl_tensor.ndim, rank);
    for (int32_t i = 0; i < rank; ++i) EXPECT_EQ(borrowed->dl_tensor.shape[i], 1);
    EXPECT_OK(dlb_validate(borrowed));
    EXPECT_OK(dlb_tensor_release(tensor));
    EXPECT_EQ(producer.deletions(), 1);
  }
}

TEST(CApiTensor, FlagsSurviveAnExport) {
  VersionedProducer producer;
  producer.get()->flags = kReadOnly | kIsCopied;
  dlb_tensor* tensor = adopted(producer);
  DLManagedTensorVersioned* exported = nullptr;
  ASSERT_OK(dlb_export(tensor, &exported));
  EXPECT_EQ(exported->flags, kReadOnly | kIsCopied);
  EXPECT_EQ(exported->version.major, 1u);
  EXPECT_EQ(exported->version.minor, 3u);
  exported->deleter(exported);
  dlb_tensor_release(tensor);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(CApiTensor, DropsOnAnyThread) {
  VersionedProducer producer;
  dlb_tensor* tensor = adopted(producer);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      ASSERT_OK(dlb_tensor_retain(tensor));
      threads.emplace_back([tensor] {
        for (int k = 0; k < 200; ++k) {
          DLManagedTensorVersioned* exported = nullptr;
          ASSERT_OK(dlb_export(tensor, &exported));
          exported->deleter(exported);
        }
        dlb_tensor_release(tensor);
      });
    }
    dlb_tensor_release(tensor);
  }
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(CApiConvert, LegacyRefusesFlags) {
  struct Row {
    uint64_t flags;
    DLDataType dtype;
    const char* code;
    const char* field;
  };
  for (const Row& row : {Row{kReadOnly, {kDLFloat, 32, 1}, "read_only", "flags"},
                         Row{kSubbytePadded, {kDLInt, 4, 1}, "unsupported_dtype", "dtype"}}) {
    VersionedProducer producer;
    producer.tensor().dtype = row.dtype;
    producer.get()->flags = row.flags;
    auto* legacy = poison<DLManagedTensor>();
    expect_failure(dlb_to_legacy(producer.get(), &legacy), DLBRIDGE_REFUSED, row.code, row.field);
    EXPECT_EQ(legacy, nullptr);
    dlb_tensor* tensor = adopted(producer);
    legacy = poison<DLManagedTensor>();
    expect_failure(dlb_export_legacy(tensor, &legacy), DLBRIDGE_REFUSED, row.code, row.field);
    EXPECT_EQ(legacy, nullptr);
    EXPECT_EQ(producer.deletions(), 0);
    dlb_tensor_release(tensor);
    EXPECT_EQ(producer.deletions(), 1);
  }
}

TEST(CApiConvert, RoundTripKeepsTheMemory) {
  LegacyProducer producer;
  producer.tensor().byte_offset = 4;
  producer.set_layout({2}, {-1});
  producer.tensor().data = producer.values() + 1;
  DLManagedTensorVersioned* versioned = nullptr;
  ASSERT_OK(dlb_to_versioned(producer.get(), DLBRIDGE_ACCESS_WRITABLE, &versioned));
  EXPECT_EQ(versioned->flags, 0u);
  EXPECT_EQ(versioned->dl_tensor.data, producer.values() + 2);
  EXPECT_EQ(versioned->dl_tensor.byte_offset, 0u);
  EXPECT_EQ(versioned->dl_tensor.strides[0], -1);
  DLManagedTensor* legacy = nullptr;
  ASSERT_OK(dlb_to_legacy(versioned, &legacy));
  EXPECT_EQ(legacy->dl_tensor.data, producer.values() + 2);
  EXPECT_EQ(producer.deletions(), 0);
  legacy->deleter(legacy);
  EXPECT_EQ(producer.deletions(), 1);
}

TEST(CApiConvert, AccessIsTheCallers) {
  for (const int32_t access :
       {DLBRIDGE_ACCESS_WRITABLE, DLBRIDGE_ACCESS_READ_ONLY, DLBRIDGE_ACCESS_UNKNOWN}) {
    const uint64_t flags = access == DLBRIDGE_ACCESS_WRITABLE ? 0u : uint64_t{kReadOnly};
    LegacyProducer first;
    DLManagedTensorVersioned* versioned = nullptr;
    ASSERT_OK(dlb_to_versioned(first.get(), access, &versioned));
    EXPECT_EQ(versioned->flags, flags);
    versioned->deleter(versioned);
    LegacyProducer second;
    dlb_tensor* tensor = nullptr;
    ASSERT_OK(dlb_adopt_legacy(second.get(), access, &tensor));
    ASSERT_OK(dlb_export(tensor, &versioned));
    EXPECT_EQ(versioned->flags, flags);
    versioned->deleter(versioned);
    dlb_tensor_release(tensor);
    EXPECT_EQ(second.deletions(), 1);
  }
  LegacyProducer producer;
  for (const int32_t access : {-1, 3}) {
    auto* versioned = poison<DLManagedTensorVersioned>();
    expect_invalid(dlb_to_versioned(producer.get(), access, &versioned), "access");
    EXPECT_EQ(versioned, nullptr);
    auto* tensor = poison<dlb_tensor>();
    expect_invalid(dlb_adopt_legacy(producer.get(), access, &tensor), "access");
    EXPECT_EQ(tensor, nullptr);
  }
  EXPECT_EQ(producer.deletions(), 0);
}

// ---- copy

TEST(CApiCopy, CopiesBetweenLayouts) {
  VersionedProducer source;
  VersionedProducer destination;
  std::fill_n(destination.values(), 6, -1.0f);
  destination.set_layout({2, 3}, {1, 2});
  ASSERT_OK(dlb_copy(source.get(), destination.get()));
  const std::vector<float> expected = {0, 3, 1, 4, 2, 5};
  EXPECT_EQ(std::vector<float>(destination.values(), destination.values() + 6), expected);
  EXPECT_EQ(source.deletions() + destination.deletions(), 0);
}

TEST(CApiCopy, RefusesBeforeWriting) {
  struct Row {
    const char* code;
    std::function<void(VersionedProducer&, VersionedProducer&)> spoil;
  };
  const Row rows[] = {
      {"shape_mismatch", [](auto&, auto& d) { d.set_layout({3, 2}, {2, 1}); }},
      {"unsupported_device", [](auto&, auto& d) { d.tensor().device.device_type = kDLCUDA; }},
      {"overlap", [](auto& s, auto& d) { s.tensor().data = d.values(); }},
  };
  for (const Row& row : rows) {
    VersionedProducer source;
    VersionedProducer destination;
    std::fill_n(destination.values(), 6, -1.0f);
    row.spoil(source, destination);
    EXPECT_EQ(dlb_copy(source.get(), destination.get()), DLBRIDGE_REFUSED) << row.code;
    EXPECT_STREQ(last_error().code, row.code);
    EXPECT_EQ(std::vector<float>(destination.values(), destination.values() + 6),
              std::vector<float>(6, -1.0f));
  }
}

TEST(CApiCopy, ReadsReadOnlySources) {
  VersionedProducer producer;
  producer.get()->flags = kReadOnly;
  dlb_tensor* tensor = adopted(producer);
  const DLManagedTensorVersioned* source = nullptr;
  ASSERT_OK(dlb_tensor_borrow(tensor, &source));
  VersionedProducer destination;
  std::fill_n(destination.values(), 6, -1.0f);
  ASSERT_OK(dlb_copy(source, destination.get()));
  EXPECT_EQ(destination.values()[5], 5.0f);
  expect_failure(dlb_copy(destination.get(), source), DLBRIDGE_REFUSED, "read_only", "flags");
  dlb_tensor_release(tensor);
}

// ---- The last error

TEST(CApiLastError, StartsEmpty) {
  std::jthread([] {
    const dlb_error error = last_error();
    EXPECT_OK(error.status);
    EXPECT_STREQ(error.code, "");
    EXPECT_STREQ(error.field, "");
    EXPECT_STREQ(error.message, "");
  }).join();
}

TEST(CApiLastError, BelongsToItsThread) {
  DLDataType dtype{};
  ASSERT_NE(dlb_dtype_parse("mine", &dtype), DLBRIDGE_OK);
  std::jthread([] {
    EXPECT_NE(dlb_validate(nullptr), DLBRIDGE_OK);
    EXPECT_STREQ(last_error().code, "null_descriptor");
  }).join();
  EXPECT_STREQ(last_error().code, "invalid_dtype");
  EXPECT_NE(std::string(last_error().message).find("\"mine\""), std::string::npos);
}

TEST(CApiLastError, SurvivesSuccess) {
  EXPECT_NE(dlb_validate(nullptr), DLBRIDGE_OK);
  DLDataType dtype{};
  EXPECT_OK(dlb_dtype_parse("int8", &dtype));
  EXPECT_EQ(dlb_last_error(nullptr), DLBRIDGE_INVALID_ARGUMENT);
  dlb_error wrong{};
  EXPECT_EQ(dlb_last_error(&wrong), DLBRIDGE_WRONG_STRUCT_SIZE);
  EXPECT_STREQ(last_error().code, "null_descriptor");
}

TEST(CApiLastError, CutsLongTexts) {
  DLDataType dtype{};
  EXPECT_EQ(dlb_dtype_parse(std::string(5000, 'x').c_str(), &dtype), DLBRIDGE_INVALID_ARGUMENT);
  EXPECT_EQ(std::strlen(last_error().message), 1023u);
}

}  // namespace
}  // namespace dlbridge
