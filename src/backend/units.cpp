#include "units.hpp"

#include <exception>

namespace quip {

void run_units(index_t count, int threads, const std::function<void(index_t)>& work) {
  std::exception_ptr failure;
  index_t failed_unit = count;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (index_t unit = 0; unit < count; ++unit) {
    try {
      work(unit);
    } catch (...) {
#pragma omp critical(quip_for_each_unit)
      if (unit < failed_unit) {
        failed_unit = unit;
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace quip
