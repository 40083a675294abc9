#include "model_card.hpp"

#include <algorithm>
#include <set>

#include "quip/core/error.hpp"
#include "quip/pipeline/report.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Returns ORG/NAME for a folder of the Hugging Face cache (models--ORG--NAME/snapshots/…), else
/// the folder's own name.
std::string name_of_model(const fs::path& directory) {
  const fs::path path = fs::absolute(directory).lexically_normal();
  for (const fs::path& part : path) {
    const std::string name = part.string();
    const std::string prefix = "models--";
    if (!name.starts_with(prefix)) continue;
    const std::string id = name.substr(prefix.size());
    const std::size_t dashes = id.find("--");
    if (dashes == std::string::npos) return id;
    return fmt::format("{}/{}", id.substr(0, dashes), id.substr(dashes + 2));
  }
  return path.filename().empty() ? path.parent_path().filename().string()
                                 : path.filename().string();
}

/// Returns the line on the licence that the original card begins with; empty if there is none.
std::string license_line(const fs::path& directory, const std::vector<fs::path>& side_files) {
  if (std::ranges::find(side_files, fs::path(card_file)) == side_files.end()) return {};
  const std::string text = read_text(directory / card_file);
  if (!text.starts_with("---\n")) return {};
  const std::string head = text.substr(0, text.find("\n---", 3));
  const std::size_t line = head.find("\nlicense: ");
  if (line == std::string::npos) return {};
  const std::size_t end = std::min(head.find('\n', line + 1), head.size());
  return head.substr(line + 1, end - line - 1);
}

/// Returns "2", or "2, 3" for a mixture.
std::string bits_of(const json& layers) {
  std::set<int> bits;
  for (const json& layer : layers) bits.insert(layer.at("bits").get<int>());
  return fmt::format("{}", fmt::join(bits, ", "));
}

/// Returns the bits a weight that quantized layers take in the export.
double bits_in_export(const std::vector<ExportTensor>& tensors, double weights) {
  double bytes = 0;
  for (const ExportTensor& tensor : tensors) {
    if (!tensor.layer.empty()) bytes += static_cast<double>(tensor.info.bytes());
  }
  return weights > 0 ? 8 * bytes / weights : 0;
}

}  // namespace

std::string model_card(const PackedModel& model, const fs::path& model_dir,
                       const ExportFormat& format, const std::vector<ExportTensor>& tensors,
                       const std::vector<fs::path>& side_files) {
  json layers = json::array();
  for (const json& block : model.manifest().at("blocks")) {
    for (const json& layer : block.at("report")) layers.push_back(layer);
  }
  const json& options = model.manifest().at("options");
  const LayerTotals totals = totals_of(layers);
  const std::string name = name_of_model(model_dir);
  const std::string bits = bits_of(layers);
  const std::string license = license_line(model_dir, side_files);
  std::string card = fmt::format("---\n{}{}", license, license.empty() ? "" : "\n");
  card +=
      fmt::format("base_model: {}\nbase_model_relation: quantized\ntags:\n- quip\n- {}\n---\n\n",
                  name, format.name());
  card += fmt::format("# {}, quantized to {} bits\n\n", name, bits);
  card += fmt::format("Made by quip {} from {}",
                      model.manifest().at("quip_version").get<std::string>(), name);
  card += std::ranges::find(side_files, fs::path(card_file)) == side_files.end()
              ? ".\n\n"
              : fmt::format(", whose own card is [{0}]({0}).\n\n", original_card_file);
  card += "| | |\n|---|---|\n";
  const auto row = [&](const char* what, const std::string& value) {
    card += fmt::format("| {} | {} |\n", what, value);
  };
  row("format", format.name());
  row("codebook", layers.at(0).at("codebook").get<std::string>());
  row("method", layers.at(0).at("method").get<std::string>());
  row("bits of codes", bits);
  row("bits per weight of quantized layers, with scales",
      fmt::format("{:.2f} here, {:.2f} as quantized", bits_in_export(tensors, totals.weights),
                  totals.bits_per_weight()));
  row("targets", options.value("target", "layer"));
  row("calibration samples", options.at("samples").dump());
  row("quantized layers", std::to_string(layers.size()));
  row("digest", fmt::format("`{}`", model.digest()));
  card +=
      "\n## Losses\n\nRelative proxy loss, tr(Δ H Δᵀ) / tr(W H Wᵀ) on the calibration tokens.\n\n"
      "| layers | | mean | worst |\n|---|--:|--:|--:|\n";
  for (const TypeLosses& type : losses_by_type(layers)) {
    card += fmt::format("| {} | {} | {} | {} |\n", type.type, type.layers.size(),
                        decimals(type.mean, 5), decimals(type.worst, 5));
  }
  card += fmt::format("| all | {} | {} | |\n", layers.size(), decimals(totals.mean_loss, 5));
  card += fmt::format("\n## Loading\n\nPATH is this directory.\n\n{}", format.how_to_load());
  return card;
}

}  // namespace quip
