// A packed model: one directory of HDF5 files and a manifest.
//
//   manifest.json            options, seeds, input digests, one entry per block
//   blocks/block_00000.h5 …  per linear: codes, scale, zero, rescale + attributes
//   rest.h5                  every tensor that was not quantized, as it was stored
//   model.h5                 external links: one file that shows the whole model
//   report.json              losses and timings
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/comm/collectives.hpp"
#include "quip/model/tensor_source.hpp"
#include "quip/quant/quantized_linear.hpp"

namespace quip {

/// A layer as it goes into a block file.
struct StoredLayer {
  std::string name;
  std::string method;
  QuantizedLinear layer;
  LayerStatistics statistics;
};

/// One block's entry in the manifest.
struct BlockEntry {
  index_t block = 0;
  std::string file;                            ///< relative to the directory
  std::string file_digest;                     ///< of all bytes of the file
  std::vector<std::string> layers;             ///< names, in order
  std::vector<std::string> digests;            ///< digest_of(layer), same order
  std::vector<std::array<index_t, 2>> shapes;  ///< rows, cols, same order
};

/// Writes a packed model. Every file appears under its final name only when it
/// is complete and on disk (temporary name, fsync of file and folder, rename);
/// the manifest last. Until `finish` the manifest says "complete": false.
class PackedWriter {
 public:
  /// Creates `directory` (collective). Throws Error if it exists and is not empty, or
  /// cannot be written. `header` (options, seeds, input digests, config) becomes part of
  /// the manifest.
  PackedWriter(Collectives& comm, const std::filesystem::path& directory, nlohmann::json header);
  ~PackedWriter();
  PackedWriter(const PackedWriter&) = delete;
  PackedWriter& operator=(const PackedWriter&) = delete;

  /// Collective: every rank holds all `layers` (as gathered); one rank, a different one
  /// from block to block, writes the file, then rank 0 the manifest.
  void write_block(index_t block, const std::vector<StoredLayer>& layers);
  /// Collective: copies `names` from `source` to rest.h5; ranks write disjoint byte
  /// ranges. Bounded memory.
  void write_rest(const TensorSource& source, const std::vector<std::string>& names);
  /// Collective: model.h5, report.json, the final manifest.
  void finish(const nlohmann::json& report);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads a packed model. As a TensorSource it serves the tensors of rest.h5.
class PackedModel final : public TensorSource {
 public:
  /// Throws Error if the directory is not a complete packed model.
  explicit PackedModel(const std::filesystem::path& directory);
  ~PackedModel() override;

  [[nodiscard]] const nlohmann::json& manifest() const;
  [[nodiscard]] const std::vector<BlockEntry>& blocks() const;
  [[nodiscard]] bool is_quantized(const std::string& layer) const;
  /// Reads one layer and checks its digest. `layer` is a tensor name without ".weight".
  [[nodiscard]] StoredLayer read_layer(const std::string& layer) const;
  /// One digest over the layers' digests in model order.
  [[nodiscard]] std::string digest() const;
  /// Names everything that does not match its digest; empty means the model is whole.
  [[nodiscard]] std::vector<std::string> verify() const;
  /// Bytes on disk of the directory's files.
  [[nodiscard]] index_t bytes_on_disk() const;

  [[nodiscard]] std::vector<std::string> names() const override;
  [[nodiscard]] bool contains(const std::string& name) const override;
  [[nodiscard]] const TensorInfo& info(const std::string& name) const override;
  void read(const std::string& name, index_t offset, std::span<std::byte> out) const override;
  [[nodiscard]] std::string describe() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quip
