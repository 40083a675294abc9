// One HDF5 file per decoder block: a group per linear layer.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quip/store/packed_model.hpp"

namespace quip {

/// Writes all layers of a block to `file`, which the caller syncs and renames. A layer has a
/// dataset for each part, with the digest of its bytes; elements narrower than a byte are packed
/// like a row of codes. Throws Error naming the file and the call that failed.
void write_block_file(const std::filesystem::path& file, const std::vector<StoredLayer>& layers);

/// Reads one layer. Throws Error naming file and layer if it is not there, if its sizes do not fit
/// together, if a dataset does not match its digest, or if the layer does not match the digest
/// stored with it or `expected` (the manifest's).
[[nodiscard]] StoredLayer read_block_layer(const std::filesystem::path& file,
                                           const std::string& name, const std::string& expected);

}  // namespace quip
