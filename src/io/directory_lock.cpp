#include "directory_lock.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

#include "files.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

constexpr auto patience = std::chrono::seconds(5);

/// True if the path still leads to the open file: its last owner removes it.
bool is_current(int descriptor, const std::filesystem::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(descriptor, &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "an unknown host";
}

bool DirectoryLock::try_lock() {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail("{}: cannot create: {}", path_.string(), std::generic_category().message(errno));
  }
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  const int error = ::fcntl(descriptor_, F_OFD_SETLK, &whole) == 0 ? 0 : errno;
  if (error == 0 && is_current(descriptor_, path_)) return true;
  if (error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP || error == EINVAL) {
    effective_ = false;
    return true;
  }
  ::close(descriptor_);
  descriptor_ = -1;
  return false;
}

DirectoryLock::DirectoryLock(const std::filesystem::path& directory)
    : path_(directory / lock_file) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!try_lock()) {
    if (std::chrono::steady_clock::now() > until) {
      const std::string owner = std::filesystem::exists(path_) ? read_text(path_) : "";
      fail("{}: another run is writing there ({}); wait for it or choose another output directory",
           directory.string(), owner.empty() ? "unknown" : owner);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const std::string owner = fmt::format("process {} on {}", ::getpid(), host_name());
  // The text serves the message above only; the lock itself decides.
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, owner.data(), owner.size(), 0) < 0) {
    fail("{}: cannot write: {}", path_.string(), std::generic_category().message(errno));
  }
}

DirectoryLock::~DirectoryLock() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());  // while it is ours: waiting processes look again
  ::close(descriptor_);
}

}  // namespace quip
