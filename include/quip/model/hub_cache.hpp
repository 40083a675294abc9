// Models in the local cache of the Hugging Face Hub.
#pragma once

#include <filesystem>
#include <string>

namespace quip {

/// True for OWNER/NAME, as the Hub calls its repositories.
[[nodiscard]] bool is_hub_name(const std::string& name);

/// Returns the folder in which `hf download` keeps models: $HF_HUB_CACHE, or hub in $HF_HOME, which
/// is huggingface in $XDG_CACHE_HOME or ~/.cache.
[[nodiscard]] std::filesystem::path hub_cache();

/// Returns the directory of a model: `name` itself if there is such a path or it is no name of the
/// Hub, else the snapshot that the cache has of its main branch, else `name`.
[[nodiscard]] std::filesystem::path find_model_directory(const std::string& name);

}  // namespace quip
