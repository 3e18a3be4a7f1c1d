#include "border.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace fastfid {
namespace {

__extension__ typedef __int128 Wide;

constexpr int64_t kLongestSide = 0x7fffffff;  // of an image or of the output: tables count in 32 bits
constexpr Wide kMostScratch = Wide(1) << 46;  // bytes; far beyond what any machine gives, far below what wraps

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("fastfid._C: ") + what);
}

bool within(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

// Whether elements 0 … last of `element` bytes lie in a span from byte `begin` on.
bool fits(Wide last, int64_t element, Span memory, int64_t begin) {
    return within(begin, 0, memory.bytes) && (last + 1) * element <= Wide(memory.bytes) - begin;
}

bool aligned_to(const char* address, int64_t begin, int64_t element) {
    return (reinterpret_cast<uintptr_t>(address) + static_cast<uintptr_t>(begin)) % static_cast<uintptr_t>(element) == 0;
}

// In the uint8 contract 255 Σ|w| and the rounding half must fit 32 bits; a filter's Σ|w| is below 1.5 · 2^22.
constexpr int64_t kMostWeight = int64_t(1) << (kFractionBits + 1);

void check_table(const TableSpans& table, int64_t out, bool quantize, int64_t* taps) {
    require(table.first.bytes == 4 * out && table.count.bytes == 4 * out, "a table is not of the output's length");
    require(out > 0 && table.weights.bytes % (4 * out) == 0, "the weights are not [out, taps]");
    *taps = table.weights.bytes / (4 * out);
    require(*taps % 4 == 0 && within(table.longest, 1, *taps), "the number of taps does not fit the weights");
    require(within(table.size, 1, kLongestSide), "a table is of no possible source size");
    const int32_t* first = reinterpret_cast<const int32_t*>(table.first.begin);
    const int32_t* count = reinterpret_cast<const int32_t*>(table.count.begin);
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < out; ++i) {
        const int64_t next = static_cast<int64_t>(first[i]) + count[i];
        require(within(count[i], 1, table.longest) && first[i] >= begin && next >= end && next <= table.size,
                "a table's taps leave the image or go backwards");
        begin = first[i];
        end = next;
    }
    const int32_t* weight = reinterpret_cast<const int32_t*>(table.weights.begin);
    for (int64_t i = 0; quantize && i < out; ++i) {
        int64_t sum = 0;  // of all taps: the kernels read the padding, too
        for (int64_t k = 0; k < *taps; ++k, ++weight) sum += std::abs(static_cast<int64_t>(*weight));
        require(sum <= kMostWeight, "integer weights beyond the uint8 contract's");
    }
}

}  // namespace

void check_plan(const Plan& plan, int64_t images, Span memory, int64_t begin) {
    const Output& out = plan.output;
    require(plan.channels == 1 || plan.channels == 3 || plan.channels == 4, "channels must be 1, 3 or 4");
    require(plan.pixel == Pixel::kUint8 || plan.pixel == Pixel::kFloat32, "no such kind of pixel");
    require(within(static_cast<int64_t>(out.dtype), 0, 3), "no such kind of output");
    require(!plan.quantize || plan.pixel == Pixel::kUint8, "the uint8 contract is for uint8 pixels");
    require(plan.quantize || out.dtype != Store::kUint8, "uint8 output is for the uint8 contract");
    require(images >= 0, "a negative number of images");
    require(within(out.height, 0, kLongestSide) && within(out.width, 0, kLongestSide), "no such output size");
    require(within(begin, 0, memory.bytes), "the output begins outside its memory");
    if (images == 0 || out.height == 0 || out.width == 0) return;
    require(out.stride_n >= 0 && out.stride_c >= 0 && out.stride_h >= 0 && out.stride_w >= 0, "a negative stride");
    const int64_t element = out.dtype == Store::kFloat32 ? 4 : out.dtype == Store::kUint8 ? 1 : 2;
    const Wide rows = Wide(images - 1) * out.stride_n + Wide(out.height - 1) * out.stride_h;
    const bool planar = out.stride_w == 1 && plan.channels > 1;
    require(planar || out.width == 1 || out.stride_w == plan.channels, "rows of the output must be dense");
    require(planar || plan.channels == 1 || out.stride_c == 1, "rows of the output must be dense");
    const Wide last = planar ? Wide(plan.channels - 1) * out.stride_c + out.width - 1 : Wide(out.width) * plan.channels - 1;
    require(fits(rows + last, element, memory, begin), "the output reaches outside its memory");
    require(aligned_to(memory.begin, begin, element), "the output is not aligned");
}

