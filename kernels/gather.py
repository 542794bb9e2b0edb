"""The weighted sum of each target pixel's taps, for given coefficients, and its gradients.

Forward and coefficient gradient run over output pixels: per pixel they read K*K coefficients (or C gradients) and the taps of
C channels, and write C values (or K*K). The image gradient runs over source pixels and gathers from the few windows that
hold each of them, so that it needs no atomics.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .constants import Gather, GatherGradImage
from .groups import Batch, Elements, Target
from .launch import (
    Layout,
    Plan,
    accumulator,
    cdiv,
    launch,
    layout_of,
    needs_int64,
    next_power_of_2,
    plan_of,
    stride_arguments,
    tile_columns,
    tile_shape,
)
from .tile import (
    existing_taps,
    first_tap,
    gather,
    gather_backward,
    plane_at,
    tap_offsets,
    tile_column,
    tile_pixels,
    windows_starting_by,
)  # fmt: skip


@triton.jit(
    do_not_specialize=[
        "image_stride_n", "image_stride_c", "image_stride_h", "image_stride_w",
        "coefficients_stride_n", "coefficients_stride_k", "coefficients_stride_h", "coefficients_stride_w",
        "output_stride_n", "output_stride_c", "output_stride_h", "output_stride_w",
        "image_h", "image_w", "out_h", "out_w", "rows",
    ],
    do_not_specialize_on_alignment=["image_ptr", "coefficients_ptr", "output_ptr"],  # crops and parts of larger tensors
)  # fmt: skip
def weighted_gather_kernel(
    image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w,
    # Written instead of read if BACKWARD.
    coefficients_ptr, coefficients_stride_n, coefficients_stride_k, coefficients_stride_h, coefficients_stride_w,
    # Its gradient, read instead of written, if BACKWARD.
    output_ptr, output_stride_n, output_stride_c, output_stride_h, output_stride_w,
    image_h, image_w, out_h, out_w, rows, C: tl.constexpr,
):  # fmt: skip
    """One program takes ``rows`` tiles of output pixels: their weighted sums, or the gradients to their coefficients."""
    images = Batch(image_ptr, image_stride_n, image_stride_c, image_stride_h, image_stride_w, image_h, image_w)
    target = Target(out_h, out_w, 0, 0, 0, 0)
    n, tile_y, tile_x = tile_column(tl.program_id(0), out_h, out_w, rows, C)
    k = tl.arange(0, C.TAPS_PAD)[:, None]
    if C.INDEX64:
        k = k.to(tl.int64)
    image = plane_at(n, images, 1)
    coefficients_ptr += n * coefficients_stride_n
    output_ptr += n * output_stride_n
    for step in range(rows):
        pixels = tile_pixels(tile_y + step, tile_x, out_h, out_w, C)
        mask = pixels.mask[None, :] & (k < C.TAPS * C.TAPS)
        taps = Elements(image.ptr, tap_offsets(pixels, image, target, C), existing_taps(C), image.stride_c)
        coefficient_offsets = pixels.y * coefficients_stride_h + pixels.x * coefficients_stride_w
        coefficient_ptrs = coefficients_ptr + (coefficient_offsets[None, :] + k * coefficients_stride_k)
        output_offsets = pixels.y * output_stride_h + pixels.x * output_stride_w
        output = Elements(output_ptr, output_offsets, pixels.mask, output_stride_c)
        if C.BACKWARD:
            zeros = tl.zeros([C.TAPS_PAD, C.BLOCK_H * C.BLOCK_W], C.ACC)
            tl.store(coefficient_ptrs, gather_backward(taps, output, zeros, C), mask=mask)
        else:
            gather(taps, tl.load(coefficient_ptrs, mask=mask, other=0.0).to(C.ACC), output, None, C)


@triton.jit
def _first_window(i, n_in, n_out, TAPS: tl.constexpr):
    """First target pixel whose window reads source pixel ``i``, edge pixels repeating."""
    return tl.where(i == 0, 0, windows_starting_by(i - TAPS, n_in, n_out, TAPS))


@triton.jit
def _taps_on(i, j, n_in, n_out, TAPS: tl.constexpr):
    """(First, last) tap of target pixel ``j`` that read source pixel ``i``. At the image's edges they may differ.

    If no tap reads it, the first is greater than the last. ``j`` is not before the first window.
    """
    tap = i - first_tap(j, n_in, n_out, TAPS)
    first = tl.where(i == 0, 0, tap)
    last = tl.where(i == n_in - 1, TAPS - 1, tap)
    return tl.where((tap >= 0) | (i == n_in - 1), tl.maximum(first, 0), TAPS), tl.minimum(last, TAPS - 1)


@triton.jit(
    do_not_specialize=[
        "grad_output_stride_n", "grad_output_stride_c", "grad_output_stride_h", "grad_output_stride_w",
        "coefficients_stride_n", "coefficients_stride_k", "coefficients_stride_h", "coefficients_stride_w",
        "grad_image_stride_n", "grad_image_stride_c", "grad_image_stride_h", "grad_image_stride_w",
        "image_h", "image_w", "out_h", "out_w", "windows_h", "windows_w", "chunks", "rows",
    ],
    do_not_specialize_on_alignment=["grad_output_ptr", "coefficients_ptr", "grad_image_ptr"],
)  # fmt: skip
def weighted_gather_grad_image_kernel(
    grad_output_ptr, grad_output_stride_n, grad_output_stride_c, grad_output_stride_h, grad_output_stride_w,
    coefficients_ptr, coefficients_stride_n, coefficients_stride_k, coefficients_stride_h, coefficients_stride_w,
    grad_image_ptr, grad_image_stride_n, grad_image_stride_c, grad_image_stride_h, grad_image_stride_w,
    image_h, image_w, out_h, out_w, windows_h, windows_w, chunks, rows, C: tl.constexpr,
):  # fmt: skip
    """One program takes a chunk of channels at ``rows`` tiles of source pixels, and gathers from the windows that read them."""
    BLOCK: tl.constexpr = C.BLOCK_H * C.BLOCK_W
    pid = tl.program_id(0)
    column_index = pid // chunks
    channel = (pid - column_index * chunks) * C.CHANNELS_PAD + tl.arange(0, C.CHANNELS_PAD)
    channel_mask = channel < C.CHANNELS
    if C.INDEX64:
        channel = channel.to(tl.int64)
    n, tile_y, tile_x = tile_column(column_index, image_h, image_w, rows, C)
    coefficients_ptr += n * coefficients_stride_n
    grad_output_ptr += n * grad_output_stride_n
    grad_image_ptr += n * grad_image_stride_n
    for step in range(rows):
        pixels = tile_pixels(tile_y + step, tile_x, image_h, image_w, C)
        y = pixels.y
        x = pixels.x
        first_row = _first_window(y, image_h, out_h, C.TAPS)
        first_column = _first_window(x, image_w, out_w, C.TAPS)
        # Only tiles on an edge hold pixels that one window reads with several taps.
        on_edge_y = tl.max(((y == 0) | (y == image_h - 1)).to(tl.int32), axis=0)
        on_edge_x = tl.max(((x == 0) | (x == image_w - 1)).to(tl.int32), axis=0)
        repeats_y = 1 + on_edge_y * (C.TAPS - 1)
        repeats_x = 1 + on_edge_x * (C.TAPS - 1)
        grad = tl.zeros([C.CHANNELS_PAD, BLOCK], C.ACC)
        for window_y in range(windows_h):
            row = first_row + window_y
            first_ky, last_ky = _taps_on(y, row, image_h, out_h, C.TAPS)
            for window_x in range(windows_w):
                column = first_column + window_x
                first_kx, last_kx = _taps_on(x, column, image_w, out_w, C.TAPS)
                window_mask = pixels.mask & (row < out_h) & (column < out_w)
                window_mask = window_mask & (first_ky <= last_ky) & (first_kx <= last_kx)
                pixel = row * coefficients_stride_h + column * coefficients_stride_w
                coefficient = tl.zeros([BLOCK], C.ACC)
                for repeat_y in range(repeats_y):
                    ky = first_ky + repeat_y
                    for repeat_x in range(repeats_x):
                        kx = first_kx + repeat_x
                        tap = pixel + (ky * C.TAPS + kx) * coefficients_stride_k
                        tap_mask = window_mask & (ky <= last_ky) & (kx <= last_kx)
                        coefficient += tl.load(coefficients_ptr + tap, mask=tap_mask, other=0.0).to(C.ACC)
                offsets = row * grad_output_stride_h + column * grad_output_stride_w
                offsets = offsets[None, :] + channel[:, None] * grad_output_stride_c
                mask = window_mask[None, :] & channel_mask[:, None]
                grad += coefficient[None, :] * tl.load(grad_output_ptr + offsets, mask=mask, other=0.0).to(C.ACC)
        offsets = (y * grad_image_stride_h + x * grad_image_stride_w)[None, :] + channel[:, None] * grad_image_stride_c
        tl.store(grad_image_ptr + offsets, grad, mask=pixels.mask[None, :] & channel_mask[:, None])


def weighted_gather2d(image: Tensor, coefficients: Tensor, output: Tensor, taps: int) -> None:
    """Write the weighted sums of ``image`` (N, C, H, W) by ``coefficients`` (N, K*K, h, w) into ``output`` (N, C, h, w)."""
    _launch(image, coefficients, output, taps, backward=False)


def weighted_gather2d_backward(
    grad_output: Tensor,
    image: Tensor,
    coefficients: Tensor,
    grad_image: Tensor | None,
    grad_coefficients: Tensor | None,
    taps: int,
) -> None:
    """Write the gradients of :func:`weighted_gather2d` into those tensors that are given."""
    if grad_coefficients is not None:
        _launch(image, grad_coefficients, grad_output, taps, backward=True)
    if grad_image is not None:
        grad_image_gather(grad_output, coefficients, grad_image, taps)


def _launch(image: Tensor, coefficients: Tensor, output: Tensor, taps: int, backward: bool) -> None:
    sums = weighted_gather_plan(layout_of(image), layout_of(coefficients), layout_of(output), image.dtype, taps, backward)
    tensors = {"image_ptr": image, "coefficients_ptr": coefficients, "output_ptr": output}
    launch(weighted_gather_kernel, sums, image.device, tensors)


@functools.lru_cache(maxsize=1024)
def weighted_gather_plan(
    image: Layout, coefficients: Layout, output: Layout, dtype: torch.dtype, taps: int, backward: bool
) -> Plan:
    batch, channels, out_h, out_w = output.shape
    image_h, image_w = image.shape[2:]
    tile = tile_shape(32)
    programs, rows = tile_columns(batch, out_h, out_w, tile)
    constants = Gather(
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        INDEX64=needs_int64([(image_h, out_h), (image_w, out_w)], [image, coefficients, output]),
        ACC=accumulator(dtype),
        CHANNELS=channels,
        TAPS=taps,
        TAPS_PAD=next_power_of_2(taps * taps),
        BACKWARD=backward,
    )
    return plan_of(
        programs,
        **stride_arguments("image", image.stride),
        **stride_arguments("coefficients", coefficients.stride, "nkhw"),
        **stride_arguments("output", output.stride),
        image_h=image_h,
        image_w=image_w,
        out_h=out_h,
        out_w=out_w,
        rows=rows,
        C=constants,
        num_warps=1,
    )


def grad_image_gather(grad_output: Tensor, coefficients: Tensor, grad_image: Tensor, taps: int) -> None:
    """Write the gradient to the image, for coefficients (N, K*K, h, w), into ``grad_image`` (N, C, H, W)."""
    sums = weighted_gather_grad_image_plan(*map(layout_of, (grad_output, coefficients, grad_image)), grad_image.dtype, taps)
    tensors = {"grad_output_ptr": grad_output, "coefficients_ptr": coefficients, "grad_image_ptr": grad_image}
    launch(weighted_gather_grad_image_kernel, sums, grad_image.device, tensors)


@functools.lru_cache(maxsize=1024)
def weighted_gather_grad_image_plan(
    grad_output: Layout, coefficients: Layout, grad_image: Layout, dtype: torch.dtype, taps: int
) -> Plan:
    batch, channels, image_h, image_w = grad_image.shape
    out_h, out_w = grad_output.shape[2:]
    channels_pad = min(16, next_power_of_2(channels))
    chunks = cdiv(channels, channels_pad)
    tile = tile_shape(32)
    columns, rows = tile_columns(batch, image_h, image_w, tile)
    constants = GatherGradImage(
        BLOCK_H=tile[0],
        BLOCK_W=tile[1],
        INDEX64=needs_int64([(image_h, out_h), (image_w, out_w)], [grad_output, coefficients, grad_image]),
        ACC=accumulator(dtype),
        CHANNELS=channels,
        CHANNELS_PAD=channels_pad,
        TAPS=taps,
    )
    return plan_of(
        columns * chunks,
        **stride_arguments("grad_output", grad_output.stride),
        **stride_arguments("coefficients", coefficients.stride, "nkhw"),
        **stride_arguments("grad_image", grad_image.stride),
        image_h=image_h,
        image_w=image_w,
        out_h=out_h,
        out_w=out_w,
        windows_h=_most_windows(image_h, out_h, taps),
        windows_w=_most_windows(image_w, out_w, taps),
        chunks=chunks,
        rows=rows,
        C=constants,
        num_warps=1,
    )


def _most_windows(n_in: int, n_out: int, taps: int) -> int:
    """Upper bound on the windows that read one source pixel, at the image's edges too."""
    return min(n_out, cdiv(taps * n_out, n_in))
