// A new HDF5 file: HDF5 arranges it in memory, plain writes bring it to disk.
//
// Two things are gained. A full disk is an ordinary error of a write: were it to hit the
// library while it closes a file, the process would crash at exit, because the library
// then keeps a half-closed file. And the elements of datasets, which are nearly all bytes,
// can be written by any rank at their place in the file.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hdf5.hpp"

namespace quip {

/// Bytes [begin, end) of a file.
struct Extent {
  index_t begin = 0;
  index_t end = 0;
};

/// Returns the gaps between `data` extents in a file of `size` bytes: HDF5's own structures. Throws
/// Error naming `where` if extents overlap or leave the file.
[[nodiscard]] std::vector<Extent> frame_of(std::vector<Extent> data, index_t size,
                                           const std::string& where);

/// Bytes at scattered offsets; gaps read as zero.
class SparseBytes {
 public:
  void write(index_t offset, std::span<const std::byte> bytes);
  void read(index_t offset, std::span<std::byte> bytes) const;

 private:
  static constexpr index_t page_bytes = 4096;
  std::map<index_t, std::vector<std::byte>> pages_;
};

/// A new file of groups, attributes and contiguous datasets.
class Layout {
 public:
  /// Begins a file that messages call `target`.
  explicit Layout(const std::filesystem::path& target);

  [[nodiscard]] hid_t file() const { return file_.get(); }
  /// Adds a contiguous dataset whose elements the caller will write to the finished file, at
  /// its `data_offset`.
  [[nodiscard]] H5Dataset add_dataset(hid_t parent, const std::string& name, hid_t type,
                                      const std::vector<index_t>& shape);
  /// Closes HDF5's side and creates `target`: full length, all but the elements written.
  void write();

 private:
  std::filesystem::path target_;
  std::string where_;
  std::unique_ptr<SparseBytes> bytes_;  // outlives file_, which writes there when it closes
  H5File file_;
  std::vector<Extent> data_;
};

}  // namespace quip
