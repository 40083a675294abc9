#include "quip/io/matrix_file.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <regex>
#include <vector>

#include "files.hpp"
#include "hdf5.hpp"

#include "quip/core/error.hpp"

namespace quip {
namespace {

namespace fs = std::filesystem;

constexpr std::array<unsigned char, 6> npy_magic{0x93, 'N', 'U', 'M', 'P', 'Y'};

/// The header of a .npy file, version 1 to 3: a Python dictionary in text.
struct NpyHeader {
  std::string text;
  index_t data_offset = 0;
};

NpyHeader read_npy_header(const File& file, const std::string& path) {
  std::array<std::byte, 12> head{};
  const index_t size = file.size();
  if (size < static_cast<index_t>(head.size())) fail("{}: too short for a .npy file", path);
  file.read_at(head, 0);
  if (std::memcmp(head.data(), npy_magic.data(), npy_magic.size()) != 0) {
    fail("{}: not a NumPy file; give FILE.npy or FILE.h5:DATASET", path);
  }
  const bool short_length = std::to_integer<int>(head[6]) == 1;
  index_t length = std::to_integer<index_t>(head[8]) | std::to_integer<index_t>(head[9]) << 8;
  if (!short_length) {
    length |= std::to_integer<index_t>(head[10]) << 16 | std::to_integer<index_t>(head[11]) << 24;
  }
  const index_t start = short_length ? 10 : 12;
  if (length > size - start) fail("{}: its header reaches beyond the file", path);
  NpyHeader header{std::string(at(length), ' '), start + length};
  file.read_at(std::as_writable_bytes(std::span(header.text)), start);
  return header;
}

Matrix<double> read_npy(const fs::path& path) {
  const File file = File::open_read(path);
  const NpyHeader header = read_npy_header(file, path.string());
  std::smatch shape;
  std::smatch type;
  if (!std::regex_search(header.text, shape,
                         std::regex(R"('shape':\s*\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*\))")) ||
      !std::regex_search(header.text, type, std::regex(R"('descr':\s*'<f([48])')")) ||
      header.text.find("'fortran_order': False") == std::string::npos) {
    fail("{}: must be a 2-D array of little-endian float32 or float64 in C order", path.string());
  }
  const index_t rows = std::stoll(shape[1]);
  const index_t cols = std::stoll(shape[2]);
  const index_t element = std::stoll(type[1]);
  if (file.size() - header.data_offset != rows * cols * element) {
    fail("{}: holds {} bytes of data, its header promises {}", path.string(),
         file.size() - header.data_offset, rows * cols * element);
  }
  Matrix<double> out(rows, cols);
  if (element == 8) {
    file.read_at(std::as_writable_bytes(out.span()), header.data_offset);
    return out;
  }
  const Matrix<float> single(rows, cols);
  file.read_at(std::as_writable_bytes(single.span()), header.data_offset);
  std::copy_n(single.data(), single.size(), out.data());
  return out;
}

Matrix<double> read_dataset(const fs::path& path, const std::string& name) {
  const std::string where = path.string() + ":" + name;
  const H5File file = open_hdf5(path);
  if (!has_link(file.get(), name, where)) {
    fail("{}: there is no dataset '{}'", path.string(), name);
  }
  const H5Dataset dataset = open_dataset(file.get(), name, where);
  const std::vector<index_t> shape = shape_of(dataset, where);
  const H5Type type(H5Dget_type(dataset.get()), "H5Dget_type", where);
  if (shape.size() != 2 || H5Tget_class(type.get()) != H5T_FLOAT) {
    fail("{}: must be a 2-D dataset of floats", where);
  }
  Matrix<double> out(shape[0], shape[1]);
  check(H5Dread(dataset.get(), H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data()),
        "H5Dread", where);
  return out;
}

template <typename T>
void write_dataset(hid_t file, const char* name, hid_t memory_type, MatrixView<const T> matrix,
                   const std::string& where) {
  const std::array<hsize_t, 2> shape{static_cast<hsize_t>(matrix.rows),
                                     static_cast<hsize_t>(matrix.cols)};
  const H5Space space(H5Screate_simple(2, shape.data(), nullptr), "H5Screate_simple", where);
  const H5Dataset dataset(
      H5Dcreate2(file, name, memory_type, space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
      "H5Dcreate2", where);
  check(H5Dwrite(dataset.get(), memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, matrix.data),
        "H5Dwrite", where);
}

}  // namespace

Matrix<double> read_matrix(const std::string& location) {
  const std::size_t colon = location.rfind(':');
  Matrix<double> out;
  if (location.ends_with(".npy")) {
    out = read_npy(location);
  } else if (colon != std::string::npos && colon + 1 < location.size()) {
    out = read_dataset(location.substr(0, colon), location.substr(colon + 1));
  } else {
    fail("{}: give FILE.npy or FILE.h5:DATASET", location);
  }
  if (out.empty()) fail("{}: the matrix is empty", location);
  for (index_t i = 0; i < out.size(); ++i) {
    if (!std::isfinite(out.data()[i])) {
      fail("{}: NaN or infinity at row {}, column {}", location, i / out.cols(), i % out.cols());
    }
  }
  return out;
}

void write_layer_problem(const fs::path& file, const std::string& layer,
                         MatrixView<const float> weights, MatrixView<const double> hessian) {
  std::error_code error;
  fs::create_directories(file.parent_path(), error);
  if (error) fail("{}: cannot be made: {}", file.parent_path().string(), error.message());
  Matrix<double> full(hessian.rows, hessian.cols);
  for (index_t i = 0; i < hessian.rows; ++i) {
    for (index_t j = 0; j <= i; ++j) full(i, j) = full(j, i) = hessian(i, j);
  }
  const std::string where = file.string();
  H5File out(H5Fcreate(where.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, file_access(where).get()),
             "H5Fcreate", where);
  write_dataset(out.get(), "weights", H5T_NATIVE_FLOAT, weights, where);
  write_dataset<double>(out.get(), "hessian", H5T_NATIVE_DOUBLE, full.view(), where);
  write_attribute(out.get(), "layer", layer, where);
  out.close("H5Fclose", where);
}

}  // namespace quip
