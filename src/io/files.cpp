#include "files.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "fault.hpp"

#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

/// Bytes per system call: below the limit that Linux sets to one read or write.
constexpr std::size_t call_bytes = std::size_t{1} << 30;
constexpr index_t copy_bytes = index_t{4} << 20;

[[noreturn]] void fail_errno(const fs::path& path, std::string_view what, int error) {
  const std::string reason = std::generic_category().message(error);
  if (error == ENOSPC || error == EDQUOT) {
    fail("{}: cannot {}: {}; free some space or choose another output directory", path.string(),
         what, reason);
  }
  fail("{}: cannot {}: {}", path.string(), what, reason);
}

/// Lets a test make the operation fail.
void announce(std::string_view what, const fs::path& path) {
  if (const int error = injected_fault(what, path); error != 0) fail_errno(path, what, error);
}

int open_or_fail(const fs::path& path, int flags, std::string_view what) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
  if (descriptor < 0) fail_errno(path, what, errno);
  return descriptor;
}

/// Syncs a folder: a rename or a new file is durable only once its folder is on disk. Some network
/// file systems have no such call (EINVAL) and need none.
void sync_folder(const fs::path& folder) {
  const int descriptor = open_or_fail(folder, O_RDONLY | O_DIRECTORY, "open");
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (error != 0 && error != EINVAL) fail_errno(folder, "sync", error);
}

/// Reads bytes [begin, end) of a file and hands them on piece by piece: bytes, offset.
template <typename Work>
void for_each_piece(const File& file, index_t begin, index_t end, const Work& work) {
  const Buffer<std::byte> buffer(std::min(copy_bytes, end - begin));
  for (index_t offset = begin; offset < end; offset += copy_bytes) {
    const auto piece = buffer.span().first(at(std::min(copy_bytes, end - offset)));
    file.read_at(piece, offset);
    work(piece, offset);
  }
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

File::File(int descriptor, fs::path path) : path_(std::move(path)), descriptor_(descriptor) {}

File::File(File&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

File::~File() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

File File::open_read(const fs::path& path) {
  return {open_or_fail(path, O_RDONLY, "open for reading"), path};
}

File File::open_write(const fs::path& path) {
  return {open_or_fail(path, O_WRONLY, "open for writing"), path};
}

File File::create(const fs::path& path) {
  announce("create", path);
  return {open_or_fail(path, O_WRONLY | O_CREAT | O_TRUNC, "create"), path};
}

index_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_errno(path_, "stat", errno);
  return status.st_size;
}

void File::read_at(std::span<std::byte> out, index_t offset) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), std::min(out.size(), call_bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(path_, "read", errno);
    if (got == 0) {
      fail("{}: ends at byte {} while {} more are needed; the file is truncated", path_.string(),
           offset, out.size());
    }
    UsageMeter::current().add_read(got);
    out = out.subspan(at(got));
    offset += got;
  }
}

void File::write_at(std::span<const std::byte> bytes, index_t offset) const {
  announce("write", path_);
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(descriptor_, bytes.data(), std::min(bytes.size(), call_bytes), offset);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail_errno(path_, "write", put < 0 ? errno : ENOSPC);
    UsageMeter::current().add_written(put);
    bytes = bytes.subspan(at(put));
    offset += put;
  }
}

void File::resize(index_t size) const {
  announce("write", path_);
  if (::ftruncate(descriptor_, size) != 0) fail_errno(path_, "write", errno);
}

void File::sync() const {
  announce("sync", path_);
  if (::fsync(descriptor_) != 0) fail_errno(path_, "sync", errno);
}

PendingFile::PendingFile(fs::path final_path)
    : final_(std::move(final_path)),
      temporary_(folder_of(final_) /
                 fmt::format(".{}.tmp.{:07}", final_.filename().string(), ::getpid())) {}

PendingFile::~PendingFile() {
  if (!published_) ::unlink(temporary_.c_str());
}

void PendingFile::publish() {
  File::open_write(temporary_).sync();
  announce("rename", final_);
  if (::rename(temporary_.c_str(), final_.c_str()) != 0) fail_errno(final_, "create", errno);
  published_ = true;
  announce("sync", folder_of(final_));
  sync_folder(folder_of(final_));
}

void remove_file(const fs::path& path) {
  announce("remove", path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) fail_errno(path, "remove", errno);
}

bool is_temporary(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.starts_with(".") && name.find(".tmp.") != std::string::npos;
}

void write_text(const fs::path& path, std::string_view text) {
  PendingFile pending(path);
  File::create(pending.temporary()).write_at(std::as_bytes(std::span(text)), 0);
  pending.publish();
}

std::string read_text(const fs::path& path) {
  const File file = File::open_read(path);
  std::string text(at(file.size()), '\0');
  file.read_at(std::as_writable_bytes(std::span(text)), 0);
  return text;
}

void copy_content(const fs::path& from, const fs::path& to) {
  const File source = File::open_read(from);
  PendingFile pending(to);
  const File target = File::create(pending.temporary());
  for_each_piece(source, 0, source.size(),
                 [&](auto piece, index_t offset) { target.write_at(piece, offset); });
  pending.publish();
}

void digest_range(const File& file, index_t begin, index_t end, Digest& digest) {
  for_each_piece(file, begin, end, [&](auto piece, index_t /*offset*/) { digest.update(piece); });
}

std::string digest_file(const fs::path& path) {
  const File file = File::open_read(path);
  Digest digest;
  digest_range(file, 0, file.size(), digest);
  return digest.hex();
}

void require_digest(const fs::path& path, const std::string& expected) {
  if (digest_file(path) == expected) return;
  fail(
      "{}: the file's bytes do not match its digest in the manifest; it is damaged or belongs to "
      "another model; quip quantize --repair mends it",
      path.string());
}

void make_output_directory(const fs::path& directory) {
  std::error_code error;
  if (fs::exists(directory, error) && !fs::is_directory(directory, error)) {
    fail("{}: exists and is not a directory; choose another output directory", directory.string());
  }
  announce("create the output directory", directory);
  fs::create_directories(directory, error);
  if (error) fail_errno(directory, "create the output directory", error.value());
  // AT_EACCESS: the identity of the writes decides.
  if (::faccessat(AT_FDCWD, directory.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    fail_errno(directory, "write to the output directory", errno);
  }
  sync_folder(folder_of(fs::absolute(directory)));
}

void make_empty_directory(const fs::path& directory) {
  make_output_directory(directory);
  std::error_code error;
  const bool empty = fs::is_empty(directory, error);
  if (error) fail_errno(directory, "list the output directory", error.value());
  if (!empty) {
    fail("{}: the output directory is not empty; choose another or remove it", directory.string());
  }
}

void clear_directory(const fs::path& directory) noexcept {
  std::error_code ignored;
  for (fs::directory_iterator entry(directory, ignored), end; entry != end;
       entry.increment(ignored)) {
    std::error_code kept;
    fs::remove_all(entry->path(), kept);
  }
}

}  // namespace quip
