// Small matrices times rows of X. Batches and sets go to blockIdx.z.
#include "product_tiles.hpp"
#include "step_access.hpp"

namespace quip::cuda {
namespace {

/// One set of one batch, as multiply_tile reads it.
template <typename T, typename Elements>
struct SetOperands {
  index_t m;
  index_t n;
  index_t k;
  const T* factor;
  index_t first_row;
  const StepInput<T, Elements>& x;
  const StepOutput<T>& y;
  const ProductStep<T>& p;

  __device__ SetOperands(const StepInput<T, Elements>& input, const StepOutput<T>& output,
                         const ProductStep<T>& product, index_t cols, index_t set)
      : m(product.order),
        n(cols),
        k(product.order),
        factor(product.factors + set / product.width * product.factor_step),
        first_row(set / product.width * product.batch_stride + set % product.width),
        x(input),
        y(output),
        p(product) {}
  __device__ index_t row_of(index_t i) const { return first_row + i * p.stride; }

  __device__ bool a_runs_down() const { return p.row_stride == 1; }
  __device__ bool b_runs_down() const { return p.stride == 1 && runs_down(x.elements); }
  __device__ T a(index_t i, index_t l) const { return factor[i * p.row_stride + l * p.col_stride]; }
  __device__ T b(index_t l, index_t j) const { return take(x, row_of(l), j); }
  __device__ T start(index_t /*i*/, index_t /*j*/) const { return T{0}; }
  __device__ void store(index_t i, index_t j, T value) const { put(y, row_of(i), j, value); }
};

template <bool Down, typename T, typename Elements>
__global__ void __launch_bounds__(tile_threads)
    multiply_sets(StepInput<T, Elements> x, StepOutput<T> y, ProductStep<T> product, index_t cols,
                  index_t first_set) {
  const SetOperands<T, Elements> operands(x, y, product, cols, first_set + blockIdx.z);
  multiply_tile<Down>(operands, *shared_memory<ProductTiles<T>>());
}

template <typename T, typename Elements>
void run(cudaStream_t stream, const StepInput<T, Elements>& x, const StepOutput<T>& y,
         const ProductStep<T>& product, index_t cols) {
  if (product.order * cols == 0) return;
  const bool down = product.stride == 1 && y.elements.row_stride == 1;
  const auto kernel = down ? multiply_sets<true, T, Elements> : multiply_sets<false, T, Elements>;
  const index_t sets = product.batches * product.width;
  constexpr index_t most_sets = 65535;  // the limit of a grid
  for (index_t first = 0; first < sets; first += most_sets) {
    const index_t count = sets - first < most_sets ? sets - first : most_sets;
    const dim3 grid(blocks_for(cols, tile_side), blocks_for(product.order, tile_side),
                    static_cast<unsigned>(count));
    launch("product_step", kernel, grid, tile_threads, sizeof(ProductTiles<T>), stream, x, y,
           product, cols, first);
  }
}

}  // namespace

void product_step(cudaStream_t stream, const StridedInput<float>& x, const StepOutput<float>& y,
                  const ProductStep<float>& product, index_t cols) {
  run(stream, x, y, product, cols);
}
void product_step(cudaStream_t stream, const StridedInput<double>& x, const StepOutput<double>& y,
                  const ProductStep<double>& product, index_t cols) {
  run(stream, x, y, product, cols);
}
void product_step(cudaStream_t stream, const CodeInput& x, const StepOutput<float>& y,
                  const ProductStep<float>& product, index_t cols) {
  run(stream, x, y, product, cols);
}

}  // namespace quip::cuda
