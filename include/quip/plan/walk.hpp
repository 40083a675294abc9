// `quip quantize` walked through on paper: which rank does what.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quip/pipeline/device_memory.hpp"
#include "quip/plan/layout.hpp"
#include "quip/plan/ledger.hpp"
#include "quip/plan/model_shapes.hpp"

namespace quip {
struct StoredLines;
}

namespace quip::plan {

/// The job to plan. All `options` that change the work count.
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

  [[nodiscard]] std::unique_ptr<Ledger> of_rank(int rank) const;
  /// Returns the notes on layers that the run would begin with.
  [[nodiscard]] const std::vector<std::string>& notes() const { return notes_; }

 private:
  void start(Ledger& ledger) const;
  void write_rest(Ledger& ledger) const;
  void embed(Ledger& ledger) const;
  void load_block(Ledger& ledger, index_t b) const;
  void load_lines(Ledger& ledger, const StoredLines& lines) const;
  void quantize_block(Ledger& ledger, index_t b, const Ledger& layers) const;
  void write_block(Ledger& ledger, index_t b) const;
  void forward(Ledger& ledger, index_t b) const;
  void keep_states(Ledger& ledger, index_t b) const;
  /// Counts a file of `tensors` datasets that all ranks write, this one `bytes` of it, and the
  /// gather of their digests, which lie at these offsets.
  void write_together(Ledger& ledger, const char* temporary, index_t tensors, index_t bytes,
                      const std::vector<index_t>& digests) const;
  /// `listed`: the number of entries for rest.h5 and blocks.
  void save_manifest(Ledger& ledger, index_t listed) const;
  [[nodiscard]] index_t samples_of(const Ledger& ledger) const;
  /// Returns the number of streams of hidden states.
  [[nodiscard]] index_t streams() const { return job_.options.stream.on ? 2 : 1; }
  /// Returns the first block of which a layer is quantized.
  [[nodiscard]] index_t first_quantized() const;

  const PlannedJob& job_;
  const Layout& layout_;
  index_t blocks_;
  std::vector<std::string> notes_;
  std::vector<BlockKind> kinds_;
  bool keeps_states_ = false;
  std::string manifest_;                    ///< the first, as it is broadcast
  std::vector<index_t> manifest_bytes_;     ///< in its file, by what it lists
  index_t rest_tensors_ = 0;                ///< tensors that stay as they are
  std::vector<index_t> chunks_;             ///< their chunks, in bytes
  std::vector<index_t> block_entry_bytes_;  ///< in the manifest, without reports
  std::vector<index_t> block_file_bytes_;
};

}  // namespace quip::plan
