#include "hdf5.hpp"

#include <algorithm>

#include "quip/core/error.hpp"

namespace quip {
namespace {

herr_t take_innermost(unsigned depth, const H5E_error2_t* error, void* text) {
  if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
  return 0;
}

/// Returns the system's text alone, which HDF5 wraps in time stamps and descriptors.
std::string system_text(const std::string& text) {
  static const std::string marker = "error message = '";
  const auto begin = text.find(marker);
  if (begin == std::string::npos) return text;
  const auto end = text.find('\'', begin + marker.size());
  return text.substr(begin + marker.size(), end - begin - marker.size());
}

/// Keeps HDF5 from printing errors, which are exceptions here.
void silence_hdf5() {
  static const herr_t done = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  static_cast<void>(done);
}

std::string attribute_place(const char* name, const std::string& where) {
  return fmt::format("{}: attribute {}", where, name);
}

/// The class of a number's type, and the type itself, in files and (we are little-endian) in
/// memory.
struct NumberType {
  H5T_class_t kind;
  hid_t type;
};

NumberType number_type(std::int64_t /*value*/) { return {H5T_INTEGER, H5T_STD_I64LE}; }
NumberType number_type(std::uint64_t /*value*/) { return {H5T_INTEGER, H5T_STD_U64LE}; }
NumberType number_type(double /*value*/) { return {H5T_FLOAT, H5T_IEEE_F64LE}; }

void write_scalar(hid_t object, const char* name, hid_t type, const void* value,
                  const std::string& where) {
  const H5Space space(H5Screate(H5S_SCALAR), "H5Screate", where);
  const H5Attribute attribute(H5Acreate2(object, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                              "H5Acreate2", attribute_place(name, where));
  check(H5Awrite(attribute.get(), type, value), "H5Awrite", attribute_place(name, where));
}

/// Opens an attribute and insists on one element of the expected class: HDF5 would
/// otherwise convert silently or write past the end of the caller's variable.
std::pair<H5Attribute, H5Type> open_scalar(hid_t object, const char* name, H5T_class_t kind,
                                           const std::string& where) {
  const std::string place = attribute_place(name, where);
  H5Attribute attribute(H5Aopen(object, name, H5P_DEFAULT), "H5Aopen", place);
  const H5Space space(H5Aget_space(attribute.get()), "H5Aget_space", place);
  H5Type type(H5Aget_type(attribute.get()), "H5Aget_type", place);
  if (H5Sget_simple_extent_npoints(space.get()) != 1 || H5Tget_class(type.get()) != kind ||
      (kind == H5T_STRING && H5Tis_variable_str(type.get()) != 0)) {
    fail("{}: not the kind of value a packed model has there", place);
  }
  return {std::move(attribute), std::move(type)};
}

}  // namespace

void fail_hdf5(const char* call, const std::string& where) {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_innermost, &text);
  text = system_text(text);
  std::replace(text.begin(), text.end(), '\n', ' ');
  fail("{}: {} failed: {}", where, call, text.empty() ? "HDF5 gives no reason" : text);
}

H5Properties file_access(const std::string& where) {
  silence_hdf5();
  H5Properties access(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", where);
  // The 1.10 format has checksums on its metadata and the smallest headers.
  check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110),
        "H5Pset_libver_bounds", where);
  check(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking", where);
  check(H5Pset_meta_block_size(access.get(), 512), "H5Pset_meta_block_size", where);
  check(H5Pset_small_data_block_size(access.get(), 0), "H5Pset_small_data_block_size", where);
  return access;
}

H5Properties lean_creation(hid_t kind, const std::string& where) {
  H5Properties creation(H5Pcreate(kind), "H5Pcreate", where);
  // Beyond this many attributes HDF5 would move them to a heap of kilobytes.
  check(H5Pset_attr_phase_change(creation.get(), 64, 0), "H5Pset_attr_phase_change", where);
  check(H5Pset_obj_track_times(creation.get(), false), "H5Pset_obj_track_times", where);
  return creation;
}

H5File open_hdf5(const std::filesystem::path& file) {
  const std::string where = file.string();
  const H5Properties access = file_access(where);
  return {H5Fopen(file.c_str(), H5F_ACC_RDONLY, access.get()), "H5Fopen", where};
}

H5Group create_group(hid_t parent, const std::string& name, const std::string& where) {
  const H5Properties creation = lean_creation(H5P_GROUP_CREATE, where);
  return {H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), "H5Gcreate2",
          fmt::format("{}: group {}", where, name)};
}

