// The functions called from ScaLAPACK and the BLACS, which come without C headers.
#pragma once

#include <mpi.h>

extern "C" {
int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridinit(int* context, const char* order, int rows, int cols);
void Cblacs_gridinfo(int context, int* rows, int* cols, int* row, int* col);
void Cblacs_gridexit(int context);
void descinit_(int* descriptor, const int* m, const int* n, const int* row_block,
               const int* col_block, const int* first_row, const int* first_col, const int* context,
               const int* ld, int* info);
void pdpotrf_(const char* triangle, const int* n, double* a, const int* row, const int* col,
              const int* descriptor, int* info);
}
