// 3 x 3 convolution with stride 1 and one pixel of zero padding, using Winograd's minimal filtering
// F(4 x 4, 3 x 3) (arXiv 1509.09308): a tile of 6 x 6 pixels yields 4 x 4 results with 36 multiplications
// instead of 144.
//
//     Y = A^T [(G w G^T) o (B^T x B)] A
//
// This is a product of polynomials, evaluated at the points 0, a, -a, b, -b and infinity. The usual points 1
// and 2 give twice the rounding error of 3/4 and 3/2, for which all constants of the data transforms are exact.
//
// Images are (batch, height, width, channels), weights (out, in, 3, 3), transformed weights (36, panels of
// output channels, in, PANEL). The 36 products of a block of tiles are matrix products over the channels.
// Gradients are computed by transposing each step. Images have type T in memory; everything else is float.
#pragma once

#include <algorithm>
#include <omp.h>
#include <vector>

#include "gemm.h"
#include "scratch.h"

namespace ddim {

constexpr float A1 = 0.75f, A2 = A1 * A1, A3 = A2 * A1;
constexpr float B1 = 1.5f, B2 = B1 * B1, B3 = B2 * B1;
constexpr float N0 = 1 / (A2 * B2), NA = 1 / (2 * A2 * (A2 - B2)), NB = 1 / (2 * B2 * (B2 - A2));
constexpr int POINTS = 36;

// B^T, from 6 values to 6.
template <class V>
inline void input_transform(const V (&d)[6], V (&t)[6]) {
    const V even_a = d[4] - B2 * d[2], odd_a = A1 * d[3] - A1 * B2 * d[1];
    const V even_b = d[4] - A2 * d[2], odd_b = B1 * d[3] - B1 * A2 * d[1];
    t[0] = A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4];
    t[1] = even_a + odd_a;
    t[2] = even_a - odd_a;
    t[3] = even_b + odd_b;
    t[4] = even_b - odd_b;
    t[5] = A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5];
}

// A^T, from 6 values to 4.
template <class V>
inline void output_transform(const V (&m)[6], V (&y)[4]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + even_a + even_b;
    y[1] = A1 * odd_a + B1 * odd_b;
    y[2] = A2 * even_a + B2 * even_b;
    y[3] = A3 * odd_a + B3 * odd_b + m[5];
}

// A, from 4 values to 6.
template <class V>
inline void output_transform_back(const V (&y)[4], V (&m)[6]) {
    const V even_a = y[0] + A2 * y[2], odd_a = A1 * y[1] + A3 * y[3];
    const V even_b = y[0] + B2 * y[2], odd_b = B1 * y[1] + B3 * y[3];
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}

