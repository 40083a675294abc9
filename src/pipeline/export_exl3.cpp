// Exports in the EXL3 format of exllamav3 (turboderp-org/exllamav3): trellis codes as they are, but
// for the order of tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "export_format.hpp"
#include <omp.h>

#include "quip/backend/backend.hpp"
#include "quip/core/error.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/pipeline/round_layer.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using trellis::Codebook;
using trellis::tile_side;

constexpr const char* format_version = "1.4.1";  // the exllamav3 whose files these are like
constexpr const char* head_key = "lm_head";
constexpr int plain_head_bits = 16;

/// Returns the name of the tensor that tells the codebook, and its value; 3INST has none.
std::optional<std::pair<std::string, std::uint32_t>> multiplier_of(Codebook codebook) {
  switch (codebook) {
    case Codebook::mul1:
      return {{"mul1", 0x83DCD12DU}};
    case Codebook::mcg:
      return {{"mcg", 0xCBAC1FEDU}};
    case Codebook::three_inst:
      break;
  }
  return std::nullopt;
}

/// Returns torch's name of a type; none for those that exllamav3 does not read.
std::optional<std::string> torch_name(DType type) {
  switch (type) {
    case DType::f16:
      return "torch.float16";
    case DType::bf16:
      return "torch.bfloat16";
    case DType::f32:
      return "torch.float32";
    case DType::i16:
      return "torch.int16";
    case DType::i32:
      return "torch.int32";
    default:
      return std::nullopt;
  }
}

/// Returns the options of a layer with trellis codes.
LayerOptions trellis_options(int bits, Codebook codebook) {
  LayerOptions options;
  options.codebook = CodebookKind::trellis;
  options.trellis = codebook;
  options.bits = bits;
  return options;
}

/// Returns the bits a weight, padding included, to two decimals as exllamav3 rounds them.
double mean_bits(const LayerOutlines& layers) {
  double bits = 0;
  double weights = 0;
  for (const auto& [name, layer] : layers) {
    const double count = static_cast<double>(layer.rows) * static_cast<double>(layer.cols);
    bits += count * layer.bits;
    weights += count;
  }
  return weights > 0 ? std::round(bits / weights * 100) / 100 : 0;
}

/// Returns all tiles, those of 16 inputs after those of the 16 before, where `layer` goes by
/// outputs.
std::vector<std::uint8_t> by_inputs(const QuantizedLinear& layer) {
  const index_t down = layer.rows / tile_side;
  const index_t across = layer.cols / tile_side;
  const index_t bytes = 2 * trellis::packed_words(layer.bits);
  std::vector<std::uint8_t> codes(layer.codes.size());
  for (index_t i = 0; i < down; ++i) {
    for (index_t j = 0; j < across; ++j) {
      std::memcpy(codes.data() + (j * down + i) * bytes,
                  layer.codes.data() + (i * across + j) * bytes, at(bytes));
    }
  }
  return codes;
}

/// Throws Error naming a tensor of which some parts are codes and others are not, or that holds the
/// biases of several layers: the format has layers, and no parts of a tensor.
void require_whole_tensors(const PackedModel& model, const Family& family) {
  for (index_t b = 0; b < family.config().blocks; ++b) {
    for (const LinearSpec& linear : family.linears(b)) {
      if (!model.is_quantized(linear.name) || !model.contains(linear.stored.tensor)) continue;
      fail(
          "{}: EXL3 cannot hold {}, of which only a part is quantized; quantize without the --skip "
          "that leaves the rest",
          model.describe(), linear.stored.tensor);
    }
    for (const TensorSpec& tensor : family.block_tensors(b)) {
      if (!tensor.stored) continue;
      fail("{}: EXL3 cannot hold {}, the biases of several layers", model.describe(),
           tensor.stored->tensor);
    }
  }
}

