// What the formats of exports have in common: which tensors there are, and how they are written.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/files.hpp"

#include "quip/comm/collectives.hpp"
#include "quip/io/json.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"
#include "quip/pipeline/export.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Layers by their names, without their elements.
using LayerOutlines = std::map<std::string, QuantizedLinear>;

/// All that a writer is made for, which has to outlive it.
struct ExportRequest {
  const PackedModel& model;
  const LayerOutlines& layers;  ///< those of `model`
  const Family& stored;         ///< has the tensors that `model` was made from
  const Family& written;        ///< has them in the checkpoint's plain form
  const ExportOptions& options;
};

/// A tensor of the export.
struct ExportTensor {
  TensorInfo info;
  std::string layer;  ///< the quantized layer that it is made of; empty: a copy from rest.h5
  index_t unit = 0;   ///< ranks take units in turn: a block, whose file is read whole, or a tensor
};

class FormatWriter {
 public:
  FormatWriter() = default;
  FormatWriter(const FormatWriter&) = delete;
  FormatWriter& operator=(const FormatWriter&) = delete;
  virtual ~FormatWriter() = default;

  /// Lists every tensor in the model's order, those of a layer side by side.
  [[nodiscard]] virtual std::vector<ExportTensor> tensors() const = 0;
  /// Makes what all ranks make together (collective).
  virtual void prepare(Collectives& /*comm*/) {}
  /// Writes the elements of a tensor that is made of a layer.
  virtual void write(const File& file, index_t offset, const ExportTensor& tensor) = 0;
  /// Writes config.json, made from the original's, and other files of the format to `out`.
  virtual void configure(nlohmann::ordered_json config, const std::vector<ExportTensor>& tensors,
                         const std::filesystem::path& out) const = 0;
};

/// Reads layers one after the other, and keeps the last for its other tensors.
class LayerCache {
 public:
  LayerCache(const PackedModel& model, const LayerOutlines& outlines)
      : model_(model), outlines_(outlines) {}
  /// Returns a layer with its elements. Throws Error if it is not what its outline says.
  const QuantizedLinear& layer(const std::string& name);

 private:
  const PackedModel& model_;
  const LayerOutlines& outlines_;
  std::string name_;
  QuantizedLinear layer_;
};

/// Return the formats, each from its own file.
[[nodiscard]] const ExportFormat& bf16_format();
[[nodiscard]] const ExportFormat& exl3_format();
[[nodiscard]] const ExportFormat& compressed_tensors_format();

/// Splits "model.norm.weight" into module and tensor.
[[nodiscard]] std::pair<std::string, std::string> split_name(const std::string& name);

}  // namespace quip
