// Hidden states between two blocks, from which a run goes on without starting over.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "quip/comm/collectives.hpp"
#include "quip/store/hidden_state.hpp"

namespace quip {

/// The manifest's entry for a file with one dataset, `hidden_states` fp32 [samples, length, width].
struct StateEntry {
  index_t blocks = 0;  ///< blocks that the samples have passed through
  std::string file;    ///< relative to the directory
  StateShape shape;
  index_t offset = 0;  ///< offset of the elements in the file
  std::string digest;  ///< over the digests of the samples, in order
  std::string frame;   ///< digest of all the file's other bytes
};

[[nodiscard]] nlohmann::json to_json(const StateEntry& entry);
[[nodiscard]] StateEntry parse_state(const nlohmann::json& entry, const std::string& where);

/// Writes a file (collective): each rank its samples `mine`, which `fetch` hands out one by one.
[[nodiscard]] StateEntry write_state_file(Collectives& comm, const std::filesystem::path& directory,
                                          index_t blocks, const StateShape& shape, Range mine,
                                          const FetchSample& fetch);

/// Hands the samples `mine` to `put` (collective). Throws AgreedError if the file does not match
/// its digests.
void read_state_file(Collectives& comm, const std::filesystem::path& directory,
                     const StateEntry& entry, Range mine, const PutSample& put);

}  // namespace quip
