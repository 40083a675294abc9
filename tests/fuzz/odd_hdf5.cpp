#include "odd_hdf5.hpp"

#include <array>
#include <cstring>
#include <vector>

#include "quip/core/digest.hpp"

namespace quip::fuzz {
namespace {

constexpr std::array<const char*, 10> attributes = {
    "bits",      "rows",       "cols",      "method", "grid",
    "transform", "group_size", "symmetric", "seed_u", "digest"};
constexpr std::array<const char*, 4> datasets = {"codes", "scale", "zero", "rescale"};
/// Elements that fit into the file are written; more are left to HDF5's fill value.
constexpr hssize_t few_elements = 4096;

H5Type string_type(std::size_t size) {
  H5Type type(H5Tcopy(H5T_C_S1));
  H5Tset_size(type.get(), size);
  return type;
}

H5Type compound_type() {
  H5Type type(H5Tcreate(H5T_COMPOUND, 16));
  H5Tinsert(type.get(), "a", 0, H5T_NATIVE_INT64);
  H5Tinsert(type.get(), "b", 8, H5T_NATIVE_DOUBLE);
  return type;
}

H5Type chosen_type(FuzzedDataProvider& input) {
  switch (input.ConsumeIntegralInRange(0, 11)) {
    case 0:
      return H5Type(H5Tcopy(H5T_STD_U8LE));
    case 1:
      return H5Type(H5Tcopy(H5T_IEEE_F32LE));
    case 2:
      return H5Type(H5Tcopy(H5T_STD_I64LE));
    case 3:
      return H5Type(H5Tcopy(H5T_STD_U64BE));
    case 4:
      return H5Type(H5Tcopy(H5T_IEEE_F64BE));
    case 5:
      return string_type(input.ConsumeIntegralInRange<std::size_t>(1, 64));
    case 6:
      return string_type(H5T_VARIABLE);
    case 7:
      return compound_type();
    case 8:
      return H5Type(H5Tcreate(H5T_OPAQUE, input.ConsumeIntegralInRange<std::size_t>(1, 32)));
    case 9:
      return H5Type(H5Tvlen_create(H5T_NATIVE_UINT8));
    case 10:
      return H5Type(H5Tcopy(H5T_STD_B32LE));
    default:
      return H5Type(H5Tenum_create(H5T_NATIVE_INT8));
  }
}

hsize_t chosen_extent(FuzzedDataProvider& input, bool huge_too) {
  constexpr std::array<hsize_t, 4> huge = {1ULL << 28, 1ULL << 40, 1ULL << 60, (1ULL << 32) - 1};
  if (huge_too && input.ConsumeIntegralInRange(0, 7) == 0) return input.PickValueInArray(huge);
  return input.ConsumeIntegralInRange<hsize_t>(0, 32);
}

/// Huge extents are for datasets: HDF5 takes memory for all of an attribute when it makes one.
H5Space chosen_space(FuzzedDataProvider& input, bool huge_too) {
  const int rank = input.ConsumeIntegralInRange(-1, 3);
  if (rank < 0) return H5Space(H5Screate(H5S_NULL));
  if (rank == 0) return H5Space(H5Screate(H5S_SCALAR));
  std::array<hsize_t, 3> extents{};
  for (hsize_t& extent : extents) extent = chosen_extent(input, huge_too);
  const bool growing = input.ConsumeIntegralInRange(0, 3) == 0;
  const std::array<hsize_t, 3> largest = {H5S_UNLIMITED, H5S_UNLIMITED, H5S_UNLIMITED};
  return H5Space(H5Screate_simple(rank, extents.data(), growing ? largest.data() : nullptr));
}

H5Properties chosen_layout(hid_t space, FuzzedDataProvider& input) {
  H5Properties creation(H5Pcreate(H5P_DATASET_CREATE));
  const int kind = input.ConsumeIntegralInRange(0, 4);
  const bool small = H5Sget_simple_extent_npoints(space) <= few_elements;
  if (kind == 1 && small) H5Pset_layout(creation.get(), H5D_COMPACT);
  if (kind == 2) H5Pset_external(creation.get(), "/proc/self/exe", 0, H5F_UNLIMITED);
  if (kind > 2) {
    std::array<hsize_t, 3> chunk{};
    for (hsize_t& extent : chunk) extent = chosen_extent(input, false);
    H5Pset_chunk(creation.get(), H5Sget_simple_extent_ndims(space), chunk.data());
    if (kind == 4) H5Pset_deflate(creation.get(), 1);
  }
  return creation;
}

/// Bytes for `count` elements of any type without pointers, as far as the input reaches.
std::vector<std::uint8_t> chosen_bytes(hssize_t count, hid_t type, FuzzedDataProvider& input) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count) * H5Tget_size(type) + 1);
  const auto some = input.ConsumeBytes<std::uint8_t>(bytes.size());
  std::copy(some.begin(), some.end(), bytes.begin());
  return bytes;
}

bool has_pointers(hid_t type) {
  return H5Tis_variable_str(type) > 0 || H5Tget_class(type) == H5T_VLEN;
}

