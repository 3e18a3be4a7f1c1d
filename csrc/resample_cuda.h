// What resample_cuda.cu offers to bindings.cpp.
#pragma once

#include <cstdint>

#include "resample.h"

namespace fastfid {

// Enqueues one kernel on `stream` of `device`. Image i is jobs[i] (device memory) or, where `jobs` is null, `job` with
// its data moved on by i · step bytes. Throws std::runtime_error with CUDA's own words where the launch fails.
void resample_cuda(const Job* jobs, const Job& job, int64_t step, int64_t count, const Plan& plan, int device,
                   void* stream);

}  // namespace fastfid
