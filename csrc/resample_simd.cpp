// The CPU resampler of one instruction set. Compiled once per level (FASTFID_LEVEL: baseline, avx2, avx512).
//
// How a band of output rows is made, kRows source rows at a time (kRows = lanes of a vector):
//   1. transpose the source rows, so that a vector holds one column (of one channel) of kRows rows;
//   2. horizontal pass: every tap is one multiply-add of such a vector with one weight, whatever the ratio;
//   3. transpose back into a ring of intermediate rows, already in the output's layout (interleaved or planar);
//   4. vertical pass over the ring as soon as the rows of an output row are there, fused with clamp, affine and store.
// The source is read once and never exists as a float image; intermediates stay in the L1/L2 cache.
#include "resample_cpu.h"
#include "simd_passes.h"

#define FASTFID_JOIN2(a, b) a##b
#define FASTFID_JOIN(a, b) FASTFID_JOIN2(a, b)
#define FASTFID_TEXT2(a) #a
#define FASTFID_TEXT(a) FASTFID_TEXT2(a)

namespace fastfid {
namespace {

constexpr int64_t kColumnBudget = 64 * 1024;  // bytes of transposed source at once: L1 and a little of L2
constexpr int64_t kChunk = 64;                // output columns made from them at once

// ---- where everything lies ---------------------------------------------------------------------------------------

// The scratch memory of one task: where each piece begins (bytes), and the sizes that decide it (elements).
struct Shape {
    bool planar_in, planar_out;  // [channel][x] instead of [x][channel], in the source and in the intermediate rows
    int64_t columns;             // most source columns transposed at once
    int64_t plane_in;            // planar source: transposed columns from one channel to the next
    int64_t plane_out, row;      // intermediate rows: elements from one channel to the next, and of a whole row
    int64_t ring;                // intermediate rows held
    int64_t pairs_x, pairs_y;    // uint8 contract: pairs of taps per output
    int64_t bytes_at, columns_at, chunk_at, ring_at, scale_at, bias_at, packed_x_at, packed_y_at, pointers_at, total;
};

static Shape shape_of(const Job& job, const Plan& plan) {
    Shape s;
    const int64_t width = plan.output.width, channels = plan.channels;
    s.planar_in = job.stride_w == 1 && channels > 1;
    s.planar_out = plan.output.stride_w == 1 && channels > 1;
    s.columns = smaller(larger(kColumnBudget / (4 * channels * kRows), 4 * job.x.longest), job.width) + 2;
    s.plane_in = round_up(s.columns, 16) + 16;
    s.plane_out = round_up(width, 64) + 64;
    s.row = s.planar_out ? s.plane_out * channels : round_up(width * channels, 64) + 64;
    s.ring = round_up(job.y.longest + kRows, kRows);
    s.pairs_x = job.x.longest / 2 + 1;
    s.pairs_y = job.y.longest / 2 + 1;
    const int64_t transposed = s.plane_in * channels * kRows;
    s.bytes_at = 0;
    s.columns_at = s.bytes_at + aligned(transposed);
    s.chunk_at = s.columns_at + aligned(4 * transposed);
    s.ring_at = s.chunk_at + aligned(4 * kRows * ((kChunk + 16) * channels + 16));
    s.scale_at = s.ring_at + aligned(s.ring * s.row * 4);
    s.bias_at = s.scale_at + aligned(s.row * 4);
    s.packed_x_at = s.bias_at + aligned(s.row * 4);
    s.packed_y_at = s.packed_x_at + (plan.quantize ? aligned(width * s.pairs_x * sizeof(Packed)) : 0);
    s.pointers_at = s.packed_y_at + (plan.quantize ? aligned(s.pairs_y * sizeof(Packed)) : 0);
    s.total = s.pointers_at + aligned((job.y.longest + 1) * sizeof(void*));
    return s;
}

// ---- pass 1: source columns to vectors of rows -------------------------------------------------------------------

// Bytes [begin, end) of kRows rows → out[byte - begin][kRows]; nothing at or beyond `limit` is read.
static void transpose_bytes(const uint8_t* const* rows, int64_t begin, int64_t end, int64_t limit, uint8_t* out) {
    int64_t at = begin;
    for (; at < end && at + 16 <= limit; at += 16, out += 16 * kRows) {
        byte16 v[kRows];
        for (int r = 0; r < kRows; ++r) v[r] = load<byte16>(rows[r] + at);
        shuffle_bytes(v, kStages);
        for (int r = 0; r < kRows; ++r) store(out + 16 * r, v[r]);
    }
    for (; at < end; ++at, out += kRows)
        for (int r = 0; r < kRows; ++r) out[r] = rows[r][at];
}

// Any strides, any type.
template <class T>
static void gather(const Job& job, int channels, const int64_t* rows, int64_t c0, int64_t c1, Steps steps, T* to) {
    for (int r = 0; r < kRows; ++r) {
        const T* row = static_cast<const T*>(job.data) + rows[r] * job.stride_h;
        for (int64_t c = c0; c < c1; ++c)
            for (int k = 0; k < channels; ++k)
                to[((c - c0) * steps.column + k * steps.channel) * kRows + r] =
                    row[c * job.stride_w + k * job.stride_c];
    }
}

static void byte_columns(const Job& job, int channels, const int64_t* rows, int64_t c0, int64_t c1, Steps steps,
                         uint8_t* to) {
    const uint8_t* start[kRows];
    const uint8_t* base = static_cast<const uint8_t*>(job.data);
    for (int r = 0; r < kRows; ++r) start[r] = base + rows[r] * job.stride_h;
    if (job.stride_w == 1) {
        for (int k = 0; k < channels; ++k) {
            transpose_bytes(start, c0, c1, job.width, to + k * steps.channel * kRows);
            for (int r = 0; r < kRows; ++r) start[r] += job.stride_c;
        }
    } else if (job.stride_w == channels && job.stride_c == 1) {
        transpose_bytes(start, c0 * channels, c1 * channels, job.width * channels, to);
    } else {
        gather(job, channels, rows, c0, c1, steps, to);
    }
}

// ---- one band of one image ----------------------------------------------------------------------------------------

// The source rows that output rows need, in order and each once: sampling filters skip most of a large image.
struct Needed {
    const Axis& axis;
    int64_t y, last;  // output row whose taps are being listed, and the last one of the band
    int64_t row;      // next source row to list

