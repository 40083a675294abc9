// Exports in the pack-quantized format of compressed-tensors (vllm-project/compressed-tensors 0.18
// and later): codes of scalar grids, as vLLM and transformers read them.
#include <algorithm>
#include <map>
#include <set>

#include "export_format.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/code/dequantize.hpp"
#include "quip/quant/code/grid.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr index_t word_bytes = 4;
constexpr const char* ways_out = "export with --format bf16";
constexpr const char* requantize =
    "quantize with --for vllm, or export with --format bf16 (trellis codes: exl3)";

index_t packed_words(index_t count, int bits) {
  return (packed_bytes(count, bits) + word_bytes - 1) / word_bytes;
}

/// What the format says of a layer besides its elements. Layers that are alike make up a group.
struct Scheme {
  int bits = 0;
  bool symmetric = true;
  index_t group_size = 0;  ///< 0: a scale for each output

  [[nodiscard]] auto operator<=>(const Scheme&) const = default;
};

/// The levels of an incoherent grid, odd multiples of half a step, take one bit more.
Scheme scheme_of(const QuantizedLinear& layer) {
  if (layer.grid == GridKind::incoherent) return {layer.bits + 1, true, 0};
  const index_t group = layer.group_size < layer.cols ? layer.group_size : 0;
  return {layer.bits, layer.symmetric, group};
}

/// A module of the checkpoint: one quantized layer, or several whose outputs are stored together.
struct Module {
  std::vector<std::string> layers;  ///< in the order of their outputs
  index_t outputs = 0;
  index_t inputs = 0;
  Scheme scheme;

  [[nodiscard]] index_t groups() const { return groups_of(inputs, scheme.group_size); }
};

/// Returns the type in which scales are stored: that of the model by its config.json, whose text's
/// part may say it.
DType type_of_scales(const ordered_json& config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto type = config.find(key);
    if (type == config.end()) continue;
    if (*type == "float16") return DType::f16;
    if (*type == "float32") return DType::f32;
    if (*type == "bfloat16") return DType::bf16;
  }
  const auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? type_of_scales(*text) : DType::bf16;
}

/// Returns `values` in 16 bits.
std::vector<std::uint16_t> rounded(const std::vector<float>& values, DType type) {
  std::vector<std::uint16_t> out(values.size());
  std::ranges::transform(values, out.begin(), type == DType::f16 ? to_f16 : to_bf16);
  return out;
}

/// Returns the codes of all rows, each in whole words, one bit wider for an incoherent grid: 2q + 1
/// stands for (2q − (2ᵇ − 1)) half steps.
std::vector<std::uint8_t> words_of_codes(const QuantizedLinear& layer) {
  const int bits = scheme_of(layer).bits;
  const index_t row_bytes = packed_words(layer.cols, bits) * word_bytes;
  std::vector<std::uint8_t> words(at(layer.rows * row_bytes), 0);
#pragma omp parallel
  {
    std::vector<std::uint8_t> codes(at(layer.cols));
#pragma omp for schedule(static)
    for (index_t i = 0; i < layer.rows; ++i) {
      const std::uint8_t* own = layer.codes.data() + i * layer.row_bytes();
      unpack_row(own, layer.cols, layer.bits, codes.data());
      if (bits != layer.bits) {
        for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(2 * code + 1);
      }
      pack_row(codes.data(), layer.cols, bits, words.data() + i * row_bytes);
    }
  }
  return words;
}

/// Returns scales [outputs × groups].
std::vector<float> scales_of(const QuantizedLinear& layer) {
  if (layer.grid == GridKind::incoherent) {
    return std::vector<float>(at(layer.rows), grid_of(layer, 0).step / 2);
  }
  std::vector<float> scales(at(layer.grids()));
  for (index_t i = 0; i < layer.grids(); ++i) scales[at(i)] = grid_of(layer, i).step;
  return scales;
}

/// Packs zero points [outputs × groups] along the outputs, a row of words for each 32 bits of them.
std::vector<std::uint32_t> words_of_zeros(const std::vector<std::uint8_t>& zeros, index_t outputs,
                                          index_t groups, int bits) {
  const index_t words = packed_words(outputs, bits);
  std::vector<std::uint32_t> out(at(words * groups));
  std::vector<std::uint8_t> column(at(outputs));
  std::vector<std::uint32_t> packed(at(words));
  for (index_t g = 0; g < groups; ++g) {
    for (index_t i = 0; i < outputs; ++i) column[at(i)] = zeros[at(i * groups + g)];
    std::ranges::fill(packed, 0);
    pack_row(column.data(), outputs, bits, reinterpret_cast<std::uint8_t*>(packed.data()));
    for (index_t w = 0; w < words; ++w) out[at(w * groups + g)] = packed[at(w)];
  }
  return out;
}

/// Returns `name` from its block on, as a pattern: engines put models below prefixes of their own.
std::string pattern_of(const std::string& name) {
  const std::size_t block = name.find("layers.");
  std::string pattern = "re:.*";
  for (const char c : block == std::string::npos ? name : name.substr(block)) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + "$";
}

