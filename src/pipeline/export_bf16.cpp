// Exports for every Hugging Face program: weights as the codes stand for them, in bfloat16.
#include <algorithm>

#include "export_format.hpp"

#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

constexpr index_t piece_elements = index_t{4} << 20;

class Bf16Writer final : public FormatWriter {
 public:
  explicit Bf16Writer(const PackedModel& model) : model_(model) {}

  [[nodiscard]] std::vector<ExportTensor> tensors() const override {
    std::vector<ExportTensor> tensors;
    index_t unit = 0;
    for (const BlockEntry& block : model_.blocks()) {
      for (std::size_t l = 0; l < block.layers.size(); ++l) {
        const auto [rows, cols] = block.shapes[l];
        const std::string& layer = block.layers[l];
        tensors.push_back({{layer + ".weight", DType::bf16, {rows, cols}}, layer, unit});
      }
      ++unit;
    }
    for (const std::string& name : model_.names()) {
      tensors.push_back({model_.info(name), "", unit++});
    }
    return tensors;
  }

  void write(const File& file, index_t offset, const ExportTensor& tensor) override {
    const Matrix<float> weights = dequantize(model_.read_layer(tensor.layer).layer);
    std::span<const float> values = weights.span();
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

  void configure(nlohmann::ordered_json config, const std::vector<ExportTensor>& /*tensors*/,
                 const std::filesystem::path& out) const override {
    config["torch_dtype"] = "bfloat16";
    if (config.contains("dtype")) config["dtype"] = "bfloat16";  // its name in newer versions
    write_text(out / "config.json", config.dump(2) + "\n");
  }

 private:
  const PackedModel& model_;
};

}  // namespace

std::unique_ptr<FormatWriter> make_bf16_writer(const PackedModel& model) {
  return std::make_unique<Bf16Writer>(model);
}

}  // namespace quip
