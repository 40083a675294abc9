// Weights and Hessians to round, and linear algebra from the textbook to check against.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/core/rng.hpp"

namespace quip::test {

template <typename T>
Matrix<T> copy_of(const Matrix<T>& a) {
  Matrix<T> out(a.rows(), a.cols());
  std::copy_n(a.data(), a.size(), out.data());
  return out;
}

inline Matrix<float> gaussian_weights(index_t m, index_t n, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<float> w(m, n);
  for (index_t i = 0; i < w.size(); ++i) {
    w.data()[i] = 0.05F * static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  }
  return w;
}

/// Returns the H of `tokens` inputs that correlate by channel (AR(1), 0.8) and decay over them.
inline Matrix<double> correlated_hessian(index_t n, index_t tokens, std::uint64_t key) {
  const RandomStream random(key);
  Matrix<double> x(tokens, n);
  for (index_t t = 0; t < tokens; ++t) {
    double previous = 0;
    for (index_t j = 0; j < n; ++j) {
      previous = 0.8 * previous + random.normal(static_cast<std::uint64_t>(t * n + j));
      // The scales go up and down over the channels, so that sorting by them changes the order.
      x(t, j) = previous / (1.0 + 0.02 * static_cast<double>((37 * j) % n));
    }
  }
  Matrix<double> h(n, n, 0.0);
  for (index_t t = 0; t < tokens; ++t) {
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) h(i, j) += x(t, i) * x(t, j) / static_cast<double>(tokens);
    }
  }
  return h;
}

/// Returns a Hessian of llama-nano (tests/data/README.md): fp32, square, in numpy's format.
inline Matrix<double> real_hessian() {
  std::ifstream file(std::string(QUIP_TEST_DATA) + "/hessian_llama_nano_q2.npy", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  constexpr index_t n = 128;
  constexpr std::size_t payload = n * n * sizeof(float);
  if (bytes.size() < payload) throw std::runtime_error("hessian_llama_nano_q2.npy is truncated");
  std::vector<float> values(n * n);
  std::memcpy(values.data(), bytes.data() + (bytes.size() - payload), payload);
  Matrix<double> h(n, n);
  std::copy(values.begin(), values.end(), h.data());
  return h;
}

/// Returns H + α·mean(diag H)·I.
inline Matrix<double> damped(const Matrix<double>& h, double alpha) {
  Matrix<double> out = copy_of(h);
  double mean = 0;
  for (index_t i = 0; i < h.rows(); ++i) mean += h(i, i) / static_cast<double>(h.rows());
  for (index_t i = 0; i < h.rows(); ++i) out(i, i) += alpha * mean;
  return out;
}

/// Returns the lower C with H = C Cᵀ.
inline Matrix<double> cholesky(const Matrix<double>& h) {
  const index_t n = h.rows();
  Matrix<double> c(n, n, 0.0);
  for (index_t j = 0; j < n; ++j) {
    for (index_t i = j; i < n; ++i) {
      double sum = h(i, j);
      for (index_t k = 0; k < j; ++k) sum -= c(i, k) * c(j, k);
      c(i, j) = i == j ? std::sqrt(sum) : sum / c(j, j);
    }
  }
  return c;
}

/// Returns A⁻¹ by Gauss–Jordan; for positive definite or triangular A, which need no pivoting.
inline Matrix<double> inverse_of(const Matrix<double>& a) {
  const index_t n = a.rows();
  Matrix<double> left = copy_of(a);
  Matrix<double> right(n, n, 0.0);
  for (index_t i = 0; i < n; ++i) right(i, i) = 1.0;
  for (index_t k = 0; k < n; ++k) {
    const double pivot = 1.0 / left(k, k);
    for (index_t j = 0; j < n; ++j) {
      left(k, j) *= pivot;
      right(k, j) *= pivot;
    }
    for (index_t i = 0; i < n; ++i) {
      const double factor = left(i, k);
      if (i == k || factor == 0.0) continue;
      for (index_t j = 0; j < n; ++j) {
        left(i, j) -= factor * left(k, j);
        right(i, j) -= factor * right(k, j);
      }
    }
  }
  return right;
}

/// Returns x H xᵀ.
inline double quadratic_form(const std::vector<double>& x, const Matrix<double>& h) {
  double sum = 0;
  for (index_t i = 0; i < h.rows(); ++i) {
    double row = 0;
    for (index_t j = 0; j < h.cols(); ++j) row += h(i, j) * x[at(j)];
    sum += row * x[at(i)];
  }
  return sum;
}

}  // namespace quip::test
