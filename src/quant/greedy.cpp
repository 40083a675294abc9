// Greedy: coordinate descent from the unrounded weights (QuIP, supplement: Algorithm 4).
#include "column_kernels.hpp"
#include "greedy_passes.hpp"

namespace quip {
namespace {

class Greedy final : public Rounder {
 public:
  Greedy(int passes, Clamp clamp) : passes_(passes), clamp_(clamp) {}

  int round(const PreparedLayer& layer, const RoundingTile& tile, MatrixView<float> q,
            std::span<double> loss) const override {
    // ŵ = x: s = 0, and the first pass rounds every column once.
    for (index_t k = 0; k < q.rows; ++k) {
      const float* inverse = tile.inverse.row(k);
      for (index_t r = 0; r < q.cols; ++r) q(k, r) = tile.x(k, r) * inverse[r];
    }
    const int used = greedy_passes(layer.hessian, tile, passes_, clamp_, q);
    measure_loss(layer.factor, tile, q, loss);
    return used;
  }

 private:
  int passes_;
  Clamp clamp_;
};

}  // namespace

std::unique_ptr<Rounder> make_greedy(int passes, Clamp clamp) {
  return std::make_unique<Greedy>(passes, clamp);
}

}  // namespace quip
