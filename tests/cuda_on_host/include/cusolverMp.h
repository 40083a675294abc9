// The part of cuSOLVERMp that src/backend/cuda uses, over ScaLAPACK; see cuda_runtime.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cusolverDn.h"
#include "nccl.h"

enum cusolverMpGridMapping_t {
  CUSOLVERMP_GRID_MAPPING_COL_MAJOR = 0,
  CUSOLVERMP_GRID_MAPPING_ROW_MAJOR = 1
};
using cusolverMpHandle_t = struct CusolverMpOnHost*;
using cusolverMpGrid_t = struct CusolverMpGridOnHost*;
using cusolverMpMatrixDescriptor_t = struct CusolverMpDescOnHost*;

cusolverStatus_t cusolverMpCreate(cusolverMpHandle_t* handle, int device, cudaStream_t stream);
cusolverStatus_t cusolverMpDestroy(cusolverMpHandle_t handle);
/// The communicator's calls have to be blocking.
cusolverStatus_t cusolverMpCreateDeviceGrid(cusolverMpHandle_t handle, cusolverMpGrid_t* grid,
                                            ncclComm_t comm, std::int32_t rows, std::int32_t cols,
                                            cusolverMpGridMapping_t mapping);
cusolverStatus_t cusolverMpDestroyGrid(cusolverMpGrid_t grid);
cusolverStatus_t cusolverMpCreateMatrixDesc(cusolverMpMatrixDescriptor_t* desc,
                                            cusolverMpGrid_t grid, cudaDataType type,
                                            std::int64_t rows, std::int64_t cols,
                                            std::int64_t row_block, std::int64_t col_block,
                                            std::uint32_t first_row, std::uint32_t first_col,
                                            std::int64_t ld);
cusolverStatus_t cusolverMpDestroyMatrixDesc(cusolverMpMatrixDescriptor_t desc);
/// A block and a byte.
cusolverStatus_t cusolverMpPotrf_bufferSize(cusolverMpHandle_t handle, cublasFillMode_t uplo,
                                            std::int64_t n, const void* a, std::int64_t ia,
                                            std::int64_t ja, cusolverMpMatrixDescriptor_t desc,
                                            cudaDataType compute, std::size_t* device_bytes,
                                            std::size_t* host_bytes);
/// Matrix, workspace and `info` are in device memory. Never ends where CUSOLVERMP_ON_HOST_STALLS is
/// set in the environment.
cusolverStatus_t cusolverMpPotrf(cusolverMpHandle_t handle, cublasFillMode_t uplo, std::int64_t n,
                                 void* a, std::int64_t ia, std::int64_t ja,
                                 cusolverMpMatrixDescriptor_t desc, cudaDataType compute,
                                 void* device_buffer, std::size_t device_bytes, void* host_buffer,
                                 std::size_t host_bytes, int* info);