// G, from 3 values to 6.
template <class V>
inline void weight_transform(const V (&g)[3], V (&u)[6]) {
    const V even_a = NA * (g[0] + A2 * g[2]), odd_a = NA * A1 * g[1];
    const V even_b = NB * (g[0] + B2 * g[2]), odd_b = NB * B1 * g[1];
    u[0] = N0 * g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

// G^T, from 6 values to 3.
template <class V>
inline void weight_transform_back(const V (&u)[6], V (&g)[3]) {
    const V even_a = NA * (u[1] + u[2]), even_b = NB * (u[3] + u[4]);
    g[0] = N0 * u[0] + even_a + even_b;
    g[1] = NA * A1 * (u[1] - u[2]) + NB * B1 * (u[3] - u[4]);
    g[2] = A2 * even_a + B2 * even_b + u[5];
}

// Applies a one-dimensional transform to the columns, then to the rows.
template <int FROM, int TO, class V, class Transform>
inline void in_both_directions(const V (&from)[FROM][FROM], V (&to)[TO][TO], Transform transform) {
    V half[TO][FROM];
#pragma GCC unroll 6
    for (int j = 0; j < FROM; j++) {
        V column[FROM], transformed[TO];
#pragma GCC unroll 6
        for (int i = 0; i < FROM; i++) column[i] = from[i][j];
        transform(column, transformed);
#pragma GCC unroll 6
        for (int i = 0; i < TO; i++) half[i][j] = transformed[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < TO; i++) transform(half[i], to[i]);
}

struct Shape {
    int64_t batch, height, width, in_channels, out_channels;

    int64_t tiles_down() const { return (height + 3) / 4; }
    int64_t tiles_across() const { return (width + 3) / 4; }
    int64_t tiles() const { return batch * tiles_down() * tiles_across(); }
    int64_t panels() const { return (out_channels + PANEL - 1) / PANEL; }
    // With a power of two, the same column of all rows and points would map to only a few cache lines.
    int64_t in_row() const { return (in_channels + LANES - 1) / LANES * LANES + LANES; }
    int64_t weights_size() const { return POINTS * panels() * in_channels * PANEL; }
};

// Sets the addresses of the SIZE x SIZE pixels of a tile, from its top left; pixels outside the image get
// `outside`.
template <int SIZE, class Pointer>
inline void pixels_of_tile(const Shape& shape, int64_t tile, int offset, Pointer image, int64_t channels,
                           Pointer outside, Pointer (&pixels)[SIZE][SIZE]) {
    const int64_t across = shape.tiles_across(), down = shape.tiles_down();
    const int64_t b = tile / (across * down);
    const int64_t top = tile / across % down * 4 + offset, left = tile % across * 4 + offset;
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            const int64_t y = top + i, x = left + j;
            const bool inside = y >= 0 && y < shape.height && x >= 0 && x < shape.width;
            pixels[i][j] = inside ? image + ((b * shape.height + y) * shape.width + x) * channels : outside;
        }
}

// Transforms w (out, in, 3, 3) into u (36, panels, in, PANEL). If `turned`, u computes the gradient with
// respect to the input: in and out are swapped and the kernel is rotated by 180 degrees. `shape` describes
// the convolution with u.
inline void transform_weights(const Shape& shape, const float* w, float* u, bool turned) {
    const int64_t in = shape.in_channels, out = shape.out_channels, panels = shape.panels();
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t ci = 0; ci < in; ci++) {
            float taps[9][PANEL] = {};
            const int64_t columns = std::min<int64_t>(PANEL, out - panel * PANEL);
            for (int64_t column = 0; column < columns; column++) {
                const int64_t co = panel * PANEL + column;
                const float* from = w + (turned ? ci * out + co : co * in + ci) * 9;
                for (int tap = 0; tap < 9; tap++) taps[turned ? 8 - tap : tap][column] = from[tap];
            }
            for (int half = 0; half < PANEL; half += LANES) {
                Vector g[3][3], transformed[6][6];
                for (int i = 0; i < 3; i++)
                    for (int j = 0; j < 3; j++) g[i][j] = load<Vector>(&taps[i * 3 + j][half]);
                in_both_directions<3, 6>(g, transformed, weight_transform<Vector>);
                for (int i = 0; i < 6; i++)
                    for (int j = 0; j < 6; j++)
                        store(u + (((i * 6 + j) * panels + panel) * in + ci) * PANEL + half, transformed[i][j]);
            }
        }
}

// Transforms one tile of the input into v (36, capacity, in_row).
template <class T>
inline void transform_input_tile(const Shape& shape, const T* x, const T* zeros, int64_t tile, float* v,
                                 int64_t point_stride) {
    const T* pixels[6][6];
    pixels_of_tile(shape, tile, -1, x, shape.in_channels, zeros, pixels);
    for_each_vector(shape.in_channels, [&](auto kind, int64_t ci) {
        using V = decltype(kind);
        V d[6][6], t[6][6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++)
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) d[i][j] = load<V>(pixels[i][j] + ci);
        in_both_directions<6, 6>(d, t, input_transform<V>);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++)
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) store(v + (i * 6 + j) * point_stride + ci, t[i][j]);
    });
}

