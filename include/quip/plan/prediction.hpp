// The bytes, memory and time that a planned job will take, phase by phase and rank by rank.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quip/plan/memory.hpp"
#include "quip/plan/rates.hpp"
#include "quip/plan/walk.hpp"

namespace quip::plan {

/// A phase over all ranks.
struct PhasePrediction {
  Usage usage;                       ///< summed; without communication_seconds
  double bound = 0;                  ///< bytes that have to be sent, summed over ranks
  double seconds = 0;                ///< if rates are known
  double communication_seconds = 0;  ///< part of `seconds`
};

struct RankPrediction {
  std::map<std::string, Usage> phases;
  Memory memory;
};

struct Prediction {
  Layout layout;
  std::map<std::string, PhasePrediction> phases;
  std::vector<RankPrediction> ranks;
  index_t node_bytes = 0;  ///< host memory of the fullest node
  bool timed = false;
  double seconds = 0;
  double block_seconds = 0;        ///< for one block: what a warning before a time limit must leave
  std::vector<std::string> notes;  ///< for the user to know before
  std::vector<std::string> problems;  ///< each with a way out; empty: it fits

  [[nodiscard]] bool fits() const { return problems.empty(); }
};

/// Walks through the job; null `rates`: without times. Throws Error if they lack what the layout
/// needs.
[[nodiscard]] Prediction predict(const PlannedJob& job, const Layout& layout, const Rates* rates);

/// Returns the layouts of `nodes` nodes worth comparing: numbers of ranks that share out the cores,
/// or the devices, of a node.
[[nodiscard]] std::vector<Layout> candidates(const Layout& machine);

/// Returns the index of the fastest that fits, or of the one that sends the least where no times
/// are known; none if nothing fits.
[[nodiscard]] std::optional<std::size_t> best_of(const std::vector<Prediction>& predictions);

}  // namespace quip::plan
