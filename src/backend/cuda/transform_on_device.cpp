#include "transform_on_device.hpp"

#include <algorithm>

#include "copies.hpp"
#include "kernels/quant_kernels.hpp"

namespace quip::cuda {

template <typename T>
TransformOnDevice<T>::TransformOnDevice(Context& context, const Transform& transform)
    : context_(context), n_(transform.size()) {
  for (const TransformStep& step : transform.steps()) steps_.push_back(upload(step));
}

template <typename T>
typename TransformOnDevice<T>::Step TransformOnDevice<T>::upload(const TransformStep& step) const {
  Step result;
  result.shape = step;
  result.shape.order = {};
  result.shape.scale = {};
  result.shape.factors.clear();
  result.order = to_device(context_, step.order, "a permutation");
  std::vector<T> values(step.scale.begin(), step.scale.end());
  for (const auto& factor : step.factors) {
    result.factor_order = factor.rows;
    values.insert(values.end(), factor.data, factor.data + factor.size());
  }
  result.many = step.factors.size() > 1;
  result.values = to_device(context_, std::span<const T>(values), "factors of a transform");
  return result;
}

template <typename T>
void TransformOnDevice<T>::apply(DeviceBuffer<T>& x, DeviceBuffer<T>& scratch, index_t cols,
                                 bool transposed) const {
  if (!transposed) {
    for (const Step& step : steps_) run(step, x, scratch, cols, false);
  } else {
    std::for_each(steps_.rbegin(), steps_.rend(),
                  [&](const Step& step) { run(step, x, scratch, cols, true); });
  }
}

template <typename T>
void TransformOnDevice<T>::run(const Step& step, DeviceBuffer<T>& x, DeviceBuffer<T>& scratch,
                               index_t cols, bool transposed) const {
  const cudaStream_t stream = context_.lane().get();
  const MatrixView<T> from(x.data(), n_, cols);
  const MatrixView<T> to(scratch.data(), n_, cols);
  switch (step.shape.kind) {
    case TransformStep::Kind::scale:
      return scale_rows(stream, from, static_cast<const T*>(step.values.data()));
    case TransformStep::Kind::walsh:
      return walsh_hadamard(stream, from, step.shape.size, step.shape.stride);
    case TransformStep::Kind::multiply:
      multiply(step, x.data(), scratch.data(), cols, transposed);
      break;
    case TransformStep::Kind::gather:
    case TransformStep::Kind::scatter:
      if ((step.shape.kind == TransformStep::Kind::gather) != transposed) {
        gather_rows<T>(stream, from, step.order.data(), to);
      } else {
        scatter_rows<T>(stream, from, step.order.data(), to);
      }
      break;
  }
  std::swap(x, scratch);
}

template <typename T>
void TransformOnDevice<T>::multiply(const Step& step, const T* x, T* y, index_t cols,
                                    bool transposed) const {
  const index_t order = step.factor_order;
  OrderedProduct<T> product;
  product.m = product.k = order;
  product.n = step.shape.width * cols;
  product.a = {step.values.data(), transposed ? 1 : order, transposed ? order : 1,
               step.many ? order * order : 0};
  product.b = x;
  product.c = y;
  product.ldb = product.ldc = step.shape.stride * cols;
  product.batches = step.shape.batches;
  product.step = step.shape.batch_stride * cols;
  ordered_product(context_.lane().get(), product);
}

template class TransformOnDevice<float>;
template class TransformOnDevice<double>;

}  // namespace quip::cuda
