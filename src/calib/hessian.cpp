#include "quip/calib/hessian.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/work.hpp"

namespace quip {
namespace {

constexpr float largest_integer = 32767.0F;
constexpr double most_tokens = 0x1p23;        // 2·15 bits + 23 bits: sums stay below 2⁵³
constexpr index_t reduce_elements = 1 << 19;  // 4 MiB of doubles at a time

/// The largest power of two s with round(maximum · s) ≤ 32767.
float channel_scale(float maximum) {
  if (maximum == 0.0F) return 1.0F;
  int exponent = 0;
  std::frexp(maximum, &exponent);  // maximum = f·2^exponent, ½ ≤ f < 1
  // Denormal channels would need a scale beyond fp32: they round to zero instead.
  const float scale = std::ldexp(1.0F, std::min(15 - exponent, 127));
  return std::nearbyint(maximum * scale) > largest_integer ? scale / 2 : scale;
}

[[noreturn]] void report_nonfinite(Backend& backend, ConstTensorView x, index_t first_sample,
                                   index_t sample_length, const std::string& what) {
  std::vector<float> row(static_cast<std::size_t>(x.cols));
  for (index_t t = 0; t < x.rows; ++t) {
    backend.download(x.middle_rows(t, 1), row);
    for (index_t j = 0; j < x.cols; ++j) {
      if (std::isfinite(row[static_cast<std::size_t>(j)])) continue;
      fail(
          "layer {}: its input is not finite (sample {}, token {}, channel {}); the checkpoint or "
          "the tokens are damaged, or an activation exceeds the range of fp32",
          what, first_sample + t / sample_length, t % sample_length, j);
    }
  }
  fail("layer {}: its input is not finite", what);
}

/// Sums the lower triangle over ranks, in bounded pieces of whole rows.
void reduce_lower_triangle(Collectives& comm, MatrixView<double> h) {
  if (comm.size() == 1) return;
  std::vector<double> piece;
  for (index_t first = 0; first < h.rows;) {
    index_t last = first;
    index_t elements = 0;
    while (last < h.rows && (elements == 0 || elements + last + 1 <= reduce_elements)) {
      elements += ++last;
    }
    piece.clear();
    for (index_t i = first; i < last; ++i) piece.insert(piece.end(), h.row(i), h.row(i) + i + 1);
    comm.all_reduce_sum(piece);
    const double* from = piece.data();
    for (index_t i = first; i < last; ++i) {
      std::copy_n(from, i + 1, h.row(i));
      from += i + 1;
    }
    first = last;
  }
}

}  // namespace

Matrix<double> exact_hessian(Collectives& comm, Backend& backend, ConstTensorView x,
                             index_t first_sample, index_t sample_length, const std::string& what) {
  const index_t n = x.cols;
  std::vector<float> maximum(static_cast<std::size_t>(n), 0.0F);
  agree(comm, [&] {
    backend.channel_maximum(x, maximum);
    for (const float value : maximum) {
      if (!std::isfinite(value)) report_nonfinite(backend, x, first_sample, sample_length, what);
    }
  });
  comm.all_reduce_max(maximum);
  auto tokens = static_cast<double>(x.rows);
  comm.all_reduce_sum(std::span(&tokens, 1));
  std::vector<float> scale(maximum.size());
  std::transform(maximum.begin(), maximum.end(), scale.begin(), channel_scale);

  Matrix<double> h;
  agree(comm, [&] {
    if (tokens > most_tokens) {
      fail("{} calibration tokens: at most {} can be summed exactly; lower --samples", tokens,
           most_tokens);
    }
    h = Matrix<double>(n, n, 0.0);
    backend.accumulate_hessian(x, scale, h.view());
    UsageMeter::current().add_flops(hessian_flops(n, x.rows));
  });
  reduce_lower_triangle(comm, h.view());
#pragma omp parallel for schedule(dynamic, 16)
  for (index_t i = 0; i < n; ++i) {
    const double unit = 1.0 / (static_cast<double>(scale[static_cast<std::size_t>(i)]) * tokens);
    for (index_t j = 0; j <= i; ++j) h(i, j) *= unit / scale[static_cast<std::size_t>(j)];
  }
  return h;
}

}  // namespace quip
