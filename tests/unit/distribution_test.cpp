// Block-cyclic index arithmetic, against tables made by hand and counting one by one.
#include "quip/linalg/distribution.hpp"

#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::distribution_test {
namespace {

TEST(CyclicAxis, DealsTenIndicesInBlocksOfThreeToTwo) {
  // 0 1 2 | 3 4 5 | 6 7 8 | 9: blocks 0 and 2 to the first process, 1 and 3 to the second.
  const CyclicAxis axis{10, 3, 2};
  EXPECT_EQ(axis.blocks(), 4);
  EXPECT_EQ(axis.width(2), 3);
  EXPECT_EQ(axis.width(3), 1);
  EXPECT_EQ(axis.owner(2), 0);
  EXPECT_EQ(axis.owner(3), 1);
  EXPECT_EQ(axis.local_block(2), 1);
  EXPECT_EQ(axis.global_block(1, 1), 3);
  EXPECT_EQ(axis.extent_of(0), 6);
  EXPECT_EQ(axis.extent_of(1), 4);
  EXPECT_EQ(axis.blocks_of(0, 1), 1);
  EXPECT_EQ(axis.extent_of(1, 2), 1);
  EXPECT_EQ(axis.extent_of(1, 4), 0);
}

TEST(CyclicAxis, CountsLikeOneByOne) {
  for (const index_t n : {1, 7, 128, 129, 1000}) {
    for (const index_t block : {1, 3, 64, 128}) {
      for (const int processes : {1, 2, 3, 5, 9}) {
        const CyclicAxis axis{n, block, processes};
        for (index_t first = 0; first <= axis.blocks(); first += 1 + axis.blocks() / 3) {
          std::vector<index_t> extents(static_cast<std::size_t>(processes), 0);
          std::vector<std::set<index_t>> blocks(static_cast<std::size_t>(processes));
          for (index_t i = first * block; i < n; ++i) {
            const auto p = static_cast<std::size_t>((i / block) % processes);
            ++extents[p];
            blocks[p].insert(i / block);
          }
          for (int p = 0; p < processes; ++p) {
            const auto at = static_cast<std::size_t>(p);
            ASSERT_EQ(axis.extent_of(p, first), extents[at]) << n << ' ' << block << ' ' << p;
            ASSERT_EQ(axis.blocks_of(p, first), std::ssize(blocks[at]));
          }
        }
      }
    }
  }
}

TEST(BlockCyclic, OwnersOfAMatrixOnThreeByTwo) {
  const BlockCyclic layout(1000, 128, {3, 2});  // 8 × 8 blocks
  // Ranks row by row: (0,0)=0 (0,1)=1 / (1,0)=2 (1,1)=3 / (2,0)=4 (2,1)=5.
  EXPECT_EQ(layout.owner(0, 0), 0);
  EXPECT_EQ(layout.owner(4, 3), 3);
  EXPECT_EQ(layout.owner(5, 7), 5);
  EXPECT_EQ(layout.owner(7, 6), 2);
}

TEST(GridShape, IsAsSquareAsTheRanksAllow) {
  EXPECT_EQ(to_string(choose_grid_shape(1, 100)), "1x1");
  EXPECT_EQ(to_string(choose_grid_shape(2, 100)), "2x1");
  EXPECT_EQ(to_string(choose_grid_shape(4, 100)), "2x2");
  EXPECT_EQ(to_string(choose_grid_shape(6, 100)), "3x2");
  EXPECT_EQ(to_string(choose_grid_shape(7, 100)), "7x1");
  EXPECT_EQ(to_string(choose_grid_shape(12, 100)), "4x3");
  EXPECT_EQ(to_string(choose_grid_shape(7, 3)), "3x2");  // no dimension beyond the blocks
  EXPECT_EQ(to_string(choose_grid_shape(64, 1)), "1x1");
}

TEST(GridShape, IsReadFromText) {
  EXPECT_EQ(parse_grid_shape("3x2"), (GridShape{3, 2}));
  for (const char* text : {"", "x", "3", "0x2", "2x-1", "2x2x2", "2x", "axb", "2 x 2"}) {
    EXPECT_THROW(static_cast<void>(parse_grid_shape(text)), Error) << text;
  }
}

}  // namespace
}  // namespace quip::distribution_test
