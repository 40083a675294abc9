// `quip quantize` walked through on paper: which rank does what, in the order in which it is done.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "quip/pipeline/quantize.hpp"
#include "quip/plan/layout.hpp"
#include "quip/plan/ledger.hpp"
#include "quip/plan/model_shapes.hpp"

namespace quip::plan {

/// What is to be quantized. Of `options` all that changes the work counts.
struct PlannedJob {
  const ModelShapes& model;
  QuantizeOptions options;
  index_t samples = 0;
  index_t length = 0;  ///< tokens of a sample
};

/// Walks a fresh run of a job from its start to the gathering of its report. Every share is taken
/// from the function that the run itself takes it from, so that bytes sent come out exactly, with
/// four assumptions: the search for ρ ends in its first round, no input channel is dead, no file
/// system lacks locks, devices have room for the factor of a wide layer.
class Walk {
 public:
  /// Throws Error if the job has nothing to quantize or asks for what the model cannot do.
  Walk(const PlannedJob& job, const Layout& layout);

  [[nodiscard]] std::unique_ptr<Ledger> of_rank(int rank);

 private:
  void start(Ledger& ledger) const;
  void write_rest(Ledger& ledger) const;
  void embed(Ledger& ledger) const;
  void block(Ledger& ledger, index_t b);
  void load_block(Ledger& ledger, index_t b) const;
  void load_tensor(Ledger& ledger, const TensorInfo& info) const;
  void capture(Ledger& ledger, index_t b, int tap) const;
  void hessian(Ledger& ledger, index_t n);
  void measure_channels(Ledger& ledger, index_t n) const;
  void wide_layer(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options);
  void distributed_hessian(Ledger& ledger, const BlockCyclic& layout) const;
  void block_cholesky(Ledger& ledger, const BlockCyclic& layout) const;
  void round(Ledger& ledger, const std::vector<LinearSpec>& linears);
  void broadcast_prepared(Ledger& ledger, index_t n, const LayerOptions& options, int root) const;
  /// `wide`: how the factor is spread, if no rank holds it.
  void round_layer(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options,
                   const BlockCyclic* wide);
  void gather_factor(Ledger& ledger, const BlockCyclic& layout);
  void stream_panels(Ledger& ledger, const BlockCyclic& layout);
  void dequantize(Ledger& ledger, const LinearSpec& linear, const LayerOptions& options) const;
  void write_block(Ledger& ledger, index_t b, const std::vector<LinearSpec>& linears) const;
  void forward(Ledger& ledger, index_t b) const;
  void write_states(Ledger& ledger, index_t blocks) const;
  /// `blocks`: how many are finished.
  void save_manifest(Ledger& ledger, index_t blocks) const;

  /// Adds what `work` costs, which is followed once for each step, rank and order.
  void once(Ledger& ledger, const char* what, index_t n, const std::function<void(Ledger&)>& work);
  [[nodiscard]] Range samples_of(const Ledger& ledger) const;
  [[nodiscard]] LayerOptions options_of(const LinearSpec& linear) const;
  /// Sends every rank's rows to all, `per_row` bytes each.
  void gather_rows(Ledger& ledger, index_t rows, index_t per_row);

  const PlannedJob& job_;
  const Layout& layout_;
  index_t blocks_;
  std::string manifest_;                    ///< the first
  std::vector<index_t> manifest_bytes_;     ///< in its file, by finished blocks
  std::vector<TensorInfo> rest_;            ///< what stays as it is
  std::vector<std::string> block_entries_;  ///< in the manifest, by block
  std::map<std::pair<index_t, index_t>, std::vector<index_t>> row_offsets_;
  /// Costs that every block has in common, by step, rank and order of the Hessian.
  std::map<std::tuple<std::string, int, index_t>, PhaseCost> costs_;
};

}  // namespace quip::plan
