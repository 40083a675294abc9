"""What sites build quip with, Spack's recipe, its environment and the containers, against
CMakeLists.txt and jobs/install-deps.sh. Needs neither Spack nor a program that builds images."""

import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cli

RECIPE = cli.ROOT / "spack/spack_repo/quip/packages/quip/package.py"
CONTAINERS = cli.ROOT / "jobs/containers"

# What CMakeLists.txt and tests/CMakeLists.txt look for, and the package of Spack that has it.
SPACK_NAMES = {
    "PkgConfig": "pkgconf",
    "MPI": "mpi",
    "Boost": "boost",
    "fmt": "fmt",
    "spdlog": "spdlog",
    "nlohmann_json": "nlohmann-json",
    "HDF5": "hdf5",
    "openblas": "openblas",
    "libxxhash": "xxhash",
    "scalapack-openmpi": "netlib-scalapack",
    "RANDOM123_INCLUDE_DIR": "random123",
    "CUDAToolkit": "cuda",
    "NCCL_INCLUDE_DIR": "nccl",
    "CUSOLVERMP_INCLUDE_DIR": "cusolvermp",
    "GTest": "googletest",
}
OF_COMPILER = {"Threads", "OpenMP"}
FOR_BENCHMARKS = {"benchmark"}


def asked_by_cmake() -> dict[str, str]:
    """Everything that CMake looks for, with the version it wants, or an empty text."""
    text = cmake_lists() + (cli.ROOT / "tests" / "CMakeLists.txt").read_text()
    # Not what it writes into the file that other projects read.
    text = re.sub(r"file\(WRITE \$\{CMAKE_BINARY_DIR\}/quipConfig.*?\n\"\)", "", text, flags=re.S)
    text = re.sub("#.*", "", text)
    found = dict(re.findall(r"find_package\((\w+) ?([0-9.]*)", text))
    found |= {name: "" for name in re.findall(r"pkg_check_modules\(.* ([\w-]+)\)", text)}
    found |= {name: "" for name in re.findall(r"find_path\((\w+)", text)}
    return found


