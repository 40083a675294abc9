// From a packed model back to a checkpoint that every Hugging Face program reads.
#pragma once

#include <filesystem>

#include "quip/comm/collectives.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// The most bytes of a file of weights, as transformers has it.
inline constexpr index_t most_shard_bytes = 5'000'000'000;

/// Writes `model` as a Hugging Face directory to `out`, which must be absent or empty: dequantized
/// weights in bfloat16, all other tensors byte for byte in their own types, in one
/// model.safetensors or in shards of up to `shard_bytes` with an index; config.json with the
/// element type changed; and all that lies beside the weights in `model_dir`, the directory of the
/// original checkpoint. Collective: ranks take blocks in turn, one tensor at a time. All inputs are
/// checked before the first byte is written, every file appears whole or not at all, the weights
/// last, and an error leaves `out` empty. Throws AgreedError naming the file.
void export_checkpoint(Collectives& comm, const PackedModel& model,
                       const std::filesystem::path& model_dir, const std::filesystem::path& out,
                       index_t shard_bytes = most_shard_bytes);

}  // namespace quip
