// 3 x 3 convolution of bf16 images with stride 1 and one pixel of zero padding, as products of tiles with fp32 sums.
//
// Images are (batch, height, width, channels). The rows of a tile are consecutive pixels, so images are copied into a
// layout with zeros around them. Each tap is then an offset into the copy.
#pragma once

#include <algorithm>
#include <omp.h>
#include <vector>

#include "scratch.h"
#include "tiles.h"

namespace ddim::direct {

constexpr int TAPS = 9;

inline int64_t blocks(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

struct Shape {
    int64_t batch, height, width, in_channels, out_channels;

    int64_t pixels() const { return height * width; }
    int64_t steps() const { return TAPS * blocks(in_channels); }
    // In floats, each of which stores two bf16 values.
    int64_t weights_size() const { return blocks(out_channels) * steps() * TILE_SIZE; }
};

inline Bf16* tiles_in(std::vector<float>& memory, int64_t size) {
    float* const start = scratch(memory, size / 2 + 16);
    return reinterpret_cast<Bf16*>((reinterpret_cast<uintptr_t>(start) + 63) & ~uintptr_t{63});
}

// Returns the first 16 of `count` values, padded with zeros if there are fewer.
inline Halves16 first_halves(const Bf16* from, int64_t count) {
    Halves16 halves = {};
    if (count >= TILE_ROWS)
        std::memcpy(&halves, from, sizeof halves);
    else
        for (int64_t i = 0; i < count; i++) halves[i] = from[i].bits;
    return halves;
}

// Packs w (out, in, 3, 3) into right tiles u (blocks of output channels, blocks of input channels, taps, 2, tile). If
// `turned`, u computes the gradient with respect to the input: in and out are swapped and the kernel is rotated by 180
// degrees. `shape` describes the convolution with u.
inline void pack_weights(const Shape& shape, const float* w, Bf16* u, bool turned) {
    const int64_t in = shape.in_channels, out = shape.out_channels, in_blocks = blocks(in);
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t block = 0; block < blocks(out); block++)
        for (int64_t in_block = 0; in_block < in_blocks; in_block++)
            for (int64_t pair = 0; pair < BLOCK; pair++) {  // 16 pairs of each of the two tiles
                float values[TAPS][TILE_COLUMNS] = {};
                for (int64_t column = 0; column < TILE_COLUMNS; column++) {
                    const int64_t ci = in_block * BLOCK + pair % 16 * 2 + column % 2;
                    const int64_t co = block * BLOCK + pair / 16 * 16 + column / 2;
                    if (ci >= in || co >= out) continue;
                    const float* from = w + (turned ? ci * out + co : co * in + ci) * TAPS;
                    for (int tap = 0; tap < TAPS; tap++) values[turned ? TAPS - 1 - tap : tap][column] = from[tap];
                }
                for (int tap = 0; tap < TAPS; tap++) {
                    Bf16* const to =
                        u + ((block * in_blocks + in_block) * TAPS + tap) * 2 * TILE_SIZE + pair * TILE_COLUMNS;
                    for (int i = 0; i < TILE_COLUMNS; i += LANES) store(to + i, load<Vector>(&values[tap][i]));
                }
            }
}

// Layout of the copies of an image, in which 16 consecutive pixels form a left tile. In wide images, these pixels are
// in one image row, and there is a column of zeros on each side. Narrow images are copied three times, each time
// shifted by one column, so that image rows follow each other without zeros in between. There is a row of zeros above
// and below. Channels are split into blocks.
struct Copies {
    bool narrow;
    int64_t pitch, rows, area, size;  // area: values in one block; size: values in all copies

    Copies(const Shape& shape, int64_t rows)
        : narrow(shape.width < TILE_ROWS), pitch(narrow ? shape.width : shape.width + 2), rows(rows),
          area((rows + 2) * pitch * BLOCK), size((narrow ? 3 : 1) * blocks(shape.in_channels) * area) {}

