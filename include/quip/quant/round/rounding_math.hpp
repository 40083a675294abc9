// The arithmetic of rounding, on the host or on a GPU: what a rounder does to a tile, it does here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "quip/core/matrix.hpp"
#include "quip/linalg/ordered_gemm.hpp"
#include "quip/quant/trellis/codebook.hpp"

namespace quip {

/// A contiguous matrix in the memory of a RoundingMath, which its copies share.
template <typename T>
struct Lanes : MatrixView<T> {
  std::shared_ptr<void> owner;
};

/// The grid of every element of a tile: group[k] (null: 0) chooses the row of `step` and `inverse`
/// [groups × lanes] for position k. Null step and inverse: 1 throughout.
struct GridView {
  const float* step = nullptr;
  const float* inverse = nullptr;
  const std::int32_t* group = nullptr;

  /// Returns the view of positions from `first` on.
  [[nodiscard]] GridView from(index_t first) const {
    return {step, inverse, group == nullptr ? nullptr : group + first};
  }
};

/// One block of columns of a tile; every pointer is at the block's first column and steps by `ld`
/// from column to column. What `base`, `target` and `error` mean, each kernel says.
struct ColumnBlock {
  index_t width = 0;
  index_t lanes = 0;
  index_t ld = 0;                    ///< the tile's lanes
  const float* panel = nullptr;      ///< the block's part of L or H [width × width]
  index_t panel_ld = 0;              ///< between its rows
  const double* diagonal = nullptr;  ///< of D or H
  float top = 0;
  GridView grid;
  const float* offset = nullptr;  ///< null: ½
  const float* base = nullptr;
  const float* target = nullptr;
  float* error = nullptr;
  float* q = nullptr;
  double* loss = nullptr;
};

/// A column of tiles of trellis codes: 16 columns of a tile of rows, all [16 × lanes], whose lanes
/// are a multiple of 16.
struct TileColumns {
  MatrixView<const float> x;
  MatrixView<const float> target;
  MatrixView<const double> block;   ///< D of the 16 columns; read by feedback inside tiles only
  MatrixView<float> q;              ///< receives the values of the states
  MatrixView<float> error;          ///< receives x − q
  std::uint16_t* states = nullptr;  ///< [lanes/16 × 256]
};

/// Codes tiles with one codebook, in the memory of the RoundingMath that has made it.
class TileCoder {
 public:
  TileCoder() = default;
  TileCoder(const TileCoder&) = delete;
  TileCoder& operator=(const TileCoder&) = delete;
  virtual ~TileCoder() = default;

  /// Finds the states that trellis::TileSearch does. Threads may share it where they may share the
  /// RoundingMath.
  virtual void code(const TileColumns& columns) const = 0;
};

/// Matrices are [positions × lanes] or [groups × lanes] and contiguous, a row of W in each column.
/// Every element comes out of the same sequence of operations wherever it is computed, so that
/// levels and losses have the same bits. Calls from one thread are done in their order.
class RoundingMath {
 public:
  RoundingMath() = default;
  RoundingMath(const RoundingMath&) = delete;
  RoundingMath& operator=(const RoundingMath&) = delete;
  virtual ~RoundingMath() = default;

  /// Returns an uninitialised matrix. Throws Error or std::bad_alloc if there is no room.
  template <typename T>
  [[nodiscard]] Lanes<T> lanes(index_t rows, index_t cols, std::string_view what) const {
    std::shared_ptr<void> owner = allocate(at(rows * cols) * sizeof(T), what);
    return {{static_cast<T*>(owner.get()), rows, cols}, std::move(owner)};
  }
  template <typename T>
  [[nodiscard]] Lanes<T> zeros(index_t rows, index_t cols, std::string_view what) const {
    Lanes<T> zeros = lanes<T>(rows, cols, what);
    clear(zeros.data, at(zeros.size()) * sizeof(T));
    return zeros;
  }
  /// Returns a row with these values.
  template <typename T>
  [[nodiscard]] Lanes<T> placed(std::span<const T> values, std::string_view what) const {
    Lanes<T> placed = lanes<T>(1, std::ssize(values), what);
    upload(values, placed.data);
    return placed;
  }
  template <typename T>
  void upload(std::span<const T> values, T* to) const {
    to_here(values.data(), to, values.size_bytes());
  }
  template <typename T>
  [[nodiscard]] std::vector<T> fetched(const Lanes<T>& values) const {
    std::vector<T> host(at(values.size()));
    to_host(values.data, host.data(), host.size() * sizeof(T));
    return host;
  }