// y = x * w + bias + shift[image] + residual. u is the transformed w; bias, shift and residual may be null.
template <class T>
inline void convolve(const Shape& shape, const T* x, const float* u, const float* bias, const float* shift,
                     const T* residual, T* y) {
    const int64_t tiles = shape.tiles(), panels = shape.panels(), in = shape.in_channels,
                  out = shape.out_channels, in_row = shape.in_row(), out_row = panels * PANEL + LANES;
    // Enough tiles to amortise reading the weights, few enough to keep both blocks in the cache, and work for
    // all threads.
    const int64_t threads = omp_get_max_threads(), share = (tiles + threads - 1) / threads;
    const int64_t capacity = std::min<int64_t>(6 * TILE, (share + TILE - 1) / TILE * TILE);
    const int64_t blocks = (tiles + capacity - 1) / capacity;
#pragma omp parallel
    {
        static thread_local std::vector<float> memory;
        float* v = scratch(memory, POINTS * capacity * (in_row + out_row) + in + out);
        float* m = v + POINTS * capacity * in_row;
        std::fill_n(m + POINTS * capacity * out_row, in + out, 0.0f);
        T* zeros = reinterpret_cast<T*>(m + POINTS * capacity * out_row);
        T* dump = zeros + in;
#pragma omp for schedule(dynamic)
        for (int64_t block = 0; block < blocks; block++) {
            const int64_t first = block * capacity, count = std::min(capacity, tiles - first);
            for (int64_t tile = 0; tile < count; tile++)
                transform_input_tile(shape, x, zeros, first + tile, v + tile * in_row, capacity * in_row);
            for (int64_t point = 0; point < POINTS; point++)
                for (int64_t panel = 0; panel < panels; panel++)
                    multiply(count, v + point * capacity * in_row, in_row, 1,
                             u + (point * panels + panel) * in * PANEL, in,
                             m + point * capacity * out_row + panel * PANEL, out_row, false);
            for (int64_t tile = 0; tile < count; tile++) {
                T* pixels[4][4];
                pixels_of_tile(shape, first + tile, 0, y, out, dump, pixels);
                const int64_t image = (first + tile) / (shape.tiles_across() * shape.tiles_down());
                const float* from = m + tile * out_row;
                for_each_vector(out, [&](auto kind, int64_t co) {
                    using V = decltype(kind);
                    V points[6][6], values[4][4];
#pragma GCC unroll 6
                    for (int i = 0; i < 6; i++)
#pragma GCC unroll 6
                        for (int j = 0; j < 6; j++)
                            points[i][j] = load<V>(from + (i * 6 + j) * capacity * out_row + co);
                    in_both_directions<6, 4>(points, values, output_transform<V>);
                    V constant{};
                    if (bias) constant += load<V>(bias + co);
                    if (shift) constant += load<V>(shift + image * out + co);
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++) {
                            V value = values[i][j] + constant;
                            if (residual && pixels[i][j] != dump)
                                value += load<V>(residual + (pixels[i][j] - y) + co);
                            store(pixels[i][j] + co, value);
                        }
                });
            }
        }
    }
}

