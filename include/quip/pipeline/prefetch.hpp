// The next block's weights on their way into memory while the present one is worked on.
#pragma once

#include <stop_token>
#include <thread>

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"

namespace quip {

/// Reads, in a thread of its own, what this rank will read of a block (`load_block`) into the
/// operating system's memory. Costs the process none: what is not there in time, or did not fit, is
/// read when it is wanted, and errors are met then.
class Prefetch {
 public:
  Prefetch(const Collectives& comm, const TensorSource& source, const Family& family,
           index_t block);

 private:
  std::jthread reader_;  ///< is told to stop, and waited for, by its destructor
};

}  // namespace quip
