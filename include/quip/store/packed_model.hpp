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
#include "quip/io/tensor_source.hpp"
#include "quip/quant/code/quantized_linear.hpp"
#include "quip/quant/factor/layer_statistics.hpp"
#include "quip/store/hidden_state.hpp"

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
  std::string file_digest;                     ///< digest of all bytes of the file
  std::vector<std::string> layers;             ///< names, in order
  std::vector<std::string> digests;            ///< digest_of(layer), same order
  std::vector<std::array<index_t, 2>> shapes;  ///< rows, cols, same order
};

/// Decides if a model whose run has not finished may be read.
enum class Unfinished { refused, allowed };

/// Reads a packed model. As a TensorSource it serves the tensors of rest.h5.
class PackedModel final : public TensorSource {
 public:
  /// Opens a model. Throws Error if it is none, or one whose run has not finished.
  /// `Unfinished::allowed` takes that, too: the files in its manifest are there and final.
  explicit PackedModel(const std::filesystem::path& directory,
                       Unfinished unfinished = Unfinished::refused);
  ~PackedModel() override;

  [[nodiscard]] const nlohmann::json& manifest() const;
  [[nodiscard]] const std::vector<BlockEntry>& blocks() const;
  [[nodiscard]] bool is_quantized(const std::string& layer) const;
  /// Reads one layer and checks its digest. `layer` is a tensor name without ".weight".
  [[nodiscard]] StoredLayer read_layer(const std::string& layer) const;
  /// Returns one digest over the layers' digests in model order.
  [[nodiscard]] std::string digest() const;
  /// Returns a line for everything that does not match its digest; none if the model is whole.
  [[nodiscard]] std::vector<std::string> verify() const;
  /// Returns the bytes on disk of the directory's files.
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