class CompressedTensorsWriter final : public FormatWriter {
 public:
  explicit CompressedTensorsWriter(const ExportRequest& request)
      : model_(request.model),
        cache_(request.model, request.layers),
        scale_type_(type_of_scales(
            parse_json<ordered_json>(request.written.config().text, "config.json"))) {
    std::map<std::string, std::map<index_t, std::string>> sharers;  // of a tensor, by first row
    for (index_t b = 0; b < request.written.config().blocks; ++b) {
      for (const LinearSpec& linear : request.written.linears(b)) {
        if (linear.shares_tensor()) {
          sharers[linear.stored.tensor].emplace(first_row(linear), linear.name);
        }
      }
    }
    for (const auto& [tensor, rows] : sharers) {
      const auto left = [&](const auto& part) { return !request.layers.contains(part.second); };
      const auto kept = std::ranges::count_if(rows, left);
      if (kept == std::ssize(rows)) continue;
      if (kept > 0) {
        fail(
            "{}: --format compressed-tensors cannot hold {}, of which only a part is quantized; "
            "quantize without the --skip that leaves {}, or {}",
            model_.describe(), tensor, std::ranges::find_if(rows, left)->second, ways_out);
      }
      for (const auto& [row, layer] : rows) add(split_name(tensor).first, layer, request.layers);
    }
    for (const auto& [layer, outline] : request.layers) {
      if (!module_of_.contains(layer)) add(layer, layer, request.layers);
    }
  }

  [[nodiscard]] std::vector<ExportTensor> tensors() const override {
    std::vector<ExportTensor> tensors;
    std::set<std::string> made;
    index_t unit = 0;
    for (const BlockEntry& block : model_.blocks()) {
      for (const std::string& layer : block.layers) {
        const std::string& module = module_of_.at(layer);
        if (made.insert(module).second) append(module, unit, tensors);
      }
      ++unit;
    }
    for (const std::string& name : model_.names()) {
      tensors.push_back({model_.info(name), "", unit++});
    }
    return tensors;
  }

  void write(const File& file, index_t offset, const ExportTensor& tensor) override {
    const auto [name, part] = split_name(tensor.info.name);
    const Module& module = modules_.at(name);
    const auto put = [&](const auto& elements) {
      const auto bytes = std::as_bytes(std::span(elements));
      file.write_at(bytes, offset);
      offset += std::ssize(bytes);
    };
    if (part == "weight_shape")
      return put(std::vector<std::int64_t>{module.outputs, module.inputs});
    std::vector<std::uint8_t> zeros;
    for (const std::string& own : module.layers) {
      const QuantizedLinear& layer = cache_.layer(own);
      if (part == "weight_packed") {
        put(words_of_codes(layer));
      } else if (part == "weight_scale") {
        const std::vector<float> scales = scales_of(layer);
        if (scale_type_ == DType::f32) {
          put(scales);
        } else {
          put(rounded(scales, scale_type_));
        }
      } else {
        zeros.insert(zeros.end(), layer.zero.begin(), layer.zero.end());
      }
    }
    if (!zeros.empty()) {
      put(words_of_zeros(zeros, module.outputs, module.groups(), module.scheme.bits));
    }
  }

