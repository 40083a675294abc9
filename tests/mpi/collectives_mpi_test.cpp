#include <array>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "quip/comm/collectives.hpp"
#include "quip/comm/mpi_collectives.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip::collectives_mpi_test {
namespace {

class CollectivesMpiTest : public testing::Test {
 protected:
  MpiCollectives comm_;
};

TEST_F(CollectivesMpiTest, SumsAndMaxima) {
  std::vector<double> sum{1.0, static_cast<double>(comm_.rank())};
  comm_.all_reduce_sum(sum);
  EXPECT_EQ(sum[0], comm_.size());
  EXPECT_EQ(sum[1], comm_.size() * (comm_.size() - 1) / 2);
  std::vector<float> maximum{static_cast<float>(comm_.rank()), -1.0F};
  comm_.all_reduce_max(maximum);
  EXPECT_EQ(maximum[0], static_cast<float>(comm_.size() - 1));
  EXPECT_EQ(maximum[1], -1.0F);
}

// Devices are dealt out by machine, also where ranks have no memory in common.
TEST_F(CollectivesMpiTest, NumbersRanksOfAMachineApartFromItsNodes) {
  EXPECT_EQ(comm_.place().machine_rank, comm_.rank());
  const MpiCollectives alone(MPI_COMM_WORLD, 1);
  EXPECT_EQ(alone.place().rank, 0);
  EXPECT_EQ(alone.place().node, comm_.rank());
  EXPECT_EQ(alone.place().machine_rank, comm_.rank());
}

TEST_F(CollectivesMpiTest, GathersUnevenSharesInPlace) {
  for (const index_t count : {index_t{0}, index_t{1}, index_t{5}, index_t{1000}}) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(count), -1);
    const Range mine = share_of(count, comm_.rank(), comm_.size());
    for (index_t i = mine.first; i < mine.last; ++i) {
      all[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(3 * i);
    }
    comm_.all_gather_bytes(std::as_writable_bytes(std::span(all)),
                           share_offsets(count, comm_.size(), sizeof(std::int32_t)));
    for (index_t i = 0; i < count; ++i) EXPECT_EQ(all[static_cast<std::size_t>(i)], 3 * i);
  }
}

