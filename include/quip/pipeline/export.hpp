// From a packed model to a checkpoint that other programs read.
#pragma once

#include <filesystem>
#include <string>

#include "quip/comm/collectives.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// The most bytes of a file of weights, as transformers has it.
inline constexpr index_t most_shard_bytes = 5'000'000'000;

/// bf16: dequantized weights, for every Hugging Face program. exl3: trellis codes as exllamav3
/// reads them.
enum class ExportFormat { bf16, exl3 };

/// Reads a format as users write it. Throws Error listing the choices.
[[nodiscard]] ExportFormat parse_export_format(const std::string& text);

struct ExportOptions {
  ExportFormat format = ExportFormat::bf16;
  int head_bits = 0;  ///< exl3: bits of the head's weights; 0: the head stays as it is
  index_t shard_bytes = most_shard_bytes;
};

/// Writes `model` as a Hugging Face directory to `out`, which must be absent or empty: quantized
/// weights as the format has them, all other tensors byte for byte in their own types, in one
/// model.safetensors or in shards with an index; config.json, changed as the format demands; and
/// all that lies beside the weights in `model_dir`, the directory of the original checkpoint.
/// Collective: ranks take blocks in turn, one tensor at a time, and quantize the head together. All
/// inputs are checked before the first byte is written, every file appears whole or not at all, the
/// weights last, and an error leaves `out` empty. Throws AgreedError naming the file, or the layers
/// that the format cannot hold.
void export_checkpoint(Collectives& comm, const PackedModel& model,
                       const std::filesystem::path& model_dir, const std::filesystem::path& out,
                       const ExportOptions& options = {});

}  // namespace quip
