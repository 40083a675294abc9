// Single matrices on disk: a layer's weights or its Hessian, to quantize it alone.
#pragma once

#include <filesystem>
#include <string>

#include "quip/core/matrix.hpp"

namespace quip {

/// Reads a 2-D matrix of floats: FILE.npy (C order, float32 or float64), or FILE.h5:DATASET.
/// Throws Error naming the file for anything else, and for a NaN or an infinity.
[[nodiscard]] Matrix<double> read_matrix(const std::string& location);

/// Writes datasets `weights` [rows × cols] and `hessian` [cols × cols] (its lower triangle,
/// mirrored) to a new HDF5 file; `layer` becomes an attribute. The folder is made if need be.
void write_layer_problem(const std::filesystem::path& file, const std::string& layer,
                         MatrixView<const float> weights, MatrixView<const double> hessian);

}  // namespace quip