class Exl3Writer final : public FormatWriter {
 public:
  explicit Exl3Writer(const ExportRequest& request)
      : model_(request.model),
        layers_(request.layers),
        cache_(request.model, request.layers),
        head_bits_(request.options.head_bits) {
    if (!layers_.empty()) codebook_ = layers_.begin()->second.trellis;
    mean_bits_ = mean_bits(layers_);
    require_whole_tensors(model_, request.stored);
    if (head_bits_ == 0) return;
    head_source_ = request.stored.head().name;
    const TensorInfo& head = model_.info(head_source_);
    layers_[head_key] =
        described(trellis_options(head_bits_, codebook_), head.shape.at(0), head.shape.at(1));
  }

  [[nodiscard]] std::vector<ExportTensor> tensors() const override {
    std::vector<ExportTensor> tensors;
    index_t unit = 0;
    for (const BlockEntry& block : model_.blocks()) {
      for (const std::string& layer : block.layers) append_layer(layer, unit, tensors);
      ++unit;
    }
    for (const std::string& name : model_.names()) {
      if (layers_.contains(split_name(name).first)) continue;  // a bias, or the head's weight
      tensors.push_back({model_.info(name), "", unit++});
    }
    if (head_bits_ > 0) append_layer(head_key, unit, tensors);
    return tensors;
  }

  /// Quantizes the head, for which there is no Hessian: all its inputs count alike.
  void prepare(Collectives& comm) override {
    if (head_bits_ == 0) return;
    LayerOptions options = trellis_options(head_bits_, codebook_);
    options.method = method_without_hessian;
    const std::unique_ptr<Backend> backend = make_cpu_backend(omp_get_max_threads());
    const Tensor loaded = load_tensor(comm, *backend, model_, head_source_);
    Matrix<float> room;
    const MatrixView<const float> weights = backend->on_host(loaded.cview(), room);
    PreparedLayer prepared;
    agree(comm, [&] {
      if (comm.rank() != 0) return;
      prepared = prepare_layer(weights, Matrix<double>(weights.cols, weights.cols, 0.0), options,
                               head_key);
    });
    broadcast_prepared(comm, prepared, 0);
    head_ = round_layer(comm, head_key, weights, prepared, options).layer;
  }

  void write(const File& file, index_t offset, const ExportTensor& tensor) override {
    const auto put = [&](const auto& elements) {
      file.write_at(std::as_bytes(std::span(elements)), offset);
    };
    const std::string part = split_name(tensor.info.name).second;
    const QuantizedLinear& layer = this->layer(tensor.layer);
    if (part == "trellis") return put(by_inputs(layer));
    if (part == "suh") return put(layer.suh);
    if (part == "svh") return put(layer.svh);
    if (part == "bias") return put(padded_bias(tensor.info.name, layer));
    put(std::vector{multiplier_of(layer.trellis)->second});
  }

  void configure(ordered_json config, const std::vector<ExportTensor>& tensors,
                 const fs::path& out) const override {
    ordered_json quantization = summary();
    config["quantization_config"] = quantization;
    write_text(out / "config.json", config.dump(2) + "\n");
    quantization["tensor_storage"] = storage(tensors);
    write_text(out / "quantization_config.json", quantization.dump(2) + "\n");
  }

 private:
  void append_layer(const std::string& name, index_t unit,
                    std::vector<ExportTensor>& tensors) const {
    const QuantizedLinear& layer = layers_.at(name);
    const auto add = [&](const std::string& part, DType type, std::vector<index_t> shape) {
      tensors.push_back({{name + "." + part, type, std::move(shape)}, name, unit});
    };
    add("trellis", DType::i16,
        {layer.cols / tile_side, layer.rows / tile_side, trellis::packed_words(layer.bits)});
    add("suh", DType::f16, {layer.cols});
    add("svh", DType::f16, {layer.rows});
    if (model_.contains(name + ".bias")) add("bias", DType::f16, {layer.rows});
    if (const auto multiplier = multiplier_of(layer.trellis))
      add(multiplier->first, DType::i32, {});
  }

  const QuantizedLinear& layer(const std::string& name) {
    return head_bits_ > 0 && name == head_key ? head_ : cache_.layer(name);
  }