std::vector<Job> checked_jobs(const Plan& plan, Span memory, int64_t begin, Span images,
                              const std::vector<TableSpans>& tables) {
    const Output& out = plan.output;
    require(images.bytes % (kImageWords * 8) == 0, "the geometry is not [n, 8] of 64 bits");
    const int64_t count = images.bytes / (kImageWords * 8), known = static_cast<int64_t>(tables.size());
    const int64_t element = plan.pixel == Pixel::kUint8 ? 1 : 4;
    std::vector<int64_t> taps(tables.size() * 2, 0);  // of the tables that have been checked, for x and for y
    std::vector<Job> jobs;
    if (count == 0 || out.height == 0 || out.width == 0) return jobs;
    jobs.reserve(static_cast<size_t>(count));
    require(within(begin, 0, memory.bytes) && aligned_to(memory.begin, begin, element), "the pixels are not aligned");
    const int64_t* row = reinterpret_cast<const int64_t*>(images.begin);
    for (int64_t i = 0; i < count; ++i, row += kImageWords) {
        const int64_t offset = row[0], height = row[1], width = row[2];
        const int64_t deep = plan.channels == 1 ? 1 : row[5], down = height == 1 ? 0 : row[3];  // as for the output
        const int64_t across = width != 1 ? row[4] : deep == 1 ? plan.channels : 1;
        require(offset >= 0 && down >= 0 && across >= 0 && deep >= 0, "a negative offset or stride");
        require(within(height, 1, kLongestSide) && within(width, 1, kLongestSide), "no such image size");
        const Wide last = Wide(offset) + Wide(height - 1) * down + Wide(width - 1) * across + Wide(plan.channels - 1) * deep;
        require(fits(last, element, memory, begin), "an image reaches outside its memory");
        require(within(row[6], 0, known - 1) && within(row[7], 0, known - 1), "no such table");
        const TableSpans &x = tables[static_cast<size_t>(row[6])], &y = tables[static_cast<size_t>(row[7])];
        int64_t &taps_x = taps[static_cast<size_t>(2 * row[6])], &taps_y = taps[static_cast<size_t>(2 * row[7] + 1)];
        if (taps_x == 0) check_table(x, out.width, plan.quantize, &taps_x);
        if (taps_y == 0) check_table(y, out.height, plan.quantize, &taps_y);
        require(x.size == width && y.size == height, "a table is of another source size than its image");
        // resample_simd.cpp: a ring of rows, and the taps of a row packed in pairs; four bytes for each element
        const Wide scratch = (Wide(y.longest) + 64) * (Wide(out.width) + 128) * 16 + Wide(out.width) * (x.longest + 2) * 4;
        require(scratch + Wide(x.longest) * 4 * 16 * 4 * 8 < kMostScratch, "one image would need more than 64 TiB");
        const char* data = memory.begin + begin + offset * element;
        jobs.push_back({data, memory.begin + memory.bytes, height, width, down, across, deep,
                        {static_cast<const int32_t*>(x.first_at), static_cast<const int32_t*>(x.count_at), x.weights_at,
                         taps_x, x.longest},
                        {static_cast<const int32_t*>(y.first_at), static_cast<const int32_t*>(y.count_at), y.weights_at,
                         taps_y, y.longest}});
    }
    return jobs;
}

}  // namespace fastfid
