# One place that knows how a test is built and run.

# What every test is compiled with. Optimising assertions takes the compiler twice as long and saves
# nothing.
add_library(quip_test_flags INTERFACE)
target_link_libraries(quip_test_flags INTERFACE quip_flags)
target_compile_options(quip_test_flags INTERFACE -Og)
if(QUIP_SANITIZE)
  # Looks for undefined behaviour in the library alone: in the tests it takes a third of their compiling.
  target_compile_options(quip_test_flags INTERFACE -fno-sanitize=undefined)
endif()

# quip_add_test_program(name MAIN main.cpp SOURCES ...): one program of these test files. Fewer
# programs parse the same headers fewer times, above all where several sources are compiled at once.
function(quip_add_test_program name)
  cmake_parse_arguments(ARG "" "MAIN" "SOURCES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES} ${ARG_MAIN})
  target_link_libraries(${name} PRIVATE quip_lib quip_test_flags GTest::gmock OpenMP::OpenMP_CXX)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  target_include_directories(${name} SYSTEM PRIVATE ${HDF5_C_INCLUDE_DIRS})
  target_compile_definitions(${name} PRIVATE QUIP_TEST_DATA="${CMAKE_SOURCE_DIR}/tests/data")
endfunction()

# quip_add_serial_tests(program LABEL label SOURCES ...): a ctest entry for each test file of the program.
function(quip_add_serial_tests program)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES" ${ARGN})
  quip_add_test_program(${program} MAIN ${CMAKE_SOURCE_DIR}/tests/support/main.cpp SOURCES ${ARG_SOURCES})
  foreach(source IN LISTS ARG_SOURCES)
    get_filename_component(name ${source} NAME_WE)
    add_test(NAME ${ARG_LABEL}.${name} COMMAND ${program} ${name})
    set_tests_properties(${ARG_LABEL}.${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${QUIP_UNIT_TEST_TIMEOUT}
                                                         ENVIRONMENT "${QUIP_UNIT_TEST_ENVIRONMENT}")
  endforeach()
endfunction()

# quip_add_mpi_tests(program SOURCES ...): each test file of the program under mpirun at each number of
# ranks, label "mpi". More ranks than cores are fine: the ranks yield while they wait.
function(quip_add_mpi_tests program)
  cmake_parse_arguments(ARG "" "" "SOURCES" ${ARGN})
  quip_add_test_program(${program} MAIN ${CMAKE_SOURCE_DIR}/tests/mpi/mpi_main.cpp SOURCES ${ARG_SOURCES})
  if(QUIP_SANITIZE)
    target_sources(${program} PRIVATE ${CMAKE_SOURCE_DIR}/tests/mpi/keep_modules.cpp)
  endif()
  foreach(source IN LISTS ARG_SOURCES)
    get_filename_component(name ${source} NAME_WE)
    foreach(ranks IN LISTS QUIP_MPI_TEST_RANKS)
      add_test(NAME mpi.${name}.${ranks} COMMAND ${MPIEXEC_EXECUTABLE} -n ${ranks} $<TARGET_FILE:${program}> ${name})
      set_tests_properties(
        mpi.${name}.${ranks}
        PROPERTIES LABELS mpi TIMEOUT ${QUIP_MPI_TEST_TIMEOUT} PROCESSORS ${ranks} ENVIRONMENT "${QUIP_MPI_TEST_ENVIRONMENT}")
    endforeach()
  endforeach()
endfunction()

# Tests run beside each other, each with threads for all cores: those that spin while they wait take
# two thirds of the time.
set(QUIP_UNIT_TEST_ENVIRONMENT OMP_WAIT_POLICY=passive)
set(QUIP_MPI_TEST_ENVIRONMENT
    OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
    OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1)
set(QUIP_MPI_TEST_RANKS 1 2 3 4 6)
set(QUIP_UNIT_TEST_TIMEOUT 300)
set(QUIP_MPI_TEST_TIMEOUT 120)
if(QUIP_SANITIZE)
  # Third-party leaks are known by name; six instrumented ranks show nothing that four do not.
  list(APPEND QUIP_MPI_TEST_ENVIRONMENT
       LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/lsan.supp:print_suppressions=0)
  set(QUIP_MPI_TEST_RANKS 1 2 3 4)
  set(QUIP_UNIT_TEST_TIMEOUT 600)
  set(QUIP_MPI_TEST_TIMEOUT 300)
endif()
