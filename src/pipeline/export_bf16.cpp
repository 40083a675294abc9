// Exports for every Hugging Face program: weights as the codes stand for them, in bfloat16.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "export_format.hpp"

#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

constexpr index_t piece_elements = index_t{4} << 20;

/// Writes fp32 values in bfloat16 and moves `offset` on.
void write_rounded(const File& file, index_t& offset, std::span<const float> values) {
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

class Bf16Writer final : public FormatWriter {
 public:
  Bf16Writer(const PackedModel& model, const Family& family) : model_(model) {
    for (index_t b = 0; b < family.config().blocks; ++b) {
      for (const LinearSpec& linear : family.linears(b)) {
        if (linear.stored.rows == linear.rows) continue;
        shared_[linear.name] = linear.tensor();
        sharers_[linear.stored.tensor].push_back(linear);
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
      if (!made.contains(name)) tensors.push_back({model_.info(name), "", unit++});
    }
    return tensors;
  }

  /// Writes the layers that share the tensor one after the other; those that were left as they are
  /// come from the tensor itself.
  void write(const File& file, index_t offset, const ExportTensor& tensor) override {
    const auto sharers = sharers_.find(tensor.info.name);
    if (sharers == sharers_.end()) return write_layer(file, offset, tensor.layer);
    for (const LinearSpec& linear : sharers->second) {
      if (model_.is_quantized(linear.name)) {
        write_layer(file, offset, linear.name);
        continue;
      }
      const Matrix<float> kept(linear.rows, linear.cols);
      read_floats(model_, tensor.info.name, linear.stored.first_row * linear.cols, kept.span());
      write_rounded(file, offset, kept.span());
    }
  }

  void configure(nlohmann::ordered_json config, const std::vector<ExportTensor>& /*tensors*/,
                 const std::filesystem::path& out) const override {
    config["torch_dtype"] = "bfloat16";
    if (config.contains("dtype")) config["dtype"] = "bfloat16";  // its name in newer versions
    write_text(out / "config.json", config.dump(2) + "\n");
  }

 private:
  void write_layer(const File& file, index_t& offset, const std::string& name) const {
    write_rounded(file, offset, dequantize(model_.read_layer(name).layer).span());
  }

  const PackedModel& model_;
  std::map<std::string, TensorSpec> shared_;  ///< the tensors of layers that share one
  std::map<std::string, std::vector<LinearSpec>> sharers_;  ///< the linears in a tensor, by row
};

}  // namespace

std::unique_ptr<FormatWriter> make_bf16_writer(const PackedModel& model, const Family& family) {
  return std::make_unique<Bf16Writer>(model, family);
}

}  // namespace quip
