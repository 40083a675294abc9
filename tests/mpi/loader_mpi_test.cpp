// Weights that the ranks of a node hold in common, with one, two or all ranks to a node.
#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "support/memory_source.hpp"
#include "support/one_layer.hpp"
#include "support/scalar_options.hpp"
#include <gtest/gtest.h>

#include "quip/comm/mpi_collectives.hpp"
#include "quip/comm/node_memory.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip::loader_mpi_test {
namespace {

/// Parameter: ranks per node; 0: as MPI finds them.
class LoaderMpiTest : public testing::TestWithParam<int> {
 protected:
  MpiCollectives comm_{MPI_COMM_WORLD, GetParam()};
  std::unique_ptr<Backend> backend_ = make_backend("cpu", 1);
};

/// Element i of a tensor of ours: exact in fp32, and different from its neighbours.
float element(index_t i) { return static_cast<float>(i % 8191) - 4000.0F; }

std::vector<float> elements(index_t count) {
  std::vector<float> values(at(count));
  for (index_t i = 0; i < count; ++i) values[at(i)] = element(i);
  return values;
}

TEST_P(LoaderMpiTest, PlacesAreConsistent) {
  const NodePlace place = comm_.place();
  const int per_node = GetParam() == 0 ? comm_.size() : GetParam();
  EXPECT_EQ(place.nodes, (comm_.size() + per_node - 1) / per_node);
  EXPECT_EQ(place.node, comm_.rank() / per_node);
  EXPECT_EQ(place.rank, comm_.rank() % per_node);
  EXPECT_EQ(comm_.why_not_shared(), "");
}

TEST_P(LoaderMpiTest, ATensorIsWholeOnEveryRank) {
  constexpr index_t rows = 517;
  constexpr index_t cols = 301;
  test::MemorySource source;
  source.set("w", {rows, cols}, elements(rows * cols));
  source.set("small", {cols}, elements(cols));
  const Tensor whole = load_tensor(comm_, *backend_, source, "w");
  const Tensor part = load_rows(comm_, *backend_, source, "w", {100, 450});
  const Tensor vector = load_tensor(comm_, *backend_, source, "small");
  ASSERT_EQ(whole.rows(), rows);
  ASSERT_EQ(part.rows(), 350);
  ASSERT_EQ(vector.rows(), 1);
  for (index_t i = 0; i < rows * cols; ++i) ASSERT_EQ(whole.cview().data[i], element(i)) << i;
  for (index_t i = 0; i < 350 * cols; ++i) {
    ASSERT_EQ(part.cview().data[i], element(100 * cols + i)) << i;
  }
  for (index_t i = 0; i < cols; ++i) ASSERT_EQ(vector.cview().data[i], element(i)) << i;
}

// Experts stacked in one tensor: rows that lie together, columns that lie together, and columns
// of which two matrices take every second element.
TEST_P(LoaderMpiTest, AMatrixIsTakenFromItsPlace) {
  constexpr index_t experts = 3;
  constexpr index_t rows = 151;
  constexpr index_t cols = 203;
  test::MemorySource source;
  source.set("w", {experts, rows * cols, 2}, elements(2 * experts * rows * cols));
  const std::vector<index_t> shape = source.info("w").shape;
  const std::vector<WeightHandle> places = {
      {"w", shape, 1000, cols},        {"w", shape, 2000, cols + 100},
      {"w", shape, 3000, 1, rows},     {"w", shape, 4000, 1, rows + 100},
      {"w", shape, 5001, 2, 2 * rows}, {"w", shape, 0, 2 * cols, 2}};
  for (const WeightHandle& place : places) {
    const Tensor loaded = load_matrix(comm_, *backend_, source, place, rows, cols);
    ASSERT_EQ(loaded.rows(), rows);
    ASSERT_EQ(loaded.cols(), cols);
    for (index_t i = 0; i < rows; ++i) {
      for (index_t j = 0; j < cols; ++j) {
        ASSERT_EQ(loaded.cview()(i, j),
                  element(place.offset + i * place.row_stride + j * place.column_stride))
            << i << ' ' << j << ' ' << place.offset;
      }
    }
  }
  WeightSet weights;
  load_into(weights, comm_, *backend_, source, {{"bias", {rows}, {{"w", shape, 7, 0, 2}}}});
  ASSERT_EQ(weights["bias"].rows, 1);
  for (index_t j = 0; j < rows; ++j) ASSERT_EQ(weights["bias"](0, j), element(7 + 2 * j));
}

TEST_P(LoaderMpiTest, ANotANumberIsNamedOnce) {
  std::vector<float> values = elements(100'000);
  values[99'999] = std::nanf("");
  test::MemorySource source;
  source.set("w", {100, 1000}, values);
  try {
    (void)load_tensor(comm_, *backend_, source, "w");
    FAIL() << "loaded";
  } catch (const AgreedError& error) {
    std::string first = error.what();
    EXPECT_NE(first.find("tensor w"), std::string::npos) << first;
    EXPECT_NE(first.find("99999"), std::string::npos) << first;
    comm_.broadcast(first, 0);
    EXPECT_EQ(first, error.what());
  }
}

// The bytes of a node exist once: proportional shares of all ranks add up to one copy.
TEST_P(LoaderMpiTest, MemoryOfANodeExistsOnce) {
  constexpr index_t bytes = index_t{48} << 20;
  const std::shared_ptr<std::byte> memory = allocate_on_node(comm_, bytes);
  const NodePlace place = comm_.place();
  const Range mine = share_of(bytes, place.rank, place.size);
  for (index_t i = mine.first; i < mine.last; ++i) {
    memory.get()[i] = static_cast<std::byte>(i % 251);
  }
  comm_.node_barrier();
  bool same = true;
  for (index_t i = 0; i < bytes; ++i) {
    same = same && memory.get()[i] == static_cast<std::byte>(i % 251);
  }
  EXPECT_TRUE(same);
  if (place.size == 1) return;  // a rank alone takes ordinary memory
  comm_.node_barrier();         // all have touched all of it
  std::ifstream smaps("/proc/self/smaps_rollup");
  std::optional<double> shared_kib;
  for (std::string line; std::getline(smaps, line);) {
    if (line.rfind("Pss_Shmem:", 0) == 0) shared_kib = std::stod(line.substr(10));
  }
  ASSERT_TRUE(shared_kib.has_value());
  // Open MPI's own shared memory is a few MiB.
  const double share = static_cast<double>(bytes) / 1024 / place.size;
  EXPECT_GE(*shared_kib, 0.99 * share);
  EXPECT_LE(*shared_kib, share + 8192);
  comm_.node_barrier();
}

TEST_P(LoaderMpiTest, DequantizesToTheBitsOfOneRank) {
  const Matrix<float> w = random_weights(96, 120, 5);
  LayerOptions options = scalar_options();
  options.bits = 3;
  SelfCollectives self;
  const PreparedLayer prepared =
      prepare_layer(w.cview(), random_hessian(120, 300, 6), options, "test");
  const StoredLayer stored = round_layer(self, "test", w.cview(), prepared, options);
  const Tensor together = load_dequantized(comm_, *backend_, stored.layer);
  const Matrix<float> alone = dequantize(stored.layer);
  for (index_t i = 0; i < alone.size(); ++i) {
    ASSERT_EQ(together.cview().data[i], alone.data()[i]) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(RanksPerNode, LoaderMpiTest, testing::Values(0, 1, 2));

}  // namespace
}  // namespace quip::loader_mpi_test
