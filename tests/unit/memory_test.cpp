// The account of what matrices take, against sizes known beforehand.
#include "quip/core/memory.hpp"

#include <utility>

#include <gtest/gtest.h>

#include "quip/core/matrix.hpp"

namespace quip::memory_test {
namespace {

TEST(HeldMemory, FollowsMatricesThroughTheirLives) {
  const std::int64_t before = HeldMemory::now();
  HeldMemory::restart_peak();
  {
    Matrix<double> a(100, 64);  // 51200 bytes, a multiple of the alignment
    EXPECT_EQ(HeldMemory::now() - before, 51200);
    Matrix<double> b = std::move(a);
    EXPECT_EQ(HeldMemory::now() - before, 51200);
    b = Matrix<double>(10, 64);  // both are there for a moment
    EXPECT_EQ(HeldMemory::now() - before, 5120);
    const Buffer<float> odd(3);  // in whole cache lines
    EXPECT_EQ(HeldMemory::now() - before, 5120 + 64);
    const Buffer<float> nothing(0);
    EXPECT_EQ(HeldMemory::now() - before, 5120 + 64);
  }
  EXPECT_EQ(HeldMemory::now(), before);
  EXPECT_EQ(HeldMemory::peak() - before, 51200 + 5120);
  HeldMemory::restart_peak();
  EXPECT_EQ(HeldMemory::peak(), HeldMemory::now());
}

}  // namespace
}  // namespace quip::memory_test
