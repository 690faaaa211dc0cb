// What programs and tests use most, compiled once (instances.cpp) and not again in each: a quarter of what a program takes.
//
// These are the standard library's own vectors: no program may specialize them for a standard type.
#include <string>
#include <vector>
#include "wire.hpp"

#ifndef MEGATRON_FT_INSTANCE
#define MEGATRON_FT_INSTANCE extern template
#endif

#define MEGATRON_FT_VECTOR(...) \
    MEGATRON_FT_INSTANCE class std::vector<__VA_ARGS__>; \
    namespace megatron_ft { \
    MEGATRON_FT_INSTANCE void put_all(Writer&, const std::vector<__VA_ARGS__>&); \
    MEGATRON_FT_INSTANCE void get_all(Reader&, std::vector<__VA_ARGS__>&); \
    }
MEGATRON_FT_VECTOR(int)
MEGATRON_FT_VECTOR(float)
MEGATRON_FT_VECTOR(double)
MEGATRON_FT_VECTOR(std::string)
MEGATRON_FT_VECTOR(std::vector<int>)
#undef MEGATRON_FT_VECTOR
