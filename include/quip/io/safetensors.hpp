// Hugging Face checkpoints: safetensors files, memory-mapped.
#pragma once

#include <filesystem>
#include <memory>

#include "quip/io/tensor_source.hpp"

namespace quip {

/// Opens `directory`/model.safetensors, or the shards that
/// model.safetensors.index.json names. Headers are validated before anything is
/// trusted: lengths, offsets (overflow, overlap, outside the file), dtypes, shapes,
/// and that an index names no file outside the directory.
/// Throws Error naming file and tensor.
[[nodiscard]] std::unique_ptr<TensorSource> open_checkpoint(const std::filesystem::path& directory);

/// Opens one safetensors file.
[[nodiscard]] std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& file);

}  // namespace quip
