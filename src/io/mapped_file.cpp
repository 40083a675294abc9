#include "mapped_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

#include "files.hpp"

#include "quip/core/error.hpp"

namespace quip {

MappedFile::MappedFile(const std::filesystem::path& file) {
  const File opened = File::open_read(file);
  if (!std::filesystem::is_regular_file(file)) fail("{}: not a regular file", file.string());
  const std::size_t length = at(opened.size());
  if (length == 0) return;  // mmap refuses an empty range
  void* address = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, opened.descriptor(), 0);
  if (address == MAP_FAILED) {
    fail("{}: cannot map {} bytes: {}", file.string(), length, std::strerror(errno));
  }
  data_ = {static_cast<std::byte*>(address), Unmap{length}};
}

void MappedFile::Unmap::operator()(std::byte* data) const noexcept { ::munmap(data, size); }

void MappedFile::release(index_t offset, index_t count) const noexcept {
  const index_t page = ::sysconf(_SC_PAGESIZE);
  const index_t first = (offset + page - 1) / page * page;
  const index_t last = (offset + count) / page * page;
  if (first >= last) return;
  // The kernel may decline; the pages then merely stay.
  ::madvise(data_.get() + first, at(last - first), MADV_DONTNEED);
}

void MappedFile::fetch(index_t offset, index_t count) const noexcept {
  constexpr index_t step = index_t{4} << 20;  // resident at a time
  const index_t page = ::sysconf(_SC_PAGESIZE);
  const index_t end = std::min(offset + count, size());
  for (index_t first = offset / page * page; first < end; first += step) {
    const index_t last = std::min(first + step, end);
    // One long request; touching alone reads little by little.
    ::madvise(data_.get() + first, at(last - first), MADV_WILLNEED);
    for (index_t place = first; place < last; place += page) {
      static_cast<void>(*static_cast<const volatile std::byte*>(data_.get() + place));
    }
    release(first, last - first);
  }
}

}  // namespace quip