    int64_t offset(const Shape& shape, int tap, int64_t block) const {
        const int64_t shift = narrow ? blocks(shape.in_channels) * area : BLOCK;
        return tap % 3 * shift + block * area + tap / 3 * pitch * BLOCK;
    }
};

// Copies rows [first - 1, first + rows + 1) of an image.
inline void copy_rows(const Shape& shape, const Copies& copies, const Bf16* image, int64_t first, Bf16* to) {
    const int64_t channels = shape.in_channels, width = shape.width;
    for (int shift = 0; shift < (copies.narrow ? 3 : 1); shift++)
        for (int64_t block = 0; block < blocks(channels); block++) {
            const int64_t used = std::min<int64_t>(BLOCK, channels - block * BLOCK);
            for (int64_t row = first - 1; row <= first + copies.rows; row++)
                for (int64_t column = shift - 1; column < copies.pitch + shift - 1; column++, to += BLOCK) {
                    const bool inside = row >= 0 && row < shape.height && column >= 0 && column < width;
                    const Bf16* const from =
                        image + (inside ? (row * width + column) * channels + block * BLOCK : 0);
                    const Halves16 left = first_halves(from, inside ? used : 0);
                    const Halves16 right = first_halves(from + 16, inside ? used - 16 : 0);
                    std::memcpy(to, &left, sizeof left);
                    std::memcpy(to + 16, &right, sizeof right);
                }
        }
}

// y (batch, height, width, out) = x * u + bias (out) + shift (batch, out) + residual; the last three may be null.
inline void convolve(const Shape& shape, const Bf16* x, const Bf16* u, const float* bias, const float* shift,
                     const Bf16* residual, Bf16* y) {
    const int64_t in = shape.in_channels, out = shape.out_channels, width = shape.width, steps = shape.steps();
    // Threads process strips: a few rows of an image, or a few small images. About 256 pixels fit in an L2 cache.
    constexpr int64_t target = 256;
    const int64_t threads = omp_get_max_threads();
    const int64_t wanted = std::min(
        shape.height, std::max((shape.pixels() + target - 1) / target, (threads + shape.batch - 1) / shape.batch));
    const int64_t rows = (shape.height + wanted - 1) / wanted;
    const int64_t strips = (shape.height + rows - 1) / rows;
    const int64_t share = std::max<int64_t>(1, shape.batch / threads);
    const int64_t images = strips > 1 ? 1 : std::min(std::max<int64_t>(1, target / shape.pixels()), share);
    const Copies copies(shape, rows);
    std::vector<int64_t> offsets;
    for (int64_t block = 0; block < blocks(shape.in_channels); block++)
        for (int tap = 0; tap < TAPS; tap++) offsets.push_back(copies.offset(shape, tap, block));
    // The weights of one block of channels and the sums of this many places fit in an L1 cache.
    constexpr size_t GROUP = 8;
#pragma omp parallel
    {
        const Tiles configured;
        (void)configured;
        struct Place {  // 16 pixels or fewer
            const Bf16* tile;
            int64_t image, pixel, count;
        };
        std::vector<Place> places;
        static thread_local std::vector<float> memory;
        alignas(64) float sums[GROUP * TILE_SIZE];
#pragma omp for collapse(2) schedule(static)
        for (int64_t first_image = 0; first_image < shape.batch; first_image += images)
            for (int64_t strip = 0; strip < strips; strip++) {
                const int64_t first = strip * rows, own_rows = std::min(rows, shape.height - first);
                const int64_t own_images = std::min(images, shape.batch - first_image);
                Bf16* const packed = tiles_in(memory, own_images * copies.size + TILE_SIZE);
                places.clear();
                for (int64_t i = 0; i < own_images; i++) {
                    const int64_t image = first_image + i;
                    Bf16* const copy = packed + i * copies.size;
                    copy_rows(shape, copies, x + image * shape.pixels() * in, first, copy);
                    const int64_t lines = copies.narrow ? 1 : own_rows, line = own_rows * width / lines;
                    for (int64_t row = 0; row < lines; row++)
                        for (int64_t pixel = 0; pixel < line; pixel += TILE_ROWS)
                            places.push_back({copy + (row * copies.pitch + pixel) * BLOCK, image,
                                              first * width + row * line + pixel,
                                              std::min<int64_t>(TILE_ROWS, line - pixel)});
                }
                if (places.size() % 2) places.push_back({places.back().tile, 0, 0, 0});
                for (int64_t block = 0; block < blocks(out); block++) {
                    const int64_t channels = std::min<int64_t>(BLOCK, out - block * BLOCK);
                    const Bf16* const weights = u + block * steps * 2 * TILE_SIZE;
                    for (size_t place = 0; place < places.size(); place += GROUP) {
                        const size_t last = std::min(place + GROUP, places.size());
                        for (int64_t step = 0; step < steps; step += TAPS)
                            for (size_t k = place; k < last; k += 2)
                                multiply_blocks(
                                    TAPS, places[k].tile, places[k + 1].tile,
                                    [&](int64_t s) { return offsets[step + s]; }, weights + step * 2 * TILE_SIZE,
                                    weights + (step * 2 + 1) * TILE_SIZE, [](int64_t s) { return s * 2 * TILE_SIZE; },
                                    sums + (k - place) * TILE_SIZE, step > 0);
                        for (size_t k = place; k < last; k++)
                            for (int64_t i = 0; i < places[k].count; i++) {
                                const float* const sum = sums + (k - place) * TILE_SIZE + i * BLOCK;
                                const int64_t of_image = places[k].image * out + block * BLOCK;
                                const int64_t at =
                                    (places[k].image * shape.pixels() + places[k].pixel + i) * out + block * BLOCK;
                                for_each_vector(channels, [&](auto kind, int64_t c) {
                                    using V = decltype(kind);
                                    V value = load<V>(sum + c);
                                    if (bias) value += load<V>(bias + block * BLOCK + c);
                                    if (shift) value += load<V>(shift + of_image + c);
                                    if (residual) value += load<V>(residual + at + c);
                                    store(y + at + c, value);
                                });
                            }
                    }
                }
            }
    }
}

// Layout for the gradient of the weights, a sum over pixels that is computed for a few packed images at a time: x as
// right tiles of pairs of pixels, (images, 3, blocks of 16 channels, pairs, 32), and grad_y as left tiles, (blocks of
// 16 channels, images, steps, tile). The images are split among the threads, whose sums are added at the end. If there
// are too few images for all threads, the output channels are split as well.
struct GradWeights {
    Shape shape;
    int64_t in_tiles, out_tiles;
    int64_t pitch;  // pixels per row, rounded up to whole pairs
    int64_t steps, pairs, images;

