// Built into the MPI tests when they have sanitizers. Open MPI unloads its plugins before the
// process ends, and a leak in a module that is gone cannot be excused by its name.
extern "C" int dlclose(void* /*handle*/) { return 0; }
