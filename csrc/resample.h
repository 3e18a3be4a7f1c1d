// The arithmetic of one resampled pixel, shared by the CPU code (resample_simd.cpp) and the CUDA kernel
// (resample_cuda.cu), so that tests on a CPU exercise what the GPU runs.
//
// A resize is two passes over weight tables made by fastfid/resample/_filters.py: first along x, then along y.
//   float contract:  h[x] = sum_k w[x][k] * p[first[x] + k]   float32, one fused multiply-add per tap, k ascending;
//                    v[y] likewise over rows of h;  out = fma(clamp(v), scale[c], bias[c])
//   uint8 contract:  as Pillow on 8-bit images: integer weights with 22 fraction bits, and after each pass
//                    clip8((2^21 + sum) >> 22)
// The order and the rounding of every operation are fixed, so all CPU levels and the GPU give the same bits.
//
// Everything here has internal linkage: the file is compiled for several instruction sets within one module.
#pragma once

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FASTFID_BOTH static __host__ __device__ __forceinline__
#else
#define FASTFID_BOTH static inline
#endif

namespace fastfid {

constexpr int kFractionBits = 22;  // Pillow: 32 bits - 8 for the pixel - 2 spare for negative lobes

enum class Pixel : int32_t { kUint8 = 0, kFloat32 = 1 };
enum class Store : int32_t { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2, kUint8 = 3 };

// One axis of one image. For output i: count[i] taps from source index first[i], at most `longest`; first and
// first + count never decrease. weights are [out][taps], float32 in the float contract and int32 in the uint8 contract;
// taps is a multiple of four and unused weights are zero.
struct Axis {
    const int32_t* first;
    const int32_t* count;
    const void* weights;
    int64_t taps, longest;
};

// One image of a batch; 17 words of 64 bits, filled in by border.cpp. Strides are in elements; `end`
// is that of the memory that `data` points into.
struct Job {
    const void *data, *end;
    int64_t height, width;
    int64_t stride_h, stride_w, stride_c;
    Axis x, y;
};
static_assert(sizeof(Job) == 17 * 8, "fastfid/resample/_engines.py reads 17 words per image");

// Output [n, channels, height, width]; strides in elements. Either stride_w == 1 or stride_c == 1 (dense rows).
struct Output {
    void* data;
    int64_t height, width;
    int64_t stride_n, stride_c, stride_h, stride_w;
    Store dtype;
};

// What happens to a resampled value before it is stored.
struct Finish {
    float scale[4], bias[4];
    float low, high;  // -inf and inf where nothing is clamped
};

struct Plan {
    Output output;
    Finish finish;
    int32_t channels;
    Pixel pixel;
    bool quantize;  // the uint8 contract
};

FASTFID_BOTH float clamp(float value, float low, float high) {
    value = value < low ? low : value;  // a NaN passes through
    return value > high ? high : value;
}

FASTFID_BOTH float finish(float value, float low, float high, float scale, float bias) {
    return fmaf(clamp(value, low, high), scale, bias);
}

FASTFID_BOTH int32_t clip8(int32_t sum) {  // sum includes the rounding half, 2^21
    const int32_t value = sum >> kFractionBits;
    return value < 0 ? 0 : (value > 255 ? 255 : value);
}

FASTFID_BOTH uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

// Round to nearest, ties to even; NaN stays a quiet NaN, overflow goes to infinity.
FASTFID_BOTH uint16_t to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

FASTFID_BOTH uint16_t to_float16(float value) {
#if defined(__CUDA_ARCH__)
    return __half_as_ushort(__float2half_rn(value));
#else
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
    if (magnitude < 0x33000001u) return static_cast<uint16_t>(sign);            // 2^-25 and below
    uint32_t mantissa = magnitude, drop = 13;
    if (magnitude < 0x38800000u) {  // subnormal in float16: shift further, with the implicit bit made explicit
        drop = 126u - (magnitude >> 23);
        mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    } else {
        mantissa -= 0x38000000u;
    }
    const uint32_t half = (1u << (drop - 1)) - 1u + ((mantissa >> drop) & 1u);
    return static_cast<uint16_t>(sign | ((mantissa + half) >> drop));
#endif
}

}  // namespace fastfid
