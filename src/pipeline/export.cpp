#include "quip/pipeline/export.hpp"

#include <algorithm>
#include <list>
#include <tuple>

#include "core/names.hpp"
#include "export_format.hpp"
#include "io/files.hpp"
#include "io/safetensors_layout.hpp"
#include "model/family_common.hpp"
#include "side_files.hpp"

#include "quip/core/error.hpp"
#include "quip/io/json.hpp"
#include "quip/pipeline/open_model.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr index_t piece_bytes = index_t{16} << 20;

/// The place of a tensor.
struct Place {
  std::size_t shard = 0;
  index_t offset = 0;  ///< in the file of its shard
};

/// A file of weights.
struct Shard {
  std::string name;
  SafetensorsLayout layout;
};

struct ExportPlan {
  std::vector<ExportTensor> tensors;
  std::vector<Place> places;  ///< of each tensor
  std::vector<Shard> shards;
};

/// Fills a shard until the next tensor would take it beyond `shard_bytes`, as transformers does.
ExportPlan plan_export(std::vector<ExportTensor> tensors, index_t shard_bytes) {
  ExportPlan plan{std::move(tensors), {}, {}};
  std::vector<std::vector<std::size_t>> shards(1);
  index_t filled = 0;
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    const index_t bytes = plan.tensors[t].info.bytes();
    if (filled > 0 && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(t);
    filled += bytes;
  }
  plan.places.resize(plan.tensors.size());
  for (std::size_t s = 0; s < shards.size(); ++s) {
    std::ranges::sort(shards[s], {}, [&](std::size_t t) {
      const TensorInfo& info = plan.tensors[t].info;
      return std::tuple(-static_cast<int>(info.dtype), info.name);
    });
    std::vector<TensorInfo> infos;
    for (const std::size_t t : shards[s]) infos.push_back(plan.tensors[t].info);
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    plan.shards.push_back({name, lay_out_safetensors(infos)});
    for (std::size_t i = 0; i < infos.size(); ++i) {
      plan.places[shards[s][i]] = {s, plan.shards[s].layout.offsets[i]};
    }
  }
  return plan;
}

void copy_stored(const File& file, index_t offset, const TensorInfo& tensor,
                 const PackedModel& model) {
  const index_t bytes = tensor.bytes();
  std::vector<std::byte> piece;
  for (index_t done = 0; done < bytes; done += piece_bytes) {
    piece.resize(at(std::min(piece_bytes, bytes - done)));
    model.read(tensor.name, done, piece);
    file.write_at(piece, offset + done);
  }
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
  auto document = parse_json<ordered_json>(read_text(config), config.string());
  // What is written is stored as the format has it.
  document.erase("quantization_config");
  if (const auto text = document.find("text_config"); text != document.end() && text->is_object()) {
    text->erase("quantization_config");
  }
  return {std::move(document), list_side_files(model, {packed.describe(), out})};
}

/// True if the head is not the embedding, whatever the configuration says.
bool tied_by_mistake(const ModelConfig& config, const PackedModel& model) {
  const auto family = make_unchecked_family(config, model);
  return has_own_head(family->config(), model, family->embedding().name);
}

void write_index(const fs::path& out, const ExportPlan& plan) {
  index_t total = 0;
  json weights = json::object();
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    total += plan.tensors[t].info.bytes();
    weights[plan.tensors[t].info.name] = plan.shards[plan.places[t].shard].name;
  }
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weights}};
  write_text(out / "model.safetensors.index.json", index.dump(2) + "\n");
}

void fill(Collectives& comm, const PackedModel& model, FormatWriter& writer, const ExportPlan& plan,
          const fs::path& model_dir, const Original& original, const fs::path& out) {
  writer.prepare(comm);
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
    for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
      const ExportTensor& tensor = plan.tensors[t];
      if (tensor.unit % comm.size() != comm.rank()) continue;
      const auto [shard, offset] = plan.places[t];
      if (tensor.layer.empty()) {
        copy_stored(files[shard], offset, tensor.info, model);
      } else {
        writer.write(files[shard], offset, tensor);
      }
    }
    for (const File& file : files) file.sync();
  });
  agree(comm, [&] {
    if (comm.rank() != 0) return;
    for (const fs::path& name : original.side_files) {
      make_output_directory((out / name).parent_path());
      copy_content(model_dir / name, out / name);
    }
    writer.configure(original.config, plan.tensors, out);
    for (PendingFile& file : pending) file.publish();
    if (plan.shards.size() > 1) write_index(out, plan);
  });
}

}  // namespace

ExportFormat parse_export_format(const std::string& text) {
  constexpr Names<ExportFormat, 2> names{
      {{ExportFormat::bf16, "bf16"}, {ExportFormat::exl3, "exl3"}}};
  return parse_name(text, names);
}

void export_checkpoint(Collectives& comm, const PackedModel& model, const fs::path& model_dir,
                       const fs::path& out, const ExportOptions& options) {
  std::unique_ptr<FormatWriter> writer;
  ExportPlan plan;
  Original original;
  agree(comm, [&] {
    if (comm.rank() == 0) original = check_original(model, model_dir, out);
  });
  agree(comm, [&] {
    ModelConfig config = read_config(model_dir);
    if (tied_by_mistake(config, model)) {
      config.tied_head = false;
      original.config["tie_word_embeddings"] = false;
      if (config.wrapped) original.config["text_config"]["tie_word_embeddings"] = false;
    }
    const std::unique_ptr<Family> family = make_unchecked_family(config, model);
    config.format = {};
    writer = options.format == ExportFormat::exl3
                 ? make_exl3_writer(model, *family, options.head_bits)
                 : make_bf16_writer(model, *family, *make_unchecked_family(config, model));
    plan = plan_export(writer->tensors(), options.shard_bytes);
    if (comm.rank() == 0) make_empty_directory(out);
  });
  try {
    fill(comm, model, *writer, plan, model_dir, original, out);
  } catch (const AgreedError&) {
    if (comm.rank() == 0) clear_directory(out);  // the same command is to work once it is mended
    throw;
  }
}

}  // namespace quip
