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
  DeviceBuffer<T> factors;     ///< of the product, one behind the other
  DeviceBuffer<index_t> from;  ///< where rows come from; empty: from their places
  DeviceBuffer<T> before;      ///< what they are multiplied with on the way in; empty: nothing
  DeviceBuffer<index_t> to;    ///< the same on the way out
  DeviceBuffer<T> after;

  /// Whether X may be transformed where it lies.
  [[nodiscard]] bool in_place() const {
    return kind == Kind::walsh && from.size() == 0 && to.size() == 0;
  }
  /// From `x` to `y`, which are different memory unless in_place(). divisor: D̃ [cols], or null.
  template <typename Elements>
  void run(cudaStream_t stream, const Elements& x, const StridedMatrix<T>& y, index_t cols,
           const T* divisor = nullptr) const;
};

/// Q or Qᵀ.
enum class Direction { forward, transposed };

/// How X lies in memory: row by row ("across": neighbours in a row are neighbours), or column by
/// column. Down the columns a Walsh–Hadamard transform takes one pass, whatever its size.
enum class Layout { across, down };

template <typename T>
class TransformOnDevice {
 public:
  TransformOnDevice(Context& context, const Transform& transform,
                    Direction direction = Direction::forward, Layout layout = Layout::across);

  /// One kernel after the other.
  [[nodiscard]] const std::vector<TransformPass<T>>& passes() const { return passes_; }

  /// Applies all of it to X [n × cols], contiguous in `x` row by row; `scratch` is as large, and
  /// may change places with it.
  void apply(DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols) const;

 private:
  /// Row i becomes row from[i] times factor[i]: what waits for the next kernel.
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