TEST_F(CollectivesMpiTest, ScattersSumsOverUnevenRanges) {
  const int size = comm_.size();
  for (const index_t unit : {index_t{0}, index_t{1}, index_t{1000}, index_t{150'001}}) {
    std::vector<index_t> offsets{0};  // rank r keeps r · unit elements: rank 0 none
    for (int r = 0; r < size; ++r) offsets.push_back(offsets.back() + r * unit);
    std::vector<double> values(static_cast<std::size_t>(offsets.back()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<double>(i) * (comm_.rank() + 1);
    }
    const index_t sent = UsageMeter::current().total().bytes_sent;
    comm_.reduce_scatter_sum(values, offsets);
    const auto first = static_cast<std::size_t>(offsets[static_cast<std::size_t>(comm_.rank())]);
    const auto last = static_cast<std::size_t>(offsets[static_cast<std::size_t>(comm_.rank()) + 1]);
    for (std::size_t i = first; i < last; ++i) {
      ASSERT_EQ(values[i], static_cast<double>(i) * size * (size + 1) / 2) << i << " of " << unit;
    }
    EXPECT_EQ(UsageMeter::current().total().bytes_sent - sent,
              static_cast<index_t>(8 * (values.size() - (last - first))));
  }
}

TEST_F(CollectivesMpiTest, EveryRankSendsEveryOtherItsOwn) {
  const int size = comm_.size();
  const int rank = comm_.rank();
  for (const index_t unit : {index_t{0}, index_t{1}, index_t{1000}, index_t{3'000'001}}) {
    // Rank r sends rank q (r + 2 q) mod 3 units: none to some, and unequally many.
    const auto count = [&](int from, int to) { return (from + 2 * to) % 3 * unit; };
    const auto value = [&](int from, int to, index_t i) {
      return static_cast<std::byte>((from * 7 + to * 31 + i) % 251);
    };
    std::vector<index_t> sends{0};
    std::vector<index_t> receives{0};
    for (int r = 0; r < size; ++r) {
      sends.push_back(sends.back() + count(rank, r));
      receives.push_back(receives.back() + count(r, rank));
    }
    std::vector<std::byte> sent(at(sends.back()));
    for (int r = 0; r < size; ++r) {
      for (index_t i = 0; i < count(rank, r); ++i) sent[at(sends[at(r)] + i)] = value(rank, r, i);
    }
    std::vector<std::byte> received(at(receives.back()));
    const index_t before = UsageMeter::current().total().bytes_sent;
    comm_.all_to_all_bytes(sent, sends, received, receives);
    for (int r = 0; r < size; ++r) {
      for (index_t i = 0; i < count(r, rank); ++i)
        ASSERT_EQ(received[at(receives[at(r)] + i)], value(r, rank, i)) << r << ' ' << i;
    }
    EXPECT_EQ(UsageMeter::current().total().bytes_sent - before,
              size == 1 ? 0 : sends.back() - count(rank, rank));
  }
}

/// Lengths on both sides of every switch of algorithm, and several pieces with a remainder.
constexpr std::array<std::size_t, 5> lengths{1, 32767, 32768, 200'003, 1'000'003};

TEST_F(CollectivesMpiTest, SumsOfAnyLength) {
  const int size = comm_.size();
  for (const std::size_t length : lengths) {
    std::vector<double> values(length);
    for (std::size_t i = 0; i < length; ++i) {
      values[i] = static_cast<double>(i) * (comm_.rank() + 1);
    }
    comm_.all_reduce_sum(values);
    for (std::size_t i = 0; i < length; ++i) {
      ASSERT_EQ(values[i], static_cast<double>(i) * size * (size + 1) / 2) << i << " of " << length;
    }
  }
}

TEST_F(CollectivesMpiTest, BroadcastsOfAnyLengthFromAnyRank) {
  for (const std::size_t length : lengths) {
    for (int root = 0; root < comm_.size(); ++root) {
      std::vector<std::int32_t> values(length, -1);
      if (comm_.rank() == root) std::iota(values.begin(), values.end(), root);
      comm_.broadcast(std::span(values), root);
      for (std::size_t i = 0; i < length; ++i) {
        ASSERT_EQ(values[i], static_cast<std::int32_t>(i) + root) << i << " of " << length;
      }
    }
  }
}

TEST_F(CollectivesMpiTest, BroadcastsStringsOfAnyLength) {
  for (int root = 0; root < comm_.size(); ++root) {
    std::string text = comm_.rank() == root ? "from " + std::to_string(root) : "something longer";
    comm_.broadcast(text, root);
    EXPECT_EQ(text, "from " + std::to_string(root));
  }
}

TEST_F(CollectivesMpiTest, CountsBytesOfAGather) {
  const index_t before = UsageMeter::current().total().bytes_sent;
  std::vector<std::byte> buffer(static_cast<std::size_t>(8 * comm_.size()));
  comm_.all_gather_bytes(buffer, share_offsets(8 * comm_.size(), comm_.size()));
  EXPECT_EQ(UsageMeter::current().total().bytes_sent - before, 8 * (comm_.size() - 1));
}

/// Bytes that all ranks together send in `operation`.
template <typename Operation>
double bytes_of_all(MpiCollectives& comm, const Operation& operation) {
  const index_t before = UsageMeter::current().total().bytes_sent;
  operation();
  auto sent = static_cast<double>(UsageMeter::current().total().bytes_sent - before);
  comm.all_reduce_sum(std::span(&sent, 1));
  return sent;
}

// Whoever sends it: what the others must receive.
TEST_F(CollectivesMpiTest, CountsBytesOfEveryCollective) {
  const auto others = static_cast<double>(comm_.size() - 1);
  std::vector<double> values(100'003, 1.0);
  EXPECT_EQ(bytes_of_all(comm_, [&] { comm_.all_reduce_sum(values); }), 2 * 8 * 100'003.0 * others);
  std::vector<std::byte> bytes(1000);
  EXPECT_EQ(bytes_of_all(comm_, [&] { comm_.broadcast_bytes(bytes, 0); }), 1000 * others);
  std::vector<float> maxima(6, 0.0F);  // 6: every rank's share of 2·24·(P−1) is whole
  EXPECT_EQ(bytes_of_all(comm_, [&] { comm_.all_reduce_max(maxima); }), 48 * others);
  EXPECT_EQ(bytes_of_all(comm_, [&] { comm_.barrier(); }), 0);
}

TEST_F(CollectivesMpiTest, TimeInCollectivesIsCounted) {
  const double before = UsageMeter::current().total().communication_seconds;
  if (comm_.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
  comm_.barrier();
  const double spent = UsageMeter::current().total().communication_seconds - before;
  if (comm_.rank() != 0) {
    EXPECT_GT(spent, 0.01);
  }
}

TEST_F(CollectivesMpiTest, GathersTexts) {
  const std::string mine(static_cast<std::size_t>(comm_.rank()), 'x');
  const std::vector<std::string> texts = comm_.gather(mine + "!");
  ASSERT_EQ(static_cast<int>(texts.size()), comm_.size());
  for (std::size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r], std::string(r, 'x') + "!");
}

TEST_F(CollectivesMpiTest, OneRanksFailureIsEveryRanksSameError) {
  const int culprit = comm_.size() - 1;
  try {
    agree(comm_, [&] {
      if (comm_.rank() == culprit) fail("broken on {}", culprit);
    });
    FAIL() << "agree() returned";
  } catch (const AgreedError& error) {
    EXPECT_EQ(std::string(error.what()), "broken on " + std::to_string(culprit));
  }
  agree(comm_, [] {});  // and the group still works
}

TEST_F(CollectivesMpiTest, TheLowestFailingRankSpeaks) {
  try {
    agree(comm_, [&] { fail("rank {}", comm_.rank()); });
    FAIL() << "agree() returned";
  } catch (const AgreedError& error) {
    EXPECT_STREQ(error.what(), "rank 0");
  }
}

TEST(ShareOf, IsContiguousBalancedAndComplete) {
  for (const index_t count : {index_t{0}, index_t{1}, index_t{7}, index_t{100}}) {
    for (const int size : {1, 2, 3, 8}) {
      index_t next = 0;
      for (int r = 0; r < size; ++r) {
        const Range share = share_of(count, r, size);
        EXPECT_EQ(share.first, next);
        EXPECT_GE(share.count(), count / size);
        EXPECT_LE(share.count(), (count + size - 1) / size);
        next = share.last;
      }
      EXPECT_EQ(next, count);
    }
  }
}

}  // namespace
}  // namespace quip::collectives_mpi_test