    explicit GradWeights(const Shape& shape)
        : shape(shape), in_tiles(2 * blocks(shape.in_channels)), out_tiles(2 * blocks(shape.out_channels)),
          pitch(shape.width + shape.width % 2), steps((shape.height * pitch + TILE_COLUMNS - 1) / TILE_COLUMNS),
          pairs((steps * TILE_COLUMNS + 2 * pitch) / 2),
          images(std::min(shape.batch, std::max<int64_t>(1, 512 / shape.pixels()))) {}

    int64_t image_size() const { return 3 * in_tiles * pairs * TILE_COLUMNS; }
    int64_t sums_size() const { return in_tiles * out_tiles / 4 * TAPS * BLOCK * BLOCK; }

    // Returns 16 channels of two adjacent pixels of a row; zeros outside the image.
    Words16 pair_at(const Bf16* image, int64_t channels, int64_t row, int64_t column, int64_t tile) const {
        const Bf16* const pixel = image + (row * shape.width + column) * channels + tile * 16;
        const int64_t count = row >= 0 && row < shape.height ? channels - tile * 16 : 0;
        return interleave(first_halves(pixel, column >= 0 && column < shape.width ? count : 0),
                          first_halves(pixel + channels, column + 1 < shape.width ? count : 0));
    }

    void pack_image(const Bf16* image, Bf16* to) const {
        for (int shift = 0; shift < 3; shift++)
            for (int64_t tile = 0; tile < in_tiles; tile++) {
                int64_t row = -1, column = shift - 1;
                for (int64_t pair = 0; pair < pairs; pair++, to += TILE_COLUMNS) {
                    const Words16 both = pair_at(image, shape.in_channels, row, column, tile);
                    std::memcpy(to, &both, sizeof both);
                    column += 2;
                    if (column == pitch + shift - 1) row++, column = shift - 1;
                }
            }
    }

