"""Helpers of all kernels: the pixels of a tile, the taps of a pixel, and their weighted sum."""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from .. import geometry
from .groups import Pixels, Plane
from .launch import INTERPRETED


def _device_function(function: Callable[..., Any]) -> Any:
    """The one definition of the geometry, for use in kernels; the interpreter runs it as it stands."""
    return function if INTERPRETED else triton.jit(function)


_first_tap = _device_function(geometry.first_tap)
_bin_first = _device_function(geometry.bin_first)
_bin_last = _device_function(geometry.bin_last)
distance_numerator = _device_function(geometry.distance_numerator)
windows_starting_by = _device_function(geometry.windows_starting_by)


@triton.jit
def unsigned(x):
    return x.to(tl.uint64) if x.dtype == tl.int64 else x.to(tl.uint32)


@triton.jit
def _signed(x):
    return x.to(tl.int64) if x.dtype == tl.uint64 else x.to(tl.int32)


@triton.jit
def first_tap(j, n_in, n_out, TAPS: tl.constexpr):
    """First source pixel that target pixel ``j`` reads. Its dividend is not negative, and unsigned division is cheaper."""
    return _signed(_first_tap(unsigned(j), unsigned(n_in), unsigned(n_out), TAPS))


@triton.jit
def bin_first(j, n_in, n_out):
    """First source pixel that overlaps bin ``j``."""
    return _signed(_bin_first(unsigned(j), unsigned(n_in), unsigned(n_out)))


@triton.jit
def bin_last(j, n_in, n_out):
    """Last source pixel that overlaps bin ``j``."""
    return _signed(_bin_last(unsigned(j), unsigned(n_in), unsigned(n_out)))


@triton.jit
def tile_column(pid, height, width, rows, C: tl.constexpr):
    """(Image, first row of tiles, column of tiles) of a program that takes ``rows`` tiles, one below the other."""
    tiles_w = tl.cdiv(width, C.BLOCK_W)
    columns_h = tl.cdiv(tl.cdiv(height, C.BLOCK_H), rows)
    tile_x = pid % tiles_w
    column_y = pid // tiles_w
    n = column_y // columns_h
    return n.to(tl.int64), (column_y - n * columns_h) * rows, tile_x


@triton.jit
def tile_pixels(tile_y, tile_x, height, width, C: tl.constexpr):
    """The pixels of a tile of a plane of ``height`` x ``width`` pixels; the mask says which are in bounds.

    Out of bounds, rows and columns repeat the last, whose arithmetic is as safe as any pixel's.
    """
    return walked_pixels(tile_y, 0, 1, tile_x, height, width, C)