@pytest.fixture(scope="module")
def recipe():
    """Its class, and what it depends on: {package: (version, variants, when, type)}."""
    # Directives that take notes stand in for Spack's.
    dependencies = {}

    def depends_on(spec, when="", type="build link"):
        name, version, rest = re.fullmatch(r"([\w-]+)(?:@([0-9.]+):)?(.*)", spec).groups()
        if "cuda_arch=" in spec:
            assert name in dependencies and rest.strip().endswith(when.split()[-1])
            return
        assert name not in dependencies, f"{name} is listed twice"
        dependencies[name] = (version or "", rest.strip(), when, type)

    def ignore(*_, **__):
        pass

    class Base:
        cuda_arch_values = ("80", "90")

    noted = {"depends_on": depends_on}
    for name in "conflicts license variant version which working_dir".split():
        noted[name] = ignore
    modules = {
        "spack": {},
        "spack.package": noted,
        "spack_repo": {},
        "spack_repo.builtin": {},
        "spack_repo.builtin.build_systems": {},
        "spack_repo.builtin.build_systems.cmake": {
            "CMakePackage": type("CMakePackage", (Base,), {}),
            "generator": ignore,
        },
        "spack_repo.builtin.build_systems.cuda": {"CudaPackage": type("CudaPackage", (Base,), {})},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, members in modules.items():
            module = types.ModuleType(name)
            module.__dict__.update(members)
            patch.setitem(sys.modules, name, module)
        package = runpy.run_path(str(RECIPE))["Quip"]
    return package, dependencies


def test_recipe_lists_what_cmake_looks_for(recipe):
    asked = asked_by_cmake()
    assert {"MPI", "HDF5", "openblas", "RANDOM123_INCLUDE_DIR", "GTest"} <= set(asked)
    wanted = {SPACK_NAMES[name] for name in set(asked) - OF_COMPILER - FOR_BENCHMARKS}
    assert set(recipe[1]) == wanted | {"c", "cxx", "cmake", "ninja"}


def test_recipe_wants_no_older_version_than_cmake(recipe):
    for name, version in asked_by_cmake().items():
        if version:
            assert recipe[1][SPACK_NAMES[name]][0] == version, name
    wanted = re.search(r"cmake_minimum_required\(VERSION ([0-9.]+)\)", cmake_lists())[1]
    assert recipe[1]["cmake"][0] == wanted


def test_recipe_takes_cuda_and_tests_only_when_asked(recipe):
    for name, (_, _, when, kind) in recipe[1].items():
        expected = {"cuda": "+cuda", "nccl": "+cuda", "cusolvermp": "+cusolvermp"}.get(name, "")
        assert when == expected, name
        assert (kind == "test") == (name == "googletest"), name
    assert recipe[1]["boost"][1] == "+program_options"


def test_recipe_sets_options_that_exist(recipe):
    text = RECIPE.read_text()
    names = set(re.findall(r'"(QUIP_\w+)"', text))
    assert names == {"QUIP_CUDA", "QUIP_BUILD_TESTS", "QUIP_BENCHMARKS", "QUIP_WERROR"}
    assert all(f"option({name} " in cmake_lists() for name in names)
    assert "CUSOLVERMP_ROOT" in text and "${CUSOLVERMP_ROOT}" in cmake_lists()


def test_source_of_the_recipe_is_this_checkout(recipe):
    assert recipe[0].git == f"file://{cli.ROOT}"


def test_repository_lies_where_spack_expects_it():
    environment = (cli.ROOT / "spack.yaml").read_text()
    folder = cli.ROOT / re.search(r"^    quip: (\./\S+)$", environment, re.M)[1]
    assert folder == cli.ROOT / "spack/spack_repo/quip"
    description = (folder / "repo.yaml").read_text()
    assert f"namespace: {folder.name}\n" in description
    assert "api: v2.0\n" in description
    assert folder / "packages" / "quip" / "package.py" == RECIPE


def test_environment_has_the_package_and_what_developers_need(recipe):
    environment = (cli.ROOT / "spack.yaml").read_text()
    specs = re.findall(r"^    - \"?([\w-]+)", environment, re.M)
    assert specs[0] == "quip"
    # What is needed to build alone is not in the view unless it is named.
    only_to_build = {name for name, (*_, kind) in recipe[1].items() if kind in ("build", "test")}
    assert only_to_build - {"c", "cxx"} <= set(specs)
    assert {"benchmark", "help2man", "python", "py-numpy", "py-h5py", "py-matplotlib"} <= set(specs)


def cmake_lists() -> str:
    return (cli.ROOT / "CMakeLists.txt").read_text()


def dockerfile() -> list[list[str]]:
    """Its instructions, each as words."""
    lines = (CONTAINERS / "Dockerfile").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def definition() -> list[dict[str, list[str]]]:
    """The stages of quip.def: {section or key of the header: its lines}."""
    stages, section = [], ""
    for line in (CONTAINERS / "quip.def").read_text().splitlines():
        key = re.match(r"(\w+): (.*)", line)
        if line.startswith("Bootstrap:"):
            stages.append({})
        if key:
            stages[-1][key[1]] = [key[2]]
        elif line.startswith("%"):
            section = line[1:]
            stages[-1][section] = []
        elif line.strip() and not line.startswith("#"):
            stages[-1][section].append(line.strip())
    return stages


def stages_of_dockerfile() -> list[list[list[str]]]:
    """The stage that builds and the one that runs, without those that only name an image."""
    stages = [[]]
    for words in dockerfile():
        if words[0] == "FROM":
            stages.append([])
        stages[-1].append(words)
    return [stage for stage in stages[1:] if len(stage) > 1]


def arguments_of(stage: dict[str, list[str]]) -> dict[str, str]:
    return dict(line.split("=") for line in stage["arguments"])


def test_both_containers_copy_files_that_exist():
    copied = [words[1] for words in dockerfile() if words[0] == "COPY" and "--from" not in words[1]]
    files = [line.split()[0] for stage in definition() for line in stage.get("files", [])]
    assert len(copied) >= 5
    assert all((cli.ROOT / name).exists() for name in copied + files)
    scripts = set()
    for words in dockerfile():
        if words[0] == "RUN":
            scripts.add(words[2].split("/")[-1])
    assert scripts == {"install-deps.sh", "build.sh", "install-runtime.sh"}


def test_everything_that_cmake_reads_is_copied():
    copied = {words[1] for words in dockerfile() if words[0] == "COPY"}
    included = re.findall(r"^include\((\w+/\S+)\)", cmake_lists(), re.M)
    assert included
    assert all(name.split("/")[0] in copied for name in included), included


def test_docker_and_apptainer_copy_and_run_the_same():
    for docker, apptainer in zip(stages_of_dockerfile(), definition(), strict=True):
        copies = {tuple(words[1:]) for words in docker if words[0] == "COPY"}
        others = {tuple(line.split()) for line in apptainer.get("files", [])}
        others |= {
            ("--from=build", *line.split()) for line in apptainer.get("files from build", [])
        }
        assert copies == others
        runs = [" ".join(words[1:]) for words in docker if words[0] == "RUN"]
        assert [run.replace("${BACKEND}", "{{ BACKEND }}") for run in runs] == apptainer["post"]


def test_docker_and_apptainer_start_from_the_same_images():
    version = next(words[1] for words in dockerfile() if words[1].startswith("CUDA_VERSION="))
    images = {words[3]: words[1] for words in dockerfile() if words[0] == "FROM" and len(words) > 3}
    images = {
        name: image.replace("${CUDA_VERSION}", version[13:]) for name, image in images.items()
    }
    build, run = definition()
    assert arguments_of(build) == {"BACKEND": "cpu", "BUILD_IMAGE": images["build-cpu"]}
    assert arguments_of(run) == {"RUN_IMAGE": images["run-cpu"]}
    assert (build["From"], run["From"]) == (["{{ BUILD_IMAGE }}"], ["{{ RUN_IMAGE }}"])
    cuda = dict(line.split("=") for line in (CONTAINERS / "cuda.args").read_text().splitlines())
    assert cuda == {
        "BACKEND": "cuda",
        "BUILD_IMAGE": images["build-cuda"],
        "RUN_IMAGE": images["run-cuda"],
    }
    assert ["ARG", "BACKEND=cpu"] in dockerfile()


def test_docker_and_apptainer_set_the_same_environment_and_start_quip():
    last = stages_of_dockerfile()[-1]
    variables = [f"export {words[1]}" for words in last if words[0] == "ENV"]
    assert variables == definition()[-1]["environment"]
    assert last[-1] == ["ENTRYPOINT", '["quip"]']
    assert definition()[-1]["runscript"] == ['exec quip "$@"']


def packages_of_script() -> list[str]:
    text = (cli.ROOT / "jobs" / "install-deps.sh").read_text()
    return re.search(r"^packages=\((.*?)\)", text, re.M | re.S)[1].split()


@pytest.fixture(scope="module")
def packages_to_run():
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt")
    script = CONTAINERS / "runtime-packages.sh"
    listed = subprocess.run(["bash", script, cli.QUIP], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_apt_knows_all_packages(packages_to_run):
    names = packages_of_script() + packages_to_run
    assert {"openmpi-bin", "libc6", "libopenmpi-dev"} <= set(names)
    shown = subprocess.run(
        ["apt-cache", "policy", *names], capture_output=True, text=True, check=True
    ).stdout
    without = {name for name in names if f"\n{name}:\n" not in f"\n{shown}"}
    without |= set(
        re.findall(r"^(\S+):\n  Installed: \(none\)\n  Candidate: \(none\)", shown, re.M)
    )
    assert without == set()


def test_packages_to_run_bring_every_library(packages_to_run):
    """What the loader finds is of the packages listed, or of those that they depend on."""
    closure = subprocess.run(
        ["apt-cache", "depends", "--installed", "--recurse", "--important", *packages_to_run],
        capture_output=True,
        text=True,
        check=True,
    )
    brought = {line.split(":")[0] for line in closure.stdout.splitlines() if line[:1] != " "}
    files = set()
    for listed in Path("/var/lib/dpkg/info").glob("*.list"):
        if listed.stem.split(":")[0] in brought:
            files |= {line.split("/")[-1] for line in listed.read_text().splitlines()}
    linked = subprocess.run(["ldd", cli.QUIP], capture_output=True, text=True, check=True).stdout
    libraries = [Path(path) for path in re.findall(r"=> (/\S+)", linked)]
    assert len(libraries) > 10
    assert [path for path in libraries if not {path.name, path.resolve().name} & files] == []


def test_a_wrong_backend_is_an_error():
    result = subprocess.run(
        ["bash", CONTAINERS / "build.sh", "rocm", "/nowhere"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "must be cpu or cuda" in result.stderr
