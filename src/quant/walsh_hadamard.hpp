// Passes of the fast Walsh–Hadamard transform over slabs.
#pragma once

#include "quip/core/matrix.hpp"

namespace quip {

/// The ±1 Walsh–Hadamard matrix of order `order` = 2^k times X [order × length], contiguous, in
/// place. An element is a tree of additions and subtractions, the largest stride first; the order
/// of the work is depth first, so that each level of the cache sees its part once.
void walsh_hadamard(float* x, index_t order, index_t length);
void walsh_hadamard(double* x, index_t order, index_t length);

/// One level of the tree, half of it: the sum (lower half of the result) or difference (upper
/// half) of the halves of X [2 × length] replaces that half.
void walsh_sum(float* x, index_t length);
void walsh_difference(float* x, index_t length);
/// Both halves.
void walsh_butterfly(float* x, index_t length);

/// Row i of X [n × c], contiguous, times factor[i].
void scale_rows(float* x, const double* factor, index_t n, index_t c);
void scale_rows(double* x, const double* factor, index_t n, index_t c);

}  // namespace quip
