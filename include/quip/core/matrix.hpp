// Dense row-major storage: an owning matrix and views on it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "quip/core/memory.hpp"

namespace quip {

/// Every size and index: 64 bits, signed, so that differences are safe.
using index_t = std::int64_t;

/// Returns an index that containers of the standard library take.
[[nodiscard]] constexpr std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

/// Rows × cols elements, row-major, `ld` elements from one row to the next.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  index_t rows = 0;
  index_t cols = 0;
  index_t ld = 0;

  MatrixView() = default;
  MatrixView(T* pointer, index_t row_count, index_t col_count, index_t stride)
      : data(pointer), rows(row_count), cols(col_count), ld(stride) {}
  MatrixView(T* pointer, index_t row_count, index_t col_count)
      : MatrixView(pointer, row_count, col_count, col_count) {}

  /// Converts a view of mutable elements to one of constant elements.
  operator MatrixView<const T>() const  // NOLINT(google-explicit-constructor)
      requires(!std::is_const_v<T>) {
    return {data, rows, cols, ld};
  }

  [[nodiscard]] T* row(index_t i) const { return data + i * ld; }
  [[nodiscard]] T& operator()(index_t i, index_t j) const { return data[i * ld + j]; }
  [[nodiscard]] index_t size() const { return rows * cols; }

  /// Returns rows [first, first + count).
  [[nodiscard]] MatrixView middle_rows(index_t first, index_t count) const {
    return {data + first * ld, count, cols, ld};
  }
  /// Returns columns [first, first + count).
  [[nodiscard]] MatrixView middle_cols(index_t first, index_t count) const {
    return {data + first, rows, count, ld};
  }
};

/// Copies the first rows and columns of `x` to all of `y`.
template <typename T>
void crop(MatrixView<const T> x, MatrixView<T> y) {
  for (index_t i = 0; i < y.rows; ++i) std::copy_n(x.row(i), y.cols, y.row(i));
}

/// Owning, 64-byte aligned and *uninitialised* storage for trivially copyable
/// elements: hot buffers are written before they are read, so zeroing is waste.
template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);
  struct Free {
    std::int64_t bytes = 0;
    void operator()(T* pointer) const noexcept {
      std::free(pointer);
      HeldMemory::drop(bytes);
    }
  };

 public:
  Buffer() = default;
  /// Throws std::bad_alloc if there is no memory.
  explicit Buffer(index_t count) : size_(count) {
    if (count == 0) return;
    const std::size_t bytes = (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    auto* const pointer = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (pointer == nullptr) throw std::bad_alloc();
    HeldMemory::add(static_cast<std::int64_t>(bytes));
    data_ = {pointer, Free{static_cast<std::int64_t>(bytes)}};
  }
  Buffer(index_t count, T value) : Buffer(count) {
    for (index_t i = 0; i < count; ++i) data_.get()[i] = value;
  }

  [[nodiscard]] T* data() const { return data_.get(); }
  [[nodiscard]] index_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] T& operator[](index_t i) const { return data_.get()[i]; }
  [[nodiscard]] std::span<T> span() const { return {data_.get(), static_cast<std::size_t>(size_)}; }

 private:
  std::unique_ptr<T, Free> data_;
  index_t size_ = 0;
};

/// Owning dense row-major matrix (contiguous: ld == cols). Move-only.
template <typename T>
class Matrix {
 public:
  Matrix() = default;
  Matrix(index_t rows, index_t cols) : buffer_(rows * cols), rows_(rows), cols_(cols) {}
  Matrix(index_t rows, index_t cols, T value)
      : buffer_(rows * cols, value), rows_(rows), cols_(cols) {}

  [[nodiscard]] index_t rows() const { return rows_; }
  [[nodiscard]] index_t cols() const { return cols_; }
  [[nodiscard]] index_t size() const { return rows_ * cols_; }
  [[nodiscard]] bool empty() const { return buffer_.empty(); }
  [[nodiscard]] T* data() const { return buffer_.data(); }
  [[nodiscard]] T* row(index_t i) const { return buffer_.data() + i * cols_; }
  [[nodiscard]] T& operator()(index_t i, index_t j) const { return row(i)[j]; }
  [[nodiscard]] std::span<T> span() const { return buffer_.span(); }
  [[nodiscard]] MatrixView<T> view() const { return {data(), rows_, cols_}; }
  [[nodiscard]] MatrixView<const T> cview() const { return {data(), rows_, cols_}; }

 private:
  Buffer<T> buffer_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

/// Returns [rows × cols] with `x` in its first rows and columns, and zeros.
template <typename T>
Matrix<T> pad(MatrixView<const T> x, index_t rows, index_t cols) {
  Matrix<T> out(rows, cols, T{0});
  for (index_t i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, out.view().row(i));
  return out;
}

}  // namespace quip
