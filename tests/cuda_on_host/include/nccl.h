// The part of NCCL that src/backend/cuda uses, over MPI; see cuda_runtime.h.
#pragma once

#include <cstddef>

#include "cuda_runtime.h"
#include <mpi.h>

enum ncclResult_t {
  ncclSuccess = 0,
  ncclSystemError = 2,
  ncclInvalidArgument = 4,
  ncclInProgress = 7
};
enum ncclDataType_t { ncclUint8 = 1, ncclFloat = 7, ncclDouble = 8 };
enum ncclRedOp_t { ncclSum = 0, ncclMax = 2 };
struct ncclUniqueId {
  char internal[128];
};
struct ncclConfig_t {
  int blocking;
};
#define NCCL_CONFIG_INITIALIZER \
  { 1 }
using ncclComm_t = struct NcclOnHost*;

namespace cuda_on_host {
/// The next calls report this, as after the death of another rank.
void set_nccl_state(ncclResult_t state);
/// The MPI_Comm behind one whose calls are blocking; MPI_COMM_NULL for any other.
[[nodiscard]] MPI_Comm communicator_of_blocking(ncclComm_t comm);
/// Communicators that were aborted.
[[nodiscard]] int nccl_aborts();
[[nodiscard]] std::size_t nccl_bytes();  // payload of all sums, maxima and broadcasts so far
}  // namespace cuda_on_host

const char* ncclGetErrorString(ncclResult_t result);
const char* ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state);
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream);
