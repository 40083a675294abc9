// Writes a packed model, block by block, so that it can be interrupted at any instant.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/store/hidden_state.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// The start of a run in its output directory: fresh wants it empty; resume takes up an earlier
/// run's work, if there is any; repair does so after dropping all that does not match its digest.
enum class Start { fresh, resume, repair };

/// Returns an entry of the header with which an earlier run in `directory` began; nothing if there
/// is none, or its manifest cannot be read.
[[nodiscard]] std::optional<nlohmann::json> earlier_header(const std::filesystem::path& directory,
                                                           const std::string& key);

/// Every file appears under its final name only when it is complete and on disk (temporary name,
/// fsync of file and folder, rename), and is listed in the manifest after that, so that the
/// manifest describes the files at every instant. Until `finish` it says "complete": false. Methods
/// are collective unless they are const.
class PackedWriter {
 public:
  /// Begins a run. `header` (options, digests of inputs, config) becomes part of the manifest; a
  /// run is only taken up if its header was the same. Throws AgreedError if the directory cannot be
  /// written, is in use, or holds something else; naming the differences, if it holds another run.
  PackedWriter(Collectives& comm, const std::filesystem::path& directory, nlohmann::json header,
               Start start = Start::fresh, KeepStates keep = KeepStates::none);
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  /// Returns the findings and actions of the start, one line each, for the user.
  [[nodiscard]] const std::vector<std::string>& notes() const;
  [[nodiscard]] bool complete() const;
  [[nodiscard]] bool has_rest() const;
  [[nodiscard]] bool has_block(index_t block) const;
  /// Returns the reports of the layers written so far, block by block.
  [[nodiscard]] std::vector<nlohmann::json> reports() const;
  /// Returns the greatest number of blocks, at most `block`, after which hidden states are kept.
  [[nodiscard]] std::optional<index_t> states_before(index_t block) const;

  /// Writes a block, whose `layers` every rank holds: one rank, a different one from block to
  /// block, writes the file, then rank 0 the manifest. `distance`: that of its output from the
  /// unquantized model's, for the manifest.
  void write_block(index_t block, const std::vector<StoredLayer>& layers,
                   std::optional<double> distance = {});
  /// Returns those distances, block by block.
  [[nodiscard]] nlohmann::json stream_distances() const;
  /// Keeps the hidden states after `blocks` blocks, as `keep` asks; each rank brings the samples
  /// `mine`.
  void write_states(index_t blocks, const StateShape& shape, Range mine, const FetchSample& fetch);
  /// Reads the states after `blocks` blocks. Throws AgreedError if they are damaged or misshapen.
  void read_states(index_t blocks, const StateShape& shape, Range mine, const PutSample& put);
  /// Copies `names` from `source` to rest.h5; ranks write disjoint byte ranges. Bounded memory.
  void write_rest(const TensorSource& source, const std::vector<std::string>& names);
  /// Writes model.h5, report.json, the final manifest; removes what only an unfinished run needs.
  void finish(const nlohmann::json& report);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Returns a layer's entry in reports.
[[nodiscard]] nlohmann::json to_json(const StoredLayer& layer);

}  // namespace quip
