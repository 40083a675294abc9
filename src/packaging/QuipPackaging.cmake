# Installs what belongs to a program on a machine of many users: quip.pc for pkg-config, completion for
# bash, and man pages where help2man is found.

# --- quip.pc: packages with a file of their own by name, all others by their flags ---
set(QUIP_PC_REQUIRES fmt spdlog nlohmann_json openblas libxxhash)
set(QUIP_PC_LIBS ${HDF5_C_LIBRARIES})
if(SCALAPACK_FOUND)
  list(APPEND QUIP_PC_REQUIRES scalapack-openmpi)
else()
  list(APPEND QUIP_PC_LIBS ${SCALAPACK_LIBRARY})
endif()
if(QUIP_CUDA)
  list(APPEND QUIP_PC_LIBS -L${CUDAToolkit_LIBRARY_DIR} -lcublasLt -lcusolver -lcudart)
endif()
if(QUIP_NCCL)
  list(APPEND QUIP_PC_LIBS ${NCCL_LIBRARY})
endif()
if(QUIP_CUSOLVERMP)
  list(APPEND QUIP_PC_LIBS ${CUSOLVERMP_LIBRARY})
endif()
list(APPEND QUIP_PC_LIBS ${MPI_CXX_LINK_FLAGS} ${MPI_CXX_LIBRARIES} ${OpenMP_CXX_FLAGS} -pthread)
set(QUIP_PC_CFLAGS ${MPI_CXX_COMPILE_OPTIONS})
foreach(definition IN LISTS MPI_CXX_COMPILE_DEFINITIONS)
  list(APPEND QUIP_PC_CFLAGS -D${definition})
endforeach()
foreach(folder IN LISTS MPI_CXX_INCLUDE_DIRS)
  list(APPEND QUIP_PC_CFLAGS -I${folder})
endforeach()
foreach(variable IN ITEMS QUIP_PC_REQUIRES QUIP_PC_LIBS QUIP_PC_CFLAGS)
  list(JOIN ${variable} " " ${variable})
endforeach()
# Found from where the file lies, so that the installation may be moved.
file(RELATIVE_PATH QUIP_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" QUIP_PC_PREFIX ${QUIP_PC_PREFIX})
configure_file(${CMAKE_CURRENT_LIST_DIR}/quip.pc.in ${CMAKE_BINARY_DIR}/quip.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/quip.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# --- completion: asks the program itself when it is needed ---
install(FILES ${CMAKE_CURRENT_LIST_DIR}/completion.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
        RENAME quip)

# --- man pages: made of what the program built here prints for --help ---
find_program(HELP2MAN help2man)
if(HELP2MAN AND NOT CMAKE_CROSSCOMPILING)
  set(pages ${CMAKE_BINARY_DIR}/man)
  add_custom_command(OUTPUT ${pages}.made
                     COMMAND bash ${CMAKE_CURRENT_LIST_DIR}/man_pages.sh $<TARGET_FILE:quip> ${pages}
                     COMMAND ${CMAKE_COMMAND} -E touch ${pages}.made
                     DEPENDS quip ${CMAKE_CURRENT_LIST_DIR}/man_pages.sh COMMENT "Making man pages" VERBATIM)
  add_custom_target(man_pages ALL DEPENDS ${pages}.made)
  install(DIRECTORY ${pages}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 OPTIONAL FILES_MATCHING PATTERN "*.1")
else()
  message(STATUS "No help2man: no man pages (jobs/install-deps.sh --tests installs it)")
endif()
