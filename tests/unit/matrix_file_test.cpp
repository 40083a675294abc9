// What a failing layer leaves behind is what quantize-layer reads.
#include "quip/io/matrix_file.hpp"

#include "support/store_fixture.hpp"
#include <gtest/gtest.h>

#include "quip/core/error.hpp"

namespace quip::matrix_file_test {
namespace {

TEST(LayerProblem, ComesBackWholeWithBothTriangles) {
  const test::TemporaryFolder folder;
  Matrix<float> w(2, 3);
  for (index_t i = 0; i < w.size(); ++i) w.data()[i] = 0.5F * static_cast<float>(i);
  Matrix<double> h(3, 3, -7.0);  // what lies above the diagonal is not part of H
  for (index_t i = 0; i < 3; ++i) {
    for (index_t j = 0; j <= i; ++j) h(i, j) = static_cast<double>(10 * i + j);
  }
  const auto file = folder.path() / "failed" / "model.layers.0.q_proj.h5";
  write_layer_problem(file, "model.layers.0.q_proj", w.cview(), h.cview());

  const Matrix<double> weights = read_matrix(file.string() + ":weights");
  ASSERT_EQ(weights.rows(), 2);
  ASSERT_EQ(weights.cols(), 3);
  for (index_t i = 0; i < w.size(); ++i) EXPECT_EQ(weights.data()[i], w.data()[i]);
  const Matrix<double> hessian = read_matrix(file.string() + ":hessian");
  for (index_t i = 0; i < 3; ++i) {
    for (index_t j = 0; j <= i; ++j) {
      EXPECT_EQ(hessian(i, j), static_cast<double>(10 * i + j));
      EXPECT_EQ(hessian(j, i), hessian(i, j));
    }
  }
}

TEST(ReadMatrix, SaysHowToNameAMatrix) {
  try {
    static_cast<void>(read_matrix("weights.bin"));
    FAIL() << "read a file of no known kind";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("FILE.npy or FILE.h5:DATASET"), std::string::npos);
  }
}

}  // namespace
}  // namespace quip::matrix_file_test
