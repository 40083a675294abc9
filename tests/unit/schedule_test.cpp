// What each rank sends in a collective, against sums by hand.
#include "quip/comm/schedule.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "quip/calib/hessian.hpp"
#include "quip/comm/collectives.hpp"

namespace quip::schedule_test {
namespace {

constexpr index_t mib = index_t{1} << 20;

template <typename Sent>
index_t over_ranks(int size, const Sent& sent) {
  index_t total = 0;
  for (int rank = 0; rank < size; ++rank) total += sent(rank);
  return total;
}

TEST(Schedule, OneRankSendsNothing) {
  EXPECT_EQ(sent_by_sum(mib, 0, 1), 0);
  EXPECT_EQ(sent_by_maximum(mib, 1), 0);
  EXPECT_EQ(sent_by_broadcast(mib, 0, 0, 1), 0);
  EXPECT_EQ(sent_by_gather(std::vector<index_t>{0, mib}, 0, 1), 0);
}

// A sum is dealt out and gathered: each of P·(P−1) pairs of ranks carries a share twice, however
// uneven the shares.
TEST(Schedule, SumMovesTwiceThePayload) {
  for (const int size : {2, 3, 4, 7, 64}) {
    for (const index_t count : {index_t{1} << 15, index_t{100'003}, 3 * mib + 1}) {
      const index_t total = over_ranks(size, [&](int r) { return sent_by_sum(count, r, size); });
      EXPECT_EQ(total, 2 * 8 * count * (size - 1)) << size << " ranks, " << count;
    }
  }
  // 10 doubles: MPI's own all-reduce, at least 2·(P−1)/P of 80 bytes.
  EXPECT_EQ(sent_by_sum(10, 1, 4), 120);
  EXPECT_EQ(sent_by_maximum(4, 4), 6);
}

TEST(Schedule, UnevenSharesOfASum) {
  // 32770 doubles on 4 ranks: shares of 8193, 8193, 8192, 8192; each sends the others' shares,
  // then its own three times.
  EXPECT_EQ(sent_by_sum(32770, 0, 4), 8 * (32770 - 8193 + 3 * 8193));
  EXPECT_EQ(sent_by_sum(32770, 3, 4), 8 * (32770 - 8192 + 3 * 8192));
}

TEST(Schedule, Broadcast) {
  EXPECT_EQ(sent_by_broadcast(1000, 2, 2, 5), 4000);  // small: all from the root
  EXPECT_EQ(sent_by_broadcast(1000, 2, 0, 5), 0);
  EXPECT_EQ(sent_by_broadcast(8 * mib, 0, 0, 3), 16 * mib);  // a flat tree of three
  // By shares of 2 MiB: the root deals out three, then all send theirs to three others.
  EXPECT_EQ(sent_by_broadcast(8 * mib, 1, 1, 4), 12 * mib);
  EXPECT_EQ(sent_by_broadcast(8 * mib, 1, 0, 4), 6 * mib);
  // In pieces of 4 MiB with a rest.
  EXPECT_EQ(sent_by_broadcast(9 * mib, 1, 0, 4), 27 * mib / 4);
}

TEST(Schedule, Gather) {
  const std::vector<index_t> offsets{0, 10, 10, 40};
  EXPECT_EQ(sent_by_gather(offsets, 0, 3), 20);
  EXPECT_EQ(sent_by_gather(offsets, 1, 3), 0);
  EXPECT_EQ(sent_by_gather(offsets, 2, 3), 60);
  // Beyond 1 GiB the ranks broadcast their parts in turn: on 2 ranks directly.
  const std::vector<index_t> large{0, 700 * mib, 1400 * mib};
  EXPECT_EQ(sent_by_gather(large, 0, 2), 700 * mib);
  // On 4 ranks by shares of each part, with another root each time.
  const std::vector<index_t> four{0, 400 * mib, 800 * mib, 1200 * mib, 1600 * mib};
  EXPECT_EQ(sent_by_gather(four, 2, 4), 4 * 300 * mib + 300 * mib);
}

// 4096 channels: 8·4096·4097/2 bytes, a little over 64 MiB. All pieces of a large sum are long
// enough to go between devices, whatever is left over.
TEST(Schedule, HessiansAreSummedInFewLargePieces) {
  EXPECT_EQ(triangle_pieces(1), (std::vector<index_t>{0, 1}));
  EXPECT_EQ(triangle_pieces(4000), (std::vector<index_t>{0, 4000}));
  EXPECT_EQ(triangle_pieces(4096), (std::vector<index_t>{0, 2896, 4096}));
  for (const index_t n : {5120, 8192, 11008, 13824, 16384, 28672}) {
    const std::vector<index_t> pieces = triangle_pieces(n);
    EXPECT_EQ(pieces.back(), n);
    EXPECT_LE(std::ssize(pieces) - 1, n * (n + 1) * 4 / (64 * mib) + 1) << n;
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      const index_t bytes = 4 * (pieces[p + 1] * (pieces[p + 1] + 1) - pieces[p] * (pieces[p] + 1));
      EXPECT_GE(bytes, 32 * mib) << n << ' ' << p;
      EXPECT_LE(bytes, 64 * mib + 8 * n) << n << ' ' << p;
    }
  }
}

}  // namespace
}  // namespace quip::schedule_test
