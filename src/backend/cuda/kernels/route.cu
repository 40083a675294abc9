// Tokens to experts, and back. A router's logits are few: a thread chooses for one token.
#include "backend/cuda/kernel.hpp"
#include "kernels.hpp"

namespace quip::cuda {
namespace {

/// The scores of a token's experts.
struct Scores {
  DeviceView<const float> logits;
  const float* correction;
  RouterShape shape;
  index_t token;
  float largest = -INFINITY;
  float divisor = 1.0F;
  std::uint64_t groups = ~std::uint64_t{0};  ///< a bit for each that is chosen

  __device__ float numerator(index_t expert) const {
    const float logit = logits(token, expert);
    return shape.scores == RouterScores::softmax ? expf(logit - largest)
                                                 : 1.0F / (1.0F + expf(-logit));
  }
  __device__ float corrected(index_t expert) const {
    return numerator(expert) / divisor + (correction == nullptr ? 0.0F : correction[expert]);
  }
  /// Returns the number by which experts are chosen: their logits say it as well, where nothing
  /// else counts.
  __device__ float choice(index_t expert) const {
    if (correction == nullptr && shape.groups == 1) return logits(token, expert);
    const index_t group = expert / (shape.experts / shape.groups);
    return (groups >> group & 1) != 0 ? corrected(expert) : -INFINITY;
  }
  /// Returns the sum of a group's two best.
  __device__ float best_two(index_t group) const {
    const index_t in_group = shape.experts / shape.groups;
    float first = -INFINITY;
    float second = -INFINITY;
    for (index_t e = group * in_group; e < (group + 1) * in_group; ++e) {
      const float score = corrected(e);
      second = fmaxf(second, fminf(score, first));
      first = fmaxf(first, score);
    }
    return first + second;
  }
};

/// Returns the first of the best of `count` that is not yet taken; `taken(i)` says so.
template <typename Score, typename Taken>
__device__ index_t best_of(index_t count, const Score& score, const Taken& taken) {
  index_t best = -1;
  float most = 0.0F;
  for (index_t i = 0; i < count; ++i) {
    if (taken(i)) continue;
    const float value = score(i);
    if (best >= 0 && !(value > most)) continue;
    best = i;
    most = value;
  }
  return best;
}

__global__ void choose(DeviceView<const float> logits, RouterShape shape, const float* correction,
                       DeviceView<float> routes) {
  for (index_t t = global_thread(); t < logits.rows; t += all_threads()) {
    Scores scores{logits, correction, shape, t};
    if (shape.scores == RouterScores::softmax) {
      for (index_t e = 0; e < shape.experts; ++e) {
        scores.largest = fmaxf(scores.largest, logits(t, e));
      }
      float all = 0.0F;
      for (index_t e = 0; e < shape.experts; ++e) all += scores.numerator(e);
      scores.divisor = all;
    }
    if (shape.groups > 1) {
      std::uint64_t chosen = 0;
      for (index_t i = 0; i < shape.chosen_groups; ++i) {
        const index_t best = best_of(
            shape.groups, [&](index_t g) { return scores.best_two(g); },
            [&](index_t g) { return (chosen >> g & 1) != 0; });
        chosen |= std::uint64_t{1} << best;
      }
      scores.groups = chosen;
    }
    float sum = 0.0F;  // over the chosen
    float last = INFINITY;
    index_t last_expert = -1;
    for (index_t i = 0; i < shape.chosen; ++i) {
      const index_t best = best_of(
          shape.experts, [&](index_t e) { return scores.choice(e); },
          [&](index_t e) {
            const float choice = scores.choice(e);
            return !(choice < last || (choice == last && e > last_expert));
          });
      last = scores.choice(best);
      last_expert = best;
      routes(t, i) = static_cast<float>(best);
      routes(t, shape.chosen + i) = scores.numerator(best);
      sum += scores.numerator(best);
    }
    const float divisor =
        shape.renormalised ? fmaxf(sum, shape.least_sum * scores.divisor) : scores.divisor;
    for (index_t i = shape.chosen; i < 2 * shape.chosen; ++i) {
      routes(t, i) = routes(t, i) / divisor * shape.factor;
    }
  }
}

__global__ void add_rows_to(DeviceView<const float> x, const index_t* rows, const float* weights,
                            DeviceView<float> y) {
  for_elements(x.rows, x.cols,
               [&](index_t i, index_t j) { y(rows[i], j) += weights[i] * x(i, j); });
}

}  // namespace

void route(cudaStream_t stream, ConstTensorView logits, const RouterShape& shape,
           ConstTensorView correction, TensorView routes) {
  launch_elementwise("route", choose, logits.rows, stream, logits, shape, correction.data, routes);
}

void scatter_add_rows(cudaStream_t stream, ConstTensorView x, const index_t* rows,
                      const float* weights, TensorView y) {
  launch_elementwise("scatter_add_rows", add_rows_to, x.size(), stream, x, rows, weights, y);
}

}  // namespace quip::cuda
