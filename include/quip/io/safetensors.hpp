// Hugging Face checkpoints: safetensors files, memory-mapped.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "quip/io/tensor_source.hpp"

namespace quip {

/// Opens the shards that `directory`/model.safetensors.index.json names or, if there is no index,
/// model.safetensors. Headers are validated before anything is trusted: lengths, offsets
/// (overflow, overlap, outside the file), dtypes, shapes, and that an index names no file outside
/// the directory. `remarks` gets a line if there is a model.safetensors that is not read.
/// Throws Error naming file and tensor.
[[nodiscard]] std::unique_ptr<TensorSource> open_checkpoint(
    const std::filesystem::path& directory, std::vector<std::string>* remarks = nullptr);

/// Opens one safetensors file.
[[nodiscard]] std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& file);

}  // namespace quip
