# tests/cuda: the kernels and the CUDA backend against the CPU's results. With QUIP_CUDA they run on
# the GPU (label "gpu"; they skip themselves where there is none). Without it the same sources of
# src/backend/cuda are compiled as C++ against tests/cuda_on_host, which runs kernels on the host
# (label "unit").

add_custom_target(cuda_tests)
if(QUIP_SANITIZE)
  return() # the sanitizers do not follow a thread from one stack to another
endif()
if(QUIP_CUDA)
  add_library(cuda_under_test INTERFACE)
  target_link_libraries(cuda_under_test INTERFACE CUDA::cudart CUDA::cublasLt CUDA::cusolver)
  set(QUIP_CUDA_TEST_LABEL gpu)
else()
  file(GLOB on_host_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda_on_host/*.cpp)
  add_library(cuda_under_test OBJECT ${QUIP_CUDA_SOURCES} ${on_host_sources})
  set(kernels ${QUIP_CUDA_SOURCES})
  list(FILTER kernels INCLUDE REGEX "\\.cu$")
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
  target_compile_definitions(cuda_under_test PUBLIC QUIP_CUDA_ON_HOST)
  target_include_directories(cuda_under_test SYSTEM PUBLIC ${CMAKE_SOURCE_DIR}/tests/cuda_on_host/include)
  target_include_directories(cuda_under_test PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(cuda_under_test PUBLIC quip_lib PRIVATE quip_flags OpenMP::OpenMP_CXX)
  set(QUIP_CUDA_TEST_LABEL unit)
  # The whole program, whose --backend cuda runs on the host.
  add_executable(quip_cuda_on_host ${CMAKE_SOURCE_DIR}/src/cli/main.cpp)
  target_link_libraries(quip_cuda_on_host PRIVATE cuda_under_test quip_cli)
endif()
target_link_libraries(nccl_collectives_mpi_test PRIVATE cuda_under_test)
target_link_libraries(nccl_grid_cholesky_mpi_test PRIVATE cuda_under_test)

file(GLOB cuda_test_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda/*_test.cpp)
foreach(source IN LISTS cuda_test_sources)
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE cuda_under_test quip_lib quip_test_flags GTest::gtest_main
                                        OpenMP::OpenMP_CXX)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/tests)
  add_dependencies(cuda_tests ${name})
  add_dependencies(unit_tests ${name})
  add_test(NAME ${QUIP_CUDA_TEST_LABEL}.${name} COMMAND ${name})
  # Threads that wait give up their core: beside other tests, spinning takes most of the time.
  set_tests_properties(${QUIP_CUDA_TEST_LABEL}.${name} PROPERTIES LABELS ${QUIP_CUDA_TEST_LABEL} TIMEOUT 300
                                                                  ENVIRONMENT OMP_WAIT_POLICY=passive)
  if(QUIP_CUDA) # or a run without a GPU would look like one that has passed
    set_tests_properties(${QUIP_CUDA_TEST_LABEL}.${name} PROPERTIES SKIP_REGULAR_EXPRESSION "no GPU here")
  endif()
endforeach()
