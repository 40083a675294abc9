#include "mapped_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include "quip/core/error.hpp"

namespace quip {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(const std::filesystem::path& file)
      : descriptor_(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail("{}: cannot open: {}", file.string(), std::strerror(errno));
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { ::close(descriptor_); }
  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& file) {
  const FileDescriptor descriptor(file);
  struct stat status = {};
  if (::fstat(descriptor.get(), &status) != 0) {
    fail("{}: cannot stat: {}", file.string(), std::strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) fail("{}: not a regular file", file.string());
  if (status.st_size == 0) return;  // mmap refuses an empty range
  const auto length = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (address == MAP_FAILED) {
    fail("{}: cannot map {} bytes: {}", file.string(), length, std::strerror(errno));
  }
  data_ = static_cast<const std::byte*>(address);
  size_ = status.st_size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), static_cast<std::size_t>(size_));
  }
}

void MappedFile::release(index_t offset, index_t count) const noexcept {
  const index_t page = ::sysconf(_SC_PAGESIZE);
  const index_t first = (offset + page - 1) / page * page;
  const index_t last = (offset + count) / page * page;
  if (first >= last) return;
  // The kernel may decline; the pages then merely stay.
  ::madvise(const_cast<std::byte*>(data_ + first), static_cast<std::size_t>(last - first),
            MADV_DONTNEED);
}

void MappedFile::fetch(index_t offset, index_t count) const noexcept {
  constexpr index_t step = index_t{4} << 20;  // resident at a time
  const index_t page = ::sysconf(_SC_PAGESIZE);
  const index_t end = std::min(offset + count, size_);
  for (index_t first = offset / page * page; first < end; first += step) {
    const index_t last = std::min(first + step, end);
    ::madvise(const_cast<std::byte*>(data_ + first), static_cast<std::size_t>(last - first),
              MADV_WILLNEED);  // one long request; touching alone reads little by little
    for (index_t at = first; at < last; at += page) {
      static_cast<void>(*static_cast<const volatile std::byte*>(data_ + at));
    }
    release(first, last - first);
  }
}

}  // namespace quip
