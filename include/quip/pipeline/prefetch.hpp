// Reads the next block's weights into memory during work on the present one.
#pragma once

#include <thread>

#include "quip/comm/collectives.hpp"
#include "quip/io/tensor_source.hpp"
#include "quip/model/family.hpp"

namespace quip {

/// Reads, in a thread of its own, this rank's part of a block (BlockLoader) into the operating
/// system's memory, which costs the process none. Parts that come late, or do not fit, are read
/// when they are needed, and errors are met then.
class Prefetch {
 public:
  Prefetch(const Collectives& comm, const TensorSource& source, const Family& family,
           index_t block);

 private:
  std::jthread reader_;  ///< is told to stop, and waited for, by its destructor
};

}  // namespace quip
