// NCCL over the first ranks of MPI_COMM_WORLD: a call is complete when it returns, but says at
// first that it is not, unless the communicator's calls are to block.
#include "nccl.h"

#include <cstring>
#include <numeric>
#include <vector>

struct NcclOnHost {
  MPI_Comm comm;
  bool blocking;
  int polls_to_go;  ///< polls until the last call admits to be complete
};

namespace {

ncclResult_t next_state = ncclSuccess;
int aborts = 0;
std::size_t bytes_carried = 0;

MPI_Datatype type_of(ncclDataType_t type) {
  if (type == ncclDouble) return MPI_DOUBLE;
  return type == ncclFloat ? MPI_FLOAT : MPI_BYTE;
}

ncclResult_t issued(ncclComm_t comm, int code) {
  if (code != MPI_SUCCESS) return ncclSystemError;
  if (comm->blocking) return ncclSuccess;
  comm->polls_to_go = 3;
  return ncclInProgress;
}

/// Makes a communicator of the first `count` ranks: a collective of these alone.
/// Payload of a call.
void carry(std::size_t count, ncclDataType_t type) {
  int size = 0;
  MPI_Type_size(type_of(type), &size);
  bytes_carried += count * static_cast<std::size_t>(size);
}

/// Makes a collective of the first `count` alone.
int communicator_of_first(int count, MPI_Comm* comm) {
  std::vector<int> ranks(static_cast<std::size_t>(count));
  std::iota(ranks.begin(), ranks.end(), 0);
  MPI_Group world = MPI_GROUP_NULL;
  MPI_Group first = MPI_GROUP_NULL;
  MPI_Comm_group(MPI_COMM_WORLD, &world);
  MPI_Group_incl(world, count, ranks.data(), &first);
  const int code = MPI_Comm_create_group(MPI_COMM_WORLD, first, 0, comm);
  MPI_Group_free(&first);
  MPI_Group_free(&world);
  return code;
}

}  // namespace

namespace cuda_on_host {
void set_nccl_state(ncclResult_t state) { next_state = state; }
int nccl_aborts() { return aborts; }
std::size_t nccl_bytes() { return bytes_carried; }
MPI_Comm communicator_of_blocking(ncclComm_t comm) {
  return comm->blocking ? comm->comm : MPI_COMM_NULL;
}
}  // namespace cuda_on_host

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSystemError ? "unhandled system error" : "invalid argument";
}
const char* ncclGetLastError(ncclComm_t /*comm*/) { return ""; }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::memset(id, 42, sizeof *id);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  int size = 0;
  int self = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm_rank(MPI_COMM_WORLD, &self);
  if (ranks > size || rank != self || rank >= ranks || id.internal[127] != 42) {
    return ncclInvalidArgument;
  }
  *comm = new NcclOnHost{MPI_COMM_NULL, config->blocking != 0, 0};
  return issued(*comm, communicator_of_first(ranks, &(*comm)->comm));
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = next_state;
  if (next_state == ncclSuccess && comm->polls_to_go > 0) {
    --comm->polls_to_go;
    *state = ncclInProgress;
  }
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  ++aborts;
  MPI_Comm_free(&comm->comm);
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclGroupStart() { return ncclSuccess; }
ncclResult_t ncclGroupEnd() { return ncclInProgress; }
ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t operation, ncclComm_t comm, cudaStream_t /*stream*/) {
  carry(count, type);
  return issued(comm,
                MPI_Allreduce(from == to ? MPI_IN_PLACE : from, to, static_cast<int>(count),
                              type_of(type), operation == ncclSum ? MPI_SUM : MPI_MAX, comm->comm));
}
ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t /*stream*/) {
  if (from != to) return ncclInvalidArgument;
  carry(count, type);
  return issued(comm, MPI_Bcast(to, static_cast<int>(count), type_of(type), root, comm->comm));
}
