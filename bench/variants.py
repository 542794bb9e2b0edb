"""The configurations that ``python -m bench.compile`` compiles: the default ones, and sets that cover every pair of choices."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from allpairspy import AllPairs


@dataclass(frozen=True)
class Variant:
    """What distinguishes one compiled kernel from another, as far as a caller can choose it."""

    dtype: str = "bf16"
    taps: int = 2
    prior: str = "none"
    texture: bool = True
    distance: bool = True
    layers: int = 1
    channels_last: bool = True
    channels: int = 16
    """Channels of distances, of texture and of hidden layers."""
    workload: str = "hdx8"
    """Whose sizes."""
    image: str = ""
    """Dtype of images that make their texture on the way, uint8 ones normalised; empty if texture is given."""
    letterbox: bool = False
    out: str = ""
    """Dtype of what is made of images; empty for that of the weights."""
    tf32: bool = False
    """Whether PyTorch's setting allows it for products in float32, on NVIDIA GPUs."""


def default_variants() -> list[Variant]:
    """The default network, with and without antialiasing prior, in both layouts; and its fastest form at other scales.

    Then the same made of images: of uint8, also with priors that sharpen; of different sizes; and of floating point. Last,
    networks without texture.
    """
    networks = [(dtype, 2, "none") for dtype in ("bf16", "fp16", "fp32")]
    networks += [(dtype, 4, "antialias") for dtype in ("bf16", "fp32")]
    variants = [
        Variant(dtype=dtype, taps=taps, prior=prior, channels_last=channels_last)
        for dtype, taps, prior in networks
        for channels_last in (True, False)
    ]
    elsewhere = [Variant(workload=name) for name in ("poster160", "seg768", "uhd")]
    decoded = Variant(image="u8")
    images = [
        decoded,
        dataclasses.replace(decoded, taps=4, prior="antialias"),
        dataclasses.replace(decoded, taps=4, prior="bicubic"),
        dataclasses.replace(decoded, taps=8, prior="bicubic"),
        dataclasses.replace(decoded, workload="seg768"),
        dataclasses.replace(decoded, workload="ragged32"),
        dataclasses.replace(decoded, workload="ragged32", letterbox=True),
        dataclasses.replace(decoded, channels_last=False),
        Variant(dtype="fp32", image="fp32"),
        Variant(dtype="bf16", image="bf16"),
    ]
    tabulated = [
        Variant(texture=False, taps=4, prior="antialias", image="u8"),
        Variant(texture=False, taps=8, prior="bicubic", image="u8"),
        Variant(texture=False, taps=4, prior="antialias", dtype="fp32", channels_last=False),
    ]
    return [*variants, *elsewhere, Variant(workload="seg768", channels_last=False), *images, *tabulated]


def covering_variants() -> list[Variant]:
    """Two small sets, of given texture and of images, in each of which every two choices occur together.

    Behind them, priors that sharpen.
    """
    # Their order decides how small the sets are, and that most rows have both texture and distances.
    dtypes = [*_choice("dtype", "fp16", "bf16", "fp32", "fp64"), {"dtype": "fp32", "tf32": True}]
    inputs = [{"texture": True, "distance": True}, {"texture": True, "distance": False}, {"texture": False, "distance": True}]
    layouts = _choice("channels_last", True, False)
    texture = [
        dtypes,
        _choice("taps", 1, 2, 3, 4, 8),
        inputs,
        _choice("layers", 0, 1, 2, 3),
        _choice("channels", 16, 5, 32),
        layouts,
        _choice("prior", "none", "bilinear", "antialias"),
    ]
    images = [
        _choice("channels", 16, 5, 32),
        dtypes,
        inputs,
        [*_choice("workload", "ragged32", "hdx8"), {"workload": "ragged32", "letterbox": True}],
        _choice("image", "u8", "as weights"),
        layouts,
        _choice("out", "", "fp16"),
    ]
    covering = [_chosen(row) for choices in (texture, images) for row in AllPairs(choices)]
    return [*covering, Variant(taps=4, prior="bicubic", image="u8"), Variant(dtype="fp16", taps=3, prior="lanczos", layers=0)]


def _choice(field: str, *values: Any) -> list[dict[str, Any]]:
    return [{field: value} for value in values]


def _chosen(row: list[dict[str, Any]]) -> Variant:
    fields = {name: value for choice in row for name, value in choice.items()}
    if fields.get("image") == "as weights":
        fields["image"] = fields["dtype"]
    return Variant(**fields)
