// Exports for every Hugging Face program: weights as the codes stand for them, in bfloat16.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "export_format.hpp"
#include "stored_lines.hpp"

#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

constexpr index_t piece_elements = index_t{4} << 20;

/// Writes fp32 values in bfloat16.
void write_rounded(const File& file, index_t offset, std::span<const float> values) {
  std::vector<std::uint16_t> rounded;
  while (!values.empty()) {
    const auto piece = values.first(std::min<std::size_t>(values.size(), piece_elements));
    rounded.resize(piece.size());
    std::ranges::transform(piece, rounded.begin(), to_bf16);
    const auto bytes = std::as_bytes(std::span(rounded));
    file.write_at(bytes, offset);
    offset += std::ssize(bytes);
    values = values.subspan(piece.size());
  }
}

/// Rounds a matrix to its place among elements.
void put_rounded(const Matrix<float>& weights, const WeightHandle& place, std::uint16_t* elements) {
  for (index_t i = 0; i < weights.rows(); ++i) {
    std::uint16_t* row = elements + place.offset + i * place.row_stride;
    for (index_t j = 0; j < weights.cols(); ++j) {
      row[j * place.column_stride] = to_bf16(weights(i, j));
    }
  }
}

class Bf16Writer final : public FormatWriter {
 public:
  Bf16Writer(const PackedModel& model, const Family& stored, const Family& written)
      : model_(model) {
    for (index_t b = 0; b < written.config().blocks; ++b) {
      for (std::size_t l = 0; l < written.linears(b).size(); ++l) {
        const LinearSpec& linear = written.linears(b)[l];
        const std::string& kept = stored.linears(b)[l].stored.tensor;
        if (!linear.shares_tensor()) continue;
        shared_[linear.name] = linear.tensor();
        sharers_[linear.stored.tensor].push_back({linear, stored.linears(b)[l].stored});
        if (kept != linear.stored.tensor) replaced_[kept] = linear;
      }
    }
  }

  [[nodiscard]] std::vector<ExportTensor> tensors() const override {
    std::vector<ExportTensor> tensors;
    std::set<std::string> made;  // of layers
    index_t unit = 0;
    for (const BlockEntry& block : model_.blocks()) {
      for (std::size_t l = 0; l < block.layers.size(); ++l) {
        const std::string& layer = block.layers[l];
        const auto [rows, cols] = block.shapes[l];
        const auto shared = shared_.find(layer);
        const TensorSpec tensor =
            shared != shared_.end() ? shared->second : TensorSpec{layer + ".weight", {rows, cols}};
        if (!made.insert(tensor.name).second) continue;
        tensors.push_back({{tensor.name, DType::bf16, tensor.shape}, layer, unit});
      }
      ++unit;
    }
    for (const std::string& name : model_.names()) {
      if (made.contains(name)) continue;
      const auto replaced = replaced_.find(name);
      if (replaced == replaced_.end()) {
        tensors.push_back({model_.info(name), "", unit++});
        continue;
      }
      const TensorSpec tensor = replaced->second.tensor();
      if (!made.insert(tensor.name).second) continue;
      tensors.push_back({{tensor.name, DType::bf16, tensor.shape}, replaced->second.name, unit++});
    }
    return tensors;
  }

  void write(const File& file, index_t offset, const ExportTensor& tensor) override {
    const auto sharers = sharers_.find(tensor.info.name);
    if (sharers == sharers_.end()) {
      write_rounded(file, offset, dequantize(model_.read_layer(tensor.layer).layer).span());
    } else {
      write_shared(file, offset, tensor.info, sharers->second);
    }
  }

  void configure(nlohmann::ordered_json config, const std::vector<ExportTensor>& /*tensors*/,
                 const std::filesystem::path& out) const override {
    config["torch_dtype"] = "bfloat16";
    if (config.contains("dtype")) config["dtype"] = "bfloat16";  // its name in newer versions
    write_text(out / "config.json", config.dump(2) + "\n");
  }

 private:
  /// A linear that shares its tensor.
  struct Sharer {
    LinearSpec linear;
    WeightHandle kept;  ///< where the model has its weights, if it was left as it is
  };

  /// Writes a tensor slice by slice of its first dimension where it has three (an expert each).
  void write_shared(const File& file, index_t offset, const TensorInfo& tensor,
                    const std::vector<Sharer>& sharers) const {
    const index_t slices = tensor.shape.size() > 2 ? tensor.shape[0] : 1;
    std::vector<std::uint16_t> slice(at(tensor.elements() / std::max<index_t>(slices, 1)));
    for (index_t s = 0; s < slices; ++s) {
      const index_t first = s * std::ssize(slice);
      for (const Sharer& sharer : sharers) {
        WeightHandle place = sharer.linear.stored;
        if (place.offset / std::ssize(slice) != s) continue;
        place.offset -= first;
        put_rounded(weights_of(sharer), place, slice.data());
      }
      const auto bytes = std::as_bytes(std::span(slice));
      file.write_at(bytes, offset);
      offset += std::ssize(bytes);
    }
  }

  /// Returns a linear's weights, also of one that was left as it is.
  [[nodiscard]] Matrix<float> weights_of(const Sharer& sharer) const {
    const LinearSpec& linear = sharer.linear;
    if (model_.is_quantized(linear.name)) return dequantize(model_.read_layer(linear.name).layer);
    Matrix<float> kept(linear.rows, linear.cols);
    const StoredLines lines = lines_of(sharer.kept, linear.rows, linear.cols);
    read_to_places(model_, lines, {0, lines.count}, kept.data());
    return kept;
  }

  const PackedModel& model_;
  std::map<std::string, TensorSpec> shared_;            ///< the tensors of layers that share one
  std::map<std::string, std::vector<Sharer>> sharers_;  ///< the linears in a tensor
  std::map<std::string, LinearSpec> replaced_;          ///< a linear in each tensor of another name
};

class Bf16Format final : public ExportFormat {
 public:
  [[nodiscard]] const char* name() const override { return "bf16"; }
  [[nodiscard]] const char* help() const override {
    return "dequantized weights, for every Hugging Face program";
  }
  [[nodiscard]] std::string misfit(const QuantizedLinear& /*layer*/) const override { return {}; }
  [[nodiscard]] std::string how_to_load() const override {
    return "Weights are dequantized: any program that reads Hugging Face checkpoints loads "
           "them.\n\n"
           "```python\nfrom transformers import AutoModelForCausalLM\n\n"
           "model = AutoModelForCausalLM.from_pretrained(\"PATH\")\n```\n";
  }
  [[nodiscard]] std::unique_ptr<FormatWriter> make_writer(
      const ExportRequest& request) const override {
    return std::make_unique<Bf16Writer>(request.model, request.stored, request.written);
  }
};

}  // namespace

const ExportFormat& bf16_format() {
  static const Bf16Format format;
  return format;
}

}  // namespace quip