    inline int64_t next() {
        while (row >= axis.first[y] + axis.count[y]) {
            if (y == last) return axis.first[y] + axis.count[y] - 1;  // nothing left: fill up with the last one
            ++y;
            row = larger(row, axis.first[y]);
        }
        return row++;
    }
};

// The next kRows needed rows, into ring rows `slot` and onwards.
template <int C>
static void make_rows(const Job& job, const Plan& plan, const Shape& s, char* scratch, Needed& needed, int64_t slot) {
    const int element = plan.quantize ? 1 : 4;
    int64_t source[kRows];
    void* rows[kRows];
    for (int r = 0; r < kRows; ++r) {
        source[r] = needed.next();
        rows[r] = scratch + s.ring_at + (slot + r) * s.row * element;
    }
    uint8_t* bytes = reinterpret_cast<uint8_t*>(scratch + s.bytes_at);
    const Steps from = s.planar_in ? Steps{1, s.plane_in} : Steps{C, 1};
    const int64_t width = plan.output.width;
    for (int64_t x0 = 0, x1; x0 < width; x0 = x1) {
        const int64_t c0 = plan.quantize ? job.x.first[x0] & ~1 : job.x.first[x0];
        int64_t c1 = job.x.first[x0] + job.x.count[x0];
        for (x1 = x0 + 1; x1 < width && x1 - x0 < kChunk; ++x1) {
            const int64_t end = larger(c1, job.x.first[x1] + job.x.count[x1]);
            if (end - c0 > s.columns - 1) break;
            c1 = end;
        }
        const int64_t made = x1 - x0, runs = s.planar_out ? C : 1, run = s.planar_out ? made : made * C;
        const Steps to = s.planar_out ? Steps{1, round_up(made, 16)} : Steps{C, 1};
        if (plan.quantize) {
            byte_columns(job, C, source, c0, c1, from, bytes);
            if ((c1 - c0) % 2 != 0)
                for (int c = 0; c < C; ++c)
                    memset(bytes + ((c1 - c0) * from.column + c * from.channel) * kRows, 0, kRows);
            int32_t* pairs = reinterpret_cast<int32_t*>(scratch + s.columns_at);
            make_pairs(bytes, (c1 - c0 + 1) / 2, C, from, pairs);
            uint8_t* chunk = reinterpret_cast<uint8_t*>(scratch + s.chunk_at);
            horizontal_fixed<C>(job.x, reinterpret_cast<const Packed*>(scratch + s.packed_x_at), s.pairs_x, pairs, from,
                                c0, x0, x1, to, chunk);
            for (int64_t c = 0; c < runs; ++c)
                rows_of_bytes(chunk + c * to.channel * kRows, run, reinterpret_cast<uint8_t* const*>(rows),
                              s.planar_out ? c * s.plane_out + x0 : x0 * C);
        } else {
            float* columns = reinterpret_cast<float*>(scratch + s.columns_at);
            if (plan.pixel == Pixel::kUint8) {
                byte_columns(job, C, source, c0, c1, from, bytes);
                for (int64_t k = 0; k < (s.planar_in ? C : 1); ++k)
                    bytes_to_floats(bytes + k * s.plane_in * kRows, (c1 - c0) * from.column,
                                    columns + k * s.plane_in * kRows);
            } else {
                gather(job, C, source, c0, c1, from, columns);
            }
            float* chunk = reinterpret_cast<float*>(scratch + s.chunk_at);
            horizontal_float<C>(job.x, columns, from, c0, x0, x1, to, chunk);
            for (int64_t c = 0; c < runs; ++c)
                rows_of_floats(chunk + c * to.channel * kRows, run, reinterpret_cast<float* const*>(rows),
                               s.planar_out ? c * s.plane_out + x0 : x0 * C);
        }
    }
}

// scale and bias per element of an intermediate row, so that the last pass need not know the layout.
static void spread_affine(const Plan& plan, const Shape& s, float* scale, float* bias) {
    const int64_t channels = plan.channels;
    for (int64_t e = 0; e < s.row; ++e) {
        const int64_t c = s.planar_out ? e / s.plane_out : e % channels;
        scale[e] = plan.finish.scale[c];
        bias[e] = plan.finish.bias[c];
    }
}

template <int C>
static void band(const Job& job, const Plan& plan, int64_t index, int64_t y0, int64_t y1, char* scratch) {
    const Shape s = shape_of(job, plan);
    const Output& out = plan.output;
    float* scale = reinterpret_cast<float*>(scratch + s.scale_at);
    float* bias = reinterpret_cast<float*>(scratch + s.bias_at);
    spread_affine(plan, s, scale, bias);
    Packed* packed_x = reinterpret_cast<Packed*>(scratch + s.packed_x_at);
    Packed* packed_y = reinterpret_cast<Packed*>(scratch + s.packed_y_at);
    if (plan.quantize)
        for (int64_t x = 0; x < out.width; ++x)
            pack_taps(job.x, x, job.x.first[x] & 1, s.pairs_x, packed_x + x * s.pairs_x);
    const void** rows = reinterpret_cast<const void**>(scratch + s.pointers_at);
    const int element = plan.quantize ? 1 : 4, stored = kStoreBytes[(int)out.dtype];
    const int64_t runs = s.planar_out ? C : 1, run = s.planar_out ? out.width : out.width * C;

    // Positions count needed rows; position p lies in ring row p % ring. `first` is that of the first tap of row y.
    Needed needed{job.y, y0, y1 - 1, job.y.first[y0]};
    int64_t first = 0, made = 0;
    for (int64_t y = y0; y < y1; ++y) {
        const int count = job.y.count[y];
        if (y > y0) first += smaller(job.y.first[y] - job.y.first[y - 1], job.y.count[y - 1]);
        for (; made < first + count; made += kRows) make_rows<C>(job, plan, s, scratch, needed, made % s.ring);
        for (int k = 0; k < count; ++k) rows[k] = scratch + s.ring_at + ((first + k) % s.ring) * s.row * element;
        rows[count] = rows[0];  // read with weight zero where pairs of taps end on an odd count
        if (plan.quantize) pack_taps(job.y, y, 0, s.pairs_y, packed_y);
        for (int64_t c = 0; c < runs; ++c) {
            const int64_t at = c * s.plane_out * s.planar_out;
            char* to = static_cast<char*>(out.data) +
                       (index * out.stride_n + c * out.stride_c + y * out.stride_h) * stored;
            if (plan.quantize) {
                const FixedTaps taps{reinterpret_cast<const uint8_t* const*>(rows), packed_y, count, at};
                if (out.dtype == Store::kUint8)
                    run_of_bytes(taps, run, to);
                else
                    vertical(plan, taps, scale + at, bias + at, run, to);
            } else {
                const float* weight = static_cast<const float*>(job.y.weights) + y * job.y.taps;
                const FloatTaps taps{reinterpret_cast<const float* const*>(rows), weight, count, at};
                vertical(plan, taps, scale + at, bias + at, run, to);
            }
        }
    }
}

static size_t scratch_bytes(const Job& job, const Plan& plan) { return (size_t)shape_of(job, plan).total; }

static void rows(const Job& job, const Plan& plan, int64_t index, int64_t y0, int64_t y1, void* scratch) {
    char* memory = static_cast<char*>(scratch);
    if (plan.channels == 1) {
        band<1>(job, plan, index, y0, y1, memory);
    } else if (plan.channels == 3) {
        band<3>(job, plan, index, y0, y1, memory);
    } else {
        band<4>(job, plan, index, y0, y1, memory);
    }
}

}  // namespace

extern const Level FASTFID_JOIN(kLevel_, FASTFID_LEVEL) = {FASTFID_TEXT(FASTFID_LEVEL), scratch_bytes, rows};

}  // namespace fastfid
