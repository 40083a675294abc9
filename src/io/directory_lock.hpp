// A lock that gives a directory one writer.
#pragma once

#include <filesystem>
#include <string>

namespace quip {

/// The right to write a directory, as a lock of the operating system on `.lock` in it: it ends
/// with the process, however that ends, so that a crash leaves nothing to clear away.
class DirectoryLock {
 public:
  /// Throws Error naming the owner if another process holds the lock; waits a few seconds first,
  /// because the owner may be about to die.
  explicit DirectoryLock(const std::filesystem::path& directory);
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;
  ~DirectoryLock();

  /// True if the file system has locks; otherwise nothing keeps other runs away.
  [[nodiscard]] bool effective() const { return effective_; }

 private:
  [[nodiscard]] bool try_lock();

  std::filesystem::path path_;
  int descriptor_ = -1;
  bool effective_ = true;
};

/// Returns the name of this machine, for messages and reports.
[[nodiscard]] std::string host_name();

inline constexpr const char* lock_file = ".lock";

}  // namespace quip