    void pack_gradient(const Bf16* image, int64_t tile, Bf16* to) const {
        int64_t row = 0, column = 0;
        for (int64_t step = 0; step < steps; step++, to += TILE_SIZE) {
            Words16 of_pairs[16];
            for (Words16& both : of_pairs) {
                both = pair_at(image, shape.out_channels, row, column, tile);
                column += 2;
                if (column == pitch) row++, column = 0;
            }
            transpose(of_pairs);
            std::memcpy(to, of_pairs, sizeof of_pairs);
        }
    }
};

inline void convolve_grad_weights(const Shape& shape, const Bf16* x, const Bf16* grad_y, float* grad_w) {
    const GradWeights grad(shape);
    const int64_t in = shape.in_channels, out = shape.out_channels, in_blocks = blocks(in), out_blocks = blocks(out);
    const int64_t images = grad.images, groups = (shape.batch + images - 1) / images;
    const int64_t threads = omp_get_max_threads(), splits = std::min(threads, groups);
    const int64_t shares = std::min(out_blocks, threads / splits);
    static thread_local std::vector<float> memory_of_sums;
    float* const all_sums = scratch(memory_of_sums, splits * grad.sums_size());
    std::vector<int64_t> offsets;  // of the right tiles
    for (int64_t i = 0; i < images; i++)
        for (int64_t step = 0; step < grad.steps; step++) offsets.push_back(i * grad.image_size() + step * TILE_SIZE);
#pragma omp parallel for num_threads(splits * shares) schedule(static, 1)
    for (int64_t worker = 0; worker < splits * shares; worker++) {
        const Tiles configured;
        (void)configured;
        const int64_t split = worker % splits, share = worker / splits;
        static thread_local std::vector<float> memory_of_x, memory_of_grad;
        Bf16* const packed_x = tiles_in(memory_of_x, images * grad.image_size());
        Bf16* const packed_grad = tiles_in(memory_of_grad, grad.out_tiles * images * grad.steps * TILE_SIZE);
        float* const sums = all_sums + split * grad.sums_size();
        const int64_t begin = groups * split / splits, end = groups * (split + 1) / splits;
        const int64_t first_block = out_blocks * share / shares, last_block = out_blocks * (share + 1) / shares;
        for (int64_t group = begin; group < end; group++) {
            const int64_t first = group * images, own = std::min(images, shape.batch - first);
            const int64_t steps = own * grad.steps;
            for (int64_t i = 0; i < own; i++)
                grad.pack_image(x + (first + i) * shape.pixels() * in, packed_x + i * grad.image_size());
            for (int64_t tile = 2 * first_block; tile < 2 * last_block; tile++)
                for (int64_t i = 0; i < own; i++)
                    grad.pack_gradient(grad_y + (first + i) * shape.pixels() * out, tile,
                                       packed_grad + (tile * own + i) * grad.steps * TILE_SIZE);
            for (int64_t in_block = 0; in_block < in_blocks; in_block++)
                for (int64_t block = first_block; block < last_block; block++)
                    // The tiles of eight steps stay in the L1 cache for all taps.
                    for (int64_t step = 0; step < steps; step += 8)
                        for (int tap = 0; tap < TAPS; tap++) {
                            const int shift = tap / 3, down = tap % 3;
                            const Bf16* const a = packed_grad + (2 * block * steps + step) * TILE_SIZE;
                            const Bf16* const b =
                                packed_x + (shift * grad.in_tiles + 2 * in_block) * grad.pairs * TILE_COLUMNS +
                                down * grad.pitch / 2 * TILE_COLUMNS;
                            multiply_blocks(
                                std::min<int64_t>(8, steps - step), a, a + steps * TILE_SIZE,
                                [](int64_t s) { return s * TILE_SIZE; }, b, b + grad.pairs * TILE_COLUMNS,
                                [&](int64_t s) { return offsets[step + s]; },
                                sums + ((block * in_blocks + in_block) * TAPS + down * 3 + shift) * BLOCK * BLOCK,
                                group > begin || step > 0);
                        }
        }
    }
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t co = 0; co < out; co++)
        for (int64_t in_block = 0; in_block < in_blocks; in_block++) {
            float taps[TAPS][BLOCK] = {};
            const int64_t block = (co / BLOCK * in_blocks + in_block) * TAPS * BLOCK * BLOCK + co % BLOCK * BLOCK;
            for (int64_t split = 0; split < splits; split++)
                for (int tap = 0; tap < TAPS; tap++)
                    for (int i = 0; i < BLOCK; i++)
                        taps[tap][i] += all_sums[split * grad.sums_size() + block + tap * BLOCK * BLOCK + i];
            for (int64_t i = 0; i < std::min<int64_t>(BLOCK, in - in_block * BLOCK); i++)
                for (int tap = 0; tap < TAPS; tap++)
                    grad_w[(co * in + in_block * BLOCK + i) * TAPS + tap] = taps[tap][i];
        }
}

}  // namespace ddim::direct