void write_text(hid_t object, const char* name, const std::string& text) {
  const H5Type type = string_type(std::max<std::size_t>(1, text.size()));
  const H5Space scalar(H5Screate(H5S_SCALAR));
  const H5Attribute attribute(
      H5Acreate2(object, name, type.get(), scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
  H5Awrite(attribute.get(), type.get(), text.c_str());
}

void write_integer(hid_t object, const char* name, std::int64_t value) {
  const H5Space scalar(H5Screate(H5S_SCALAR));
  const H5Attribute attribute(
      H5Acreate2(object, name, H5T_STD_I64LE, scalar.get(), H5P_DEFAULT, H5P_DEFAULT));
  H5Awrite(attribute.get(), H5T_NATIVE_INT64, &value);
}

void write_odd_attribute(hid_t object, const char* name, FuzzedDataProvider& input) {
  const H5Type type = chosen_type(input);
  const H5Space space = chosen_space(input, false);
  const H5Attribute attribute(
      H5Acreate2(object, name, type.get(), space.get(), H5P_DEFAULT, H5P_DEFAULT));
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  if (attribute.get() < 0 || has_pointers(type.get()) || count < 0 || count > few_elements) return;
  H5Awrite(attribute.get(), type.get(), chosen_bytes(count, type.get(), input).data());
}

void replace_attribute(hid_t object, const char* name, FuzzedDataProvider& input) {
  if (H5Aexists(object, name) > 0) H5Adelete(object, name);
  switch (input.ConsumeIntegralInRange(0, 4)) {
    case 0:
      return;
    case 1:
      return write_text(object, name, input.ConsumeRandomLengthString(40));
    case 2:
      return write_integer(object, name, input.ConsumeIntegralInRange<std::int64_t>(-2, 40));
    case 3:
      return write_integer(object, name, input.ConsumeIntegral<std::int64_t>());
    default:
      return write_odd_attribute(object, name, input);
  }
}

/// Gives a dataset the digest of what a reader would get: the digest is no secret.
void write_right_digest(hid_t dataset, hid_t memory_type, hssize_t count) {
  std::vector<std::uint8_t> elements(static_cast<std::size_t>(count) * H5Tget_size(memory_type));
  if (H5Dread(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, elements.data()) < 0) return;
  write_text(dataset, "digest", digest_of(std::as_bytes(std::span(elements))));
}

}  // namespace

OddFile::OddFile(const std::filesystem::path& path, const std::string& group)
    : where_(path.string()),
      file_(H5Fopen(path.c_str(), H5F_ACC_RDWR, file_access(where_).get()), "H5Fopen", where_),
      group_(open_group(file_.get(), group, where_)) {}

void OddFile::disturb_attribute(FuzzedDataProvider& input) const {
  const char* name = input.PickValueInArray(attributes);
  if (std::strcmp(name, "digest") != 0 || input.ConsumeBool()) {
    return replace_attribute(group_.get(), name, input);
  }
  const H5Dataset dataset(H5Dopen2(group_.get(), input.PickValueInArray(datasets), H5P_DEFAULT));
  if (dataset.get() >= 0) replace_attribute(dataset.get(), name, input);
}

void OddFile::disturb_dataset(FuzzedDataProvider& input) const {
  const char* name = input.PickValueInArray(datasets);
  if (H5Lexists(group_.get(), name, H5P_DEFAULT) > 0) H5Ldelete(group_.get(), name, H5P_DEFAULT);
  switch (input.ConsumeIntegralInRange(0, 7)) {
    case 0:
      return;
    case 1:
      static_cast<void>(create_group(group_.get(), name, where_));
      return;
    case 2:
      H5Lcreate_soft("/layer/codes", group_.get(), name, H5P_DEFAULT, H5P_DEFAULT);
      return;
    case 3:
      H5Lcreate_external("absent.h5", "/layer/codes", group_.get(), name, H5P_DEFAULT, H5P_DEFAULT);
      return;
    default:
      return add_dataset(name, input);
  }
}

void OddFile::add_dataset(const char* name, FuzzedDataProvider& input) const {
  const H5Type type = chosen_type(input);
  const H5Space space = chosen_space(input, true);
  const H5Properties creation = chosen_layout(space.get(), input);
  const H5Dataset dataset(H5Dcreate2(group_.get(), name, type.get(), space.get(), H5P_DEFAULT,
                                     creation.get(), H5P_DEFAULT));
  const hssize_t count = H5Sget_simple_extent_npoints(space.get());
  if (dataset.get() < 0 || has_pointers(type.get()) || count < 0 || count > few_elements) return;
  const std::vector<std::uint8_t> bytes = chosen_bytes(count, type.get(), input);
  H5Dwrite(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
  const bool floats = std::strcmp(name, "scale") == 0 || std::strcmp(name, "rescale") == 0;
  write_right_digest(dataset.get(), floats ? H5T_NATIVE_FLOAT : H5T_NATIVE_UINT8, count);
}

}  // namespace quip::fuzz
