// Orthogonal transforms on the device, with the CPU's bits, in as few passes over memory as the
// arithmetic needs.
#pragma once

#include <vector>

#include "backend/cuda/kernels/transform_kernels.hpp"
#include "context.hpp"

#include "quip/quant/transform/transform.hpp"

namespace quip::cuda {

/// One kernel of a transform of X [n × cols], with its data on the device. Permutations and scales
/// next to it belong to it.
template <typename T>
struct TransformPass {
  enum class Kind { walsh, product };
  Kind kind = Kind::walsh;
  index_t n = 0;
  WalshStep walsh{};
  ProductStep<T> product{};
  DeviceBuffer<T> factors;     ///< factors of the product, one behind the other
  DeviceBuffer<index_t> from;  ///< sources of the rows; empty: their own places
  DeviceBuffer<T> before;      ///< their factors on input; empty: none
  DeviceBuffer<index_t> to;    ///< destinations of the rows; empty: their own places
  DeviceBuffer<T> after;

  /// True if X may be transformed in place.
  [[nodiscard]] bool in_place() const {
    return kind == Kind::walsh && from.size() == 0 && to.size() == 0;
  }
  /// Runs from `x` to `y`, different memory unless in_place(). divisor: D̃ [cols], or null.
  template <typename Elements>
  void run(cudaStream_t stream, const Elements& x, const StridedMatrix<T>& y, index_t cols,
           const T* divisor = nullptr) const;
};

/// Q or Qᵀ.
enum class Direction { forward, transposed };

/// The layout of X in memory: row by row ("across": neighbours in a row are neighbours), or column
/// by column. Down the columns a Walsh–Hadamard transform takes one pass, whatever its size.
enum class Layout { across, down };

template <typename T>
class TransformOnDevice {
 public:
  TransformOnDevice(Context& context, const Transform& transform,
                    Direction direction = Direction::forward, Layout layout = Layout::across);

  /// Returns the kernels, in order.
  [[nodiscard]] const std::vector<TransformPass<T>>& passes() const { return passes_; }

  /// Applies all of it to X [n × cols], contiguous in `x` row by row; `scratch` is as large, and
  /// may change places with it.
  void apply(DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols) const;

 private:
  /// Moves that wait for the next kernel: row i becomes row from[i] times factor[i].
  struct Moves {
    std::vector<index_t> from;
    std::vector<T> factor;
    void gather(std::span<const index_t> order);
    void scale(std::span<const double> by);
  };
  void add(const TransformStep& step, bool transposed, Moves& moves, std::size_t shared_memory,
           Layout layout);
  void add_product(const TransformStep& step, bool transposed);
  void add_walsh(const TransformStep& step, std::size_t shared_memory, Layout layout);
  TransformPass<T>& add_pass(typename TransformPass<T>::Kind kind);
  void finish(const Moves& moves);

  Context& context_;
  index_t n_;
  std::vector<TransformPass<T>> passes_;
};

extern template class TransformOnDevice<float>;
extern template class TransformOnDevice<double>;

}  // namespace quip::cuda
