#include "quip/backend/device_work.hpp"

#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::device_work_test {
namespace {

constexpr index_t mib = index_t{1} << 20;

TEST(HessianPieces, FitAndAreAsLargeAsTheyMay) {
  const HessianPieces whole = pieces_within(5000, 100'000, std::size_t{64} << 30);
  EXPECT_EQ(whole.edge, 5056);  // the next multiple of 64
  EXPECT_EQ(whole.tokens, 8192);
  for (const index_t room : {4 * mib, 20 * mib, 100 * mib, 1000 * mib}) {
    const HessianPieces pieces = pieces_within(50'000, 100'000, static_cast<std::size_t>(room));
    EXPECT_LE(pieces.bytes(), room);
    EXPECT_GT(pieces.bytes(), room / 8);
  }
  EXPECT_THROW((void)pieces_within(50'000, 100'000, std::size_t{mib}), Error);
}

// By hand: 256² sums of 8 bytes and three products of 4; two sides of two slices of 256 tokens and
// a sum of 8 bytes.
TEST(HessianPieces, TakeWhatTheyHold) {
  EXPECT_EQ((HessianPieces{256, 256}.bytes()), 256 * 256 * 20 + 2 * 256 * (2 * 256 + 8));
}

// n = 300: block columns of 128, 128 and 44, with 300, 172 and 44 rows.
TEST(RoundingBytes, CountThePanelsOfAMethod) {
  constexpr index_t panels = (300 * 128 + 172 * 128 + 44 * 44) * 4 + 300 * 8;
  LayerOptions options = scalar_options();
  options.method = Method::ldlq;
  options.passes = 0;
  EXPECT_EQ(rounding_panel_bytes(300, options), panels);
  options.method = Method::optq;
  EXPECT_EQ(rounding_panel_bytes(300, options), 2 * panels);
  options.method = Method::ldlq;
  options.passes = 2;
  EXPECT_EQ(rounding_panel_bytes(300, options), 2 * panels);
}

// Seven rows, moved once, and 20 lanes of coordinates, levels, errors, a block of 128 and two
// losses.
TEST(RoundingBytes, CountWhatIsHeldWhole) {
  const LayerOptions options = scalar_options();
  EXPECT_EQ(rounding_bytes(300, options, 7, 20) - rounding_panel_bytes(300, options),
            2 * 7 * 300 * 4 + 20 * ((3 * 300 + 128) * 4 + 2 * 8));
}

// By hand, at 2 bits: states of 2 bytes; tables of 8 bytes a state; two tiles of 16 rows, for each
// of which a block keeps 65 rows of 16384 costs of 2 bytes, twice.
TEST(RoundingBytes, CountWhatASearchForStatesKeeps) {
  LayerOptions options = scalar_options();
  const index_t scalar_row = rounding_lane_bytes(256, options);
  const index_t scalar = rounding_bytes(256, options, 32, 0);
  options.codebook = CodebookKind::trellis;
  EXPECT_EQ(rounding_lane_bytes(256, options), scalar_row + 256 * 2);
  EXPECT_EQ(rounding_bytes(256, options, 32, 0),
            scalar + 65536 * 8 + 2 * (2 * 65 * index_t{16384} * 2));
}

// By hand, 130 × 200 at 3 bits, padded to 256 × 256: the codes, values of states, scales.
TEST(DequantizeBytes, CountValuesAndScalesOfATrellis) {
  LayerOptions options;
  options.codebook = CodebookKind::trellis;
  options.bits = 3;
  EXPECT_EQ(dequantize_bytes(130, 200, options), 256 * 256 * 3 / 8 + (65536 + 256 + 256) * 4);
}

// By hand, 6 × 12 at 3 bits: rows of 5 bytes; one grid of two floats; D̃. U is of 2 · 3 with one
// permutation, V of 3 · 4 with two; weights take turns.
TEST(DequantizeBytes, CountCodesFactorsAndTheSecondMatrix) {
  LayerOptions options = scalar_options();
  options.bits = 3;
  options.transform = TransformKind::kronecker;
  EXPECT_EQ(dequantize_bytes(6, 12, options),
            6 * 5 + 2 * 4 + 12 * 4 + 6 * 12 * 4 + (4 + 9) * 4 + 6 * 8 + (9 + 16) * 4 + 2 * 12 * 8);
  options.processing = Processing::baseline;  // a grid for each row and four columns, nothing else
  options.transform.reset();
  options.group_size = 4;
  EXPECT_EQ(dequantize_bytes(6, 12, options), 6 * 5 + 6 * 3 * 2 * 4);
}

TEST(Bf16, RowsBeginAtSixteenBytes) {
  EXPECT_EQ(bf16_ld(1), 8);
  EXPECT_EQ(bf16_ld(64), 64);
  EXPECT_EQ(bf16_bytes(3, 65), 3 * 72 * 2);
}

}  // namespace
}  // namespace quip::device_work_test
