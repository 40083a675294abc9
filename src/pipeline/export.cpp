#include "quip/pipeline/export.hpp"

#include <algorithm>
#include <array>
#include <list>
#include <tuple>

#include "export_format.hpp"
#include "io/files.hpp"
#include "io/safetensors_layout.hpp"
#include "job_inputs.hpp"
#include "model/family_common.hpp"
#include "model_card.hpp"
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
constexpr std::ptrdiff_t most_listed = 3;  // layers named in a message

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

/// Throws Error if `model` has weights, and others than those that `packed` was made of.
void require_same_weights(const PackedModel& packed, const fs::path& model) {
  const auto holds_weights = [](const fs::directory_entry& entry) {
    return entry.path().extension() == ".safetensors";
  };
  if (std::none_of(fs::directory_iterator(model), fs::directory_iterator(), holds_weights)) return;
  const json& inputs = packed.manifest().at("inputs");
  if (!inputs.contains("checkpoint_fingerprint")) return;  // not by quip quantize
  const Checkpoint checkpoint = open_model_directory(model, true);
  if (inputs.at("checkpoint_fingerprint") == fingerprint(*checkpoint.source)) return;
  fail("{} was not made from {}: their weights differ; give the --model it was made from",
       packed.describe(), model.string());
}

/// Reads all that could turn out wrong, before anything is written.
Original check_original(const PackedModel& packed, const fs::path& model, const fs::path& out) {
  const fs::path config = model / "config.json";
  require_made_from(packed, model);
  require_same_weights(packed, model);
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

/// Returns a layer as the manifest describes it. Throws Error if the manifest is of a version that
/// does not say enough.
QuantizedLinear outline_of(const PackedModel& model, const json& report) {
  LayerOptions options;
  options.bits = report.at("bits").get<int>();
  options.codebook = parse_codebook_kind(report.value("codebook", "scalar"));
  if (options.has_trellis()) {
    options.trellis = trellis::parse_codebook(report.at("trellis").get<std::string>());
  } else if (report.contains("grid")) {
    options.grid_kind = parse_grid(report.at("grid").get<std::string>());
    options.transform = parse_transform(report.at("transform").get<std::string>());
    options.group_size = report.at("group_size").get<index_t>();
    options.symmetric = report.at("symmetric").get<bool>();
    options.scale_type = report.at("half_scales").get<bool>() ? ScaleType::fp16 : ScaleType::fp32;
    options.rescaling = report.at("rescaled").get<bool>();
    options.output_scaling = report.at("output_scaled").get<bool>();
  } else {  // of an earlier version
    QuantizedLinear layer = model.read_layer(report.at("name").get<std::string>()).layer;
    visit_parts([](const Part& /*part*/, auto& elements) { elements.clear(); }, layer);
    return layer;
  }
  return described(options, report.at("rows").get<index_t>(), report.at("cols").get<index_t>());
}

LayerOutlines outline_layers(const PackedModel& model) {
  LayerOutlines layers;
  for (const auto& block : model.manifest().at("blocks")) {
    for (const auto& report : block.at("report")) {
      layers.emplace(report.at("name").get<std::string>(), outline_of(model, report));
    }
  }
  return layers;
}

/// Throws Error if `format` cannot hold all layers, naming some of them and the ways out.
void require_fit(const PackedModel& model, const LayerOutlines& layers,
                 const ExportFormat& format) {
  std::string reason;
  std::vector<std::string> names;  // of the layers with the first misfit's reason
  for (const BlockEntry& block : model.blocks()) {
    for (const std::string& name : block.layers) {
      const std::string own = format.misfit(layers.at(name));
      if (reason.empty()) reason = own;
      if (!own.empty() && own == reason) names.push_back(name);
    }
  }
  if (names.empty()) return;
  const std::ptrdiff_t listed = std::min(std::ssize(names), most_listed);
  const std::ptrdiff_t more = std::ssize(names) - listed;
  fail("{}: --format {} cannot hold {}{}: {}", model.describe(), format.name(),
       fmt::join(names.begin(), names.begin() + listed, ", "),
       more > 0 ? fmt::format(" and {} more", more) : "", reason);
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
          const fs::path& model_dir, const Original& original, const std::string& card,
          const fs::path& out) {
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
      const fs::path to = name == card_file ? fs::path(original_card_file) : name;
      make_output_directory((out / to).parent_path());
      copy_content(model_dir / name, out / to);
    }
    writer.configure(original.config, plan.tensors, out);
    write_text(out / card_file, card);
    for (PendingFile& file : pending) file.publish();
    if (plan.shards.size() > 1) write_index(out, plan);
  });
}

}  // namespace

const QuantizedLinear& LayerCache::layer(const std::string& name) {
  if (name == name_) return layer_;
  layer_ = model_.read_layer(name).layer;
  name_ = name;
  const QuantizedLinear& outline = outlines_.at(name);
  if (stored_bytes(layer_) != stored_bytes(outline) || layer_.bits != outline.bits ||
      layer_.trellis != outline.trellis || layer_.transform != outline.transform) {
    fail("{}: manifest.json describes another layer {} than its block has", model_.describe(),
         name);
  }
  return layer_;
}

std::pair<std::string, std::string> split_name(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return {name, ""};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

std::span<const ExportFormat* const> export_formats() {
  static const std::array<const ExportFormat*, 3> formats{&bf16_format(), &exl3_format(),
                                                          &compressed_tensors_format()};
  return formats;
}

const ExportFormat& export_format(const std::string& name) {
  std::vector<std::string> names;
  for (const ExportFormat* format : export_formats()) {
    if (format->name() == name) return *format;
    names.emplace_back(format->name());
  }
  fail("must be one of {}", fmt::join(names, ", "));
}

void export_checkpoint(Collectives& comm, const PackedModel& model, const fs::path& model_dir,
                       const fs::path& out, const ExportOptions& options) {
  std::unique_ptr<Family> stored;
  std::unique_ptr<Family> written;
  LayerOutlines layers;
  std::unique_ptr<FormatWriter> writer;
  ExportPlan plan;
  Original original;
  std::string card;
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
    stored = make_unchecked_family(config, model);
    config.format = {};
    written = make_unchecked_family(config, model);
    layers = outline_layers(model);
    require_fit(model, layers, *options.format);
    writer = options.format->make_writer({model, layers, *stored, *written, options});
    plan = plan_export(writer->tensors(), options.shard_bytes);
    if (comm.rank() != 0) return;
    card = model_card(model, model_dir, *options.format, plan.tensors, original.side_files);
    make_empty_directory(out);
  });
  try {
    fill(comm, model, *writer, plan, model_dir, original, card, out);
  } catch (const AgreedError&) {
    if (comm.rank() == 0) clear_directory(out);  // the same command is to work once it is mended
    throw;
  }
}

}  // namespace quip
