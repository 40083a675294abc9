#include "quip/pipeline/export.hpp"

#include <algorithm>
#include <list>
#include <tuple>

#include "io/files.hpp"
#include "io/safetensors_layout.hpp"
#include "model/family_common.hpp"
#include "side_files.hpp"

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
#include "quip/pipeline/open_model.hpp"
#include "quip/quant/code/dequantize.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view weight_suffix = ".weight";
constexpr index_t piece_elements = index_t{4} << 20;
constexpr index_t piece_bytes = index_t{16} << 20;

/// A tensor of the export.
struct ExportTensor {
  TensorInfo info;
  index_t unit = 0;  ///< ranks take units in turn: a block, whose file is read whole, or a tensor
  std::size_t shard = 0;
  index_t offset = 0;  ///< in the file of its shard
};

/// A file of weights.
struct Shard {
  std::string name;
  SafetensorsLayout layout;
};

struct ExportPlan {
  std::vector<ExportTensor> tensors;  ///< shard by shard
  std::vector<Shard> shards;
};

/// Lists every tensor in the model's order: a block's weights, dequantized, then those in rest.h5.
std::vector<ExportTensor> list_tensors(const PackedModel& model) {
  std::vector<ExportTensor> tensors;
  index_t unit = 0;
  for (const BlockEntry& block : model.blocks()) {
    for (std::size_t l = 0; l < block.layers.size(); ++l) {
      const auto [rows, cols] = block.shapes[l];
      tensors.push_back(
          {{fmt::format("{}{}", block.layers[l], weight_suffix), DType::bf16, {rows, cols}}, unit});
    }
    ++unit;
  }
  for (const std::string& name : model.names()) tensors.push_back({model.info(name), unit++});
  return tensors;
}

/// Fills a shard until the next tensor would take it beyond `shard_bytes`, as transformers does.
ExportPlan plan_export(const PackedModel& model, index_t shard_bytes) {
  ExportPlan plan{list_tensors(model), {}};
  std::size_t shard = 0;
  index_t filled = 0;
  for (ExportTensor& tensor : plan.tensors) {
    const index_t bytes = tensor.info.bytes();
    if (filled > 0 && filled + bytes > shard_bytes) {
      ++shard;
      filled = 0;
    }
    tensor.shard = shard;
    filled += bytes;
  }
  std::ranges::sort(plan.tensors, {}, [](const ExportTensor& tensor) {
    return std::tuple(tensor.shard, -static_cast<int>(tensor.info.dtype), tensor.info.name);
  });
  auto next = plan.tensors.begin();
  for (std::size_t s = 0; s <= shard; ++s) {
    const auto first = next;
    std::vector<TensorInfo> infos;
    for (; next != plan.tensors.end() && next->shard == s; ++next) infos.push_back(next->info);
    const std::string name =
        shard == 0 ? "model.safetensors"
                   : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shard + 1);
    plan.shards.push_back({name, lay_out_safetensors(infos)});
    const Shard& laid_out = plan.shards.back();
    for (auto t = first; t != next; ++t) {
      t->offset = laid_out.layout.offsets[at(t - first)];
    }
  }
  return plan;
}

void write_dequantized(const File& file, index_t offset, const QuantizedLinear& layer) {
  const Matrix<float> weights = dequantize(layer);
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

void copy_stored(const File& file, const ExportTensor& tensor, const PackedModel& model) {
  const index_t bytes = tensor.info.bytes();
  std::vector<std::byte> piece;
  for (index_t done = 0; done < bytes; done += piece_bytes) {
    piece.resize(at(std::min(piece_bytes, bytes - done)));
    model.read(tensor.info.name, done, piece);
    file.write_at(piece, tensor.offset + done);
  }
}

void write_tensor(const File& file, const ExportTensor& tensor, const PackedModel& model) {
  const std::string& name = tensor.info.name;
  if (model.contains(name)) return copy_stored(file, tensor, model);
  const std::string layer = name.substr(0, name.size() - weight_suffix.size());
  write_dequantized(file, tensor.offset, model.read_layer(layer).layer);
}

/// The parts that come from the original checkpoint.
struct Original {
  ordered_json config;
  std::vector<fs::path> side_files;
};

/// Reads all that could turn out wrong, before anything is written.
Original check_original(const PackedModel& packed, const fs::path& model, const fs::path& out) {
  const fs::path config = model / "config.json";
  require_made_from(packed, model);
  return {parse_json<ordered_json>(read_text(config), config.string()),
          list_side_files(model, {packed.describe(), out})};
}

/// Writes the original configuration, with the element type changed, and the tie undone of a head
/// that is not the embedding.
void write_config(ordered_json config, const PackedModel& model, const fs::path& out) {
  const ModelConfig original = parse_config(config.dump(), model.describe());
  const std::string embedding = make_unchecked_family(original, model)->embedding().name;
  if (has_own_head(original, model, embedding)) config["tie_word_embeddings"] = false;
  config["torch_dtype"] = "bfloat16";
  if (config.contains("dtype")) config["dtype"] = "bfloat16";  // its name in newer versions
  write_text(out / "config.json", config.dump(2) + "\n");
}

void write_index(const fs::path& out, const ExportPlan& plan) {
  index_t total = 0;
  json weights = json::object();
  for (const ExportTensor& tensor : plan.tensors) {
    total += tensor.info.bytes();
    weights[tensor.info.name] = plan.shards[tensor.shard].name;
  }
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weights}};
  write_text(out / "model.safetensors.index.json", index.dump(2) + "\n");
}

void fill(Collectives& comm, const PackedModel& model, const ExportPlan& plan,
          const fs::path& model_dir, const Original& original, const fs::path& out) {
  std::list<PendingFile> pending;  // rank 0's: it removes the files after an error
  std::vector<std::string> temporaries(plan.shards.size());
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    for (std::size_t s = 0; s < plan.shards.size(); ++s) {
      const auto& [name, layout] = plan.shards[s];
      temporaries[s] = pending.emplace_back(out / name).temporary().string();
      const File file = File::create(temporaries[s]);
      file.write_at(std::as_bytes(std::span(layout.header)), 0);
      file.resize(layout.bytes);
    }
  });
  for (std::string& temporary : temporaries) comm.broadcast(temporary, 0);
  agree(comm, [&] {
    std::vector<File> files;
    files.reserve(temporaries.size());
    for (const std::string& temporary : temporaries) files.push_back(File::open_write(temporary));
    for (const ExportTensor& tensor : plan.tensors) {
      if (tensor.unit % comm.size() != comm.rank()) continue;
      write_tensor(files[tensor.shard], tensor, model);
    }
    for (const File& file : files) file.sync();
  });
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    for (const fs::path& name : original.side_files) {
      make_output_directory((out / name).parent_path());
      copy_content(model_dir / name, out / name);
    }
    write_config(original.config, model, out);
    for (PendingFile& file : pending) file.publish();
    if (plan.shards.size() > 1) write_index(out, plan);
  });
}

}  // namespace

void export_checkpoint(Collectives& comm, const PackedModel& model, const fs::path& model_dir,
                       const fs::path& out, index_t shard_bytes) {
  ExportPlan plan;
  Original original;
  agree(comm, [&] {
    plan = plan_export(model, shard_bytes);
    if (comm.rank() != 0) return;
    original = check_original(model, model_dir, out);
    make_empty_directory(out);
  });
  try {
    fill(comm, model, plan, model_dir, original, out);
  } catch (const AgreedError&) {
    if (comm.rank() == 0) clear_directory(out);  // the same command is to work once it is mended
    throw;
  }
}

}  // namespace quip
