// What the CPU levels (resample_simd.cpp, compiled once per instruction set) offer to the driver (resample_cpu.cpp).
#pragma once

#include <cstddef>

#include "resample.h"

namespace fastfid {

struct Level {
    const char* name;
    size_t (*scratch_bytes)(const Job& job, const Plan& plan);
    // Writes output rows [y0, y1) of image `index`. `scratch` is 64-byte aligned.
    void (*rows)(const Job& job, const Plan& plan, int64_t index, int64_t y0, int64_t y1, void* scratch);
};

// Runs all jobs on up to `threads` threads with the named level ("" chooses the best this CPU has).
// Throws std::runtime_error where the level is not there, std::bad_alloc where scratch memory is not to be had.
void resample_cpu(const Job* jobs, int64_t count, const Plan& plan, int threads, const char* level);

// Names of the levels this CPU can run, best first, separated by ";".
const char* cpu_levels();

}  // namespace fastfid