  void configure(ordered_json config, const std::vector<ExportTensor>& /*tensors*/,
                 const fs::path& out) const override {
    config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                     {"format", "pack-quantized"},
                                     {"quantization_status", "compressed"},
                                     {"config_groups", groups()},
                                     {"ignore", ignored()},
                                     {"kv_cache_scheme", nullptr},
                                     {"global_compression_ratio", nullptr}};
    write_text(out / "config.json", config.dump(2) + "\n");
  }

 private:
  /// Returns the output of its tensor with which a linear begins. Throws Error if it is no such
  /// part.
  [[nodiscard]] index_t first_row(const LinearSpec& linear) const {
    const WeightHandle& place = linear.stored;
    if (place.shape.size() != 2 || place.column_stride != 1 || place.row_stride != linear.cols) {
      fail(
          "{}: --format compressed-tensors cannot hold {}, in which layers stand neither alone nor "
          "one after the other; {}",
          model_.describe(), place.tensor, ways_out);
    }
    return place.offset / linear.cols;
  }

  /// Adds a layer's outputs to a module.
  void add(const std::string& name, const std::string& layer, const LayerOutlines& outlines) {
    const QuantizedLinear& outline = outlines.at(layer);
    Module& module = modules_[name];
    const Scheme scheme = scheme_of(outline);
    if (module.layers.empty()) {
      module.scheme = scheme;
    } else if (module.scheme != scheme) {
      fail(
          "{}: --format compressed-tensors cannot hold {}, whose parts {} and {} have other bits "
          "or grids; quantize them alike, or {}",
          model_.describe(), name, module.layers.front(), layer, ways_out);
    }
    module.layers.push_back(layer);
    module.outputs += outline.rows;
    module.inputs = outline.cols;
    module_of_[layer] = name;
  }

  void append(const std::string& name, index_t unit, std::vector<ExportTensor>& tensors) const {
    const Module& module = modules_.at(name);
    const auto& [bits, symmetric, group_size] = module.scheme;
    const auto part = [&](const char* what, DType type, std::vector<index_t> shape) {
      tensors.push_back({{name + "." + what, type, std::move(shape)}, module.layers.front(), unit});
    };
    part("weight_packed", DType::i32, {module.outputs, packed_words(module.inputs, bits)});
    part("weight_scale", scale_type_, {module.outputs, module.groups()});
    if (!symmetric) {
      part("weight_zero_point", DType::i32, {packed_words(module.outputs, bits), module.groups()});
    }
    part("weight_shape", DType::i64, {2});
  }

  /// Returns the groups of layers that are alike, with what they apply to.
  [[nodiscard]] ordered_json groups() const {
    std::map<std::string, std::map<Scheme, std::vector<std::string>>>
        types;  // modules by last part
    std::map<Scheme, std::vector<std::string>> targets;
    for (const auto& [name, module] : modules_) {
      types[split_name(name).second][module.scheme].push_back(name);
      targets[module.scheme];
    }
    for (const auto& [type, schemes] : types) {
      for (const auto& [scheme, names] : schemes) {
        if (schemes.size() == 1) {
          targets[scheme].push_back("re:.*\\." + type + "$");
        } else {
          std::ranges::transform(names, std::back_inserter(targets[scheme]), pattern_of);
        }
      }
    }
    ordered_json groups = ordered_json::object();
    for (const auto& [scheme, names] : targets) {
      const bool grouped = scheme.group_size > 0;
      ordered_json weights = {{"num_bits", scheme.bits},
                              {"type", "int"},
                              {"symmetric", scheme.symmetric},
                              {"strategy", grouped ? "group" : "channel"},
                              {"group_size", nullptr},
                              {"actorder", nullptr},
                              {"dynamic", false}};
      if (grouped) weights["group_size"] = scheme.group_size;
      groups["group_" + std::to_string(groups.size())] = {
          {"targets", targets.size() == 1 ? std::vector<std::string>{"Linear"} : names},
          {"weights", std::move(weights)},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", "pack-quantized"}};
    }
    return groups;
  }

  /// Returns modules that might be taken for quantized ones, the head first.
  [[nodiscard]] std::vector<std::string> ignored() const {
    std::vector<std::string> names{"lm_head"};
    for (const std::string& name : model_.names()) {
      const auto [module, part] = split_name(name);
      if (part == "weight" && model_.info(name).shape.size() == 2 && module != names.front()) {
        names.push_back(module);
      }
    }
    return names;
  }

  const PackedModel& model_;
  LayerCache cache_;
  DType scale_type_;
  std::map<std::string, Module> modules_;
  std::map<std::string, std::string> module_of_;  ///< by layer
};

class CompressedTensorsFormat final : public ExportFormat {
 public:
  [[nodiscard]] const char* name() const override { return "compressed-tensors"; }
  [[nodiscard]] const char* help() const override {
    return "codes of untransformed layers (quantize --for vllm), for vLLM, SGLang and transformers";
  }
  [[nodiscard]] std::string misfit(const QuantizedLinear& layer) const override {
    if (layer.codebook == CodebookKind::trellis) {
      return fmt::format("they have trellis codes; {}", requantize);
    }
    if (layer.transform != TransformKind::none || layer.output_scaled) {
      return fmt::format("they are transformed (--transform); {}", requantize);
    }
    if (layer.rescaled) {
      return fmt::format("their inputs are scaled (--rescale on); {}", requantize);
    }
    if (scheme_of(layer).bits > 8) {
      return fmt::format("their grid takes {} bits, and 8 is the most; {}", scheme_of(layer).bits,
                         requantize);
    }
    if (layer.group_size > 0 && layer.group_size < layer.cols &&
        layer.cols % layer.group_size != 0) {
      return fmt::format(
          "their {} inputs are no multiple of --group-size {}; quantize with another --group-size, "
          "or {}",
          layer.cols, layer.group_size, ways_out);
    }
    return {};
  }
  [[nodiscard]] std::string how_to_load() const override {
    return "Weights are codes in the `pack-quantized` format of compressed-tensors 0.18 and "
           "later.\n\n"
           "```sh\nvllm serve PATH\npython -m sglang.launch_server --model-path PATH     # 4 and 8 "
           "bits\n```\n\n"
           "```python\n# pip install transformers compressed-tensors\n"
           "from transformers import AutoModelForCausalLM\n\n"
           "model = AutoModelForCausalLM.from_pretrained(\"PATH\")\n```\n";
  }
  [[nodiscard]] std::unique_ptr<FormatWriter> make_writer(
      const ExportRequest& request) const override {
    return std::make_unique<CompressedTensorsWriter>(request);
  }
};

}  // namespace

const ExportFormat& compressed_tensors_format() {
  static const CompressedTensorsFormat format;
  return format;
}

}  // namespace quip
