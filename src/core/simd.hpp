// Turns the loops of the CPU backend into vector code.
#pragma once

// The build targets the oldest processor of its architecture; a function with this mark is compiled
// once more for AVX2 + FMA and once more for AVX-512, and the loader picks one at start-up. The
// sanitizers run before the loader can choose, and get the plain version.
#if defined(__x86_64__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__OPTIMIZE__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define QUIP_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUIP_SIMD
#endif

// Functions that it calls have to become part of it.
#define QUIP_INLINE inline __attribute__((always_inline))
