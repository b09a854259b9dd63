// Compiles a function twice on x86-64: for every processor, and for those with AVX2, chosen when the module is loaded.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && \
    !defined(POLYPSTREAM_NO_CLONES)
#define POLYPSTREAM_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define POLYPSTREAM_CLONES
#endif
