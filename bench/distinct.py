"""How many kernels a training with random sizes compiles, and when it has the last of them; no GPU needed.

    python -m bench.distinct            a table: kernels with and without `tritonds.warmup` before
    python -m bench.distinct --json

Every step is a forward and a backward pass over tensors of PyTorch's meta device. What distinguishes two kernels is asked of
Triton itself: the key under which its just-in-time compiler keeps them.
"""

import os

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported: the interpreter compiles nothing

import dataclasses
import functools
import json
import random
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import rich.box
import rich.console
import rich.table
import torch
import triton
import typer
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime import jit

from bench.workloads import MEAN, STD
from tritonds import CoefficientWeights, DownsizeNet, Letterboxed, downsize, precompile

Ranges: TypeAlias = tuple[range, range]
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Schedule:
    """A training whose steps draw sizes from ranges."""

    name: str
    images: Ranges
    sizes: Ranges
    dtype: torch.dtype | None = torch.bfloat16
    """The dtype of images that make their texture on the way; None if texture is given."""
    channels_last: bool = True
    image_gradient: bool = False
    ragged: bool = False
    """Lists of images."""
    letterbox: bool = False
    layers: int = 1
    """Convolutions of the texture. If there are several, PyTorch computes them."""
    channels: int = 16
    """Channels of distances, of texture and of hidden layers."""
    steps: int = 400


def _square(least: int, most: int, step: int = 1) -> Ranges:
    return range(least, most + 1, step), range(least, most + 1, step)


