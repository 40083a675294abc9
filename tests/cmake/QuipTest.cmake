# One place that knows how a test is built and run.

# What every test is compiled with. Optimising assertions takes the compiler twice as long and saves
# nothing.
add_library(quip_test_flags INTERFACE)
target_link_libraries(quip_test_flags INTERFACE quip_flags)
target_compile_options(quip_test_flags INTERFACE -Og)

# Everything that the tests with this label run.
add_custom_target(unit_tests)
add_custom_target(mpi_tests)

# quip_add_unit_test(name): tests/unit/<name>.cpp, serial, label "unit".
function(quip_add_unit_test name)
  add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/unit/${name}.cpp)
  target_link_libraries(${name} PRIVATE quip_lib quip_test_flags GTest::gtest_main OpenMP::OpenMP_CXX)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  target_include_directories(${name} SYSTEM PRIVATE ${HDF5_C_INCLUDE_DIRS})
  target_compile_definitions(${name} PRIVATE QUIP_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
  add_dependencies(unit_tests ${name})
  add_test(NAME unit.${name} COMMAND ${name})
  set_tests_properties(unit.${name} PROPERTIES LABELS unit TIMEOUT ${QUIP_UNIT_TEST_TIMEOUT} ENVIRONMENT
                                               "${QUIP_UNIT_TEST_ENVIRONMENT}")
endfunction()

# quip_add_mpi_test(name RANKS 1 2 3 ...): tests/mpi/<name>.cpp under mpirun at each rank count,
# label "mpi". More ranks than cores are fine: the ranks yield while they wait.
function(quip_add_mpi_test name)
  cmake_parse_arguments(ARG "" "" "RANKS" ${ARGN})
  add_executable(${name} ${CMAKE_SOURCE_DIR}/tests/mpi/${name}.cpp
                         ${CMAKE_SOURCE_DIR}/tests/mpi/mpi_main.cpp)
  if(QUIP_SANITIZE)
    target_sources(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/mpi/keep_modules.cpp)
  endif()
  target_link_libraries(${name} PRIVATE quip_lib quip_test_flags GTest::gtest)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  add_dependencies(mpi_tests ${name})
  foreach(ranks IN LISTS ARG_RANKS)
    add_test(NAME mpi.${name}.${ranks} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:${name}>)
    set_tests_properties(
      mpi.${name}.${ranks}
      PROPERTIES LABELS mpi TIMEOUT ${QUIP_MPI_TEST_TIMEOUT} PROCESSORS ${ranks} ENVIRONMENT "${QUIP_MPI_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

# Tests run beside each other, each with threads for all cores: those that spin while they wait take
# two thirds of the time.
set(QUIP_UNIT_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
set(QUIP_MPI_TEST_ENVIRONMENT
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1)
set(QUIP_MPI_TEST_RANKS 1 2 3 4 6)
set(QUIP_UNIT_TEST_TIMEOUT 120)
set(QUIP_MPI_TEST_TIMEOUT 120)
if(QUIP_SANITIZE)
  # Third-party leaks are known by name; six instrumented ranks show nothing that four do not.
  list(APPEND QUIP_MPI_TEST_ENVIRONMENT
       LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0)
  set(QUIP_MPI_TEST_RANKS 1 2 3 4)
  set(QUIP_UNIT_TEST_TIMEOUT 600)
  set(QUIP_MPI_TEST_TIMEOUT 300)
endif()
