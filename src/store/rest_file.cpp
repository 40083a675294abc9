#include "rest_file.hpp"

#include <algorithm>
#include <array>
#include <bit>

#include "io/hdf5_layout.hpp"

#include "quip/core/digest.hpp"
#include "quip/core/error.hpp"

namespace quip {
namespace {

/// Returns IEEE half, described exactly as h5py describes numpy's float16.
H5Type half_type(const std::string& where) {
  H5Type type(H5Tcopy(H5T_IEEE_F32LE), "H5Tcopy", where);
  check(H5Tset_fields(type.get(), 15, 10, 5, 0, 10), "H5Tset_fields", where);
  check(H5Tset_size(type.get(), 2), "H5Tset_size", where);
  check(H5Tset_ebias(type.get(), 15), "H5Tset_ebias", where);
  return type;
}

/// Returns HDF5's type where it has the same, else unsigned integers of the same width.
H5Type element_type(DType dtype, const std::string& where) {
  if (dtype == DType::f16) return half_type(where);
  const std::string_view name = to_string(dtype);
  const std::array<hid_t, 4> types =
      name[0] == 'I' ? std::array{H5T_STD_I8LE, H5T_STD_I16LE, H5T_STD_I32LE, H5T_STD_I64LE}
                     : std::array{H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE};
  hid_t type = types[std::bit_width(static_cast<unsigned>(size_of(dtype))) - 1];
  if (dtype == DType::f32) type = H5T_IEEE_F32LE;
  if (dtype == DType::f64) type = H5T_IEEE_F64LE;
  return {H5Tcopy(type), "H5Tcopy", where};
}

/// Returns the shape of a tensor's dataset: the tensor's, but a list of bytes if the type is
/// narrower than a byte.
std::vector<index_t> dataset_shape(const TensorInfo& tensor) {
  const bool packed = bytes_of(tensor.dtype, 8) < 8;
  return packed ? std::vector<index_t>{tensor.bytes()} : tensor.shape;
}

/// Returns the name of a tensor's dataset. HDF5 takes "/" and a lone "." for parts of a path and a
/// zero byte for the end: these, and "%" itself, are written as in URLs.
std::string dataset_name(const std::string& tensor) {
  if (tensor.empty()) return "%";
  std::string name;
  for (const char letter : tensor) {
    const bool plain = letter != '/' && letter != '%' && letter != '\0' && tensor != ".";
    name += plain ? std::string(1, letter) : fmt::format("%{:02X}", letter);
  }
  return name;
}

}  // namespace

std::vector<Chunk> chunks_of(const std::vector<TensorInfo>& tensors) {
  std::vector<Chunk> chunks;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const index_t bytes = tensors[t].bytes();
    for (index_t begin = 0; begin < bytes; begin += chunk_bytes) {
      chunks.push_back({t, begin, std::min(chunk_bytes, bytes - begin)});
    }
  }
  return chunks;
}

std::vector<index_t> create_rest_file(const std::filesystem::path& file,
                                      const std::vector<TensorInfo>& tensors) {
  const std::string where = file.string();
  Layout layout(file);
  std::vector<index_t> offsets;
  for (const TensorInfo& tensor : tensors) {
    const H5Type type = element_type(tensor.dtype, where);
    const H5Dataset dataset = layout.add_dataset(layout.file(), dataset_name(tensor.name),
                                                 type.get(), dataset_shape(tensor));
    write_attribute(dataset.get(), "dtype", std::string(to_string(tensor.dtype)), where);
    offsets.push_back(std::max<index_t>(data_offset(dataset), 0));
  }
  layout.write();
  return offsets;
}

std::string frame_digest(const std::filesystem::path& path, const std::vector<TensorInfo>& tensors,
                         const std::vector<index_t>& offsets) {
  std::vector<Extent> data;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    if (tensors[t].bytes() > 0) data.push_back({offsets[t], offsets[t] + tensors[t].bytes()});
  }
  const File file = File::open_read(path);
  Digest digest;
  digest.update(std::to_string(file.size()));
  for (const auto& [begin, end] : frame_of(std::move(data), file.size(), path.string())) {
    digest_range(file, begin, end, digest);
  }
  return digest.hex();
}

void require_rest_frame(const std::filesystem::path& file, const Manifest& manifest) {
  std::vector<TensorInfo> tensors;
  std::vector<index_t> offsets;
  for (const auto& [name, entry] : manifest.rest) {
    tensors.push_back(entry.info);
    offsets.push_back(entry.offset);
  }
  const auto recorded = manifest.document.find("rest_frame");
  if (recorded == manifest.document.end() || *recorded != frame_digest(file, tensors, offsets)) {
    fail(
        "{}: the file's structure does not match its digest in the manifest; it is damaged or "
        "belongs to another model; quip quantize --repair mends it",
        file.string());
  }
}

void require_tensor(const File& file, const RestEntry& entry, const std::string& where) {
  const TensorInfo& tensor = entry.info;
  if (entry.offset + tensor.bytes() > file.size()) {
    fail("{}: tensor {} lies outside the file", where, tensor.name);
  }
  const Buffer<std::byte> buffer(std::min(chunk_bytes, tensor.bytes()));
  Digest digest;
  for (const Chunk& chunk : chunks_of({tensor})) {
    const auto bytes = buffer.span().first(at(chunk.bytes));
    file.read_at(bytes, entry.offset + chunk.begin);
    digest.update(digest_of(std::span<const std::byte>(bytes)));
  }
  if (digest.hex() != entry.digest) {
    fail("{}: tensor {} does not match its digest in the manifest; quip quantize --repair mends it",
         where, tensor.name);
  }
}

void require_rest_datasets(const std::filesystem::path& file, const Manifest& manifest) {
  const std::string where = file.string();
  const H5File source = open_hdf5(file);
  for (const auto& [name, entry] : manifest.rest) {
    const H5Dataset dataset = open_dataset(source.get(), dataset_name(name), where);
    const index_t bytes = entry.info.bytes();
    if (static_cast<index_t>(H5Dget_storage_size(dataset.get())) != bytes ||
        (bytes > 0 && data_offset(dataset) != entry.offset)) {
      fail("{}: tensor {}: its dataset is not the {} bytes at {} that the manifest promises", where,
           name, bytes, entry.offset);
    }
  }
}

}  // namespace quip