LARGE, MIDDLE, TARGET = _square(256, 2048), _square(224, 640), _square(224, 224)
ANY_TARGET, MULTIPLES = _square(112, 448), _square(320, 640, 32)
TEXTURES = (
    Schedule("texture, 256 to 2048 -> 224", LARGE, TARGET, None),
    Schedule("texture, 224 to 640 -> 224", MIDDLE, TARGET, None),
    Schedule("texture, 256 to 2048 -> 112 to 448", LARGE, ANY_TARGET, None),
    Schedule("texture, 320 to 640, multiples of 32 -> 320", MULTIPLES, _square(320, 320), None),
)
IMAGES = (
    Schedule("uint8, 256 to 2048 -> 224", LARGE, TARGET, torch.uint8),
    Schedule("uint8, 224 to 640 -> 224", MIDDLE, TARGET, torch.uint8),
    Schedule("uint8, 256 to 2048 -> 112 to 448", LARGE, ANY_TARGET, torch.uint8),
    Schedule("uint8, 320 to 640, multiples of 32 -> 320", MULTIPLES, _square(320, 320), torch.uint8),
)
SCHEDULES = (
    *TEXTURES,
    *(dataclasses.replace(s, name=f"{s.name}, image gradient", image_gradient=True) for s in TEXTURES[:3]),
    *IMAGES,
    Schedule("bf16, 256 to 2048 -> 112 to 448, image gradient", LARGE, ANY_TARGET, image_gradient=True),
    Schedule("texture, channels-first, 256 to 2048 -> 224", LARGE, TARGET, None, channels_last=False, steps=100),
    Schedule("uint8, lists, 256 to 2048 -> 224", LARGE, TARGET, torch.uint8, ragged=True, steps=100),
    Schedule("uint8, letterboxed, 256 to 2048 -> 224", LARGE, TARGET, torch.uint8, ragged=True, letterbox=True, steps=100),
    Schedule(
        "bf16, letterboxed, 224 to 640 -> 224, image gradient", MIDDLE, TARGET,
        image_gradient=True, ragged=True, letterbox=True, steps=100,
    ),
    Schedule("bf16, two texture layers, 224 to 640 -> 224", MIDDLE, TARGET, layers=2, steps=100),
    Schedule("bf16, 96 channels, 224 to 640 -> 224", MIDDLE, TARGET, channels=96, steps=100),
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    schedule: str
    steps: int
    kernels: int
    """Different kernels in all steps."""
    last: int
    """The first step that needed the last of them, counted from 1."""
    warmed: int
    """Kernels that a warm-up for the schedule's ranges compiles."""
    missed: int
    """Kernels that steps need and the warm-up did not compile."""


def count(schedule: Schedule) -> Result:
    """Run the steps of a schedule, and the warm-up for its ranges."""
    draw = random.Random(0)
    keys: dict[str, int] = {}
    network = _network(schedule)
    call = _layer_step(schedule, network, draw) if isinstance(network, DownsizeNet) else _operator_step(schedule, network, draw)
    for step in range(1, schedule.steps + 1):
        image_size, size = _draw(draw, schedule.images), _draw(draw, schedule.sizes)
        for launch in precompile.launches_of(call, image_size, image_size, size, backward=True):
            keys.setdefault(key(launch), step)
    warm = {key(launch) for launch in _warmup(schedule, network)}
    return Result(schedule.name, schedule.steps, len(keys), max(keys.values()), len(warm), len(keys.keys() - warm))


def _draw(draw: random.Random, ranges: Ranges) -> tuple[int, int]:
    return draw.choice(ranges[0]), draw.choice(ranges[1])


def _network(schedule: Schedule) -> DownsizeNet | CoefficientWeights:
    channels, normalized = schedule.channels, schedule.dtype == torch.uint8
    net = DownsizeNet(
        texture_channels=channels,
        texture_layers=schedule.layers,
        distance_channels=channels,
        hidden_channels=channels,
        mean=MEAN if normalized else None,
        std=STD if normalized else None,
        backend="triton",
    )
    net = net.to(torch.bfloat16).to("meta")
    return net if schedule.dtype is not None else net.weights()


def _tensor(schedule: Schedule, *shape: int, gradient: bool) -> torch.Tensor:
    x = torch.empty(shape, dtype=schedule.dtype or torch.bfloat16, device="meta")
    x = x.contiguous(memory_format=torch.channels_last) if schedule.channels_last else x
    return x.requires_grad_(gradient)


def _layer_step(schedule: Schedule, net: DownsizeNet, draw: random.Random) -> precompile.Call:
    """A batch of any number of images; or a list, of which all but the first have sizes of their own."""

    def batch(image_size: Size, _: Size, size: Size) -> tuple[torch.Tensor, list[torch.Tensor]]:
        image = _tensor(schedule, draw.randint(1, 8), 3, *image_size, gradient=schedule.image_gradient)
        return net(image, size), [image, *net.parameters()]

    def images(image_size: Size, _: Size, size: Size) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sizes = [image_size, *(_draw(draw, schedule.images) for _ in range(draw.randint(0, 3)))]
        given = [_tensor(schedule, 1, 3, *one, gradient=schedule.image_gradient) for one in sizes]
        result = net([image[0] for image in given], size, letterbox=schedule.letterbox)
        return result.images if isinstance(result, Letterboxed) else result, [*given, *net.parameters()]

    return images if schedule.ragged else batch


def _operator_step(schedule: Schedule, weights: CoefficientWeights, draw: random.Random) -> precompile.Call:
    def step(image_size: Size, _: Size, size: Size) -> tuple[torch.Tensor, list[torch.Tensor]]:
        batch = draw.randint(1, 8)
        image = _tensor(schedule, batch, 3, *image_size, gradient=schedule.image_gradient)
        texture = _tensor(schedule, batch, schedule.channels, *image_size, gradient=True)
        return downsize(image, texture, weights, size, backend="triton"), [image, texture, weights.out_weight]

    return step


def _warmup(schedule: Schedule, network: DownsizeNet | CoefficientWeights) -> list[Any]:
    """The launches that :func:`tritonds.warmup` would compile, in a training without autocast."""
    if isinstance(network, CoefficientWeights):
        return precompile.plan_operator(
            network, torch.bfloat16, schedule.images, schedule.sizes, None, schedule.channels_last, 3, None, True,
            schedule.image_gradient,
        )  # fmt: skip
    assert schedule.dtype is not None
    options = {"letterbox": schedule.letterbox, "fill": 0.0}
    return precompile.plan_layer(
        network, torch.bfloat16, schedule.images, schedule.sizes, schedule.dtype, schedule.channels_last, schedule.ragged,
        options, True, schedule.image_gradient,
    )  # fmt: skip


@functools.cache
def _binder(kernel: Any) -> Any:
    """Triton's own function that tells a kernel's variants apart, for an H200. Other GPUs need as many."""
    return jit.create_function_from_signature(kernel.signature, kernel.params, make_backend(GPUTarget("cuda", 90, 32)))


def key(launch: Any) -> str:
    """The key of a launch's compiled kernel in Triton's cache. Tensors start at multiples of 16 bytes."""
    _, specialization, options = _binder(launch.kernel)(**launch.arguments)
    return f"{launch.kernel.__name__} {jit.compute_cache_key({}, specialization, options)}"


def table(results: list[Result]) -> rich.table.Table:
    title = f"Triton {triton.__version__}; forward and backward"
    result = rich.table.Table(title=title, box=rich.box.SIMPLE)
    for name in ("schedule", "steps", "kernels", "the last at step", "warm-up compiles", "and misses"):
        result.add_column(name, justify="left" if name == "schedule" else "right")
    for row in results:
        result.add_row(*map(str, dataclasses.astuple(row)))
    return result


def main(as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False) -> None:
    """Count the kernels that trainings with random sizes compile."""
    results = [count(schedule) for schedule in SCHEDULES]
    if as_json:
        print(json.dumps([dataclasses.asdict(result) for result in results], indent=1))
    else:
        rich.console.Console(width=120).print(table(results))


if __name__ == "__main__":
    typer.run(main)