  /// Returns a bias as halves, with zeros for the outputs that pad the layer.
  [[nodiscard]] std::vector<std::uint16_t> padded_bias(const std::string& name,
                                                       const QuantizedLinear& layer) const {
    std::vector<float> bias(at(layer.outputs()));
    read_floats(model_, name, 0, bias);
    std::vector<std::uint16_t> halves(at(layer.rows));
    for (std::size_t i = 0; i < bias.size(); ++i) {
      halves[i] = to_f16(bias[i]);
      if (!std::isfinite(from_f16(halves[i]))) {
        fail("{}: {} has the element {}, too large for fp16, which EXL3 stores", model_.describe(),
             name, bias[i]);
      }
    }
    return halves;
  }

  /// Returns quantization_config as config.json has it.
  [[nodiscard]] ordered_json summary() const {
    ordered_json out = {{"quant_method", "exl3"},
                        {"version", format_version},
                        {"bits", mean_bits_},
                        {"head_bits", head_bits_ > 0 ? head_bits_ : plain_head_bits}};
    const fs::path report = fs::path(model_.describe()) / "report.json";
    if (fs::exists(report)) {
      const auto tokens =
          parse_json<ordered_json>(read_text(report), report.string()).at("tokens").get<index_t>();
      const auto samples = model_.manifest().at("options").at("samples").get<index_t>();
      out["calibration"] = {{"rows", samples}, {"cols", tokens / samples}};
    }
    out["out_scales"] = "always";
    out["codebook"] = trellis::to_string(codebook_);
    return out;
  }

  /// Lists the tensors of every module.
  [[nodiscard]] ordered_json storage(const std::vector<ExportTensor>& tensors) const {
    ordered_json modules = ordered_json::object();
    for (const auto& [info, layer_name, unit] : tensors) {
      const std::optional<std::string> type = torch_name(info.dtype);
      if (!type) continue;
      ordered_json& module = modules[split_name(info.name).first];
      module["stored_tensors"][info.name] = {
          {"shape", info.shape}, {"n_bytes", info.bytes()}, {"dtype", *type}};
      if (layer_name.empty()) continue;
      const QuantizedLinear& layer = layers_.at(layer_name);
      module["quant_format"] = "exl3";
      module["bits_per_weight"] = layer.bits;
      if (const auto multiplier = multiplier_of(layer.trellis)) {
        module[multiplier->first + "_multiplier"] = multiplier->second;
      }
    }
    return modules;
  }

  const PackedModel& model_;
  LayerOutlines layers_;  ///< the head's, too, if it is quantized
  LayerCache cache_;
  Codebook codebook_ = Codebook::mul1;  ///< of the first layer
  double mean_bits_ = 0;                ///< of all layers but the head
  int head_bits_;
  std::string head_source_;
  QuantizedLinear head_;
};

class Exl3Format final : public ExportFormat {
 public:
  [[nodiscard]] const char* name() const override { return "exl3"; }
  [[nodiscard]] const char* help() const override {
    return "trellis codes as they are, for exllamav3";
  }
  [[nodiscard]] std::string misfit(const QuantizedLinear& layer) const override {
    if (layer.codebook == CodebookKind::trellis) return {};
    return "their codes are scalar; quantize with --codebook trellis or export with --format bf16";
  }
  [[nodiscard]] std::string how_to_load() const override {
    return "Weights are trellis codes in the EXL3 format of exllamav3.\n\n"
           "```sh\npython examples/chat.py -m PATH          # of exllamav3\n```\n\n"
           "TabbyAPI: `model_name` in config.yml is the name of this directory.\n";
  }
  [[nodiscard]] std::unique_ptr<FormatWriter> make_writer(
      const ExportRequest& request) const override {
    return std::make_unique<Exl3Writer>(request);
  }
};

}  // namespace

const ExportFormat& exl3_format() {
  static const Exl3Format format;
  return format;
}

}  // namespace quip
