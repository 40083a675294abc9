// From a packed model to a checkpoint that other programs read.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "quip/comm/collectives.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// The most bytes of a file of weights, as transformers has it.
inline constexpr index_t most_shard_bytes = 5'000'000'000;

class FormatWriter;
struct ExportRequest;

/// A way to write quantized layers down. One object each, in a file of its own.
class ExportFormat {
 public:
  ExportFormat() = default;
  ExportFormat(const ExportFormat&) = delete;
  ExportFormat& operator=(const ExportFormat&) = delete;
  virtual ~ExportFormat() = default;

  /// Returns the name by which users choose it.
  [[nodiscard]] virtual const char* name() const = 0;
  /// Returns what it holds and who reads it, for --help.
  [[nodiscard]] virtual const char* help() const = 0;
  /// Returns why a layer, whose elements need not be there, cannot be said in it: "its … and the
  /// way out"; empty if it can.
  [[nodiscard]] virtual std::string misfit(const QuantizedLinear& layer) const = 0;
  /// Returns Markdown on how programs load a directory in this format.
  [[nodiscard]] virtual std::string how_to_load() const = 0;
  /// Makes the writer of one export. Throws Error naming what of the model, besides its layers, the
  /// format cannot hold.
  [[nodiscard]] virtual std::unique_ptr<FormatWriter> make_writer(
      const ExportRequest& request) const = 0;
};

/// Lists the formats; the first is the default.
[[nodiscard]] std::span<const ExportFormat* const> export_formats();
/// Returns a format by its name. Throws Error listing the choices.
[[nodiscard]] const ExportFormat& export_format(const std::string& name);

struct ExportOptions {
  const ExportFormat* format = export_formats().front();
  int head_bits = 0;  ///< exl3: bits of the head's weights; 0: the head stays as it is
  index_t shard_bytes = most_shard_bytes;
};

/// Writes `model` as a Hugging Face directory to `out`, which must be absent or empty: quantized
/// weights as the format has them, all other tensors byte for byte in their own types, in one
/// model.safetensors or in shards with an index; config.json, changed as the format demands;
/// README.md, which says what is in it and how to load it; and all that lies beside the weights in
/// `model_dir`, the directory of the original checkpoint (its README.md as README-original.md).
/// Collective: ranks take blocks in turn, one tensor at a time, and quantize the head together. All
/// inputs are checked before the first byte is written, every file appears whole or not at all, the
/// weights last, and an error leaves `out` empty. Throws AgreedError naming the file, or the layers
/// that the format cannot hold.
void export_checkpoint(Collectives& comm, const PackedModel& model,
                       const std::filesystem::path& model_dir, const std::filesystem::path& out,
                       const ExportOptions& options = {});

}  // namespace quip
