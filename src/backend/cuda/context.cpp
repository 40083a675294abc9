#include "context.hpp"

#include <algorithm>

#include "backend/units.hpp"
#include <omp.h>

namespace quip::cuda {
namespace {

thread_local std::size_t current_lane = 0;

}  // namespace

Context::Context(int device, int sharers, int lanes) : device_(device, sharers) {
  for (int i = 0; i <= lanes; ++i) lanes_.push_back(std::make_unique<Lane>(device_));
}

Context::~Context() { static_cast<void>(cudaDeviceSynchronize()); }

Lane& Context::lane() { return *lanes_[current_lane]; }

void Context::for_each_unit(index_t count, const std::function<void(index_t)>& work) {
  const auto most = static_cast<index_t>(lanes_.size()) - 1;
  lane().stream.synchronize();
  run_units(count, static_cast<int>(std::clamp<index_t>(count, 1, most)), [&](index_t unit) {
    device_.use();
    current_lane = at(omp_get_thread_num()) + 1;
    try {
      work(unit);
      lane().stream.synchronize();  // a unit that fails, fails under its own number
    } catch (...) {
      current_lane = 0;
      throw;
    }
    current_lane = 0;
  });
}

}  // namespace quip::cuda
