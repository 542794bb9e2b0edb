"""What is measured: sizes, networks, dtypes and layouts by name, the bytes each has to move, and the order of measuring."""

import dataclasses
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MODES = ("forward", "forward+backward")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation that normalise uint8 images: ImageNet's."""


@dataclass(frozen=True)
class Workload:
    """One problem: a batch of images, the size wanted, and the network that resizes them."""

    name: str
    batch: int
    image: tuple[int, int]
    """Height and width; the largest of each if ``sizes`` differ."""
    size: tuple[int, int]
    texture_channels: int = 16
    taps: int = 2
    prior: str | None = None
    hidden: int = 16
    """Channels of the distance encoding and of the hidden layers."""
    layers: int = 1
    dtype: str = "fp32"
    channels_last: bool = True
    channels: int = 3
    sizes: tuple[tuple[int, int], ...] = ()
    """Sizes of all images if they differ; empty if all are of size ``image``."""

    @property
    def pixels(self) -> int:
        """Pixels of all images together, before resizing."""
        return sum(height * width for height, width in self.sizes or [self.image] * self.batch)

    @property
    def layout(self) -> str:
        return "channels-last" if self.channels_last else "channels-first"

    def necessary_bytes(self, kind: str, mode: str) -> int:
        """Bytes that any implementation has to read or write, each tensor once per pass; weights are too small to count.

        ================  ========================  ==================================================
        kind              forward                   the backward pass adds
        ================  ========================  ==================================================
        operator, copy    image, texture, output    image, texture and grad_output; writes grad_texture
        network, image*   image, output             image and grad_output; writes gradients of weights alone
        interpolation     image, output             grad_output; writes grad_image
        ================  ========================  ==================================================

        The backward passes of operator, network and image read their inputs again, since they recompute. Images of the kinds
        image* are uint8. A copy moves the operator's bytes, an image-copy those of image, half read and half written.
        """
        element = DTYPES[self.dtype].itemsize
        image = self.pixels * self.channels * (1 if kind.startswith("image") else element)
        texture = self.pixels * self.texture_channels * element
        output = self.batch * self.channels * self.size[0] * self.size[1] * element
        backward = mode == "forward+backward"
        if kind in ("operator", "copy"):
            return image + texture + output + backward * (image + texture + output + texture)
        return image + output + backward * (image + output)

    def flops(self, kind: str) -> int:
        """Forward, of an operator, network or image; a multiplication and its addition are two. As tritonds.flops counts."""
        layers = [(self.hidden, 2 * self.taps)]
        width = self.hidden + self.texture_channels
        for _ in range(self.layers):
            layers.append((self.hidden, width))
            width = self.hidden
        layers.append((self.taps**2 + (self.prior in ("bicubic", "lanczos")), width))
        products = sum(out * inner for out, inner in layers) + self.taps**2 * self.channels
        pooling = 2 * self.texture_channels * self.pixels
        convolution = 2 * 9 * self.channels * self.texture_channels * self.pixels
        return 2 * self.batch * self.size[0] * self.size[1] * products + pooling + convolution * (kind != "operator")


def _ragged(name: str, batch: int, least: int, most: int, size: tuple[int, int]) -> Workload:
    """Images of ``least`` to ``most`` pixels a side, drawn once: the same in every run."""
    draw = random.Random(0)
    sizes = tuple((draw.randint(least, most), draw.randint(least, most)) for _ in range(batch))
    largest = (max(height for height, _ in sizes), max(width for _, width in sizes))
    return Workload(name, batch, largest, size, sizes=sizes)


NAMED = {
    workload.name: workload
    for workload in (
        Workload("poster160", 1, (300, 300), (160, 160)),
        Workload("poster165", 1, (300, 300), (165, 165)),
        Workload("poster160x32", 32, (300, 300), (160, 160)),
        Workload("poster165x32", 32, (300, 300), (165, 165)),
        Workload("seg513", 8, (513, 513), (179, 179)),
        Workload("seg768", 4, (768, 768), (230, 230)),
        Workload("hd", 1, (1080, 1920), (540, 960)),
        Workload("hdx8", 8, (1080, 1920), (540, 960)),
        Workload("uhd", 1, (2160, 3840), (720, 1280)),
        _ragged("ragged32", 32, 512, 2048, (512, 512)),
    )
}
PRIORS = {2: None, 4: "antialias"}
"""The prior that a named workload has for its number of taps."""


