#include "nccl_collectives.hpp"

#include <algorithm>

#include "copies.hpp"
#include "nccl_communicator.hpp"

#include "quip/comm/schedule.hpp"
#include "quip/core/usage.hpp"

namespace quip::cuda {
namespace {

/// True if a message in host memory is too short for the devices.
bool stays_on_host(std::size_t bytes) { return static_cast<index_t>(bytes) < between_devices_from; }

bool on_device(const void* pointer) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, pointer) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // memory that CUDA has never seen
    return false;
  }
  return attributes.type == cudaMemoryTypeDevice;
}

class NcclCollectives final : public Collectives {
 public:
  NcclCollectives(Context& context, Collectives& host, double timeout)
      : context_(context),
        host_(host),
        comm_(host, host.size(), NcclCommunicator::Calls::polled, timeout) {}

  [[nodiscard]] int rank() const noexcept override { return host_.rank(); }
  [[nodiscard]] int size() const noexcept override { return host_.size(); }
  [[nodiscard]] NodePlace place() const noexcept override { return host_.place(); }
  [[nodiscard]] double stall_timeout() const noexcept override { return comm_.timeout(); }
  [[nodiscard]] const Collectives& host() const noexcept override { return host_.host(); }
  void barrier() override { host_.barrier(); }
  void node_barrier() override { host_.node_barrier(); }
  void node_broadcast(std::span<std::byte> bytes) override { host_.node_broadcast(bytes); }
  void all_gather_over_nodes(std::span<std::byte> buffer,
                             std::span<const index_t> offsets) override {
    host_.all_gather_over_nodes(buffer, offsets);
  }
  void reduce_scatter_sum(std::span<double> values, std::span<const index_t> offsets) override {
    host_.reduce_scatter_sum(values, offsets);
  }
  void all_to_all_bytes(std::span<const std::byte> sent, std::span<const index_t> send_offsets,
                        std::span<std::byte> received,
                        std::span<const index_t> receive_offsets) override {
    host_.all_to_all_bytes(sent, send_offsets, received, receive_offsets);
  }

  void all_reduce_sum(std::span<double> values) override;
  void all_reduce_max(std::span<float> values) override;
  void broadcast_bytes(std::span<std::byte> bytes, int root) override;
  void all_gather_bytes(std::span<std::byte> buffer, std::span<const index_t> offsets) override;

 private:
  void sum_on_devices(double* values, index_t count);
  void broadcast_on_devices(std::byte* bytes, index_t count, int root);
  [[nodiscard]] Lane& lane() { return context_.lane(); }

  /// Calls `work(device, piece)` for pieces of host memory on their way through the device.
  template <typename T, typename Work>
  void through_device(std::span<T> host, const Work& work);

  Context& context_;
  Collectives& host_;
  NcclCommunicator comm_;
};

template <typename T, typename Work>
void NcclCollectives::through_device(std::span<T> host, const Work& work) {
  const auto total = static_cast<index_t>(host.size());
  const index_t most = std::min(total, staged_bytes / static_cast<index_t>(sizeof(T)));
  const auto buffer = context_.buffer<T>(most, "a piece of a message");
  for (index_t first = 0; first < total; first += most) {
    const index_t count = std::min(most, total - first);
    const auto piece = host.subspan(at(first), at(count));
    upload<T>(lane(), piece, buffer.data());
    work(buffer.data(), count);
    download<T>(lane(), buffer.data(), piece);
  }
}

void NcclCollectives::sum_on_devices(double* values, index_t count) {
  comm_.run("all-reduce", lane().stream, [&](ncclComm_t comm) {
    return ncclAllReduce(values, values, at(count), ncclDouble, ncclSum, comm, lane().get());
  });
}

void NcclCollectives::all_reduce_sum(std::span<double> values) {
  const bool here = on_device(values.data());
  if (!here && stays_on_host(values.size_bytes())) return host_.all_reduce_sum(values);
  const UsageMeter::Communication time;
  if (here) {
    sum_on_devices(values.data(), static_cast<index_t>(values.size()));
  } else {
    through_device(values, [&](double* piece, index_t count) { sum_on_devices(piece, count); });
  }
  UsageMeter::current().add_sent(sent_by_sum(static_cast<index_t>(values.size()), rank(), size()));
}

void NcclCollectives::all_reduce_max(std::span<float> values) {
  if (!on_device(values.data())) return host_.all_reduce_max(values);
  const UsageMeter::Communication time;
  comm_.run("all-reduce", lane().stream, [&](ncclComm_t comm) {
    return ncclAllReduce(values.data(), values.data(), values.size(), ncclFloat, ncclMax, comm,
                         lane().get());
  });
  UsageMeter::current().add_sent(
      sent_by_maximum(static_cast<index_t>(values.size_bytes()), size()));
}

void NcclCollectives::broadcast_on_devices(std::byte* bytes, index_t count, int root) {
  comm_.run("broadcast", lane().stream, [&](ncclComm_t comm) {
    return ncclBroadcast(bytes, bytes, at(count), ncclUint8, root, comm, lane().get());
  });
}

void NcclCollectives::broadcast_bytes(std::span<std::byte> bytes, int root) {
  const bool here = on_device(bytes.data());
  if (!here && stays_on_host(bytes.size_bytes())) return host_.broadcast_bytes(bytes, root);
  const UsageMeter::Communication time;
  if (here) {
    broadcast_on_devices(bytes.data(), static_cast<index_t>(bytes.size()), root);
  } else {
    through_device(
        bytes, [&](std::byte* piece, index_t count) { broadcast_on_devices(piece, count, root); });
  }
  UsageMeter::current().add_sent(
      sent_by_broadcast(static_cast<index_t>(bytes.size()), root, rank(), size()));
}

// Shares differ in length: one broadcast for each rank, in one launch.
void NcclCollectives::all_gather_bytes(std::span<std::byte> buffer,
                                       std::span<const index_t> offsets) {
  if (!on_device(buffer.data())) return host_.all_gather_bytes(buffer, offsets);
  const UsageMeter::Communication time;
  comm_.run("all-gather", lane().stream, [&](ncclComm_t comm) {
    ncclResult_t result = ncclGroupStart();
    for (int r = 0; r < size() && result == ncclSuccess; ++r) {
      const auto i = at(r);
      std::byte* share = buffer.data() + offsets[i];
      const auto bytes = at(offsets[i + 1] - offsets[i]);
      if (bytes > 0) {
        result = ncclBroadcast(share, share, bytes, ncclUint8, r, comm, lane().get());
        if (result == ncclInProgress) result = ncclSuccess;
      }
    }
    const ncclResult_t ended = ncclGroupEnd();
    return result == ncclSuccess ? ended : result;
  });
  UsageMeter::current().add_sent(sent_by_gather(offsets, rank(), size()));
}

}  // namespace

std::unique_ptr<Collectives> make_nccl_collectives(Context& context, Collectives& host,
                                                   double timeout) {
  if (ranks_share_gpus(host) || host.size() == 1) return nullptr;
  return std::make_unique<NcclCollectives>(context, host, timeout);
}

}  // namespace quip::cuda
