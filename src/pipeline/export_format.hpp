// The formats of exports: which tensors they have, and how the quantized ones are written.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "io/files.hpp"

#include "quip/comm/collectives.hpp"
#include "quip/io/json.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

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

/// Writes dequantized weights in bfloat16, in the tensors that `written` has them in; `stored` has
/// those of `model`, which has to outlive the writer.
[[nodiscard]] std::unique_ptr<FormatWriter> make_bf16_writer(const PackedModel& model,
                                                             const Family& stored,
                                                             const Family& written);

/// Writes trellis codes in the EXL3 format. `head_bits`: 0 leaves the head as it is. Throws Error
/// naming the layers without trellis codes, or a tensor of which only a part has been quantized.
/// `model` has to outlive the writer.
[[nodiscard]] std::unique_ptr<FormatWriter> make_exl3_writer(const PackedModel& model,
                                                             const Family& family, int head_bits);

}  // namespace quip
