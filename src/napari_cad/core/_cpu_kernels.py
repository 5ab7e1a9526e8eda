"""What a CPU computes for the student, one thread and one strip of rows at a time.

Maps are channels last, (rows, width, channels), float32, contiguous. All kernels leave the
interpreter alone while they run, so that a thread per core can take a strip each.

The 3×3 convolution is Winograd's F(4, 3) along y (Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016, for one axis): four rows of the result are a sum over six
products, one for each of six *points*, where the plain sum has twelve. Along x and over the
channels the sum is taken as it stands. So it multiplies half as often, and what it loses is a
little more than the last bit: the factors of the transforms are 8 at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from napari_cad.core._vectors import LANES, every, lane_sum, larger, load, load_one, store
from napari_cad.core.stored_affinity import LEVELS

if TYPE_CHECKING:
    import numpy.typing as npt

    F32 = npt.NDArray[np.float32]
    I64 = npt.NDArray[np.int64]
    U8 = npt.NDArray[np.uint8]

#: Rows of the result that are made at once, and points they are made of.
GROUP, POINTS = 4, 6

#: Channels of one block of weights: one vector or two.
BLOCK = 16

#: Pixels that go through all steps together, so that they stay in the innermost caches; a multiple
#: of those that `_multiply` takes at once.
_CHUNK = 96

#: From the three rows of a kernel to the weights of the six points.
_KERNEL_TO_POINTS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


def padded(channels: int) -> int:
    """Channels with what fills the last block."""
    return -(-channels // BLOCK) * BLOCK


def in_blocks(weight: F32) -> F32:
    """Order weights as `_multiply` reads them.

    Parameters
    ----------
    weight : ndarray, shape (..., depth, channels)
        One matrix, or several.

    Returns
    -------
    ndarray, shape (..., blocks × depth × BLOCK), float32
        Blocks of channels; those that are missing are zero.
    """
    *points, depth, channels = weight.shape
    blocks = np.zeros((*points, depth, padded(channels)), np.float32)
    blocks[..., :channels] = weight
    blocks = np.moveaxis(blocks.reshape(*points, depth, -1, BLOCK), -2, -3)
    return np.ascontiguousarray(blocks).reshape(*points, -1)


def weights_of_points(weight: F32) -> F32:
    """Transform the weights of a 3×3 convolution for `convolve`.

    Parameters
    ----------
    weight : ndarray, shape (out, in, 3, 3), float32
        As torch has them: cross-correlation.

    Returns
    -------
    ndarray, shape (6, n), float32
    """
    points = np.einsum("py,oiyx->pxio", _KERNEL_TO_POINTS, weight.astype(np.float64))
    return in_blocks(points.reshape(POINTS, -1, len(weight)))


def padded_bias(bias: F32) -> F32:
    """Bias of all blocks; zero where there is no channel."""
    return np.pad(bias, (0, padded(len(bias)) - len(bias)))


@numba.njit(cache=True, nogil=True)
def convolve(x: F32, first: int, weights: F32, bias: F32, out: F32) -> None:
    """3×3 convolution, bias and ReLU.

    Parameters
    ----------
    x : ndarray, shape (n, W, C), float32
        What lies beyond it is zero.
    first : int
        The row of `x` in the middle of the kernel for the first row of `out`.
    weights : ndarray, float32
        Of `weights_of_points`.
    bias : ndarray, float32
        Of `padded_bias`.
    out : ndarray, shape (rows, W, C'), float32
        Written on.
    """
    _, width, n_in = x.shape
    rows, n_padded = len(out), len(bias)
    points = np.zeros((POINTS, (_CHUNK + 2) * n_in + LANES), np.float32)
    products = np.empty((POINTS, _CHUNK * n_padded), np.float32)
    for top in range(0, rows, GROUP):
        for left in range(0, width, _CHUNK):
            n = min(_CHUNK, width - left)
            _read_window(x, first + top - 1, left - 1, n + 2, points)
            _rows_to_points(points, (n + 2) * n_in)
            for point in range(POINTS):
                _multiply(points[point], n_in, 3 * n_in, weights[point], products[point], n)
            _points_to_rows(products, bias, n)
            for row in range(min(GROUP, rows - top)):
                _copy_channels(products[row], n_padded, out[top + row], left, n)


@numba.njit(cache=True, nogil=True)
def _read_window(x: F32, top: int, left: int, n: int, window: F32) -> None:
    """Copy `n` pixels of each of some rows, with zeros for those that lie beyond `x`."""
    height, width, channels = x.shape
    start, stop = max(left, 0), min(left + n, width)
    for row in range(len(window)):
        if not 0 <= top + row < height:
            window[row] = 0
            continue
        first, n_numbers = (start - left) * channels, (stop - start) * channels
        window[row, :first] = 0
        _copy(x[top + row].reshape(-1), start * channels, window[row], first, n_numbers)
        window[row, first + n_numbers :] = 0


@numba.njit(cache=True, nogil=True)
def _copy(source: F32, first: int, target: F32, target_first: int, n: int) -> None:
    """Copy `n` numbers from one flat array to another."""
    whole = n // LANES * LANES
    for i in range(0, whole, LANES):
        store(target, target_first + i, load(source, first + i))
    for i in range(whole, n):
        target[target_first + i] = source[first + i]


@numba.njit(cache=True, nogil=True)
def _copy_channels(source: F32, n_padded: int, target: F32, left: int, n: int) -> None:
    """Copy `n` pixels to a row from `left` on, without the channels that fill the last block."""
    channels, flat = target.shape[1], target.reshape(-1)
    if channels == n_padded:
        _copy(source, 0, flat, left * channels, n * channels)
        return
    for pixel in range(n):
        _copy(source, pixel * n_padded, flat, (left + pixel) * channels, channels)


@numba.njit(cache=True, nogil=True)
def _rows_to_points(rows: F32, n: int) -> None:
    """Transform the first `n` numbers of six rows in place."""
    r0, r1, r2, r3, r4, r5 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5]
    for i in range(0, n, LANES):
        d0, d1, d2 = load(r0, i), load(r1, i), load(r2, i)
        d3, d4, d5 = load(r3, i), load(r4, i), load(r5, i)
        even, odd = d4 - 4 * d2, d3 - 4 * d1
        even2, odd2 = d4 - d2, 2 * (d3 - d1)
        store(r0, i, 4 * d0 - 5 * d2 + d4)
        store(r1, i, even + odd)
        store(r2, i, even - odd)
        store(r3, i, even2 + odd2)
        store(r4, i, even2 - odd2)
        store(r5, i, 4 * d1 - 5 * d3 + d5)


@numba.njit(cache=True, nogil=True)
def _points_to_rows(products: F32, bias: F32, n: int) -> None:
    """Transform the products of `n` pixels to four rows, in place of the first four points."""
    p0, p1, p2 = products[0], products[1], products[2]
    p3, p4, p5 = products[3], products[4], products[5]
    zero = every(np.float32(0))
    for pixel in range(n):
        for c in range(0, len(bias), LANES):
            i, b = pixel * len(bias) + c, load(bias, c)
            m1, m2, m3, m4 = load(p1, i), load(p2, i), load(p3, i), load(p4, i)
            even, odd = m1 + m2, m1 - m2
            even2, odd2 = m3 + m4, m3 - m4
            store(p0, i, larger(b + load(p0, i) + even + even2, zero))
            store(p1, i, larger(b + odd + 2 * odd2, zero))
            store(p2, i, larger(b + even + 4 * even2, zero))
            store(p3, i, larger(b + odd + 8 * odd2 + load(p5, i), zero))


@numba.njit(cache=True, nogil=True)
def _multiply_tile_in_halves(
    x: F32, at: int, step: int, depth: int, weights: F32, block: int, out: F32, o: int, stride: int
) -> None:
    """Multiply six pixels with a block of weights, of two vectors: twelve sums in registers."""
    at1, at2, at3, at4, at5 = at + step, at + 2 * step, at + 3 * step, at + 4 * step, at + 5 * step
    a0 = a1 = b0 = b1 = c0 = c1 = d0 = d1 = e0 = e1 = f0 = f1 = every(np.float32(0))
    for k in range(depth):
        w0, w1 = load(weights, block + BLOCK * k), load(weights, block + BLOCK * k + LANES)
        v = load_one(x, at + k)
        a0, a1 = a0 + v * w0, a1 + v * w1
        v = load_one(x, at1 + k)
        b0, b1 = b0 + v * w0, b1 + v * w1
        v = load_one(x, at2 + k)
        c0, c1 = c0 + v * w0, c1 + v * w1
        v = load_one(x, at3 + k)
        d0, d1 = d0 + v * w0, d1 + v * w1
        v = load_one(x, at4 + k)
        e0, e1 = e0 + v * w0, e1 + v * w1
        v = load_one(x, at5 + k)
        f0, f1 = f0 + v * w0, f1 + v * w1
    store(out, o, a0)
    store(out, o + LANES, a1)
    o += stride
    store(out, o, b0)
    store(out, o + LANES, b1)
    o += stride
    store(out, o, c0)
    store(out, o + LANES, c1)
    o += stride
    store(out, o, d0)
    store(out, o + LANES, d1)
    o += stride
    store(out, o, e0)
    store(out, o + LANES, e1)
    o += stride
    store(out, o, f0)
    store(out, o + LANES, f1)


@numba.njit(cache=True, nogil=True)
def _multiply_tile_whole(
    x: F32, at: int, step: int, depth: int, weights: F32, block: int, out: F32, o: int, stride: int
) -> None:
    """Multiply twelve pixels with a block of weights, of one vector: twelve sums in registers."""
    at1, at2, at3, at4, at5 = at + step, at + 2 * step, at + 3 * step, at + 4 * step, at + 5 * step
    at6, second = at + 6 * step, o + 6 * stride
    at7, at8, at9 = at6 + step, at6 + 2 * step, at6 + 3 * step
    at10, at11 = at6 + 4 * step, at6 + 5 * step
    a = b = c = d = e = f = g = h = p = q = r = s = every(np.float32(0))
    for k in range(depth):
        w = load(weights, block + BLOCK * k)
        a = a + load_one(x, at + k) * w
        b = b + load_one(x, at1 + k) * w
        c = c + load_one(x, at2 + k) * w
        d = d + load_one(x, at3 + k) * w
        e = e + load_one(x, at4 + k) * w
        f = f + load_one(x, at5 + k) * w
        g = g + load_one(x, at6 + k) * w
        h = h + load_one(x, at7 + k) * w
        p = p + load_one(x, at8 + k) * w
        q = q + load_one(x, at9 + k) * w
        r = r + load_one(x, at10 + k) * w
        s = s + load_one(x, at11 + k) * w
    store(out, o, a)
    store(out, o + stride, b)
    store(out, o + 2 * stride, c)
    store(out, o + 3 * stride, d)
    store(out, o + 4 * stride, e)
    store(out, o + 5 * stride, f)
    store(out, second, g)
    store(out, second + stride, h)
    store(out, second + 2 * stride, p)
    store(out, second + 3 * stride, q)
    store(out, second + 4 * stride, r)
    store(out, second + 5 * stride, s)


#: What fits the processor, and how many pixels it takes at once.
_multiply_tile, PIXELS = (
    (_multiply_tile_whole, 12) if LANES == BLOCK else (_multiply_tile_in_halves, 6)
)


@numba.njit(cache=True, nogil=True)
def _multiply(x: F32, step: int, depth: int, weights: F32, out: F32, n: int) -> None:
    """Multiply `depth` numbers from every `step`-th on with a matrix, for `n` pixels.

    Parameters
    ----------
    x : ndarray, flat
        Numbers i·step to i·step + depth belong to pixel i.
    step : int
        From one pixel to the next.
    depth : int
        Numbers of a pixel.
    weights : ndarray, flat
        Of `in_blocks`.
    out : ndarray, flat
        Written on: pixel by pixel, all channels with those that fill the last block. Holds `PIXELS`
        pixels at least, as does `x`; where `n` is less, the others hold nothing of use.
    n : int
        Pixels.
    """
    channels = len(weights) // depth
    for c in range(0, channels, BLOCK):
        for start in range(0, n, PIXELS):
            pixel = min(start, max(n - PIXELS, 0))  # the last ones may be made again in part
            _multiply_tile(
                x,
                pixel * step,
                step,
                depth,
                weights,
                c * depth,
                out,
                pixel * channels + c,
                channels,
            )


@numba.njit(cache=True, nogil=True)
def project(x: F32, weights: F32, bias: F32, out: F32) -> None:
    """1×1 convolution and bias.

    Parameters
    ----------
    x : ndarray, shape (rows, W, C), float32
        W is `PIXELS` at least.
    weights : ndarray, float32
        Of `in_blocks`.
    bias : ndarray, float32
        Of `padded_bias`.
    out : ndarray, shape (rows, W, padded(C')), float32
        Written on; channels that there are not become zero.
    """
    rows, width, depth = x.shape
    n_out = len(bias)
    for row in range(rows):
        made = out[row].reshape(-1)
        _multiply(x[row].reshape(-1), depth, depth, weights, made, width)
        for i in range(0, width * n_out, n_out):
            for c in range(0, n_out, LANES):
                store(made, i + c, load(made, i + c) + load(bias, c))


@numba.njit(cache=True, nogil=True)
def halve(x: F32, out: F32, first_channel: int) -> None:
    """Maximum of 2×2 pixels.

    Parameters
    ----------
    x : ndarray, shape (2 rows, 2 W, C), float32
        A map.
    out : ndarray, shape (rows, W, C'), float32
        Written on, from `first_channel` on.
    first_channel : int
        Where those of `x` begin.
    """
    rows, width, stride = out.shape
    channels = x.shape[2]
    whole = channels // LANES * LANES
    for row in range(rows):
        upper, lower, made = (
            x[2 * row].reshape(-1),
            x[2 * row + 1].reshape(-1),
            out[row].reshape(-1),
        )
        for pixel in range(width):
            left = 2 * pixel * channels
            right, o = left + channels, pixel * stride + first_channel
            for c in range(0, whole, LANES):
                above = larger(load(upper, left + c), load(upper, right + c))
                below = larger(load(lower, left + c), load(lower, right + c))
                store(made, o + c, larger(above, below))
            for c in range(whole, channels):
                above = max(upper[left + c], upper[right + c])
                made[o + c] = max(above, max(lower[left + c], lower[right + c]))


@numba.njit(cache=True, nogil=True)
def double(
    x: F32, y_low: I64, y_weight: F32, x_low: I64, x_weight: F32, out: F32, first_channel: int
) -> None:
    """Up-sample by two, bilinearly.

    Parameters
    ----------
    x : ndarray, shape (h, w, C), float32
        A map.
    y_low : ndarray, shape (rows,), int64
        For every row of `out` the row of `x` above it; the one below it is the next, if there is.
    y_weight : ndarray, shape (rows,), float32
        Weight of the one below it.
    x_low, x_weight : ndarray, shape (W,)
        The same for columns.
    out : ndarray, shape (rows, W, C'), float32
        Written on, from `first_channel` on.
    first_channel : int
        Where those of `x` begin.
    """
    height, width, channels = x.shape
    rows, columns, stride = out.shape
    between = np.empty(width * channels, np.float32)
    for row in range(rows):
        above = x[y_low[row]].reshape(-1)
        below = x[min(y_low[row] + 1, height - 1)].reshape(-1)
        _mix(above, 0, below, 0, y_weight[row], between, 0, len(between))
        made = out[row].reshape(-1)
        for column in range(columns):
            left = x_low[column] * channels
            right = min(x_low[column] + 1, width - 1) * channels
            o = column * stride + first_channel
            _mix(between, left, between, right, x_weight[column], made, o, channels)


@numba.njit(cache=True, nogil=True)
def _mix(
    a: F32, a_first: int, b: F32, b_first: int, weight: float, out: F32, first: int, n: int
) -> None:
    """Write (1 − weight) a + weight b, for `n` numbers from the given ones on."""
    whole = n // LANES * LANES
    rest = np.float32(1) - weight
    for i in range(0, whole, LANES):
        store(out, first + i, rest * load(a, a_first + i) + weight * load(b, b_first + i))
    for i in range(whole, n):
        out[first + i] = rest * a[a_first + i] + weight * b[b_first + i]


@numba.njit(cache=True, nogil=True)
def affinities(embedding_prev: F32, embedding: F32, z: U8, y: U8, x: U8) -> None:
    """Affinities of a strip of a pair of sections, as they are stored.

    Parameters
    ----------
    embedding_prev, embedding : ndarray, shape (rows, W, padded(E)), float32
        Of `project`; normalised in place.
    z, y, x : ndarray, shape (rows, W), uint8
        Written on: what `affinity.quantise` makes of `affinity.pair_affinities`. Left as they are:
        the first row of `y` and the first column of `x`.
    """
    _normalise(embedding_prev)
    _normalise(embedding)
    for row in range(len(embedding)):
        compare(embedding_prev[row], embedding[row], z[row])
        compare(embedding[row, :-1], embedding[row, 1:], x[row, 1:])
        if row > 0:
            compare(embedding[row - 1], embedding[row], y[row])


@numba.njit(cache=True, nogil=True)
def _normalise(embedding: F32) -> None:
    """Divide every pixel by its length, in place."""
    flat, channels = embedding.reshape(-1), embedding.shape[2]
    for i in range(0, len(flat), channels):
        length = np.sqrt(_dot(flat, i, flat, i, channels))
        factor = np.float32(1) / max(length, np.float32(1e-12))
        for c in range(i, i + channels, LANES):
            store(flat, c, factor * load(flat, c))


@numba.njit(cache=True, nogil=True)
def compare(a: F32, b: F32, out: U8) -> None:
    """Affinities of one row of pixels to another, as they are stored.

    Parameters
    ----------
    a, b : ndarray, shape (n, padded(E)), float32
        Of unit length.
    out : ndarray, shape (n,), uint8
        Written on: the cosines, cut off at zero.
    """
    channels = a.shape[1]
    first, second = a.reshape(-1), b.reshape(-1)
    for pixel in range(len(out)):
        i = pixel * channels
        level = np.float32(LEVELS) * _dot(first, i, second, i, channels)
        out[pixel] = np.uint8(min(max(level, np.float32(0)), np.float32(LEVELS - 1)))


@numba.njit(cache=True, nogil=True)
def _dot(a: F32, a_first: int, b: F32, b_first: int, n: int) -> float:
    total = every(np.float32(0))
    for i in range(0, n, LANES):
        total = total + load(a, a_first + i) * load(b, b_first + i)
    made: float = lane_sum(total)
    return made
