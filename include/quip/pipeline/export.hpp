// From a packed model back to a checkpoint that every Hugging Face program reads.
#pragma once

#include <filesystem>

#include "quip/comm/collectives.hpp"
#include "quip/store/packed_model.hpp"

namespace quip {

/// Writes `model` as a bfloat16 Hugging Face directory to `out`, which must be absent or
/// empty: one safetensors shard per block and one for all other tensors, their index,
/// config.json (with the element type changed) and the tokenizer files of `model_dir`, the
/// directory of the original checkpoint.
/// Collective: every rank writes every size-th shard, one tensor at a time. Every file
/// appears whole or not at all, the index last. Throws AgreedError naming the file.
void export_checkpoint(Collectives& comm, const PackedModel& model,
                       const std::filesystem::path& model_dir, const std::filesystem::path& out);

}  // namespace quip
