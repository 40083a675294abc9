#include "quip/linalg/eigen.hpp"

#include <cblas.h>

#include "quip/core/error.hpp"

extern "C" void dsyevd_(const char* job, const char* triangle, const blasint* n, double* a,
                        const blasint* lda, double* w, double* work, const blasint* lwork,
                        blasint* iwork, const blasint* liwork, blasint* info);

namespace quip {

std::vector<double> symmetric_eigen(MatrixView<double> h) {
  constexpr index_t most = 32000;  // 2n² elements of workspace, counted in 32-bit integers
  if (h.rows != h.cols || h.rows > most) {
    fail("eigenvalues of a [{} × {}] matrix: it must be square and at most {} wide", h.rows, h.cols,
         most);
  }
  const auto n = static_cast<blasint>(h.rows);
  const auto ld = static_cast<blasint>(h.ld);
  std::vector<double> values(at(n));
  if (n == 0) return values;
  blasint info = 0;
  const auto solve = [&](double* work, blasint lwork, blasint* iwork, blasint liwork) {
    // LAPACK reads columns as our rows: the same matrix, and its eigenvectors come out as rows.
    dsyevd_("V", "L", &n, h.data, &ld, values.data(), work, &lwork, iwork, &liwork, &info);
  };
  double work_size = 0;
  blasint iwork_size = 0;
  solve(&work_size, -1, &iwork_size, -1);
  std::vector<double> work(static_cast<std::size_t>(work_size));
  std::vector<blasint> iwork(at(iwork_size));
  solve(work.data(), static_cast<blasint>(work.size()), iwork.data(), iwork_size);
  if (info != 0) fail("the eigenvalues of a matrix of order {} do not converge", n);
  return values;
}

}  // namespace quip
