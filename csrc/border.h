// What Python hands over, checked before anything follows an address: the only place where its integers become sizes,
// strides and pointers. Every sum and product is made in 128 bits, so none wraps.
#pragma once

#include <cstdint>
#include <vector>

#include "resample.h"

namespace fastfid {

// A piece of memory: of the host, or of a GPU (then its content is not looked at).
struct Span {
    char* begin;
    int64_t bytes;
};

// One weight table: host memory whose content is checked, and where the engine will read it.
struct TableSpans {
    Span first, count, weights;
    int64_t longest, size;
    const void *first_at, *count_at, *weights_at;
};

// One row of the geometry: offset (elements), height, width, strides of y, x and the channel, tables of x and y.
constexpr int64_t kImageWords = 8;

// Throws std::invalid_argument where the output does not lie within `memory`, `begin` bytes from its start, or an
// enumeration has no such member.
void check_plan(const Plan& plan, int64_t images, Span memory, int64_t begin);

// The Job of every image; std::invalid_argument where an image or a table reaches outside the memory it is in.
std::vector<Job> checked_jobs(const Plan& plan, Span memory, int64_t begin, Span images,
                              const std::vector<TableSpans>& tables);

}  // namespace fastfid
