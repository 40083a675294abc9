#include "quip/pipeline/stream_target.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "quip/calib/cross_sum.hpp"
#include "quip/calib/distributed_hessian.hpp"
#include "quip/comm/node_memory.hpp"
#include "quip/core/error.hpp"
#include "quip/core/usage.hpp"
#include "quip/linalg/blas.hpp"
#include "quip/linalg/distributed_ldl.hpp"
#include "quip/linalg/ldl.hpp"
#include "quip/pipeline/loader.hpp"
#include "quip/quant/factor/work.hpp"

namespace quip {
namespace {

constexpr double ridge_share = 0.01;
// Tokens of a text follow from each other: fewer than this tell less than R² believes.
constexpr double tokens_an_input = 4;

[[noreturn]] void fail_without_factor(double lambda, index_t minor) {
  fail("--target stream: H + {} I is not positive definite (leading minor {})", lambda, minor);
}

/// Rows of a layer, in units that are solved together: each rank's, those of a node together.
class RowShares {
 public:
  RowShares(Collectives& comm, index_t rows) : place_(comm.place()), rows_(rows) {
    const index_t units = (rows + solve_rows_unit - 1) / solve_rows_unit;
    std::vector<index_t> ends(2 * at(comm.size()));
    const Range mine = share_to_read(units, place_);
    ends[2 * at(comm.rank())] = std::min(rows, mine.first * solve_rows_unit);
    ends[2 * at(comm.rank()) + 1] = std::min(rows, mine.last * solve_rows_unit);
    comm.all_gather_bytes(std::as_writable_bytes(std::span(ends)),
                          share_offsets(comm.size(), comm.size(), 2 * sizeof(index_t)));
    for (int r = 0; r < comm.size(); ++r) {
      of_ranks_.push_back({ends[2 * at(r)], ends[2 * at(r) + 1]});
    }
    for (const index_t unit : share_offsets(units, place_.nodes)) {
      of_nodes_.push_back(std::min(rows, unit * solve_rows_unit));
    }
    mine_ = of_ranks_[at(comm.rank())];
  }

  [[nodiscard]] Range mine() const { return mine_; }
  [[nodiscard]] const std::vector<Range>& of_ranks() const { return of_ranks_; }

  /// Returns all rows, of which each rank brings its own, in memory that nodes have in common.
  template <typename Fill>
  std::shared_ptr<float> gather(Collectives& comm, index_t cols, const Fill& fill) const {
    const index_t row_bytes = cols * index_t{sizeof(float)};
    const std::shared_ptr<std::byte> memory = allocate_on_node(comm, rows_ * row_bytes);
    std::shared_ptr<float> values(memory, reinterpret_cast<float*>(memory.get()));
    agree(comm, [&] { fill(MatrixView<float>(values.get(), rows_, cols)); });
    comm.node_barrier();
    if (place_.nodes > 1) {
      std::vector<index_t> offsets = of_nodes_;
      for (index_t& offset : offsets) offset *= row_bytes;
      comm.all_gather_over_nodes({memory.get(), at(rows_ * row_bytes)}, offsets);
      comm.node_barrier();
    }
    return values;
  }