@triton.jit
def walked_pixels(tile_y, step, rows, tile_x, height, width, C: tl.constexpr):
    """As :func:`tile_pixels`, step ``step`` of a tile whose rows each go down ``rows`` rows of the plane, one after the other.

    Together they cover what ``rows`` tiles from ``tile_y`` on do.
    """
    offs = tl.arange(0, C.BLOCK_H * C.BLOCK_W)
    row = tile_y * C.BLOCK_H + step
    if C.BLOCK_H > 1:
        row += (offs // C.BLOCK_W) * rows
    x = tile_x * C.BLOCK_W + offs % C.BLOCK_W
    if C.INDEX64:
        row = row.to(tl.int64)
        x = x.to(tl.int64)
    row_mask = row < height
    row = tl.minimum(row, height - 1)
    return Pixels(row + tl.zeros_like(x), tl.minimum(x, width - 1), row_mask & (x < width), row, row_mask)


@triton.jit
def target_pixels(pixels, target):
    """The same pixels as pixels of ``target``, a part of the result; the mask says which lie inside.

    Those outside take the nearest one's row and column.
    """
    row = pixels.row
    x = pixels.x
    top = target.top
    left = target.left
    row_mask = pixels.row_mask & (row >= top) & (row < top + target.h)
    inside = row_mask & (x >= left) & (x < left + target.w)
    row = tl.minimum(tl.maximum(row - top, 0), target.h - 1)
    x = tl.minimum(tl.maximum(x - left, 0), target.w - 1)
    return Pixels(row + tl.zeros_like(x), x, inside, row, row_mask)


@triton.jit
def plane_at(n, batch, ALIGN: tl.constexpr):
    """Image ``n`` of a batch whose strides are in units of ALIGN."""
    ptr = batch.ptr + n * batch.stride_n * ALIGN
    return Plane(ptr, batch.stride_c, batch.stride_h, batch.stride_w, batch.h, batch.w)


@triton.jit
def channel_stride(image, C: tl.constexpr):
    """From one channel of an image to the next: known where channels lie side by side, so that loads share an address."""
    return 1 if C.CHANNELS_LAST else image.stride_c


@triton.jit
def tap_offsets(pixels, image, target, C: tl.constexpr):
    """Offsets in one image of every tap of the pixels: [TAPS_PAD, BLOCK], edge pixels repeating."""
    k = tl.arange(0, C.TAPS_PAD)
    row = first_tap(pixels.y, image.h, target.h, C.TAPS)[None, :] + (k // C.TAPS)[:, None]
    column = first_tap(pixels.x, image.w, target.w, C.TAPS)[None, :] + (k % C.TAPS)[:, None]
    row = tl.minimum(tl.maximum(row, 0), image.h - 1)
    column = tl.minimum(tl.maximum(column, 0), image.w - 1)
    return row * image.stride_h + column * image.stride_w


@triton.jit
def existing_taps(C: tl.constexpr):
    """The mask for loads of taps: [TAPS_PAD, BLOCK], or None where K² is a power of two.

    It does not depend on pixels: those past an end repeat the last one, whose taps can be loaded as well.
    """
    mask = None
    if C.TAPS_PAD > C.TAPS * C.TAPS:
        is_tap = (tl.arange(0, C.TAPS_PAD) < C.TAPS * C.TAPS)[:, None]
        mask = tl.broadcast_to(is_tap, [C.TAPS_PAD, C.BLOCK_H * C.BLOCK_W])
    return mask


PIXELS_FIRST = tl.constexpr(tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 7))
"""Whether Triton puts the first axis of a load along threads where both are alike to it, instead of the last."""


@triton.jit
def load_along_pixels(pointers, mask):
    """Load a tile [n, BLOCK], or zeros where not ``mask`` if there is one, neighbouring pixels in neighbouring threads."""
    if mask is None:
        return tl.trans(tl.load(tl.trans(pointers))) if PIXELS_FIRST else tl.load(pointers)
    elif PIXELS_FIRST:
        return tl.trans(tl.load(tl.trans(pointers), mask=tl.trans(mask), other=0))
    else:
        return tl.load(pointers, mask=mask, other=0)


@triton.jit
def load_along_last(pointers):
    """Load a tile of three axes, neighbours along the last in neighbouring threads."""
    if PIXELS_FIRST:
        return tl.permute(tl.load(tl.permute(pointers, (2, 1, 0))), (2, 1, 0))
    else:
        return tl.load(pointers)


@triton.jit
def is_narrower(pointer, OPERAND: tl.constexpr):
    """Whether what ``pointer`` points to has fewer bits than operands of matrix products."""
    return pointer.dtype.element_ty.primitive_bitwidth < OPERAND.primitive_bitwidth


@triton.jit
def is_finite(pointer):
    """Whether all that ``pointer`` can point to is finite."""
    return pointer.dtype.element_ty.is_int()


@triton.jit
def forget_loads(x):
    """``x`` [m, n] itself, for operands of matrix products that derive from narrower loads or, in half precision, from a join.

    Triton lays out operands for the fewest bits that anything they derive from was loaded in, however far back, and for half of
    those behind a join. That may be for more of the inner dimension than our 16: half-precision products then count some
    elements several times and others never, and float64 products do not compile. A sum over one element is where the search
    ends, and no instruction by itself; but Triton may move tiles to other layouts around it, so it stands only where needed.
    """
    return tl.sum(x[:, :, None], axis=2).to(x.dtype)


@tl.core.builtin
def _for_nvidia(_semantic: Any = None) -> tl.constexpr:
    """Whether a kernel is being compiled for one of NVIDIA's GPUs."""
    return tl.constexpr(_semantic.builder.options.backend_name == "cuda")


for_nvidia = (lambda: False) if INTERPRETED else _for_nvidia


@triton.jit
def packed(low, high, half: tl.constexpr):
    """Two tiles, rounded to the dtype ``half``, as pairs in integers. A loop would carry halves in a register each."""
    if for_nvidia() and low.dtype == tl.float32 and half == tl.bfloat16:  # one instruction; two halves would take three
        return tl.inline_asm_elementwise("cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [low, high], tl.int32, True, 1)
    elif for_nvidia() and low.dtype == tl.float32:
        return tl.inline_asm_elementwise("cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [low, high], tl.int32, True, 1)
    else:
        low = low.to(half).to(tl.uint16, bitcast=True).to(tl.int32)
        return low | (high.to(half).to(tl.uint16, bitcast=True).to(tl.int32) << 16)


@triton.jit
def unpacked(pairs, half: tl.constexpr):
    """What :func:`packed` made of tiles [n, ...], low and high in turns: [2 n, ...]."""
    which = tl.arange(0, 2)[None, :, None, None]
    halves = (pairs[:, None, :, :] >> (16 * which)).to(tl.uint16).to(half, bitcast=True)
    return tl.reshape(halves, [2 * pairs.shape[0], pairs.shape[1], pairs.shape[2]])


@triton.jit
def per_channel(values: tl.constexpr, channel, ACC: tl.constexpr):
    """The one of ``values`` for each ``channel``. Where channels are known when compiling, this costs nothing."""
    result = tl.full(channel.shape, values[0], ACC)
    for c in tl.static_range(1, len(values)):
        result = tl.where(channel == c, tl.full(channel.shape, values[c], ACC), result)
    return result


@triton.jit
def rounded(product):
    """``product``, rounded before anything is added to it.

    A compiler may fuse a product with an addition, and then rounds once. Whether it does may differ between kernels. Threads
    that repeat a sum across threads may each fuse a product of their own: they get other bits than the rest, and write them to
    the same place. A product plus zero is one instruction, too.
    """
    return product + 0.0


@triton.jit
def sum_over_taps(products, C: tl.constexpr):
    """Sum of [TAPS_PAD, BLOCK] over taps, the same in all threads that compute it: [BLOCK]."""
    if C.BLOCK_H * C.BLOCK_W <= 16 * C.WARPS:  # more threads than pixels: taps lie along threads, too
        products = rounded(products)
    return tl.sum(products, axis=0)


@triton.jit
def gather(taps, coefficients, output, inside, C: tl.constexpr):
    """Store the sum of each pixel's taps, weighted by ``coefficients`` [TAPS_PAD, BLOCK], channel by channel.

    FACTORS and SUMMANDS, one a channel, normalise it, if there are any. Pixels that are not ``inside`` become FILL; if that is
    None, all are inside.
    """
    image_ptr = taps.ptr
    output_ptr = output.ptr
    # Without a loop, all channels' loads can be in flight together: before any store, which none may overtake.
    if C.CHANNELS <= 4 or len(C.FACTORS) > 0:
        totals = ()
        for c in tl.static_range(C.CHANNELS):
            image = load_along_pixels(image_ptr + taps.offsets, taps.mask)
            total = sum_over_taps(coefficients * image.to(coefficients.dtype), C)
            if len(C.FACTORS) > 0:
                total = tl.fma(total, tl.full([1], C.FACTORS[c], total.dtype), tl.full([1], C.SUMMANDS[c], total.dtype))
            if inside is not None:
                total = tl.where(inside, total, tl.full([1], C.FILL, total.dtype))
            totals = totals + (total,)  # type: ignore[assignment]  # grows, as only compiling may
            image_ptr += taps.stride_c
        for c in tl.static_range(C.CHANNELS):
            tl.store(output_ptr + output.offsets, totals[c], mask=output.mask)
            output_ptr += output.stride_c
    else:
        for _ in range(C.CHANNELS):
            image = load_along_pixels(image_ptr + taps.offsets, taps.mask)
            total = sum_over_taps(coefficients * image.to(coefficients.dtype), C)
            if inside is not None:
                total = tl.where(inside, total, tl.full([1], C.FILL, total.dtype))
            tl.store(output_ptr + output.offsets, total, mask=output.mask)
            image_ptr += taps.stride_c
            output_ptr += output.stride_c


@triton.jit
def gather_backward(taps, grad_output, zeros, C: tl.constexpr):
    """Gradient of :func:`gather` to its coefficients: the sum over channels of gradient times tap, shaped as ``zeros``.

    The channels' summands are left out. They add the same to all taps, and a softmax's gradient does not depend on that.
    """
    image_ptr = taps.ptr
    grad_ptr = grad_output.ptr
    total = zeros
    narrow: tl.constexpr = image_ptr.dtype.element_ty.primitive_bitwidth <= 16
    # Without a loop, all channels' loads can be in flight together, if registers hold them.
    if (C.CHANNELS <= 4 and narrow) or len(C.FACTORS) > 0:
        for c in tl.static_range(C.CHANNELS):
            image = load_along_pixels(image_ptr + taps.offsets, taps.mask).to(zeros.dtype)
            grad = tl.load(grad_ptr + grad_output.offsets, mask=grad_output.mask, other=0.0).to(zeros.dtype)
            if len(C.FACTORS) > 0:
                grad *= tl.full([1], C.FACTORS[c], zeros.dtype)
            total += grad[None, :] * image
            image_ptr += taps.stride_c
            grad_ptr += grad_output.stride_c
    else:
        for _ in range(C.CHANNELS):
            image = load_along_pixels(image_ptr + taps.offsets, taps.mask).to(zeros.dtype)
            grad = tl.load(grad_ptr + grad_output.offsets, mask=grad_output.mask, other=0.0).to(zeros.dtype)
            total += grad[None, :] * image
            image_ptr += taps.stride_c
            grad_ptr += grad_output.stride_c
    return total
