// rest.h5: every tensor that was not quantized, with the element type it came with.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "manifest.hpp"

#include "quip/io/tensor_source.hpp"

namespace quip {

/// The unit in which tensors are copied and digested, whatever the number of ranks.
inline constexpr index_t kChunkBytes = index_t{16} << 20;

/// Bytes [begin, begin + bytes) of tensor `tensor` of a list.
struct Chunk {
  std::size_t tensor = 0;
  index_t begin = 0;
  index_t bytes = 0;
};

/// All chunks of all tensors, in order. A tensor without elements has none.
[[nodiscard]] std::vector<Chunk> chunks_of(const std::vector<TensorInfo>& tensors);

/// The digest of a tensor from those of its chunks, in order.
[[nodiscard]] std::string digest_of_chunks(std::span<const std::string> digests);

/// Creates the file with one contiguous dataset per tensor, elements not yet written.
/// float32 for F32, IEEE half for F16, uint16 for BF16; attribute `dtype` says which.
/// Returns where each tensor's elements start in the file (0: it has none).
[[nodiscard]] std::vector<index_t> create_rest_file(const std::filesystem::path& file,
                                                    const std::vector<TensorInfo>& tensors);

/// Digest of the file's size and of all its bytes that belong to no tensor.
[[nodiscard]] std::string frame_digest(const std::filesystem::path& file,
                                       const std::vector<TensorInfo>& tensors,
                                       const std::vector<index_t>& offsets);

/// Throws Error unless all of the file but the tensors' elements is as it was written,
/// around elements that lie where the manifest says. HDF5 is not asked.
void require_rest_frame(const std::filesystem::path& file, const Manifest& manifest);

/// Throws Error unless HDF5 finds each tensor where the manifest says. For a file whose
/// bytes are known to be right.
void require_rest_datasets(const std::filesystem::path& file, const Manifest& manifest);

}  // namespace quip
