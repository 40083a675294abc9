#include "quip/calib/owned_hessian.hpp"

#include <cmath>
#include <cstdint>

#include "quip/calib/channel_scales.hpp"
#include "quip/calib/hessian.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

class OwnedSums {
 public:
  OwnedSums(Collectives& comm, Backend& backend, const std::vector<OwnedInput>& inputs)
      : comm_(comm), backend_(backend), inputs_(inputs), n_(inputs.front().x.cols) {
    measure();
    count();
  }

  std::vector<OwnedHessian> run() {
    std::vector<OwnedHessian> results(inputs_.size());
    for (std::size_t i = 0; i < inputs_.size(); ++i) results[i].tokens = tokens_of(i);
    agree(comm_, [&] {
      for (const OwnedHessian& result : results) check_exact(static_cast<double>(result.tokens));
    });
    send_rows();
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      if (results[i].tokens == 0) continue;
      Matrix<double>& h = results[i].h;
      if (travels(i)) {
        agree(comm_, [&] {
          if (owned(i)) h = sum_received(i);
        });
      } else {
        agree(comm_, [&] { h = sum_own(inputs_[i].x, i); });
        add_up(h.view(), inputs_[i].owner);
      }
      if (!owned(i)) {
        h = {};
        continue;
      }
      ChannelScales scales{{}, static_cast<double>(results[i].tokens)};
      scales.scale.assign(scales_of(i).begin(), scales_of(i).end());
      scales.apply(h.view());
    }
    return results;
  }

 private:
  /// Finds the channels' scales over all ranks.
  void measure() {
    scales_.resize(inputs_.size() * at(n_));
    agree(comm_, [&] {
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        if (inputs_[i].x.rows == 0) continue;
        backend_.channel_maximum(inputs_[i].x, scales_of(i));
        for (index_t j = 0; j < n_; ++j) {
          if (std::isfinite(scales_of(i)[at(j)])) continue;
          fail(
              "layer {}: its input is not finite (channel {}); the checkpoint or the tokens are "
              "damaged, or an activation exceeds the range of fp32",
              inputs_[i].layer, j);
        }
      }
    });
    comm_.all_reduce_max(scales_);
    for (float& scale : scales_) scale = channel_scale(scale);
  }

  /// Counts the tokens of every input on every rank.
  void count() {
    const std::size_t all = inputs_.size();
    counts_.resize(all * at(comm_.size()));
    for (std::size_t i = 0; i < all; ++i) counts_[at(comm_.rank()) * all + i] = inputs_[i].x.rows;
    comm_.all_gather_bytes(std::as_writable_bytes(std::span(counts_)),
                           share_offsets(std::ssize(counts_), comm_.size(), sizeof(index_t)));
  }

  [[nodiscard]] index_t count_on(int rank, std::size_t input) const {
    return counts_[at(rank) * inputs_.size() + input];
  }
  [[nodiscard]] index_t tokens_of(std::size_t input) const {
    index_t tokens = 0;
    for (int r = 0; r < comm_.size(); ++r) tokens += count_on(r, input);
    return tokens;
  }
  [[nodiscard]] bool owned(std::size_t input) const { return inputs_[input].owner == comm_.rank(); }
  [[nodiscard]] bool travels(std::size_t input) const {
    return comm_.size() > 1 && rows_travel(tokens_of(input), n_);
  }
  [[nodiscard]] std::span<float> scales_of(std::size_t input) {
    return std::span(scales_).subspan(input * at(n_), at(n_));
  }

  /// Has the owners receive the rows of the inputs that travel, as integers: input by input, those
  /// of the lowest rank first.
  void send_rows() {
    std::vector<std::int16_t> sent;
    std::vector<index_t> sends{0};
    std::vector<index_t> receives{0};
    constexpr index_t element = sizeof(std::int16_t);
    agree(comm_, [&] {
      for (int r = 0; r < comm_.size(); ++r) {
        index_t received = 0;
        for (std::size_t i = 0; i < inputs_.size(); ++i) {
          if (!travels(i)) continue;
          if (inputs_[i].owner == r) append_integers(i, sent);
          if (owned(i)) received += count_on(r, i) * n_;
        }
        sends.push_back(std::ssize(sent) * element);
        receives.push_back(receives.back() + received * element);
      }
      received_.resize(at(receives.back() / element));
      from_.assign(receives.begin(), receives.end() - 1);
      for (index_t& first : from_) first /= element;
    });
    if (comm_.size() == 1) return;
    comm_.all_to_all_bytes(std::as_bytes(std::span(sent)), sends,
                           std::as_writable_bytes(std::span(received_)), receives);
  }

  void append_integers(std::size_t input, std::vector<std::int16_t>& out) {
    const ConstTensorView x = inputs_[input].x;
    if (x.rows == 0) return;
    Matrix<float> room;
    const ConstTensorView rows = backend_.on_host(x, room);
    const std::span<const float> scale = scales_of(input);
    const std::size_t first = out.size();
    out.resize(first + at(x.rows * n_));
#pragma omp parallel for
    for (index_t t = 0; t < x.rows; ++t) {
      for (index_t j = 0; j < n_; ++j) {
        out[first + at(t * n_ + j)] =
            static_cast<std::int16_t>(std::nearbyint(rows(t, j) * scale[at(j)]));
      }
    }
  }

  /// Sums what has come from all ranks. Each has sent the inputs of this rank in the same order.
  Matrix<double> sum_received(std::size_t input) {
    const index_t tokens = tokens_of(input);
    Matrix<float> rows(tokens, n_);
    const std::span<const float> scale = scales_of(input);
    index_t row = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      const index_t count = count_on(r, input);
      const std::int16_t* from = received_.data() + from_[at(r)];
#pragma omp parallel for
      for (index_t t = 0; t < count; ++t) {
        for (index_t j = 0; j < n_; ++j)
          rows(row + t, j) = static_cast<float>(from[t * n_ + j]) / scale[at(j)];
      }
      row += count;
      from_[at(r)] += count * n_;
    }
    Tensor x = backend_.allocate(tokens, n_);
    backend_.upload(rows.span(), x.view());
    return sum_own(x.cview(), input);
  }

  Matrix<double> sum_own(ConstTensorView x, std::size_t input) {
    Matrix<double> h(n_, n_, 0.0);
    if (x.rows == 0) return h;
    backend_.accumulate_hessian(x, scales_of(input), h.view());
    UsageMeter::current().add_flops(hessian_flops(n_, x.rows));
    return h;
  }

  /// Leaves the owner the sum over ranks.
  void add_up(MatrixView<double> h, int owner) {
    if (comm_.size() == 1) return;
    sum_lower_triangle(h, [&](std::span<double> piece) {
      std::vector<index_t> offsets(at(comm_.size()) + 1, 0);
      std::fill(offsets.begin() + owner + 1, offsets.end(), std::ssize(piece));
      comm_.reduce_scatter_sum(piece, offsets);
    });
  }

  Collectives& comm_;
  Backend& backend_;
  const std::vector<OwnedInput>& inputs_;
  index_t n_;
  std::vector<float> scales_;    ///< [inputs × n]
  std::vector<index_t> counts_;  ///< [ranks × inputs]
  std::vector<std::int16_t> received_;
  std::vector<index_t> from_;  ///< of each rank: the first of its integers that is not summed yet
};

}  // namespace

bool rows_travel(index_t tokens, index_t n) {
  return tokens * n * index_t{sizeof(std::int16_t)} <= n * (n + 1) / 2 * index_t{sizeof(double)};
}

std::vector<OwnedHessian> owned_hessians(Collectives& comm, Backend& backend,
                                         const std::vector<OwnedInput>& inputs) {
  if (inputs.empty()) return {};
  return OwnedSums(comm, backend, inputs).run();
}

}  // namespace quip