 private:
  NodePlace place_;
  index_t rows_;
  Range mine_;
  std::vector<Range> of_ranks_;
  std::vector<index_t> of_nodes_;  ///< first row of each, and the end
};

/// H + λI = (L+I) D (L+I)ᵀ, spread over ranks.
struct SpreadRidge {
  double lambda = 0;
  std::vector<double> d;
  DistributedMatrix l;
};

/// Sums H over blocks that all ranks hold together, and factorises them.
SpreadRidge factorise(Collectives& comm, Backend& backend, ConstTensorView x,
                      const ChannelScales& scales, const WideOptions& wide) {
  SpreadRidge ridge;
  DistributedMatrix& h = ridge.l;
  agree(comm, [&] { h = DistributedMatrix(wide.layout(x.cols, comm.size()), comm.rank()); });
  distributed_hessian(comm, backend, x, scales, 1.0, h);
  std::vector<double> diagonal = h.diagonal(comm);
  ridge.lambda = ridge_share * std::accumulate(diagonal.begin(), diagonal.end(), 0.0) /
                 static_cast<double>(x.cols);
  for (double& value : diagonal) value += ridge.lambda;
  h.set_diagonal(diagonal);
  ridge.d.resize(at(x.cols));
  const index_t minor = distributed_ldl(comm, h, block_cholesky, ridge.d);
  agree(comm, [&] {
    if (minor != 0) fail_without_factor(ridge.lambda, minor);
  });
  return ridge;
}

/// Solves with L, whose block columns come from the ranks that hold them (collective).
std::vector<double> solve_spread(Collectives& comm, const SpreadRidge& ridge,
                                 MatrixView<double> rows) {
  const BlockCyclic& layout = ridge.l.layout();
  std::optional<BlockColumn<double>> column;
  Buffer<double> room;
  agree(comm, [&] {
    column.emplace(layout);
    room = Buffer<double>(layout.n() * layout.cols.block);
  });
  const LowerColumns columns = [&](index_t b) {
    column->gather(comm, ridge.l, b, b);
    return MatrixView<const double>(column->copy_to(room.data()));
  };
  return solve_ldl_rows(columns, ridge.d, rows);
}

/// Writes W + share · `step` to `out`, and takes down ‖share · step‖² and ‖W‖² of each row.
template <typename T>
std::vector<double> add_step(MatrixView<const float> w, MatrixView<const T> step, double share,
                             MatrixView<float> out) {
  std::vector<double> squares(2 * at(w.rows));
#pragma omp parallel for
  for (index_t i = 0; i < w.rows; ++i) {
    double moved = 0;
    double before = 0;
    for (index_t j = 0; j < w.cols; ++j) {
      const double by = share * static_cast<double>(step(i, j));
      moved += by * by;
      before += double{w(i, j)} * w(i, j);
      out(i, j) = static_cast<float>(w(i, j) + by);
    }
    squares[2 * at(i)] = moved;
    squares[2 * at(i) + 1] = before;
  }
  return squares;
}

/// Returns √(Σ a²/Σ b²) of pairs of squares, such as add_step's ‖W* − W‖/‖W‖; 0 if all b are.
double ratio_of(const std::vector<double>& squares) {
  double a = 0;
  double b = 0;
  for (std::size_t i = 0; i < squares.size(); i += 2) {
    a += squares[i];
    b += squares[i + 1];
  }
  return b > 0 ? std::sqrt(a / b) : 0.0;
}

/// What the layers of one tap have in common.
class Maker {
 public:
  Maker(Collectives& comm, Backend& backend, const QuantizeOptions& options, Phases& phases,
        const TapStreams& streams, MatrixView<const double> h, const SampleShard& shard,
        const std::string& name)
      : comm_(comm),
        backend_(backend),
        options_(options),
        phases_(phases),
        streams_(streams),
        h_(h),
        shard_(shard) {
    auto scope = phases_.measure("hessian");
    scales_ = measure(streams_.inputs.x, name);
  }

  /// True if the tokens say anything about other tokens.
  [[nodiscard]] bool has_enough_tokens() const {
    return tokens_suffice(scales_.tokens, streams_.inputs.x.cols);
  }

  void add(const LinearSpec& linear, ConstTensorView w, StreamTargets& out) {
    const RowShares shares(comm_, linear.rows);
    const Range mine = shares.mine();
    std::vector<double> squares;
    std::shared_ptr<float> moved;
    const auto gather = [&](const auto& step, double share) {
      moved = shares.gather(comm_, linear.cols, [&](MatrixView<float> all) {
        Matrix<float> room;
        const auto own = backend_.on_host(w.middle_rows(mine.first, mine.count()), room);
        squares = add_step(own, step(own), share, all.middle_rows(mine.first, mine.count()));
      });
    };
    if (linear.adds || h_.rows == 0) {
      const std::optional<Fit> fit = fit_errors(linear, w, shares);
      if (!fit) return;
      auto scope = phases_.measure("factor");
      gather([&](ConstTensorView /*own*/) { return fit->step.cview(); }, fit->share);
    } else {
      const MatrixView<const float> drift = drift_of(linear.name);
      if (drift.rows == 0) return;
      auto scope = phases_.measure("factor");
      Matrix<float> step;
      gather(
          [&](ConstTensorView own) {
            step = Matrix<float>(own.rows, own.cols);
            multiply_rows(own, drift, step.view());
            UsageMeter::current().add_flops(product_flops(own.rows, own.cols));
            return step.cview();
          },
          options_.stream.drift);
    }
    out.shifts[linear.name] = ratio_of(of_all_rows(squares, linear.rows, 2, shares));
    agree(comm_, [&] {
      out.weights.insert(linear.name + ".weight", backend_.adopt(moved, linear.rows, linear.cols));
    });
  }

 private:
  [[nodiscard]] ChannelScales measure(ConstTensorView x, const std::string& name) {
    return measure_channels(comm_, backend_, x, streams_.inputs.first_sample,
                            streams_.inputs.sample_length, name);
  }

