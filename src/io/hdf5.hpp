// The part of HDF5 that we use: owning handles by kind, one throwing check, scalar
// attributes. HDF5 is not thread-safe: call from one thread at a time.
#pragma once

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <hdf5.h>

#include "quip/core/matrix.hpp"

namespace quip {

/// Throws Error: "<where>: <call> failed: <HDF5's innermost text>".
[[noreturn]] void fail_hdf5(const char* call, const std::string& where);

/// Passes the result of an HDF5 call through, or throws if it is negative.
template <std::signed_integral T>
T check(T result, const char* call, const std::string& where) {
  if (result < 0) fail_hdf5(call, where);
  return result;
}

/// Owns an identifier that `Close` releases. Move-only.
template <herr_t (*Close)(hid_t)>
class Handle {
 public:
  explicit Handle(hid_t id) noexcept : id_(id) {}
  Handle(hid_t id, const char* call, const std::string& where) : id_(check(id, call, where)) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  ~Handle() {
    if (id_ >= 0) Close(id_);
  }

  [[nodiscard]] hid_t get() const noexcept { return id_; }
  /// Closes now, where a failure can still be reported.
  void close(const char* call, const std::string& where) {
    check(Close(std::exchange(id_, H5I_INVALID_HID)), call, where);
  }

 private:
  hid_t id_;
};

using H5File = Handle<H5Fclose>;
using H5Group = Handle<H5Gclose>;
using H5Dataset = Handle<H5Dclose>;
using H5Attribute = Handle<H5Aclose>;
using H5Space = Handle<H5Sclose>;
using H5Type = Handle<H5Tclose>;
using H5Properties = Handle<H5Pclose>;
using H5Object = Handle<H5Oclose>;

/// Opens for reading, without file locks (parallel file systems often have none).
[[nodiscard]] H5File open_hdf5(const std::filesystem::path& file);
/// Returns properties to open and create files with: 1.10 format, no locks, no padding.
[[nodiscard]] H5Properties file_access(const std::string& where);
/// Returns creation properties of a kind (H5P_FILE_CREATE, …) for objects whose bytes depend on
/// their content only (no time stamps) and that keep attributes in their header.
[[nodiscard]] H5Properties lean_creation(hid_t kind, const std::string& where);

[[nodiscard]] H5Group create_group(hid_t parent, const std::string& name, const std::string& where);
[[nodiscard]] H5Group open_group(hid_t parent, const std::string& name, const std::string& where);
[[nodiscard]] H5Dataset open_dataset(hid_t parent, const std::string& name,
                                     const std::string& where);
[[nodiscard]] bool has_link(hid_t parent, const std::string& name, const std::string& where);
[[nodiscard]] bool has_attribute(hid_t object, const char* name, const std::string& where);

/// Returns the type of IEEE halves, little-endian: this version of HDF5 has no name for it.
[[nodiscard]] hid_t half_type();

/// Returns the offset of a contiguous dataset's elements; -1 if it has none.
[[nodiscard]] index_t data_offset(const H5Dataset& dataset);
/// Throws Error unless the elements lie in the file itself and in one piece. A filter could
/// make gigabytes out of a small file, and external storage could be any file.
void require_contiguous(const H5Dataset& dataset, const std::string& where);
[[nodiscard]] std::vector<index_t> shape_of(const H5Dataset& dataset, const std::string& where);

/// Writes a scalar attribute. Defined, as reading is, for std::int64_t, std::uint64_t, double and
/// std::string.
template <typename T>
void write_attribute(hid_t object, const char* name, const T& value, const std::string& where);

/// Returns a scalar attribute. Throws Error if it is missing or of another kind.
template <typename T>
[[nodiscard]] T read_attribute(hid_t object, const char* name, const std::string& where);

}  // namespace quip
