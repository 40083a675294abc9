// Matrices whose panels pass by, as those of wide layers do.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>

#include "quip/quant/factor/lower_panels.hpp"

namespace quip {

/// The panels of a matrix, each in the place of the one before, as ranks gather them. Counts them.
class PassingPanels final : public PanelSource {
 public:
  PassingPanels(const LowerPanels& whole, int& count)
      : whole_(whole), count_(count), passing_(whole.n * LowerPanels::block) {}
  void start() override {}
  MatrixView<const float> panel(index_t b) override {
    ++count_;
    const MatrixView<const float> from = whole_.panel(b);
    std::copy_n(from.data, from.size(), passing_.data());
    return {passing_.data(), from.rows, from.cols};
  }

 private:
  const LowerPanels& whole_;
  int& count_;
  Buffer<float> passing_;
};

/// The shape and the diagonal of `whole`, whose panels come from `source`.
inline LowerPanels passing_by(const LowerPanels& whole, std::unique_ptr<PanelSource> source) {
  LowerPanels panels = LowerPanels::outline(whole.n);
  panels.diagonal = whole.diagonal;
  panels.source = std::move(source);
  return panels;
}

}  // namespace quip
