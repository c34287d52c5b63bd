// SPDX-License-Identifier: Apache-2.0
// Whether a wrong copy would be noticed.
#include "pattern.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "raw_cuda.h"

namespace dlbridge::bars {
namespace {

constexpr uint32_t kSeed = 5;
constexpr DLDevice kHost{kDLCPU, 0};

struct Buffer {
  explicit Buffer(int64_t bytes) : words(static_cast<size_t>(bytes / 4)) {}
  void* data() { return words.data(); }
  std::vector<uint32_t> words;
};

TEST(Pattern, KnowsItsOwnContent) {
  const Shape shape = Shape::flat(100'000);
  Buffer buffer(shape.bytes());
  fill_host(buffer.data(), shape.bytes(), kSeed);
  const TensorView view = shape.view(kHost, buffer.data());
  EXPECT_NO_THROW(expect_content(view, view, kSeed, Look::thorough));
  EXPECT_NO_THROW(expect_content(view, view, kSeed, Look::pages));
  EXPECT_THROW(expect_content(view, view, kSeed + 1, Look::pages), std::runtime_error);
}

TEST(Pattern, SeesOneWrongElement) {
  const Shape shape = Shape::flat(40'000);
  Buffer buffer(shape.bytes());
  const TensorView view = shape.view(kHost, buffer.data());
  for (const size_t wrong : {size_t{0}, size_t{1}, size_t{5000}, size_t{9999}}) {
    fill_host(buffer.data(), shape.bytes(), kSeed);
    buffer.words[wrong] ^= 1;
    EXPECT_THROW(expect_content(view, view, kSeed, Look::thorough), std::runtime_error) << wrong;
  }
}

TEST(Pattern, AlwaysLooksAtTheLastElement) {
  const Shape shape = Shape::flat(4 * 1500);
  Buffer buffer(shape.bytes());
  fill_host(buffer.data(), shape.bytes(), kSeed);
  buffer.words.back() = 0;
  const TensorView view = shape.view(kHost, buffer.data());
  EXPECT_THROW(expect_content(view, view, kSeed, Look::pages), std::runtime_error);
}

TEST(Pattern, SeesAMissingPage) {
  const Shape shape = Shape::flat(16 * 4096);
  Buffer buffer(shape.bytes());
  const TensorView view = shape.view(kHost, buffer.data());
  for (size_t page = 0; page < 16; ++page) {
    fill_host(buffer.data(), shape.bytes(), kSeed);
    for (size_t i = 0; i < 1024; ++i) buffer.words[page * 1024 + i] = 0;
    EXPECT_THROW(expect_content(view, view, kSeed, Look::pages), std::runtime_error) << page;
  }
}

TEST(Pattern, SpoiltContentIsSeenByBothLooks) {
  for (const int64_t bytes :
       {int64_t{4}, int64_t{256}, int64_t{4092}, int64_t{8188}, int64_t{65536}}) {
    const Shape shape = Shape::flat(bytes);
    Buffer buffer(bytes);
    fill_host(buffer.data(), bytes, kSeed);
    const TensorView view = shape.view(kHost, buffer.data());
    spoil(view);
    EXPECT_THROW(expect_content(view, view, kSeed, Look::pages), std::runtime_error) << bytes;
    EXPECT_THROW(expect_content(view, view, kSeed, Look::thorough), std::runtime_error) << bytes;
  }
}

// The source is described where it lies, whatever the layout of what arrived.
template <typename Element>
void expect_layouts_told_apart(DLDataType dtype) {
  constexpr int64_t kRows = 96;
  constexpr int64_t kColumns = 64;
  constexpr int64_t kBytes = kRows * kColumns * static_cast<int64_t>(sizeof(Element));
  Buffer memory(kBytes);
  fill_host(memory.data(), kBytes, kSeed);
  const auto* source = static_cast<const Element*>(memory.data());
  const Shape transposed({kColumns, kRows}, {1, kColumns}, dtype);
  const Shape row_major({kColumns, kRows}, dtype);
  std::vector<Element> copied(kRows * kColumns);
  for (int64_t i = 0; i < kColumns; ++i)
    for (int64_t j = 0; j < kRows; ++j)
      copied[static_cast<size_t>(i * kRows + j)] = source[i + j * kColumns];
  const TensorView from = transposed.view(kHost, memory.data());
  const TensorView got = row_major.view(kHost, copied.data());
  EXPECT_NO_THROW(expect_content(got, from, kSeed, Look::thorough));
  const TensorView not_transposed = row_major.view(kHost, memory.data());
  EXPECT_THROW(expect_content(not_transposed, from, kSeed, Look::thorough), std::runtime_error);
}

TEST(Pattern, TellsATransposeFromItsSource) {
  expect_layouts_told_apart<uint32_t>(kWord);
  expect_layouts_told_apart<uint16_t>({kDLUInt, 16, 1});
}

TEST(FirstThorough, IsThoroughOnce) {
  FirstThorough looks;
  EXPECT_EQ(looks.next(), Look::thorough);
  EXPECT_EQ(looks.next(), Look::pages);
  EXPECT_EQ(looks.next(), Look::pages);
}

}  // namespace
}  // namespace dlbridge::bars