// Computes the gradient of the weights, grad_w (out, in, 3, 3), from x and the gradient of y.
//
// The tiles are split among the threads, each with its own sum, so no thread reads what another writes until
// the sums are added. If there are too few tiles for all threads, the output channels are split as well.
template <class T>
inline void convolve_grad_weights(const Shape& shape, const T* x, const T* grad_y, float* grad_w) {
    const int64_t tiles = shape.tiles(), panels = shape.panels(), in = shape.in_channels,
                  out = shape.out_channels, in_row = shape.in_row(), size = shape.weights_size();
    const int64_t threads = omp_get_max_threads(), worth = 64;  // tiles that justify another sum
    const int64_t splits = std::min(threads, (tiles + worth - 1) / worth);
    const int64_t shares = std::min(panels, threads / splits);
    const int64_t capacity = std::min((tiles + splits - 1) / splits, worth);
    static thread_local std::vector<float> memory_of_sums;
    float* const sums = scratch(memory_of_sums, splits * size);
#pragma omp parallel for num_threads(splits * shares) schedule(static, 1)
    for (int64_t worker = 0; worker < splits * shares; worker++) {
        const int64_t split = worker % splits, share = worker / splits;
        const int64_t last = tiles * (split + 1) / splits;
        const int64_t first_panel = panels * share / shares, own = panels * (share + 1) / shares - first_panel;
        const int64_t first_channel = first_panel * PANEL, channels = std::min(out - first_channel, own * PANEL);
        static thread_local std::vector<float> memory;
        const int64_t m_point = own * capacity * PANEL + PANEL;  // see `in_row`
        float* v = scratch(memory, POINTS * (capacity * in_row + m_point) + std::max(in, out));
        float* m = v + POINTS * capacity * in_row;  // (36, own panels, capacity, PANEL)
        std::fill_n(m + POINTS * m_point, std::max(in, out), 0.0f);
        const T* zeros = reinterpret_cast<const T*>(m + POINTS * m_point);
        if (channels % PANEL) std::fill_n(m, POINTS * m_point, 0.0f);
        bool begun = false;
        for (int64_t first = tiles * split / splits; first < last; first += capacity) {
            const int64_t count = std::min(capacity, last - first);
            for (int64_t tile = 0; tile < count; tile++) {
                transform_input_tile(shape, x, zeros, first + tile, v + tile * in_row, capacity * in_row);
                const T* pixels[4][4];
                pixels_of_tile(shape, first + tile, 0, grad_y, out, zeros, pixels);
                for_each_vector(channels, [&](auto kind, int64_t c) {
                    using V = decltype(kind);
                    V values[4][4], points[6][6];
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++) values[i][j] = load<V>(pixels[i][j] + first_channel + c);
                    in_both_directions<4, 6>(values, points, output_transform_back<V>);
                    float* to = m + (c / PANEL * capacity + tile) * PANEL + c % PANEL;
#pragma GCC unroll 6
                    for (int i = 0; i < 6; i++)
#pragma GCC unroll 6
                        for (int j = 0; j < 6; j++)
                            store(to + (i * 6 + j) * m_point, points[i][j]);
                });
            }
            for (int64_t point = 0; point < POINTS; point++)
                for (int64_t panel = 0; panel < own; panel++)
                    multiply(in, v + point * capacity * in_row, 1, in_row,
                             m + point * m_point + panel * capacity * PANEL, count,
                             sums + split * size + (point * panels + first_panel + panel) * in * PANEL, PANEL,
                             begun);
            begun = true;
        }
    }
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t ci = 0; ci < in; ci++) {
            float taps[9][PANEL];
            for (int half = 0; half < PANEL; half += LANES) {
                Vector points[6][6] = {}, g[3][3];
                for (int64_t split = 0; split < splits; split++)
                    for (int i = 0; i < 6; i++)
                        for (int j = 0; j < 6; j++)
                            points[i][j] += load<Vector>(
                                sums + split * size + (((i * 6 + j) * panels + panel) * in + ci) * PANEL + half);
                in_both_directions<6, 3>(points, g, weight_transform_back<Vector>);
                for (int i = 0; i < 3; i++)
                    for (int j = 0; j < 3; j++) store(&taps[i * 3 + j][half], g[i][j]);
            }
            const int64_t columns = std::min<int64_t>(PANEL, out - panel * PANEL);
            for (int64_t column = 0; column < columns; column++)
                for (int tap = 0; tap < 9; tap++)
                    grad_w[((panel * PANEL + column) * in + ci) * 9 + tap] = taps[tap][column];
        }
}

}  // namespace ddim
