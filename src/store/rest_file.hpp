// rest.h5: every tensor that was not quantized, with the element type it came with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/files.hpp"
#include "manifest.hpp"

#include "quip/io/tensor_source.hpp"

namespace quip {

/// The unit in which tensors are copied and digested, whatever the number of ranks.
inline constexpr index_t chunk_bytes = index_t{16} << 20;

/// Bytes [begin, begin + bytes) of tensor `tensor` of a list.
struct Chunk {
  std::size_t tensor = 0;
  index_t begin = 0;
  index_t bytes = 0;
};

/// Returns all chunks of all tensors, in order. A tensor without elements has none.
[[nodiscard]] std::vector<Chunk> chunks_of(const std::vector<TensorInfo>& tensors);

/// Creates the file with one contiguous dataset per tensor, elements not yet written. Types that
/// HDF5 lacks become unsigned integers of their width; attribute `dtype` names the type. Returns
/// the offset of each tensor's elements in the file, 0 if it has none.
[[nodiscard]] std::vector<index_t> create_rest_file(const std::filesystem::path& file,
                                                    const std::vector<TensorInfo>& tensors);

/// Returns the digest of the file's size and of all its bytes that belong to no tensor.
[[nodiscard]] std::string frame_digest(const std::filesystem::path& path,
                                       const std::vector<TensorInfo>& tensors,
                                       const std::vector<index_t>& offsets);

/// Throws Error unless all of the file but the tensors' elements is as it was written, around
/// elements that lie where the manifest says. HDF5 is not asked.
void require_rest_frame(const std::filesystem::path& file, const Manifest& manifest);

/// Throws Error naming `where` and the tensor unless its elements in the file match its digest.
void require_tensor(const File& file, const RestEntry& entry, const std::string& where);

/// Throws Error unless HDF5 finds each tensor where the manifest says. The file's bytes must be
/// known to be right.
void require_rest_datasets(const std::filesystem::path& file, const Manifest& manifest);

}  // namespace quip
