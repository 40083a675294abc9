// The start of a run in its output directory.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quip/store/packed_writer.hpp"

namespace quip {

/// Returns the manifest of a fresh run.
[[nodiscard]] nlohmann::json new_manifest(const nlohmann::json& header);

/// Returns the manifest to go on with: that of an earlier run, or a new one with `header`. For one
/// process, which holds the directory's lock. Removes temporary files. Throws Error if the
/// directory holds what `start` does not allow, or a run with another header, naming the
/// differences.
[[nodiscard]] nlohmann::json open_run(const std::filesystem::path& directory,
                                      const nlohmann::json& header, Start start,
                                      std::vector<std::string>& notes);

/// Drops from `manifest` all that fails its digest; every rank checks its share of the blocks.
/// Collective; the same result on every rank. `notes` receives a line for each.
void drop_damaged(Collectives& comm, const std::filesystem::path& directory,
                  nlohmann::json& manifest, std::vector<std::string>& notes);

/// Removes hidden states that the manifest does not list, and their folder if it is empty then.
void remove_unlisted_states(const std::filesystem::path& directory, const nlohmann::json& manifest);

}  // namespace quip
