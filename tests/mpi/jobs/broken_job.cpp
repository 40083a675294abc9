// A job in which one rank goes wrong in the way that the first argument names, for
// broken_job_check. The second is the stall timeout.
#include <csignal>
#include <cstdlib>
#include <map>
#include <new>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "quip/comm/job.hpp"
#include "quip/core/activity.hpp"
#include "quip/core/error.hpp"
#include "quip/core/phases.hpp"
#include "quip/quant/factor/factor.hpp"

namespace quip {
namespace {

using Mode = void (*)(MpiCollectives&);

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

/// All ranks in "load", then the culprits in "factor" while the others go on to a sum.
void go_on_without(MpiCollectives& comm, int last_culprit, int first_culprit,
                   const std::function<void()>& trouble) {
  Phases phases;
  {
    auto scope = phases.measure("load");
    comm.barrier();
  }
  if (comm.rank() >= first_culprit && comm.rank() <= last_culprit) {
    auto scope = phases.measure("factor");
    Activity::current().set_unit("block 2 of 4, factor down_proj");
    trouble();
  }
  auto scope = phases.measure("round");
  std::vector<double> values(1);
  comm.all_reduce_sum(values);
}

void stop() { std::raise(SIGSTOP); }

void one_sleeps(MpiCollectives& comm) {
  go_on_without(comm, 1, 1, [] { sleep_for(1000); });
}
void one_stops(MpiCollectives& comm) { go_on_without(comm, 2, 2, stop); }
void first_stops(MpiCollectives& comm) { go_on_without(comm, 0, 0, stop); }
void both_witnesses_stop(MpiCollectives& comm) { go_on_without(comm, 1, 0, stop); }

/// Within the timeout: no stall.
void one_is_slow(MpiCollectives& comm) {
  go_on_without(comm, 1, 1, [] { sleep_for(1); });
}

/// Rank 1 leaves; the others are at a barrier.
void one_leaves(MpiCollectives& comm) {
  if (comm.rank() != 1) comm.barrier();
}

/// All processes are suspended for much longer than the timeout, as by a batch system.
void all_are_suspended(MpiCollectives& comm) {
  comm.barrier();
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    ::usleep(300'000);
    ::kill(parent, SIGSTOP);
    ::sleep(5);
    ::kill(parent, SIGCONT);
    ::_exit(0);
  }
  go_on_without(comm, 1, 1, [] { sleep_for(1); });
  ::waitpid(child, nullptr, 0);
}

void one_throws(MpiCollectives& comm) {
  go_on_without(comm, 2, 2, [] { throw std::bad_alloc(); });
}
void all_throw(MpiCollectives& /*comm*/) { fail("the same on all"); }
void upper_ranks_throw(MpiCollectives& comm) {
  go_on_without(comm, 2, 1, [] { fail("not on rank 0"); });
}
void one_fails_in_agree(MpiCollectives& comm) {
  agree(comm, [&] {
    if (comm.rank() == 1) fail("only rank 1 knows");
  });
}

/// No damping that is tried makes this Hessian positive definite.
void one_cannot_factorise(MpiCollectives& comm) {
  agree(comm, [&] {
    if (comm.rank() != 1) return;
    constexpr index_t n = 32;
    Matrix<float> weights(n, n);
    Matrix<double> hessian(n, n);
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        weights.view()(i, j) = static_cast<float>(i + j);
        hessian.view()(i, j) = i == j ? 1.0 : 1e9;  // n−1 eigenvalues 1 − 1e9
      }
    }
    static_cast<void>(prepare_layer(weights.cview(), std::move(hessian), LayerOptions(), "layer"));
  });
}

/// Ranks that disagree on the length of a message: MPI's own error.
void lengths_differ(MpiCollectives& comm) {
  std::vector<std::byte> bytes(comm.rank() == 0 ? 8 : 4);
  comm.broadcast_bytes(bytes, 0);
  comm.barrier();
}

const std::map<std::string, Mode> modes = {{"one-sleeps", one_sleeps},
                                           {"one-stops", one_stops},
                                           {"first-stops", first_stops},
                                           {"both-witnesses-stop", both_witnesses_stop},
                                           {"one-is-slow", one_is_slow},
                                           {"one-leaves", one_leaves},
                                           {"all-are-suspended", all_are_suspended},
                                           {"one-throws", one_throws},
                                           {"all-throw", all_throw},
                                           {"upper-ranks-throw", upper_ranks_throw},
                                           {"one-fails-in-agree", one_fails_in_agree},
                                           {"one-cannot-factorise", one_cannot_factorise},
                                           {"lengths-differ", lengths_differ}};

}  // namespace
}  // namespace quip

int main(int argc, char** argv) {
  if (argc != 3 || !quip::modes.contains(argv[1])) return EXIT_FAILURE;
  const auto mode = quip::modes.at(argv[1]);
  const double timeout = std::atof(argv[2]);
  return quip::run_job(argc, argv, [&](quip::MpiCollectives& comm) {
    comm.set_stall_timeout(timeout);
    mode(comm);
    return EXIT_SUCCESS;
  });
}