  /// Returns the least squares fit of e on x, of this rank's rows; nothing if all e are zero.
  struct Fit {
    Matrix<double> step;
    double share;
  };
  [[nodiscard]] std::optional<Fit> fit(ConstTensorView e, const std::string& name,
                                       const RowShares& shares) {
    Matrix<double> sums;
    double energy = 0;
    {
      auto scope = phases_.measure("hessian");
      const ChannelScales scales = measure(e, name);
      if (scales.largest == 0) return std::nullopt;
      for (const double value : hessian_diagonal(comm_, backend_, e, scales)) energy += value;
      sums = cross_sum_rows(comm_, backend_, {e, scales, streams_.inputs.x, scales_},
                            shares.of_ranks());
    }
    auto scope = phases_.measure("factor");
    const std::vector<double> explained = of_all_rows(solve(sums.view()), e.cols, 1, shares);
    const double share = std::accumulate(explained.begin(), explained.end(), 0.0) / energy;
    return Fit{std::move(sums), fit_share(share, scales_.tokens, streams_.inputs.x.cols)};
  }

  /// Replaces rows g by g (H + λI)⁻¹, and returns g (H + λI)⁻¹ gᵀ of each.
  std::vector<double> solve(MatrixView<double> rows) {
    std::vector<double> norms;
    const index_t n = streams_.inputs.x.cols;
    if (h_.rows > 0) {
      agree(comm_, [&] {
        if (!whole_) whole_.emplace(h_);
        norms = whole_->solve(rows);
      });
    } else {
      if (!spread_) {
        spread_ = factorise(comm_, backend_, streams_.inputs.x, scales_, options_.wide);
      }
      norms = solve_spread(comm_, *spread_, rows);
      UsageMeter::current().add_flops(product_flops(rows.rows, n));
    }
    return norms;
  }

  /// Fits a layer's own e.
  std::optional<Fit> fit_errors(const LinearSpec& linear, ConstTensorView w,
                                const RowShares& shares) {
    const bool drifts = options_.stream.drift > 0;
    const bool takes = linear.adds && options_.stream.residual > 0;
    if (!options_.stream.moves(linear)) return std::nullopt;
    Tensor e;
    {
      auto scope = phases_.measure("capture");
      agree(comm_, [&] {
        e = backend_.allocate_samples(shard_.tokens(), linear.rows);
        backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
          const auto rows = [&](ConstTensorView all) { return shard_.rows_of(all, s); };
          const TensorView own = shard_.rows_of(e.view(), s);
          if (drifts) {
            const Tensor drift = backend_.allocate(own.rows, linear.cols);
            set_difference(backend_, rows(streams_.full_x), rows(streams_.inputs.x),
                           options_.stream.drift, drift.view());
            backend_.linear(drift.cview(), w, {}, own);
          }
          if (!takes) return;
          const Tensor error = drifts ? backend_.allocate(own.rows, linear.rows) : Tensor();
          const TensorView to = drifts ? error.view() : own;
          set_difference(backend_, rows(streams_.full_residual), rows(streams_.residual),
                         options_.stream.residual / linear.adds_by, to);
          if (drifts) backend_.add(to, own);
        });
        if (drifts) {
          UsageMeter::current().add_flops(cross_flops(linear.rows, linear.cols, shard_.tokens()));
        }
      });
    }
    return fit(e.cview(), linear.name, shares);
  }

  /// Returns the fit M of x_f − x on x [n × n]; empty if there is none.
  MatrixView<const float> drift_of(const std::string& name) {
    if (options_.stream.drift == 0) return {};
    if (!fitted_) {
      fitted_ = true;
      fit_drift(name);
    }
    const index_t n = drift_ == nullptr ? 0 : streams_.inputs.x.cols;
    return {drift_.get(), n, n};
  }

  void fit_drift(const std::string& name) {
    const ConstTensorView x = streams_.inputs.x;
    const RowShares shares(comm_, x.cols);
    Tensor e;
    {
      auto scope = phases_.measure("capture");
      agree(comm_, [&] {
        e = backend_.allocate_samples(x.rows, x.cols);
        backend_.for_each_unit(shard_.samples.count(), [&](index_t s) {
          set_difference(backend_, shard_.rows_of(streams_.full_x, s), shard_.rows_of(x, s), 1,
                         shard_.rows_of(e.view(), s));
        });
      });
    }
    const std::optional<Fit> found = fit(e.cview(), name, shares);
    if (!found) return;
    auto scope = phases_.measure("factor");
    drift_ = shares.gather(comm_, x.cols, [&](MatrixView<float> all) {
      for (index_t i = 0; i < found->step.rows(); ++i) {
        for (index_t j = 0; j < x.cols; ++j) {
          all(shares.mine().first + i, j) = static_cast<float>(found->share * found->step(i, j));
        }
      }
    });
  }

  /// Returns `each` values of every row of `rows`, of which this rank has those of its share.
  std::vector<double> of_all_rows(const std::vector<double>& mine, index_t rows, index_t each,
                                  const RowShares& shares) {
    std::vector<double> all(at(rows * each), 0.0);
    std::ranges::copy(mine, all.begin() + shares.mine().first * each);
    comm_.all_reduce_sum(all);  // one rank's value and zeros: exact
    return all;
  }

