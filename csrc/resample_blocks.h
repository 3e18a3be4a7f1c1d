// Runs the CUDA kernel's blocks on the CPU (see resample_tile.h); for tests.
#pragma once

#include "resample.h"

namespace fastfid {

void resample_blocks(const Job* jobs, int64_t count, const Plan& plan);

}  // namespace fastfid
