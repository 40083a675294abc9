// Tiles of trellis codes on the host.
#include <mutex>
#include <utility>
#include <vector>

#include "host_math.hpp"

#include "quip/quant/trellis/feedback.hpp"
#include "quip/quant/trellis/search.hpp"
#include "quip/quant/trellis/tile.hpp"

namespace quip {
namespace {

using trellis::tile_side;
using trellis::tile_steps;

/// Lends workspaces: as many as there are threads at work.
class Workspaces {
 public:
  using Owner = std::unique_ptr<trellis::TileSearch::Workspace>;

  template <typename Search>
  [[nodiscard]] Owner take(const Search& search) {
    {
      const std::scoped_lock lock(mutex_);
      if (!idle_.empty()) {
        Owner last = std::move(idle_.back());
        idle_.pop_back();
        return last;
      }
    }
    return search.workspace();
  }
  void give_back(Owner workspace) {
    const std::scoped_lock lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<Owner> idle_;
};

void encode(const trellis::TileSearch& search, const TileColumns& columns, const float* targets,
            index_t count, trellis::TileSearch::Workspace& workspace) {
  search.encode(targets, count, workspace, columns.states);
}
void encode(const trellis::FeedbackSearch& search, const TileColumns& columns, const float* targets,
            index_t count, trellis::TileSearch::Workspace& workspace) {
  search.encode(targets, count, trellis::TileFeedback(columns.block), workspace, columns.states);
}

template <typename Search>
class HostTileCoder final : public TileCoder {
 public:
  HostTileCoder(trellis::Codebook codebook, std::unique_ptr<Search> search)
      : codebook_(codebook), search_(std::move(search)) {}

  void code(const TileColumns& columns) const override {
    const index_t across = columns.x.cols / tile_side;
    std::vector<float> steps(at(across * tile_steps));
    for (index_t t = 0; t < across; ++t) {
      for (int step = 0; step < tile_steps; ++step) {
        const trellis::TilePlace place = trellis::place_of(step);
        steps[at(t * tile_steps + step)] =
            columns.target(place.input, t * tile_side + place.output);
      }
    }
    Workspaces::Owner workspace = workspaces_.take(*search_);
    encode(*search_, columns, steps.data(), across, *workspace);
    workspaces_.give_back(std::move(workspace));
    trellis::decode_states(codebook_, columns.states, across * tile_steps, steps.data());
    for (index_t t = 0; t < across; ++t) {
      for (int step = 0; step < tile_steps; ++step) {
        const trellis::TilePlace place = trellis::place_of(step);
        const index_t lane = t * tile_side + place.output;
        const float value = steps[at(t * tile_steps + step)];
        columns.q(place.input, lane) = value;
        columns.error(place.input, lane) = columns.x(place.input, lane) - value;
      }
    }
  }

 private:
  trellis::Codebook codebook_;
  std::unique_ptr<Search> search_;
  mutable Workspaces workspaces_;
};

}  // namespace

// From the last column on f becomes t.
void HostMath::solve_tile(MatrixView<const float> factor, MatrixView<const float> x,
                          MatrixView<float> target) const {
  for (index_t i = target.rows - 1; i >= 0; --i) {
    float* const row = target.row(i);
    for (index_t j = i + 1; j < target.rows; ++j) {
      const float* const later = target.row(j);
      const float* const base = x.row(j);
      for (index_t r = 0; r < target.cols; ++r) row[r] -= factor(j, i) * (later[r] - base[r]);
    }
  }
}

std::unique_ptr<TileCoder> HostMath::tile_coder(trellis::Codebook codebook, int bits) const {
  using Coder = HostTileCoder<trellis::TileSearch>;
  return std::make_unique<Coder>(codebook, trellis::make_tile_search(codebook, bits));
}

std::unique_ptr<TileCoder> make_step_coder(trellis::Codebook codebook, int bits) {
  using Coder = HostTileCoder<trellis::FeedbackSearch>;
  return std::make_unique<Coder>(codebook, trellis::make_feedback_search(codebook, bits));
}

}  // namespace quip
