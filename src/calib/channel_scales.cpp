#include "quip/calib/channel_scales.hpp"

#include <algorithm>
#include <cmath>

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr float largest_integer = 32767.0F;
constexpr double most_exact_tokens = 0x1p23;  // 2·15 bits + 23 bits: sums stay below 2⁵³

[[noreturn]] void report_nonfinite(Backend& backend, ConstTensorView x, index_t first_sample,
                                   index_t sample_length, const std::string& what) {
  std::vector<float> row(at(x.cols));
  for (index_t t = 0; t < x.rows; ++t) {
    backend.download(x.middle_rows(t, 1), row);
    for (index_t j = 0; j < x.cols; ++j) {
      if (std::isfinite(row[at(j)])) continue;
      fail(
          "layer {}: its input is not finite (sample {}, token {}, channel {}); the checkpoint or "
          "the tokens are damaged, or an activation exceeds the range of fp32",
          what, first_sample + t / sample_length, t % sample_length, j);
    }
  }
  fail("layer {}: its input is not finite", what);
}

}  // namespace

float channel_scale(float maximum) {
  if (maximum == 0.0F) return 1.0F;
  int exponent = 0;
  std::frexp(maximum, &exponent);  // maximum = f·2^exponent, ½ ≤ f < 1
  // Denormal channels would need a scale beyond fp32: they round to zero instead.
  const float scale = std::ldexp(1.0F, std::min(15 - exponent, 127));
  return std::nearbyint(maximum * scale) > largest_integer ? scale / 2 : scale;
}

void ChannelScales::apply(MatrixView<double> sum) const {
#pragma omp parallel for schedule(dynamic, 16)
  for (index_t i = 0; i < sum.rows; ++i) {
    const double factor = row_unit(i);
    for (index_t j = 0; j <= i; ++j) sum(i, j) *= factor / scale[at(j)];
  }
}

void check_exact(double tokens) {
  if (tokens > most_exact_tokens) {
    fail("{} calibration tokens: at most {} can be summed exactly; lower --samples", tokens,
         most_exact_tokens);
  }
}

ChannelScales measure_channels(Collectives& comm, Backend& backend, ConstTensorView x,
                               index_t first_sample, index_t sample_length,
                               const std::string& what) {
  std::vector<float> maximum(at(x.cols), 0.0F);
  agree(comm, [&] {
    backend.channel_maximum(x, maximum);
    for (const float value : maximum) {
      if (!std::isfinite(value)) report_nonfinite(backend, x, first_sample, sample_length, what);
    }
  });
  comm.all_reduce_max(maximum);
  ChannelScales scales;
  scales.tokens = static_cast<double>(x.rows);
  comm.all_reduce_sum(std::span(&scales.tokens, 1));
  agree(comm, [&] { check_exact(scales.tokens); });
  scales.scale.resize(maximum.size());
  std::transform(maximum.begin(), maximum.end(), scales.scale.begin(), channel_scale);
  scales.largest = maximum.empty() ? 0.0F : *std::ranges::max_element(maximum);
  return scales;
}

}  // namespace quip
