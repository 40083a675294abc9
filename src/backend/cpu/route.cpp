// Tokens to experts, and back.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <vector>

#include "core/simd.hpp"
#include "operations.hpp"

namespace quip::cpu {
namespace {

QUIP_SIMD void add_multiple(const float* x, float factor, index_t n, float* y) {
#pragma omp simd
  for (index_t j = 0; j < n; ++j) y[j] += factor * x[j];
}

/// Returns the numerators of the scores of one token; `largest` is the largest logit.
void numerators(const float* logit, const RouterShape& shape, float largest, float* numerator) {
  for (index_t e = 0; e < shape.experts; ++e) {
    numerator[e] = shape.scores == RouterScores::softmax ? std::exp(logit[e] - largest)
                                                         : 1.0F / (1.0F + std::exp(-logit[e]));
  }
}

/// Sets the scores of experts that are not in the chosen groups to −∞.
void leave_groups(const RouterShape& shape, float* score) {
  const index_t in_group = shape.experts / shape.groups;
  std::vector<float> best(at(shape.groups));
  std::vector<float> sorted(at(in_group));
  for (index_t g = 0; g < shape.groups; ++g) {
    std::partial_sort_copy(score + g * in_group, score + (g + 1) * in_group, sorted.begin(),
                           sorted.begin() + 2, std::greater<>());
    best[at(g)] = sorted[0] + sorted[1];
  }
  std::vector<index_t> order(best.size());
  std::iota(order.begin(), order.end(), index_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](index_t g) { return best[at(g)]; });
  for (index_t i = shape.chosen_groups; i < shape.groups; ++i) {
    std::fill_n(score + order[at(i)] * in_group, in_group, -std::numeric_limits<float>::infinity());
  }
}

/// Routes tokens one after the other.
class Router {
 public:
  Router(const RouterShape& shape, ConstTensorView correction)
      : shape_(shape),
        correction_(correction),
        order_(at(shape.experts)),
        numerator_(at(shape.experts)),
        choice_(at(shape.experts)) {}

  void route(const float* logit, float* row) {
    const bool by_logits = correction_.size() == 0 && shape_.groups == 1;
    std::iota(order_.begin(), order_.end(), index_t{0});
    if (by_logits) choose(logit);
    const float largest =
        by_logits ? logit[order_[0]] : *std::max_element(logit, logit + shape_.experts);
    numerators(logit, shape_, largest, numerator_.data());
    const float divisor = shape_.scores == RouterScores::softmax ? sum_of(shape_.experts) : 1.0F;
    if (!by_logits) {
      for (index_t e = 0; e < shape_.experts; ++e) {
        choice_[at(e)] =
            numerator_[at(e)] / divisor + (correction_.size() == 0 ? 0.0F : correction_.data[e]);
      }
      if (shape_.groups > 1) leave_groups(shape_, choice_.data());
      choose(choice_.data());
    }
    // Where the chosen are divided by their sum, it does not matter what they were divided by.
    const float by =
        shape_.renormalised ? std::max(sum_of(shape_.chosen), shape_.least_sum * divisor) : divisor;
    for (index_t i = 0; i < shape_.chosen; ++i) {
      const index_t expert = order_[at(i)];
      row[i] = static_cast<float>(expert);
      row[shape_.chosen + i] = numerator_[at(expert)] / by * shape_.factor;
    }
  }

 private:
  /// Orders the experts by these scores, as far as they are chosen.
  void choose(const float* score) {
    std::partial_sort(order_.begin(), order_.begin() + shape_.chosen, order_.end(),
                      [&](index_t a, index_t b) {
                        return score[a] > score[b] || (score[a] == score[b] && a < b);
                      });
  }
  /// Returns the sum of the numerators of the first `count` experts in order.
  [[nodiscard]] float sum_of(index_t count) const {
    float sum = 0.0F;
    for (index_t i = 0; i < count; ++i) sum += numerator_[at(order_[at(i)])];
    return sum;
  }

  const RouterShape& shape_;
  ConstTensorView correction_;
  std::vector<index_t> order_;
  std::vector<float> numerator_;
  std::vector<float> choice_;
};

}  // namespace

void route(ConstTensorView logits, const RouterShape& shape, ConstTensorView correction,
           TensorView routes) {
  check_route(logits, shape, correction, routes);
  Router router(shape, correction);
  for (index_t t = 0; t < logits.rows; ++t) router.route(logits.row(t), routes.row(t));
}

void gather_rows(ConstTensorView x, std::span<const index_t> rows, TensorView y) {
  check_rows(y, rows, x);
  for (index_t i = 0; i < y.rows; ++i) std::copy_n(x.row(rows[at(i)]), x.cols, y.row(i));
}

void scatter_add_rows(ConstTensorView x, std::span<const index_t> rows,
                      std::span<const float> weights, TensorView y) {
  check_rows(x, rows, y);
  for (index_t i = 0; i < x.rows; ++i) {
    add_multiple(x.row(i), weights[at(i)], x.cols, y.row(rows[at(i)]));
  }
}

}  // namespace quip::cpu
