#include "quip/calib/owned_hessian.hpp"

#include <cmath>
#include <cstdint>

#include "quip/calib/channel_scales.hpp"
#include "quip/calib/cross_sum.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/calib/hessian.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

class OwnedSums {
 public:
  OwnedSums(Collectives& comm, Backend& backend, const std::vector<OwnedInput>& inputs)
      : comm_(comm),
        backend_(backend),
        inputs_(inputs),
        n_(inputs.front().x.cols),
        m_(inputs.front().e.cols) {
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
      if (travels(i)) {
        agree(comm_, [&] {
          if (owned(i)) sum_received(i, results[i]);
        });
      } else {
        agree(comm_, [&] { sum_own(inputs_[i].x, inputs_[i].e, i, results[i]); });
        add_up(results[i], inputs_[i].owner);
      }
      if (owned(i)) {
        scale(i, results[i]);
      } else {
        results[i].h = {};
        results[i].cross = {};
      }
    }
    return results;
  }

 private:
  /// Finds the channels' scales over all ranks.
  void measure() {
    scales_.resize(inputs_.size() * at(n_ + m_));
    agree(comm_, [&] {
      for (std::size_t i = 0; i < inputs_.size(); ++i) {
        if (inputs_[i].x.rows == 0) continue;
        backend_.channel_maximum(inputs_[i].x, scales_of(i).first(at(n_)));
        if (m_ > 0) backend_.channel_maximum(inputs_[i].e, scales_of(i).subspan(at(n_)));
        for (index_t j = 0; j < n_ + m_; ++j) {
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
    return comm_.size() > 1 && rows_travel(tokens_of(input), n_, m_);
  }
  /// Returns those of x, then those of e.
  [[nodiscard]] std::span<float> scales_of(std::size_t input) {
    return std::span(scales_).subspan(input * at(n_ + m_), at(n_ + m_));
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
          if (owned(i)) received += count_on(r, i) * (n_ + m_);
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

  /// Appends x and e of every token, one behind the other.
  void append_integers(std::size_t input, std::vector<std::int16_t>& out) {
    const index_t tokens = inputs_[input].x.rows;
    const std::size_t first = out.size();
    out.resize(first + at(tokens * (n_ + m_)));
    const auto append = [&](ConstTensorView x, index_t column) {
      if (x.size() == 0) return;
      Matrix<float> room;
      const ConstTensorView rows = backend_.on_host(x, room);
      const float* scale = scales_of(input).data() + column;
#pragma omp parallel for
      for (index_t t = 0; t < x.rows; ++t) {
        std::int16_t* to = out.data() + first + t * (n_ + m_) + column;
        for (index_t j = 0; j < x.cols; ++j)
          to[j] = static_cast<std::int16_t>(std::nearbyint(rows(t, j) * scale[j]));
      }
    };
    append(inputs_[input].x, 0);
    append(inputs_[input].e, n_);
  }

  /// Sums what has come from all ranks. Each has sent the inputs of this rank in the same order.
  void sum_received(std::size_t input, OwnedHessian& out) {
    const index_t width = n_ + m_;
    Matrix<float> rows(out.tokens, width);
    const std::span<const float> scale = scales_of(input);
    index_t row = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      const index_t count = count_on(r, input);
      const std::int16_t* from = received_.data() + from_[at(r)];
#pragma omp parallel for
      for (index_t t = 0; t < count; ++t) {
        for (index_t j = 0; j < width; ++j)
          rows(row + t, j) = static_cast<float>(from[t * width + j]) / scale[at(j)];
      }
      row += count;
      from_[at(r)] += count * width;
    }
    Tensor x = backend_.allocate(out.tokens, width);
    backend_.upload(rows.span(), x.view());
    sum_own(x.cview().middle_cols(0, n_), x.cview().middle_cols(n_, m_), input, out);
  }

  void sum_own(ConstTensorView x, ConstTensorView e, std::size_t input, OwnedHessian& out) {
    const std::span<const float> scale = scales_of(input).first(at(n_));
    out.h = Matrix<double>(n_, n_, 0.0);
    squares_.assign(at(m_), 0.0);
    if (m_ > 0) out.cross = Matrix<double>(m_, n_, 0.0);
    if (x.rows == 0) return;
    backend_.accumulate_hessian(x, scale, out.h.view());
    UsageMeter::current().add_flops(hessian_flops(n_, x.rows));
    if (m_ == 0) return;
    const std::span<const float> e_scale = scales_of(input).subspan(at(n_));
    backend_.accumulate_cross(e, e_scale, x, scale, out.cross.view());
    SelfCollectives self;
    squares_ = hessian_diagonal(self, backend_, e, {{e_scale.begin(), e_scale.end()}, 1});
    UsageMeter::current().add_flops(cross_flops(m_, n_, x.rows));
  }

  /// Leaves the owner the sums over ranks.
  void add_up(OwnedHessian& sums, int owner) {
    if (comm_.size() == 1) return;
    const auto to_owner = [&](std::span<double> piece) {
      std::vector<index_t> offsets(at(comm_.size()) + 1, 0);
      std::fill(offsets.begin() + owner + 1, offsets.end(), std::ssize(piece));
      comm_.reduce_scatter_sum(piece, offsets);
    };
    sum_lower_triangle(sums.h.view(), to_owner);
    if (m_ == 0) return;
    to_owner(squares_);
    const std::vector<index_t> pieces = cross_pieces(m_, n_);
    for (std::size_t p = 0; p + 1 < pieces.size(); ++p) {
      to_owner(sums.cross.span().subspan(at(pieces[p] * n_), at((pieces[p + 1] - pieces[p]) * n_)));
    }
  }

  /// Turns the integers' sums into H and C.
  void scale(std::size_t input, OwnedHessian& sums) {
    const std::span<const float> all = scales_of(input);
    ChannelScales scales{{all.begin(), all.begin() + n_}, static_cast<double>(sums.tokens)};
    scales.apply(sums.h.view());
    const ChannelScales of_e{{all.begin() + n_, all.end()}, scales.tokens};
    for (const double square : squares_) sums.energy += square / scales.tokens;
    for (index_t i = 0; i < m_; ++i) {
      const double factor = of_e.row_unit(i);
      for (index_t j = 0; j < n_; ++j) sums.cross(i, j) *= factor / scales.scale[at(j)];
    }
  }

  Collectives& comm_;
  Backend& backend_;
  const std::vector<OwnedInput>& inputs_;
  index_t n_;
  index_t m_;
  std::vector<float> scales_;    ///< [inputs × (n + m)]
  std::vector<index_t> counts_;  ///< [ranks × inputs]
  std::vector<std::int16_t> received_;
  std::vector<double> squares_;  ///< Σₜ e² of each channel of the input in hand
  std::vector<index_t> from_;    ///< of each rank: the first of its integers that is not summed yet
};

}  // namespace

bool rows_travel(index_t tokens, index_t n, index_t m) {
  const index_t sums = n * (n + 1) / 2 + m * n;
  return tokens * (n + m) * index_t{sizeof(std::int16_t)} <= sums * index_t{sizeof(double)};
}

std::vector<OwnedHessian> owned_hessians(Collectives& comm, Backend& backend,
                                         const std::vector<OwnedInput>& inputs) {
  if (inputs.empty()) return {};
  return OwnedSums(comm, backend, inputs).run();
}

}  // namespace quip
