"""Tells Spack how to build quip. tests/e2e/test_sites.py compares it with CMakeLists.txt."""

from pathlib import Path

from spack_repo.builtin.build_systems.cmake import CMakePackage, generator
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import (
    conflicts,
    depends_on,
    license,
    variant,
    version,
    which,
    working_dir,
)


class Quip(CMakePackage, CudaPackage):
    """Quantizes large language models to 1 to 8 bits per weight with QuIP, across a cluster."""

    # The clone that holds this file is the source, so that recipe and program belong together:
    # its files as they are in the environment of spack.yaml, elsewhere what its branch main holds.
    git = f"file://{Path(__file__).resolve().parents[5]}"
    license("Apache-2.0")
    version("main", branch="main")

    # NCCL has no variant: it comes with +cuda. Without it GPUs exchange all by way of the host.
    variant(
        "cusolvermp", default=False, when="+cuda", description="Spread --process-grid over GPUs"
    )

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.24:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconf", type="build")
    generator("ninja")

    depends_on("mpi")
    depends_on("fmt@9:")
    depends_on("spdlog@1.10:")
    depends_on("nlohmann-json@3.10:")
    depends_on("boost@1.74: +program_options")
    depends_on("hdf5@1.10:")
    depends_on("openblas threads=openmp")
    depends_on("netlib-scalapack")
    depends_on("random123")
    depends_on("xxhash")
    depends_on("googletest@1.12:", type="test")
    depends_on("cuda@12:", when="+cuda")
    depends_on("nccl", when="+cuda")
    depends_on("cusolvermp", when="+cusolvermp")
    # NCCL is built for the same GPUs, and has to be told which.
    conflicts("cuda_arch=none", when="+cuda", msg="name the GPUs, as in cuda_arch=90")
    for arch in CudaPackage.cuda_arch_values:
        depends_on(f"nccl cuda_arch={arch}", when=f"+cuda cuda_arch={arch}")
        depends_on(f"cusolvermp +cuda cuda_arch={arch}", when=f"+cusolvermp cuda_arch={arch}")
    conflicts("%gcc@:10", msg="quip is written in C++20, which gcc knows from 11 on")

    def cmake_args(self):
        """Options of CMake. New compilers may warn of something: no reason not to install."""
        options = [
            self.define_from_variant("QUIP_CUDA", "cuda"),
            self.define("QUIP_BUILD_TESTS", self.run_tests),
            self.define("QUIP_BENCHMARKS", False),
            self.define("QUIP_WERROR", False),
        ]
        if self.spec.satisfies("+cuda"):
            architectures = self.spec.variants["cuda_arch"].value
            options.append(self.define("CMAKE_CUDA_ARCHITECTURES", architectures))
        if self.spec.satisfies("+cusolvermp"):
            options.append(self.define("CUSOLVERMP_ROOT", self.spec["cusolvermp"].prefix))
        return options

    def check(self):
        """Runs the unit tests (`spack install --test=root`); others want mpirun or Slurm."""
        with working_dir(self.build_directory):
            which("ctest", required=True)("-L", "^unit$", "--output-on-failure")
