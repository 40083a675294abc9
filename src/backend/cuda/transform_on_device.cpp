#include "transform_on_device.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "copies.hpp"

#include "quip/core/error.hpp"

namespace quip::cuda {
namespace {

std::vector<index_t> inverse(std::span<const index_t> order) {
  std::vector<index_t> places(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) places[at(order[i])] = static_cast<index_t>(i);
  return places;
}

template <typename V>
std::vector<V> permuted(const std::vector<V>& values, std::span<const index_t> order) {
  std::vector<V> result;
  result.reserve(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) result.push_back(values[at(order[i])]);
  return result;
}

/// Returns null for an empty buffer.
template <typename V>
const V* pointer(const DeviceBuffer<V>& buffer) {
  return buffer.size() == 0 ? nullptr : buffer.data();
}

int log2_of(index_t power) { return std::countr_zero(static_cast<std::uint64_t>(power)); }

// A tile of this many bytes leaves room for three blocks on a processor, which read, compute and
// write in turns; rows of at least 64 and at most 128 bytes keep memory busy.
constexpr index_t tile_bytes = index_t{64} << 10;
constexpr index_t most_levels = 10;
constexpr index_t widest_row = 128;
// A block takes many short columns, as 4096 elements keep eight warps busy.
constexpr index_t elements_of_runs = 4096;

}  // namespace

template <typename T>
template <typename Elements>
void TransformPass<T>::run(cudaStream_t stream, const Elements& x, const StridedMatrix<T>& y,
                           index_t cols, const T* divisor) const {
  const StepInput<T, Elements> input{x, pointer(from), pointer(before)};
  const StepOutput<T> output{y, pointer(to), pointer(after), divisor};
  if (kind == Kind::walsh) {
    walsh_step(stream, input, output, walsh, n, cols);
  } else {
    product_step(stream, input, output, product, cols);
  }
}

template <typename T>
void TransformOnDevice<T>::Moves::gather(std::span<const index_t> order) {
  factor = permuted(factor, order);
  from = from.empty() ? std::vector(order.begin(), order.end()) : permuted(from, order);
}

template <typename T>
void TransformOnDevice<T>::Moves::scale(std::span<const double> by) {
  if (!factor.empty()) fail("a transform that scales rows twice in a row, which the GPU cannot");
  factor.assign(by.begin(), by.end());
}

template <typename T>
TransformOnDevice<T>::TransformOnDevice(Context& context, const Transform& transform,
                                        Direction direction, Layout layout)
    : context_(context), n_(transform.size()) {
  const std::size_t shared_memory = context.device().shared_memory_of_block();
  const bool transposed = direction == Direction::transposed;
  std::vector<TransformStep> steps = transform.steps();
  if (transposed) std::reverse(steps.begin(), steps.end());
  Moves moves;
  for (const TransformStep& step : steps) add(step, transposed, moves, shared_memory, layout);
  finish(moves);
}

template <typename T>
void TransformOnDevice<T>::add(const TransformStep& step, bool transposed, Moves& moves,
                               std::size_t shared_memory, Layout layout) {
  const std::size_t before = passes_.size();
  switch (step.kind) {
    case TransformStep::Kind::gather:
      return moves.gather(transposed ? inverse(step.order) : step.order);
    case TransformStep::Kind::scatter:
      return moves.gather(transposed ? step.order : inverse(step.order));
    case TransformStep::Kind::scale:
      return moves.scale(step.scale);
    case TransformStep::Kind::walsh:
      add_walsh(step, shared_memory, layout);
      break;
    case TransformStep::Kind::multiply:
      add_product(step, transposed);
      break;
  }
  TransformPass<T>& first = passes_[before];
  first.from = to_device(context_, std::span<const index_t>(moves.from), "a permutation");
  first.before = to_device(context_, std::span<const T>(moves.factor), "factors of a transform");
  moves = {};
}

/// Adds moves that no kernel follows to the last kernel's output: x's row i goes where `from` says
/// i, with that place's factor.
template <typename T>
void TransformOnDevice<T>::finish(const Moves& moves) {
  if (moves.from.empty() && moves.factor.empty()) return;
  if (passes_.empty()) add_pass(TransformPass<T>::Kind::walsh);
  TransformPass<T>& last = passes_.back();
  const std::vector<index_t> places = inverse(moves.from);
  const std::vector<T> after = moves.from.empty() ? moves.factor : permuted(moves.factor, places);
  last.to = to_device(context_, std::span<const index_t>(places), "a permutation");
  last.after = to_device(context_, std::span<const T>(after), "factors of a transform");
}

template <typename T>
TransformPass<T>& TransformOnDevice<T>::add_pass(typename TransformPass<T>::Kind kind) {
  TransformPass<T>& pass = passes_.emplace_back();
  pass.kind = kind;
  pass.n = n_;
  return pass;
}

template <typename T>
void TransformOnDevice<T>::add_product(const TransformStep& step, bool transposed) {
  const index_t order = step.factors[0].rows;
  std::vector<T> values;
  for (const auto& factor : step.factors) {
    values.insert(values.end(), factor.data, factor.data + factor.size());
  }
  TransformPass<T>& pass = add_pass(TransformPass<T>::Kind::product);
  pass.factors = to_device(context_, std::span<const T>(values), "factors of a transform");
  pass.product.factors = pass.factors.data();
  pass.product.order = order;
  pass.product.row_stride = transposed ? 1 : order;
  pass.product.col_stride = transposed ? order : 1;
  pass.product.factor_step = step.factors.size() > 1 ? order * order : 0;
  pass.product.stride = step.stride;
  pass.product.width = step.width;
  pass.product.batches = step.batches;
  pass.product.batch_stride = step.batch_stride;
}

/// Takes whole columns if memory runs down them and they fit; else equal numbers of levels, the
/// largest distances first.
template <typename T>
void TransformOnDevice<T>::add_walsh(const TransformStep& step, std::size_t shared_memory,
                                     Layout layout) {
  const index_t run = step.size * step.stride;
  const bool whole = layout == Layout::down && at(run) * sizeof(T) <= shared_memory;
  index_t levels = log2_of(step.size);
  index_t passes = whole ? 1 : std::max<index_t>(1, (levels + most_levels - 1) / most_levels);
  for (; passes > 0; --passes) {
    const index_t taken = (levels + passes - 1) / passes;
    levels -= taken;
    WalshStep& walsh = add_pass(TransformPass<T>::Kind::walsh).walsh;
    walsh.radix = index_t{1} << taken;
    walsh.step = step.stride << levels;
    if (whole) {
      walsh.group = walsh.step;
      walsh.runs = std::clamp<index_t>(elements_of_runs / run, 1, n_ / run);
    } else {
      const index_t row_bytes = std::min(widest_row, tile_bytes >> taken);
      walsh.lane_bits = log2_of(row_bytes / static_cast<index_t>(sizeof(T)));
    }
  }
}

template <typename T>
void TransformOnDevice<T>::apply(DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols) const {
  for (const TransformPass<T>& pass : passes_) {
    const StridedMatrix<const T> from{x.data(), cols, 1};
    DeviceBuffer<T>& to = pass.in_place() ? x : scratch;
    pass.run(context_.lane().get(), from, {to.data(), cols, 1}, cols);
    if (!pass.in_place()) std::swap(x, scratch);
  }
}

template class TransformOnDevice<float>;
template class TransformOnDevice<double>;
template void TransformPass<float>::run(cudaStream_t, const StridedMatrix<const float>&,
                                        const StridedMatrix<float>&, index_t, const float*) const;
template void TransformPass<float>::run(cudaStream_t, const CodeMatrix&,
                                        const StridedMatrix<float>&, index_t, const float*) const;
template void TransformPass<double>::run(cudaStream_t, const StridedMatrix<const double>&,
                                         const StridedMatrix<double>&, index_t,
                                         const double*) const;

}  // namespace quip::cuda