def _megapixels(name: str, batch: int, height: int, width: int) -> Workload:
    return Workload(name, batch, (height, width), (height // 2, width // 2))


_HD = NAMED["hd"]
SWEEPS = {
    "pixels": tuple(
        _megapixels(f"pixels-{height * width // 1_000_000}", 1, height, width)
        for height, width in ((1000, 1000), (1000, 2000), (2000, 2000), (2000, 4000), (4000, 4000), (4000, 8000))
    ),
    "batch": tuple(
        _megapixels(f"batch-{batch}", batch, height, width)
        for batch, height, width in ((1, 2000, 4000), (2, 2000, 2000), (4, 1000, 2000), (8, 1000, 1000))
    ),
    "scale": tuple(
        Workload(f"scale-{scale:g}", 1, (1080, 1920), (round(1080 / scale), round(1920 / scale)))
        for scale in (1.2, 1.5, 2, 3, 4, 6, 8)
    ),
    "taps": tuple(dataclasses.replace(_HD, name=f"taps-{taps}", taps=taps) for taps in (1, 2, 3, 4, 6, 8)),
    "texture": tuple(dataclasses.replace(_HD, name=f"texture-{n}", texture_channels=n) for n in (8, 16, 32, 64)),
    "width": tuple(dataclasses.replace(_HD, name=f"width-{n}", hidden=n) for n in (8, 16, 32, 64)),
    "layers": tuple(dataclasses.replace(_HD, name=f"layers-{n}", layers=n) for n in (0, 1, 2, 3)),
}
"""One thing varied at a time; its value is what the names end with. ``batch`` splits the same 8 megapixels."""
NAMES = (*NAMED, *SWEEPS)


class Case(NamedTuple):
    """One row of the result."""

    workload: Workload
    mode: str
    provider: str


@dataclass(frozen=True)
class Block:
    """Part of a plan: every combination of its axes. ``taps`` is for named workloads; a sweep has its own."""

    names: tuple[str, ...]
    providers: tuple[str, ...]
    dtypes: tuple[str, ...] = ("bf16",)
    layouts: tuple[bool, ...] = (True,)
    taps: tuple[int, ...] = (2,)
    modes: tuple[str, ...] = MODES

    def cases(self) -> Iterator[Case]:
        """A workload's rows follow one another, so that its tensors are made once."""
        for name, dtype, channels_last in itertools.product(self.names, self.dtypes, self.layouts):
            for workload in self._workloads(name):
                settings = dataclasses.replace(workload, dtype=dtype, channels_last=channels_last)
                for mode, provider in itertools.product(self.modes, self.providers):
                    yield Case(settings, mode, provider)

    def _workloads(self, name: str) -> tuple[Workload, ...]:
        if name in SWEEPS:
            return SWEEPS[name]
        return tuple(dataclasses.replace(NAMED[name], taps=taps, prior=PRIORS[taps]) for taps in self.taps)


AUTOTUNED = "reference-autotuned"
AUTOTUNED_WORKLOADS = ("hdx8", "seg768")
"""Autotuning takes minutes a compilation, so that elsewhere it has to be asked for."""

_INTERPOLATIONS = ("bilinear", "bilinear-aa", "bicubic-aa", "area")
_COMPILED = ("reference-compiled", "net-compiled", "net-fused-compiled")
_NAMES = ("hdx8", "seg768", "poster160", "hd", "uhd", "poster160x32", "poster165x32", "seg513", "poster165")
_UNCOMPILED = ("fused", "reference", "net-fused", "net-eager", "bilinear-aa", "copy")
_SWEPT = ("fused", "net-fused", "reference", "bilinear-aa", "copy")
_IMAGE = ("image-fused", "image-composed", "image-bilinear-aa", "image-copy")
_CPU_IMAGE = ("image-eager", "image-bilinear-aa", "image-copy")
_CPU_EAGER = ("reference", "net-eager", *_INTERPOLATIONS, "copy")
_CPU_COMPILED = ("reference-compiled", "net-compiled")
_BOTH = (True, False)

# The most important first, since a time budget cuts the end. Compiling takes seconds a row, everything else less than one.
PLANS = {
    "cuda": (
        Block(_NAMES[:3], ("fused", "reference", "net-fused", "net-eager", *_INTERPOLATIONS, "copy")),
        Block(("hdx8", "ragged32"), _IMAGE),
        Block(AUTOTUNED_WORKLOADS, ("reference-compiled", AUTOTUNED), modes=("forward",)),
        Block(("hdx8",), _COMPILED, modes=("forward+backward",)),
        Block(("hdx8",), ("fused", "copy"), ("fp32", "fp16"), modes=("forward",)),
        Block(("pixels", "batch"), ("fused", "copy")),
        Block(_NAMES, ("fused", "reference", "net-fused", "net-eager", *_INTERPOLATIONS, "copy")),
        Block(_NAMES[:3], _COMPILED),
        Block(_NAMES, _UNCOMPILED, taps=(4,)),
        Block(_NAMES, _UNCOMPILED, dtypes=("fp32",)),
        Block(_NAMES, _IMAGE),
        Block(("pixels", "batch", "scale"), _SWEPT),
        Block(_NAMES, ("fused", "bilinear-aa", "copy"), tuple(DTYPES), _BOTH, (2, 4), ("forward",)),
        Block(("taps", "texture", "width", "layers"), _SWEPT),
        Block(_NAMES[3:], _COMPILED),
        Block(("hdx8", "ragged32"), _IMAGE, ("fp32", "fp16")),
    ),
    "cpu": (
        Block(("poster160", "seg513", "hd"), _CPU_EAGER, ("fp32",), _BOTH),
        Block(("hd",), _CPU_IMAGE, ("fp32",), modes=("forward",)),
        Block(("hd",), _CPU_EAGER, ("fp32",), _BOTH, (4,)),
        # Compiled by PyTorch 2.13, the channels-first backward pass writes past its memory where sizes do not divide.
        Block(("hd", "seg513", "poster160"), _CPU_COMPILED, ("fp32",), _BOTH, modes=("forward",)),
        Block(("hd", "seg513", "poster160"), _CPU_COMPILED, ("fp32",), modes=("forward+backward",)),
        Block(("hd",), _CPU_COMPILED, ("fp32",), _BOTH, (4,), ("forward",)),
        Block(("hd",), _CPU_COMPILED, ("fp32",), taps=(4,), modes=("forward+backward",)),
        Block(("pixels", "scale"), ("net-compiled", "bilinear-aa"), ("fp32",)),
    ),
}
CPU_SWEEP_PIXELS = 8_000_000


def plan(
    device_type: str,
    *,
    quick: bool = False,
    workloads: Sequence[str] = (),
    providers: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    modes: Sequence[str] = (),
) -> list[Case]:
    """What to measure, in order; each non-empty argument replaces that axis of the default selection."""
    blocks = PLANS[device_type]
    if quick:
        blocks = tuple(dataclasses.replace(block, names=("poster160",), layouts=(True,)) for block in blocks[:2])
    cases = []
    for block in blocks:
        # Named workloads are replaced by named ones and sweeps by sweeps, whose providers differ.
        names = tuple(n for n in workloads if quick or (n in SWEEPS) == (block.names[0] in SWEEPS))
        replaced = dataclasses.replace(
            block,
            names=names if workloads else block.names,
            providers=tuple(providers) or block.providers,
            dtypes=tuple(dtypes) or block.dtypes,
            modes=tuple(modes) or block.modes,
        )
        cases += [case for case in replaced.cases() if _possible(case) and _affordable(case, device_type, bool(providers))]
    return list(dict.fromkeys(cases))


def _possible(case: Case) -> bool:
    """Images of different sizes are for the image providers; interpolating uint8 images has no gradient."""
    if case.workload.sizes and not case.provider.startswith("image-"):
        return False
    return case.mode == "forward" or case.provider != "image-bilinear-aa"


def _affordable(case: Case, device_type: str, asked: bool) -> bool:
    if case.provider == AUTOTUNED and case.workload.name not in AUTOTUNED_WORKLOADS:
        return asked
    return device_type != "cpu" or case.workload.name in NAMED or case.workload.pixels <= CPU_SWEEP_PIXELS
