// A whole file in the address space, read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "quip/core/matrix.hpp"

namespace quip {

/// Move-only owner of a private read-only mapping. The file must not shrink while it is open.
class MappedFile {
 public:
  /// Maps a file. Throws Error naming it if it cannot be opened, is not a regular file or cannot be
  /// mapped. An empty file has no bytes.
  explicit MappedFile(const std::filesystem::path& file);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const {
    return {data_, static_cast<std::size_t>(size_)};
  }
  [[nodiscard]] index_t size() const { return size_; }

  /// Lets go of the pages that lie wholly inside [offset, offset + count): a later read
  /// maps them again. Keeps resident memory independent of how much has been read.
  void release(index_t offset, index_t count) const noexcept;
  /// Reads the pages of [offset, offset + count) into the system's page cache, and lets go of them.
  void fetch(index_t offset, index_t count) const noexcept;

 private:
  const std::byte* data_ = nullptr;
  index_t size_ = 0;
};

}  // namespace quip
