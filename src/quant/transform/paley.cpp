// Paley's Hadamard matrices from the quadratic residues modulo a prime q.
#include <vector>

#include "quip/quant/transform/hadamard.hpp"

namespace quip {
namespace {

bool is_prime(index_t n) {
  if (n < 2) return false;
  for (index_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

/// Returns χ(a) for a = 0 … q−1: 0 for 0, +1 for nonzero squares modulo q, −1 for the others.
std::vector<double> quadratic_character(index_t q) {
  std::vector<double> chi(at(q), -1.0);
  for (index_t a = 1; a < q; ++a) chi[at(a * a % q)] = 1.0;
  chi[0] = 0.0;
  return chi;
}

/// Returns the bordered Jacobsthal matrix [0 1ᵀ; ±1 χ(i−j)] of order q+1, a conference matrix C: C
/// Cᵀ = q I, with the sign that makes it symmetric (q ≡ 1 mod 4) or skew (q ≡ 3 mod 4).
Matrix<double> conference_matrix(index_t q) {
  const std::vector<double> chi = quadratic_character(q);
  Matrix<double> c(q + 1, q + 1, 0.0);
  for (index_t i = 1; i <= q; ++i) {
    c(0, i) = 1.0;
    c(i, 0) = q % 4 == 1 ? 1.0 : -1.0;
    for (index_t j = 1; j <= q; ++j) {
      c(i, j) = chi[at((i - j + q) % q)];
    }
  }
  return c;
}

/// Returns I + C for skew C.
Matrix<double> first_construction(index_t q) {
  Matrix<double> h = conference_matrix(q);
  for (index_t i = 0; i <= q; ++i) h(i, i) += 1.0;
  return h;
}

/// Returns C ⊗ [1 1; 1 −1] + I ⊗ [1 −1; −1 −1] for symmetric C.
Matrix<double> second_construction(index_t q) {
  const Matrix<double> c = conference_matrix(q);
  Matrix<double> h(2 * (q + 1), 2 * (q + 1));
  for (index_t i = 0; i <= q; ++i) {
    for (index_t j = 0; j <= q; ++j) {
      const double same = i == j ? 1.0 : 0.0;
      h(2 * i, 2 * j) = c(i, j) + same;
      h(2 * i, 2 * j + 1) = c(i, j) - same;
      h(2 * i + 1, 2 * j) = c(i, j) - same;
      h(2 * i + 1, 2 * j + 1) = -c(i, j) - same;
    }
  }
  return h;
}

}  // namespace

std::optional<Matrix<double>> paley_hadamard(index_t b) {
  if (b % 4 == 0 && is_prime(b - 1)) return first_construction(b - 1);
  const index_t q = b / 2 - 1;
  if (b % 4 == 0 && q % 4 == 1 && is_prime(q)) return second_construction(q);
  return std::nullopt;
}

}  // namespace quip
