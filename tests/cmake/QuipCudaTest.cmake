# tests/cuda: the kernels and the CUDA backend against the CPU's results. With QUIP_CUDA they run on
# the GPU (label "gpu"; they skip themselves where there is none). Without it the same sources of
# src/backend/cuda are compiled as C++ against tests/cuda_on_host, which runs kernels on the host
# (label "unit").

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
  # Has members of types that no other source may know, which gcc warns of where sources are joined.
  set_source_files_properties(${CMAKE_SOURCE_DIR}/src/backend/cuda/matmul.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  target_compile_definitions(cuda_under_test PUBLIC QUIP_CUDA_ON_HOST)
  target_include_directories(cuda_under_test SYSTEM PUBLIC ${CMAKE_SOURCE_DIR}/tests/cuda_on_host/include)
  target_include_directories(cuda_under_test PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(cuda_under_test PUBLIC quip_lib PRIVATE quip_flags OpenMP::OpenMP_CXX)
  set(QUIP_CUDA_TEST_LABEL unit)
  # The whole program, whose --backend cuda runs on the host.
  add_executable(quip_cuda_on_host ${CMAKE_SOURCE_DIR}/src/cli/main.cpp)
  target_link_libraries(quip_cuda_on_host PRIVATE cuda_under_test quip_cli)
endif()

file(GLOB nccl_test_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/mpi/nccl_*_test.cpp)
quip_add_mpi_tests(nccl_mpi_tests SOURCES ${nccl_test_sources})
target_link_libraries(nccl_mpi_tests PRIVATE cuda_under_test)
add_dependencies(mpi_tests nccl_mpi_tests)

file(GLOB cuda_test_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/cuda/*_test.cpp)
quip_add_serial_tests(cuda_tests LABEL ${QUIP_CUDA_TEST_LABEL} SOURCES ${cuda_test_sources})
target_link_libraries(cuda_tests PRIVATE cuda_under_test)
add_dependencies(unit_tests cuda_tests)
if(QUIP_CUDA) # or a run without a GPU would look like one that has passed
  foreach(source IN LISTS cuda_test_sources)
    get_filename_component(name ${source} NAME_WE)
    set_tests_properties(gpu.${name} PROPERTIES SKIP_REGULAR_EXPRESSION "no GPU here")
  endforeach()
endif()
