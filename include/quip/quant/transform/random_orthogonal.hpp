// Haar-distributed orthogonal matrices, the small factors of every transform.
#pragma once

#include <cstdint>

#include "quip/core/matrix.hpp"

namespace quip {

/// Returns a Haar-distributed random orthogonal n × n matrix: QR of a Gaussian matrix, with the
/// signs of R's diagonal made positive. Its bits depend on `key` and n.
[[nodiscard]] Matrix<double> random_orthogonal(index_t n, std::uint64_t key);

[[nodiscard]] Matrix<float> to_single(const Matrix<double>& x);

/// n = p·q with p and q as close as n's prime factors allow; p ≤ q.
struct Factorization {
  index_t p = 1;
  index_t q = 1;
};
[[nodiscard]] Factorization balanced_factors(index_t n);

}  // namespace quip