  virtual void clear(void* here, std::size_t bytes) const = 0;
  /// y = x.
  virtual void copy(MatrixView<const float> x, MatrixView<float> y) const = 0;
  /// Adds A·B to C, each element one chain of multiply-adds as in ordered_gemm.
  virtual void add_product(StridedView<float> a, MatrixView<const float> b,
                           MatrixView<float> c) const = 0;
  /// norm[r] += sign·Σₖ weight[k]·x(k, r)², k ascending.
  virtual void add_weighted_squares(MatrixView<const float> x, const double* weight, double sign,
                                    double* norm) const = 0;

  /// Finds each lane's range, widened to hold 0, over `count` rows: those that `position` lists, or
  /// (null) the first.
  virtual void find_ranges(MatrixView<const float> x, const std::int32_t* position, index_t count,
                           float* low, float* high) const = 0;
  /// x = w·factor + shift, with the rows of factor (null: 1) and shift that `group` chooses; x may
  /// be w.
  virtual void to_coordinates(MatrixView<const float> w, const float* factor, const float* shift,
                              const std::int32_t* group, MatrixView<float> x) const = 0;
  /// x = clamp(x, 0, top·step).
  virtual void clamp_coordinates(GridView grid, float top, MatrixView<float> x) const = 0;
  /// difference = q·step − x.
  virtual void level_difference(MatrixView<const float> q, GridView grid, MatrixView<const float> x,
                                MatrixView<float> difference) const = 0;
  /// q = x·inverse.
  virtual void unrounded_levels(MatrixView<const float> x, GridView grid,
                                MatrixView<float> q) const = 0;
  /// q = clamp(⌊x·inverse + offset⌋, 0, top); `offset` as q, or null for ½.
  virtual void round_to_nearest(MatrixView<const float> x, GridView grid, const float* offset,
                                float top, MatrixView<float> q) const = 0;
  /// Cuts levels beyond [0, top], and base += (cut − level)·step.
  virtual void cut_levels(GridView grid, float top, MatrixView<float> q,
                          MatrixView<float> base) const = 0;

  /// Rounds the columns of a block from the last to the first, as LDLQ does. On entry `target`
  /// holds xₖ (`base`) plus the feedback of all columns beyond the block; `error` receives x − ŵ.
  virtual void round_with_feedback(const ColumnBlock& block) const = 0;
  /// Rounds the columns of a block from the first to the last, as OPTQ does. `target` holds w as
  /// all columns before these have left it; what these owe one another is added when a column's
  /// turn comes. `base` is `target`, `error` receives ŵₖ − wₖ, `diagonal` is 1/R_kk².
  virtual void round_optq(const ColumnBlock& block) const = 0;
  /// Gives each column of a block, from the last to the first, its best level with all others as
  /// they are. `target` holds Σⱼ sⱼ H_jk over all j outside the block, `error` is s, `base` is x
  /// (less what clamping has cut), and `loss` counts the elements of s that changed: s and `base`
  /// are all that the next sweep depends on. The grid's ends are `low` and the block's top.
  virtual void descend(const ColumnBlock& block, float low) const = 0;

  /// From the feedback of scalar L to that of L in blocks of 16: `target` [16 × lanes] holds x + f
  /// and becomes x + t, with t (L_tile + I) = f, where `factor` [16 × 16] has L_tile.
  virtual void solve_tile(MatrixView<const float> factor, MatrixView<const float> x,
                          MatrixView<float> target) const = 0;
  [[nodiscard]] virtual std::unique_ptr<TileCoder> tile_coder(trellis::Codebook codebook,
                                                              int bits) const = 0;

 private:
  [[nodiscard]] virtual std::shared_ptr<void> allocate(std::size_t bytes,
                                                       std::string_view what) const = 0;
  /// Returns when `host` may be overwritten.
  virtual void to_here(const void* host, void* here, std::size_t bytes) const = 0;
  /// Returns when the host has it.
  virtual void to_host(const void* here, void* host, std::size_t bytes) const = 0;
};

[[nodiscard]] const RoundingMath& host_rounding_math();

}  // namespace quip
