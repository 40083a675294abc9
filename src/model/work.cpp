#include "quip/model/work.hpp"

#include <algorithm>

namespace quip {

double attention_flops(const ModelConfig& config, index_t block, index_t length) {
  const index_t window = std::min(length, config.window(block).value_or(length));
  // 1 + 2 + … + window, then `window` keys for each later query.
  const index_t keys = window * (window + 1) / 2 + (length - window) * window;
  return 4.0 * static_cast<double>(config.heads * config.head_dim) * static_cast<double>(keys);
}

double stage_flops(const Family& family, index_t block, int stage, index_t length) {
  double flops = stage == 1 ? attention_flops(family.config(), block, length) : 0.0;
  for (const LinearSpec& linear : family.linears(block)) {
    if (linear.tap + 1 != stage) continue;
    flops += 2.0 * static_cast<double>(length) * static_cast<double>(linear.rows) *
             static_cast<double>(linear.cols);
  }
  return flops;
}

double block_flops(const Family& family, index_t block, index_t length) {
  double flops = 0;
  for (int stage = 0; stage <= family.taps(); ++stage) {
    flops += stage_flops(family, block, stage, length);
  }
  return flops;
}

}  // namespace quip