  Collectives& comm_;
  Backend& backend_;
  const QuantizeOptions& options_;
  Phases& phases_;
  const TapStreams& streams_;
  MatrixView<const double> h_;
  const SampleShard& shard_;
  ChannelScales scales_;
  bool fitted_ = false;
  std::shared_ptr<float> drift_;  ///< M [n × n]
  std::optional<WholeRidge> whole_;
  std::optional<SpreadRidge> spread_;
};

}  // namespace

WholeRidge::WholeRidge(MatrixView<const double> h) : l_(h.rows, h.rows), d_(at(h.rows)) {
  const index_t n = h.rows;
  double trace = 0;
  for (index_t i = 0; i < n; ++i) trace += h(i, i);
  const double lambda = ridge_share * trace / static_cast<double>(n);
#pragma omp parallel for schedule(dynamic, 16)
  for (index_t i = 0; i < n; ++i) {
    std::copy_n(h.row(i), i + 1, l_.row(i));
    l_(i, i) += lambda;
  }
  const index_t minor = ldl_factor(l_.view(), d_);
  if (minor != 0) fail_without_factor(lambda, minor);
  UsageMeter::current().add_flops(ridge_flops(n));
}

std::vector<double> WholeRidge::solve(MatrixView<double> g) const {
  UsageMeter::current().add_flops(product_flops(g.rows, g.cols));
  return solve_ldl_rows(columns_of(l_.cview()), d_, g);
}

bool tokens_suffice(double tokens, index_t n) {
  return tokens >= tokens_an_input * (static_cast<double>(n) + 1);
}

double fit_share(double explained, double tokens, index_t n) {
  if (!tokens_suffice(tokens, n) || explained <= 0) return 0;
  const double adjusted =
      1 - (1 - explained) * (tokens - 1) / (tokens - static_cast<double>(n) - 1);
  return std::clamp(adjusted / explained, 0.0, 1.0);
}

template <typename T>
double move_rows(MatrixView<const float> w, MatrixView<const T> step, double share,
                 MatrixView<float> out) {
  return ratio_of(add_step(w, step, share, out));
}
template double move_rows<float>(MatrixView<const float>, MatrixView<const float>, double,
                                 MatrixView<float>);
template double move_rows<double>(MatrixView<const float>, MatrixView<const double>, double,
                                  MatrixView<float>);

void multiply_rows(MatrixView<const float> w, MatrixView<const float> m, MatrixView<float> out) {
#pragma omp parallel for schedule(dynamic)
  for (index_t i = 0; i < w.rows; i += solve_rows_unit) {
    const index_t count = std::min(solve_rows_unit, w.rows - i);
    gemm(Transpose::no, Transpose::no, 1.0F, w.middle_rows(i, count), m, 0.0F,
         out.middle_rows(i, count));
  }
}

void set_difference(Backend& backend, ConstTensorView a, ConstTensorView b, double factor,
                    TensorView out) {
  backend.copy(b, out);
  backend.scale(-1.0F, out);
  backend.add(a, out);
  if (factor != 1) backend.scale(static_cast<float>(factor), out);
}

StreamTargets StreamTarget::make(const LayerList& readers, const TapStreams& streams,
                                 MatrixView<const double> h, const WeightSet& weights,
                                 const SampleShard& shard, bool moves) {
  StreamTargets targets{WeightSet::over(weights), {}};
  if (readers.empty() || !moves || !options_.stream.moves()) return targets;
  Maker maker(comm_, backend_, options_, phases_, streams, h, shard, readers.front().first.name);
  if (!maker.has_enough_tokens()) return targets;
  for (const auto& [linear, options] : readers) {
    maker.add(linear, weights[linear.name + ".weight"], targets);
  }
  return targets;
}

double relative_distance(Collectives& comm, Backend& backend, const SampleShard& shard,
                         index_t samples, ConstTensorView a, ConstTensorView b) {
  std::vector<double> squares(2 * at(samples), 0.0);
  agree(comm, [&] {
    Matrix<float> left(shard.length, a.cols);
    Matrix<float> right(shard.length, a.cols);
    for (index_t s = 0; s < shard.samples.count(); ++s) {
      const index_t count = shard.length_of(s) * a.cols;
      backend.download(shard.rows_of(a, s), left.span().first(at(count)));
      backend.download(shard.rows_of(b, s), right.span().first(at(count)));
      double* sums = squares.data() + 2 * (shard.samples.first + s);
      for (index_t i = 0; i < count; ++i) {
        const double other = right.data()[i];
        const double difference = left.data()[i] - other;
        sums[0] += difference * difference;
        sums[1] += other * other;
      }
    }
  });
  comm.all_reduce_sum(squares);  // one rank's value and zeros: exact
  return ratio_of(squares);
}

}  // namespace quip