H5Group open_group(hid_t parent, const std::string& name, const std::string& where) {
  return {H5Gopen2(parent, name.c_str(), H5P_DEFAULT), "H5Gopen2",
          fmt::format("{}: group {}", where, name)};
}

H5Dataset open_dataset(hid_t parent, const std::string& name, const std::string& where) {
  return {H5Dopen2(parent, name.c_str(), H5P_DEFAULT), "H5Dopen2",
          fmt::format("{}: dataset {}", where, name)};
}

bool has_link(hid_t parent, const std::string& name, const std::string& where) {
  return check(H5Lexists(parent, name.c_str(), H5P_DEFAULT), "H5Lexists", where) > 0;
}

bool has_attribute(hid_t object, const char* name, const std::string& where) {
  return check(H5Aexists(object, name), "H5Aexists", attribute_place(name, where)) > 0;
}

index_t data_offset(const H5Dataset& dataset) {
  const haddr_t offset = H5Dget_offset(dataset.get());
  return offset == HADDR_UNDEF ? -1 : static_cast<index_t>(offset);
}

hid_t half_type() {
  static const H5Type half = [] {
    H5Type type(H5Tcopy(H5T_IEEE_F32LE), "H5Tcopy", "IEEE halves");
    check(H5Tset_fields(type.get(), 15, 10, 5, 0, 10), "H5Tset_fields", "IEEE halves");
    check(H5Tset_size(type.get(), 2), "H5Tset_size", "IEEE halves");
    check(H5Tset_ebias(type.get(), 15), "H5Tset_ebias", "IEEE halves");
    return type;
  }();
  return half.get();
}

void require_contiguous(const H5Dataset& dataset, const std::string& where) {
  const H5Properties creation(H5Dget_create_plist(dataset.get()), "H5Dget_create_plist", where);
  if (H5Pget_layout(creation.get()) != H5D_CONTIGUOUS ||
      H5Pget_external_count(creation.get()) != 0) {
    fail("{}: not stored in one piece, as a packed model stores it", where);
  }
}

std::vector<index_t> shape_of(const H5Dataset& dataset, const std::string& where) {
  const H5Space space(H5Dget_space(dataset.get()), "H5Dget_space", where);
  const int rank =
      check(H5Sget_simple_extent_ndims(space.get()), "H5Sget_simple_extent_ndims", where);
  std::vector<hsize_t> extents(at(rank));
  check(H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr),
        "H5Sget_simple_extent_dims", where);
  return {extents.begin(), extents.end()};
}

template <typename T>
void write_attribute(hid_t object, const char* name, const T& value, const std::string& where) {
  write_scalar(object, name, number_type(value).type, &value, where);
}

/// Writes fixed-length text: a variable-length string would cost a 4 KiB heap in every file.
template <>
void write_attribute(hid_t object, const char* name, const std::string& value,
                     const std::string& where) {
  const H5Type type(H5Tcopy(H5T_C_S1), "H5Tcopy", where);
  check(H5Tset_size(type.get(), std::max<std::size_t>(1, value.size())), "H5Tset_size", where);
  check(H5Tset_strpad(type.get(), H5T_STR_NULLPAD), "H5Tset_strpad", where);
  check(H5Tset_cset(type.get(), H5T_CSET_UTF8), "H5Tset_cset", where);
  write_scalar(object, name, type.get(), value.c_str(), where);
}

template <typename T>
T read_attribute(hid_t object, const char* name, const std::string& where) {
  T value{};
  const NumberType number = number_type(value);
  const auto [attribute, type] = open_scalar(object, name, number.kind, where);
  check(H5Aread(attribute.get(), number.type, &value), "H5Aread", attribute_place(name, where));
  return value;
}

template <>
std::string read_attribute(hid_t object, const char* name, const std::string& where) {
  const auto [attribute, type] = open_scalar(object, name, H5T_STRING, where);
  std::string value(H5Tget_size(type.get()), '\0');
  check(H5Aread(attribute.get(), type.get(), value.data()), "H5Aread",
        attribute_place(name, where));
  value.erase(std::find(value.begin(), value.end(), '\0'), value.end());
  return value;
}

template void write_attribute(hid_t, const char*, const std::int64_t&, const std::string&);
template void write_attribute(hid_t, const char*, const std::uint64_t&, const std::string&);
template void write_attribute(hid_t, const char*, const double&, const std::string&);
template std::int64_t read_attribute(hid_t, const char*, const std::string&);
template std::uint64_t read_attribute(hid_t, const char*, const std::string&);
template double read_attribute(hid_t, const char*, const std::string&);

}  // namespace quip
