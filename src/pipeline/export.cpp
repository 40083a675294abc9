#include "quip/pipeline/export.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "io/files.hpp"
#include "io/safetensors_writer.hpp"
#include "model/family_common.hpp"

#include "quip/core/error.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr index_t kPieceElements = index_t{4} << 20;

/// What goes into one file: bf16 tensors, sorted by name.
using Shard = std::vector<TensorInfo>;

std::string layer_of(const TensorInfo& tensor) {
  return tensor.name.substr(0, tensor.name.size() - std::string_view(".weight").size());
}

/// One shard per block, then one for the tensors that were not quantized.
std::vector<Shard> plan_shards(const PackedModel& model) {
  std::vector<Shard> shards;
  for (const BlockEntry& block : model.blocks()) {
    Shard& shard = shards.emplace_back();
    for (std::size_t l = 0; l < block.layers.size(); ++l) {
      const auto [rows, cols] = block.shapes[l];
      shard.push_back({block.layers[l] + ".weight", DType::bf16, {rows, cols}});
    }
  }
  Shard& rest = shards.emplace_back();
  for (const std::string& name : model.names()) {
    rest.push_back({name, DType::bf16, model.info(name).shape});
  }
  for (Shard& shard : shards) std::ranges::sort(shard, {}, &TensorInfo::name);
  return shards;
}

std::string shard_name(std::size_t index, std::size_t count) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

void append_floats(SafetensorsWriter& writer, std::span<const float> values) {
  std::vector<std::uint16_t> rounded;
  while (!values.empty()) {
    const auto piece = values.first(std::min<std::size_t>(values.size(), kPieceElements));
    rounded.resize(piece.size());
    std::ranges::transform(piece, rounded.begin(), to_bf16);
    writer.append(std::as_bytes(std::span(rounded)));
    values = values.subspan(piece.size());
  }
}

/// A tensor that was stored as it was: copied if bf16, else rounded to it.
void append_rest(SafetensorsWriter& writer, const PackedModel& model, const std::string& name) {
  const TensorInfo& tensor = model.info(name);
  std::vector<std::byte> stored;
  std::vector<float> values;
  for (index_t first = 0; first < tensor.elements(); first += kPieceElements) {
    const index_t count = std::min(kPieceElements, tensor.elements() - first);
    stored.resize(static_cast<std::size_t>(count * size_of(tensor.dtype)));
    model.read(name, first * size_of(tensor.dtype), stored);
    if (tensor.dtype == DType::bf16) {
      writer.append(stored);
      continue;
    }
    values.resize(static_cast<std::size_t>(count));
    to_float(tensor.dtype, stored, values);
    append_floats(writer, values);
  }
}

void write_shard(const fs::path& file, const Shard& shard, const PackedModel& model) {
  SafetensorsWriter writer(file, shard);
  for (const TensorInfo& tensor : shard) {
    if (model.contains(tensor.name)) {
      append_rest(writer, model, tensor.name);
    } else {
      append_floats(writer, dequantize(model.read_layer(layer_of(tensor)).layer).span());
    }
  }
  writer.publish();
}

/// The original configuration, with the element type changed, and what is tied if the file's own
/// head counts.
void write_config(const fs::path& model_dir, const PackedModel& model, const fs::path& out) {
  const fs::path path = model_dir / "config.json";
  ordered_json config = ordered_json::parse(read_text(path), nullptr, false);
  if (!config.is_object()) fail("{}: is not a JSON object", path.string());
  config["torch_dtype"] = "bfloat16";
  const auto family = make_family(parse_config(config.dump(), path.string()), model,
                                  [&](const auto& name) { return model.is_quantized(name); });
  if (!note_on_head(*family).empty()) config["tie_word_embeddings"] = false;
  if (config.contains("dtype")) config["dtype"] = "bfloat16";  // its name in newer versions
  write_text(out / "config.json", config.dump(2) + "\n");
}

/// Everything that a tokenizer or a generation loop needs beside the weights.
void copy_companions(const fs::path& model_dir, const fs::path& out) {
  static constexpr std::array<std::string_view, 7> kPrefixes = {
      "tokenizer",    "special_tokens_map", "vocab",        "merges",
      "added_tokens", "generation_config",  "chat_template"};
  for (const auto& entry : fs::directory_iterator(model_dir)) {
    const std::string name = entry.path().filename().string();
    const bool wanted = std::ranges::any_of(
        kPrefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
    if (wanted && entry.is_regular_file()) write_text(out / name, read_text(entry.path()));
  }
}

void write_index(const fs::path& out, const std::vector<Shard>& shards) {
  index_t total = 0;
  json weights = json::object();
  for (std::size_t s = 0; s < shards.size(); ++s) {
    for (const TensorInfo& tensor : shards[s]) {
      total += tensor.bytes();
      weights[tensor.name] = shard_name(s, shards.size());
    }
  }
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weights}};
  write_text(out / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace

void export_checkpoint(Collectives& comm, const PackedModel& model, const fs::path& model_dir,
                       const fs::path& out) {
  std::vector<Shard> shards;
  agree(comm, [&] {
    shards = plan_shards(model);
    if (comm.rank() == 0) make_empty_directory(out);
  });
  agree(comm, [&] {
    for (auto s = static_cast<std::size_t>(comm.rank()); s < shards.size(); s += comm.size()) {
      write_shard(out / shard_name(s, shards.size()), shards[s], model);
    }
  });
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    write_config(model_dir, model, out);
    copy_companions(model_dir, out);
    write_index(out, shards);
  });
}

}  // namespace quip
