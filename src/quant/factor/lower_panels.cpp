#include "quip/quant/factor/lower_panels.hpp"

#include <algorithm>

namespace quip {
namespace {

/// Fills every panel with value(i, j) below the diagonal and zeros on and above it.
template <typename Value>
void fill(const LowerPanels& out, Value value) {
#pragma omp parallel for schedule(dynamic)
  for (index_t b = 0; b < out.blocks(); ++b) {
    const MatrixView<float> panel = out.place(b);
    const index_t first = out.first_column(b);
    for (index_t i = 0; i < panel.rows; ++i) {
      for (index_t j = 0; j < panel.cols; ++j) {
        panel(i, j) = j < i ? static_cast<float>(value(first + i, first + j)) : 0.0F;
      }
    }
  }
}

}  // namespace

LowerPanels::LowerPanels(index_t order) : LowerPanels(outline(order)) {
  panels = Buffer<float>(panel_offset(blocks()));
}

LowerPanels LowerPanels::outline(index_t order) {
  LowerPanels panels;
  panels.n = order;
  panels.diagonal.resize(at(order));
  return panels;
}

index_t LowerPanels::width(index_t b) const { return std::min(block, n - b * block); }

index_t LowerPanels::panel_offset(index_t b) const {
  index_t offset = 0;
  for (index_t c = 0; c < b; ++c) offset += (n - c * block) * width(c);
  return offset;
}

MatrixView<const float> LowerPanels::panel(index_t b) const {
  return source ? source->panel(b) : place(b);
}

MatrixView<float> LowerPanels::place(index_t b) const {
  return {panels.data() + panel_offset(b), n - first_column(b), width(b)};
}

void LowerPanels::pack_lower(MatrixView<const double> a) {
  fill(*this, [a](index_t i, index_t j) { return a(i, j); });
}

void LowerPanels::pack_upper(MatrixView<const double> a) {
  fill(*this, [a](index_t i, index_t j) { return a(j, i); });
}

void LowerPanels::pack_reversed(MatrixView<const double> a) {
  const index_t last = n - 1;
  fill(*this, [a, last](index_t i, index_t j) { return a(last - j, last - i); });
}

}  // namespace quip
