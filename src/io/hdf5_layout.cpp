#include "hdf5_layout.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "files.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

/// An HDF5 file driver that writes to a SparseBytes: the library's core driver would hold the
/// datasets' unwritten elements in memory, too.
struct BytesAsFile {
  H5FD_t base;  // first: HDF5 sees a BytesAsFile as this
  SparseBytes* bytes;
  haddr_t end_of_address_space;
  haddr_t end_of_file;
};

BytesAsFile* self(H5FD_t* file) { return reinterpret_cast<BytesAsFile*>(file); }
const BytesAsFile* self(const H5FD_t* file) { return reinterpret_cast<const BytesAsFile*>(file); }

H5FD_t* open_memory(const char* /*name*/, unsigned /*flags*/, hid_t access, haddr_t /*limit*/) {
  const auto* bytes = static_cast<SparseBytes* const*>(H5Pget_driver_info(access));
  auto* file = bytes == nullptr ? nullptr : new (std::nothrow) BytesAsFile{{}, *bytes, 0, 0};
  return reinterpret_cast<H5FD_t*>(file);
}

/// Writes without exceptions, which may not pass through the C library.
herr_t write_memory(H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t offset,
                    std::size_t count, const void* in) {
  try {
    self(file)->bytes->write(static_cast<index_t>(offset),
                             {static_cast<const std::byte*>(in), count});
  } catch (const std::bad_alloc&) {
    return -1;
  }
  self(file)->end_of_file = std::max(self(file)->end_of_file, offset + count);
  return 0;
}

hid_t memory_driver() {
  static const H5FD_class_t driver = [] {
    H5FD_class_t callbacks{};
#ifdef H5FD_CLASS_VERSION
    callbacks.version = H5FD_CLASS_VERSION;
    callbacks.value = static_cast<H5FD_class_value_t>(511);  // the range for private drivers
#endif
    callbacks.name = "quip-layout";
    callbacks.maxaddr = static_cast<haddr_t>(std::numeric_limits<index_t>::max());
    callbacks.fc_degree = H5F_CLOSE_WEAK;
    callbacks.fapl_size = sizeof(void*);
    callbacks.open = open_memory;
    callbacks.close = [](H5FD_t* file) -> herr_t {
      delete self(file);
      return 0;
    };
    callbacks.get_eoa = [](const H5FD_t* file, H5FD_mem_t /*type*/) {
      return self(file)->end_of_address_space;
    };
    callbacks.set_eoa = [](H5FD_t* file, H5FD_mem_t /*type*/, haddr_t end) -> herr_t {
      self(file)->end_of_address_space = end;
      return 0;
    };
    callbacks.get_eof = [](const H5FD_t* file, H5FD_mem_t /*type*/) {
      return self(file)->end_of_file;
    };
    callbacks.read = [](H5FD_t* file, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t offset,
                        std::size_t count, void* out) -> herr_t {
      self(file)->bytes->read(static_cast<index_t>(offset), {static_cast<std::byte*>(out), count});
      return 0;
    };
    callbacks.write = write_memory;
    return callbacks;
  }();
  static const hid_t id = H5FDregister(&driver);
  return id;
}

H5File create_in_memory(SparseBytes* bytes, const std::string& where) {
  const H5Properties access = file_access(where);
  check(H5Pset_driver(access.get(), check(memory_driver(), "H5FDregister", where), &bytes),
        "H5Pset_driver", where);
  const H5Properties creation = lean_creation(H5P_FILE_CREATE, where);
  return {H5Fcreate(where.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), "H5Fcreate",
          where};
}

}  // namespace

std::vector<Extent> frame_of(std::vector<Extent> data, index_t size, const std::string& where) {
  data.push_back({size, size});
  std::ranges::sort(data, {},
                    [](const Extent& extent) { return std::pair(extent.begin, extent.end); });
  std::vector<Extent> frame;
  index_t position = 0;
  for (const Extent& extent : data) {
    if (extent.begin < position || extent.end > size) {
      fail("{}: datasets overlap or lie outside the file; the file is damaged", where);
    }
    if (extent.begin > position) frame.push_back({position, extent.begin});
    position = extent.end;
  }
  return frame;
}

void SparseBytes::write(index_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const index_t within = offset % page_bytes;
    const auto part = bytes.first(std::min(bytes.size(), at(page_bytes - within)));
    auto& page = pages_.try_emplace(offset / page_bytes, page_bytes).first->second;
    std::ranges::copy(part, page.begin() + within);
    offset += std::ssize(part);
    bytes = bytes.subspan(part.size());
  }
}

void SparseBytes::read(index_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const index_t within = offset % page_bytes;
    const auto part = bytes.first(std::min(bytes.size(), at(page_bytes - within)));
    const auto page = pages_.find(offset / page_bytes);
    std::ranges::fill(part, std::byte{0});
    if (page != pages_.end()) std::copy_n(page->second.begin() + within, part.size(), part.begin());
    offset += std::ssize(part);
    bytes = bytes.subspan(part.size());
  }
}

Layout::Layout(const std::filesystem::path& target)
    : target_(target),
      where_(target.string()),
      bytes_(std::make_unique<SparseBytes>()),
      file_(create_in_memory(bytes_.get(), where_)) {}

H5Dataset Layout::add_dataset(hid_t parent, const std::string& name, hid_t type,
                              const std::vector<index_t>& shape) {
  const std::string place = fmt::format("{}: dataset {}", where_, name);
  const std::vector<hsize_t> extents(shape.begin(), shape.end());
  const H5Space space(
      extents.empty() ? H5Screate(H5S_SCALAR)
                      : H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr),
      "H5Screate", place);
  const H5Properties creation = lean_creation(H5P_DATASET_CREATE, place);
  check(H5Pset_layout(creation.get(), H5D_CONTIGUOUS), "H5Pset_layout", place);
  check(H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY), "H5Pset_alloc_time", place);
  check(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), "H5Pset_fill_time", place);
  H5Dataset dataset(
      H5Dcreate2(parent, name.c_str(), type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
      "H5Dcreate2", place);
  if (const index_t offset = data_offset(dataset); offset >= 0) {
    data_.push_back({offset, offset + static_cast<index_t>(H5Dget_storage_size(dataset.get()))});
  }
  return dataset;
}

void Layout::write() {
  hsize_t size = 0;
  check(H5Fflush(file_.get(), H5F_SCOPE_LOCAL), "H5Fflush", where_);
  check(H5Fget_filesize(file_.get(), &size), "H5Fget_filesize", where_);
  file_.close("H5Fclose", where_);
  const File target = File::create(target_);
  target.resize(static_cast<index_t>(size));
  for (const auto& [begin, end] : frame_of(data_, static_cast<index_t>(size), where_)) {
    std::vector<std::byte> bytes(at(end - begin));
    bytes_->read(begin, bytes);
    target.write_at(bytes, begin);
  }
}

}  // namespace quip
