// One row of codes 0 1 2 3 on the grid −1, −1/3, 1/3, 1.
#include <cmath>
#include <quip/quant/code/dequantize.hpp>
#include <quip/store/packed_model.hpp>

int main() {
  quip::QuantizedLinear layer;
  layer.rows = 1;
  layer.cols = 4;
  layer.bits = 2;
  layer.transform = quip::TransformKind::none;
  layer.codes = {0b11'10'01'00};
  layer.scale = {1.0F};
  const quip::Matrix<float> w = quip::dequantize(layer);
  for (int k = 0; k < 4; ++k) {
    if (std::abs(w(0, k) - (-1.0F + 2.0F * static_cast<float>(k) / 3.0F)) > 1e-6F) return 1;
  }
  return 0;
}
