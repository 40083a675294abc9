// A whole file in the address space, read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>

#include "quip/core/matrix.hpp"

namespace quip {

/// Move-only owner of a private read-only mapping. The file must not shrink while it is open.
class MappedFile {
 public:
  /// Maps a file. Throws Error naming it if it cannot be opened, is not a regular file or cannot be
  /// mapped. An empty file has no bytes.
  explicit MappedFile(const std::filesystem::path& file);

  [[nodiscard]] std::span<const std::byte> bytes() const {
    return {data_.get(), data_.get_deleter().size};
  }
  [[nodiscard]] index_t size() const { return std::ssize(bytes()); }

  /// Lets go of the pages that lie wholly inside [offset, offset + count): a later read
  /// maps them again. Keeps resident memory independent of how much has been read.
  void release(index_t offset, index_t count) const noexcept;
  /// Reads the pages of [offset, offset + count) into the system's page cache, and lets go of them.
  void fetch(index_t offset, index_t count) const noexcept;

 private:
  struct Unmap {
    std::size_t size;
    void operator()(std::byte* data) const noexcept;
  };
  std::unique_ptr<std::byte, Unmap> data_;
};

}  // namespace quip
