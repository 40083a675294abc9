// cuSOLVERMp by ScaLAPACK, on the ranks of a communicator of NCCL, which is one of MPI here.
#include "cusolverMp.h"

#include <array>
#include <cstdlib>

#include "linalg/scalapack_functions.hpp"

struct CusolverMpOnHost {};
struct CusolverMpGridOnHost {
  int system;
  int context;
};
struct CusolverMpDescOnHost {
  std::array<int, 9> values;
  std::int64_t block;
};

namespace {

bool on_device(const void* pointer) {
  cudaPointerAttributes attributes{};
  static_cast<void>(cudaPointerGetAttributes(&attributes, pointer));
  return attributes.type == cudaMemoryTypeDevice;
}

std::size_t device_bytes_for(std::int64_t block) {
  return static_cast<std::size_t>(block * block) * sizeof(double);
}
constexpr std::size_t host_bytes_for_any = 1;

}  // namespace

cusolverStatus_t cusolverMpCreate(cusolverMpHandle_t* handle, int device, cudaStream_t /*stream*/) {
  if (cudaSetDevice(device) != cudaSuccess) return CUSOLVER_STATUS_INVALID_VALUE;
  *handle = new CusolverMpOnHost;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverMpDestroy(cusolverMpHandle_t handle) {
  delete handle;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverMpCreateDeviceGrid(cusolverMpHandle_t /*handle*/, cusolverMpGrid_t* grid,
                                            ncclComm_t comm, std::int32_t rows, std::int32_t cols,
                                            cusolverMpGridMapping_t mapping) {
  const MPI_Comm ranks = cuda_on_host::communicator_of_blocking(comm);
  int size = 0;
  if (ranks != MPI_COMM_NULL) MPI_Comm_size(ranks, &size);
  if (size != rows * cols) return CUSOLVER_STATUS_INVALID_VALUE;
  const int system = Csys2blacs_handle(ranks);
  *grid = new CusolverMpGridOnHost{system, system};
  const bool by_rows = mapping == CUSOLVERMP_GRID_MAPPING_ROW_MAJOR;
  Cblacs_gridinit(&(*grid)->context, by_rows ? "Row" : "Col", rows, cols);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverMpDestroyGrid(cusolverMpGrid_t grid) {
  Cblacs_gridexit(grid->context);
  Cfree_blacs_system_handle(grid->system);
  delete grid;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverMpCreateMatrixDesc(cusolverMpMatrixDescriptor_t* desc,
                                            cusolverMpGrid_t grid, cudaDataType type,
                                            std::int64_t rows, std::int64_t cols,
                                            std::int64_t row_block, std::int64_t col_block,
                                            std::uint32_t first_row, std::uint32_t first_col,
                                            std::int64_t ld) {
  if (type != CUDA_R_64F || row_block != col_block) return CUSOLVER_STATUS_INVALID_VALUE;
  const std::array values{static_cast<int>(rows),      static_cast<int>(cols),
                          static_cast<int>(row_block), static_cast<int>(col_block),
                          static_cast<int>(first_row), static_cast<int>(first_col),
                          static_cast<int>(ld)};
  *desc = new CusolverMpDescOnHost{{}, row_block};
  int info = 0;
  descinit_((*desc)->values.data(), &values[0], &values[1], &values[2], &values[3], &values[4],
            &values[5], &grid->context, &values[6], &info);
  return info == 0 ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}
cusolverStatus_t cusolverMpDestroyMatrixDesc(cusolverMpMatrixDescriptor_t desc) {
  delete desc;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverMpPotrf_bufferSize(cusolverMpHandle_t /*handle*/,
                                            cublasFillMode_t /*uplo*/, std::int64_t /*n*/,
                                            const void* a, std::int64_t ia, std::int64_t ja,
                                            cusolverMpMatrixDescriptor_t desc, cudaDataType compute,
                                            std::size_t* device_bytes, std::size_t* host_bytes) {
  *device_bytes = device_bytes_for(desc->block);
  *host_bytes = host_bytes_for_any;
  const bool fits = on_device(a) && ia == 1 && ja == 1 && compute == CUDA_R_64F;
  return fits ? CUSOLVER_STATUS_SUCCESS : CUSOLVER_STATUS_INVALID_VALUE;
}
cusolverStatus_t cusolverMpPotrf(cusolverMpHandle_t /*handle*/, cublasFillMode_t uplo,
                                 std::int64_t n, void* a, std::int64_t ia, std::int64_t ja,
                                 cusolverMpMatrixDescriptor_t desc, cudaDataType compute,
                                 void* device_buffer, std::size_t device_bytes, void* host_buffer,
                                 std::size_t host_bytes, int* info) {
  const bool room = on_device(device_buffer) && device_bytes >= device_bytes_for(desc->block) &&
                    host_buffer != nullptr && host_bytes >= host_bytes_for_any;
  if (!room || !on_device(a) || !on_device(info) || compute != CUDA_R_64F) {
    return CUSOLVER_STATUS_INVALID_VALUE;
  }
  if (std::getenv("CUSOLVERMP_ON_HOST_STALLS") != nullptr) {
    cuda_on_host::set_stalled(true);
    return CUSOLVER_STATUS_SUCCESS;
  }
  const int order = static_cast<int>(n);
  const int row = static_cast<int>(ia);
  const int col = static_cast<int>(ja);
  pdpotrf_(uplo == CUBLAS_FILL_MODE_LOWER ? "L" : "U", &order, static_cast<double*>(a), &row, &col,
           desc->values.data(), info);
  return CUSOLVER_STATUS_SUCCESS;
}
