// The factor L of a layer that no rank holds as a whole.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// Hands out the panels of L one after another. Collective: all ranks ask for the same.
class PanelSource {
 public:
  PanelSource() = default;
  PanelSource(const PanelSource&) = delete;
  PanelSource& operator=(const PanelSource&) = delete;
  virtual ~PanelSource() = default;

  /// Returns panel b as LowerPanels::panel lays it out, strictly lower; valid until the next call.
  [[nodiscard]] virtual MatrixView<const float> panel(index_t b) = 0;
};

}  // namespace quip
