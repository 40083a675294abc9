// POSIX files whose failures name the path, and files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "quip/core/digest.hpp"
#include "quip/core/matrix.hpp"

namespace quip {

/// An open file descriptor, read and written at explicit offsets. Move-only.
class File {
 public:
  [[nodiscard]] static File open_read(const std::filesystem::path& path);
  /// Opens an existing file for writing.
  [[nodiscard]] static File open_write(const std::filesystem::path& path);
  /// Creates or empties a file for writing.
  [[nodiscard]] static File create(const std::filesystem::path& path);
  File(File&& other) noexcept;
  ~File();

  [[nodiscard]] int descriptor() const { return descriptor_; }
  [[nodiscard]] index_t size() const;
  /// Fills `out` from byte `offset` on. Throws Error if the file ends before that.
  void read_at(std::span<std::byte> out, index_t offset) const;
  /// Writes all of `bytes`. Throws Error with the system's text, e.g. "No space left on device".
  void write_at(std::span<const std::byte> bytes, index_t offset) const;
  /// Sets the length; new bytes read as zero.
  void resize(index_t size) const;
  /// Returns once the content is on disk.
  void sync() const;

 private:
  File(int descriptor, std::filesystem::path path);
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// A file in the making: lives under a temporary name beside its final one until
/// `publish`; removed if that is never reached.
class PendingFile {
 public:
  explicit PendingFile(std::filesystem::path final_path);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();

  [[nodiscard]] const std::filesystem::path& temporary() const { return temporary_; }
  /// Syncs the file, renames it, syncs the folder.
  void publish();

 private:
  std::filesystem::path final_;
  std::filesystem::path temporary_;
  bool published_ = false;
};

/// Removes a file, if it is still there.
void remove_file(const std::filesystem::path& path);

/// True if this is the temporary name of a PendingFile of any process.
[[nodiscard]] bool is_temporary(const std::filesystem::path& path);

/// Replaces `path` by `text`, all or nothing.
void write_text(const std::filesystem::path& path, std::string_view text);

/// Returns the whole content of a text file.
[[nodiscard]] std::string read_text(const std::filesystem::path& path);

/// Copies a file's content, all or nothing.
void copy_content(const std::filesystem::path& from, const std::filesystem::path& to);

/// Adds bytes [begin, end) of a file to a digest, read in pieces.
void digest_range(const File& file, index_t begin, index_t end, Digest& digest);

/// Returns the digest of a file's bytes, read in pieces.
[[nodiscard]] std::string digest_file(const std::filesystem::path& path);

/// Throws Error unless a file's bytes have this digest.
void require_digest(const std::filesystem::path& path, const std::string& expected);

/// Makes `directory` (parents too) unless it is there. Throws Error if it cannot be created or
/// written.
void make_output_directory(const std::filesystem::path& directory);

/// Makes `directory` likewise. Throws Error also if there is anything in it.
void make_empty_directory(const std::filesystem::path& directory);

/// Removes everything in `directory`, as far as that can be done.
void clear_directory(const std::filesystem::path& directory) noexcept;

}  // namespace quip
