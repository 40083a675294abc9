#include "gather_factor.hpp"

#include <exception>
#include <span>

namespace quip {

std::unique_ptr<HeldFactor> gather_factor(Collectives& comm, Quantizer& quantizer,
                                          const PreparedLayer& layer, const LayerOptions& options,
                                          index_t rows, PanelSource& panels) {
  if (!quantizer.holds_factors()) return nullptr;
  std::unique_ptr<HeldFactor> held;
  agree(comm, [&] { held = quantizer.hold_factor(layer, options, rows); });
  float missing = held ? 0.0F : 1.0F;
  comm.all_reduce_max(std::span(&missing, 1));
  if (missing > 0) return nullptr;
  std::exception_ptr failure;  // rethrown after the last panel: the ranks gather them together
  for (index_t b = layer.factor.blocks() - 1; b >= 0; --b) {
    const MatrixView<const float> panel = panels.panel(b);
    if (failure) continue;
    try {
      held->take(b, panel);
    } catch (const std::exception&) {
      failure = std::current_exception();
    }
  }
  agree(comm, [&] {
    if (failure) std::rethrow_exception(failure);
  });
  return held;
}

}  // namespace quip
