#include "quip/comm/node_memory.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "quip/core/error.hpp"

namespace quip {
namespace {

/// An anonymous file in memory. Unlike shared memory with a name it needs no room in /dev/shm,
/// which containers keep small, and nothing of it outlives its processes.
class MemoryFile {
 public:
  MemoryFile() = default;
  explicit MemoryFile(int descriptor) : descriptor_(descriptor) {}
  MemoryFile(MemoryFile&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  MemoryFile& operator=(MemoryFile&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~MemoryFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  [[nodiscard]] int get() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

MemoryFile create(index_t bytes) {
  MemoryFile file(::memfd_create("quip", MFD_CLOEXEC));
  if (file.get() < 0 || ::ftruncate(file.get(), bytes) != 0) {
    fail("no {:.2f} GiB of memory for the ranks of a node to share: {}; use more nodes",
         static_cast<double>(bytes) / (1 << 30), std::strerror(errno));
  }
  return file;
}

/// The message by which the others of a node find a rank's memory file.
struct MemoryHandle {
  std::int64_t process = 0;
  std::int64_t descriptor = -1;
};

MemoryFile open_of(const MemoryHandle& handle) {
  const std::string path = fmt::format("/proc/{}/fd/{}", handle.process, handle.descriptor);
  MemoryFile file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (file.get() < 0) {
    fail("cannot open the memory of another rank of this node: {}", std::strerror(errno));
  }
  return file;
}

std::shared_ptr<std::byte> map(const MemoryFile& file, index_t bytes) {
  const auto length = at(bytes);
  void* address = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) {
    fail("cannot map {:.2f} GiB of memory: {}; use more nodes",
         static_cast<double>(bytes) / (1 << 30), std::strerror(errno));
  }
  return {static_cast<std::byte*>(address), [length](std::byte* at) { ::munmap(at, length); }};
}

}  // namespace

std::shared_ptr<std::byte> allocate_privately(index_t bytes) {
  auto buffer = std::make_shared<Buffer<std::byte>>(bytes);
  return {buffer, buffer->data()};
}

std::shared_ptr<std::byte> allocate_on_node(Collectives& comm, index_t bytes) {
  const NodePlace place = comm.place();
  std::shared_ptr<std::byte> memory;
  if (place.nodes == comm.size() || bytes == 0) {
    agree(comm, [&] { memory = allocate_privately(bytes); });
    return memory;
  }
  MemoryFile file;
  MemoryHandle handle;
  agree(comm, [&] {
    if (place.rank != 0) return;
    file = create(bytes);
    handle = {::getpid(), file.get()};
  });
  comm.node_broadcast(std::as_writable_bytes(std::span(&handle, 1)));
  agree(comm, [&] {  // the first rank keeps the file open until all have it
    if (place.rank != 0) file = open_of(handle);
    memory = map(file, bytes);
  });
  return memory;
}

}  // namespace quip
