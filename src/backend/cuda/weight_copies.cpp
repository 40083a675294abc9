#include "weight_copies.hpp"

#include "backend/cuda/kernels/kernels.hpp"

namespace quip::cuda {
namespace {

const float* end_of(ConstTensorView w) {
  return w.rows == 0 ? w.data : w.data + (w.rows - 1) * w.ld + w.cols;
}

}  // namespace

MatrixView<const __nv_bfloat16> WeightCopies::of(ConstTensorView w) {
  const std::lock_guard lock(mutex_);
  const auto found = copies_.find(w.data);
  if (found != copies_.end()) {
    const Copy& copy = found->second;
    if (copy.of.rows == w.rows && copy.of.cols == w.cols && copy.of.ld == w.ld) {
      return {copy.data.data(), w.rows, w.cols, copy.ld};
    }
    copies_.erase(found);  // another shape at the same place
  }
  Lane& lane = context_.lane();
  const index_t ld = bf16_ld(w.cols);
  Copy copy{w, ld, context_.buffer<__nv_bfloat16>(w.rows * ld, "weights in bfloat16")};
  to_bf16(lane.get(), w, {copy.data.data(), w.rows, w.cols, ld});
  lane.stream.synchronize();  // other lanes read it next
  const auto& made = copies_.emplace(w.data, std::move(copy)).first->second;
  return {made.data.data(), w.rows, w.cols, ld};
}

void WeightCopies::forget(const float* first, const float* last) {
  const std::lock_guard lock(mutex_);
  for (auto it = copies_.begin(); it != copies_.end() && it->first < last;) {
    it = end_of(it->second.of) > first ? copies_.erase(it) : std::next(it);
  }
}

}  // namespace quip::cuda
