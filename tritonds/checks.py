"""Argument checks of the public functions and the layer. Each says what was expected and what came."""

import math
import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from . import geometry
from .coefficient_weights import SHARPENING, CoefficientWeights, output_rows
from .dtypes import DTYPES, autocasts

PRIORS = ("bilinear", "antialias", *SHARPENING)
BACKENDS = ("auto", "triton", "torch")
MAX_TAPS = 8
MAX_HIDDEN_LAYERS = 3
MAX_NUMBER = torch.finfo(torch.float64).max
SMALLEST_STD = 1e-30
"""Least deviation that images are divided by: float32 holds its inverse, and the products of pixels with that."""


def check_options(size: int | tuple[int, int] | None, taps: int, prior: str | None, backend: str) -> None:
    """Raise what :func:`downsize` would raise for these arguments, before there is an image."""
    if size is not None:
        check_size(size)
    check_taps(taps)
    check_prior(prior)
    check_backend(backend)


def check_channels(image: Tensor | Sequence[Tensor], channels: int) -> None:
    """Raise if ``image``, or the first of several, has other than ``channels``. Other checks report other errors."""
    first = image[0] if isinstance(image, (tuple, list)) and image else image
    if isinstance(first, Tensor) and not first.is_nested and first.dim() >= 3 and first.shape[-3] != channels:
        raise ValueError(f"image: expected {channels} channels, got shape {tuple(first.shape)}")


def check_image(image: Tensor | Sequence[Tensor], parameter: Tensor) -> None:
    """Raise unless ``image`` is (N, C, H, W) or a list of (C, H, W), on the device of ``parameter``, and of uint8 or its dtype.

    Under autocast, which leaves float64 alone, any other floating dtype is fine too. So is any device if the parameter is on
    none, since it is offloaded.
    """
    images = check_images(image)
    given = images[0].dtype
    cast = autocasts(images[0].device.type) and torch.float64 not in (given, parameter.dtype)
    if (cast or parameter.is_meta) and given != torch.uint8:
        check_dtype("image", images[0])
    elif not parameter.is_meta:
        check_like_weights(images[0], parameter)


def check_texture(texture: Tensor, image: Tensor) -> None:
    """Raise unless ``texture`` is a batch (N, F, Ht, Wt), of as many as ``image`` is."""
    check_tensor("texture", texture)
    if texture.shape[0] != image.shape[0]:
        raise ValueError(f"texture: expected the image's batch size {image.shape[0]}, got {texture.shape[0]}")


def check_normalization(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None, out_dtype: torch.dtype | None
) -> tuple[list[float] | None, list[float] | None]:
    """``mean`` and ``std`` as lists, with a number for each channel. Raise, too, unless results can be of ``out_dtype``."""
    mean, std = _channel_numbers("mean", mean, channels), _channel_numbers("std", std, channels)
    # Comparisons, and no function of ``math``: torch.compile may see these numbers as symbols.
    if std is not None and not all(v > SMALLEST_STD for v in std):
        raise ValueError(f"std: expected numbers above {SMALLEST_STD}, got {std!r}")
    if out_dtype is not None and not isinstance(out_dtype, torch.dtype):
        raise TypeError(f"out_dtype: expected a torch.dtype, got {out_dtype!r}")
    if out_dtype is not None and out_dtype not in DTYPES:
        raise TypeError(f"out_dtype: expected float16, bfloat16, float32 or float64, got {out_dtype}")
    return mean, std


def _channel_numbers(name: str, values: Sequence[float] | None, channels: int) -> list[float] | None:
    """``values`` as a list; tensors and NumPy's arrays are converted."""
    if values is None:
        return None
    plain = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(plain, (tuple, list)) or not all(type(v) is float or _is_number(v) for v in plain):
        raise TypeError(f"{name}: expected a list of numbers, got {values!r}")
    if len(plain) != channels or not all(-MAX_NUMBER <= v <= MAX_NUMBER for v in plain):
        raise ValueError(f"{name}: expected {channels} finite numbers, one for each channel, got {values!r}")
    return [v if type(v) is float else float(v) for v in plain]


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_fill(fill: float, dtype: torch.dtype) -> float:
    """``fill`` as a float. Raise unless it is a number that ``dtype`` holds."""
    if type(fill) is not float and not _is_number(fill):
        raise TypeError(f"fill: expected a number, got {fill!r}")
    most = torch.finfo(dtype).max
    if not -most <= fill <= most:
        raise ValueError(f"fill: expected a finite number of {dtype}, got {fill!r}")
    return fill if type(fill) is float else float(fill)


def check_tensor(name: str, x: Tensor) -> None:
    """Raise unless ``x`` is a dense tensor (N, channels, height, width) with at least one value in each image."""
    check_dense(name, x)
    shape = x.shape
    if len(shape) != 4:
        raise ValueError(f"{name}: expected 4 dimensions (N, channels, height, width), got shape {tuple(shape)}")
    if shape[1] < 1 or shape[2] < 1 or shape[3] < 1:
        raise ValueError(f"{name}: expected channels, height and width of at least 1, got shape {tuple(shape)}")


def check_images(image: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Check a batch (N, C, H, W), or a list of images (C, H, W); return ``[batch]``, or the images."""
    if isinstance(image, Tensor):
        check_tensor("image", image)
        return [image]
    if not isinstance(image, (tuple, list)):
        raise TypeError(f"image: expected a torch.Tensor or a list of them, got {type(image).__name__}")
    if not image:
        raise ValueError("image: expected at least one image in a list, got none")
    for index, x in enumerate(image):
        _check_image(f"image[{index}]", x, image[0])
    return list(image)


def _check_image(name: str, x: Tensor, first: Tensor) -> None:
    """Check one of a list of images (C, H, W), whose first one has been checked, or is this one."""
    check_dense(name, x)
    shape = x.shape
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{name}: expected shape (channels, height, width), each at least 1, got {tuple(shape)}")
    if shape[0] != first.shape[0]:
        raise ValueError(f"{name}: expected the first image's {first.shape[0]} channels, got {shape[0]}")
    if x.dtype != first.dtype or x.device != first.device:
        check_alike(name, x, "the first image", first)


def check_texture_weights(weight: Tensor | None, bias: Tensor | None, channels: int) -> list[Tensor]:
    """Check weight and bias of the texture's convolution; return both in a list, or an empty one if there are none."""
    if weight is None and bias is None:
        return []
    if weight is None or bias is None:
        raise ValueError("texture_weight, texture_bias: expected both or neither")
    check_dense("texture_weight", weight)
    check_dense("texture_bias", bias)
    if weight.dim() != 4 or weight.shape[0] < 1 or tuple(weight.shape[1:]) != (channels, 3, 3):
        raise ValueError(f"texture_weight: expected shape (F, {channels}, 3, 3), got {tuple(weight.shape)}")
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"texture_bias: expected shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    return [weight, bias]


def check_like_weights(image: Tensor, weight: Tensor) -> None:
    """Raise unless ``image`` is on the device of ``weight``, and of uint8 or its dtype."""
    if image.dtype not in (weight.dtype, torch.uint8):
        raise TypeError(f"image: expected uint8 or the weights' dtype, {weight.dtype}, got {image.dtype}")
    if image.device != weight.device:
        raise ValueError(f"image: expected the weights' device, {weight.device}, got {image.device}")


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """``size`` as two integers, each at least 1; one number stands for both."""
    if type(size) is tuple and len(size) == 2 and type(size[0]) is type(size[1]) is int and min(size) >= 1:
        return size  # the fast path
    return geometry.check_size("size", size)


def check_taps(taps: int) -> int:
    """``taps`` as an integer. Raise unless it is one of 1 to 8."""
    if type(taps) is not int:
        taps = geometry.integer("taps", taps, "an integer")
    if not 1 <= taps <= MAX_TAPS:
        raise ValueError(f"taps: expected 1 to {MAX_TAPS}, got {taps}")
    return taps


def check_prior(prior: str | None) -> None:
    """Raise unless ``prior`` is None or a known one."""
    if prior is not None and not (isinstance(prior, str) and prior in PRIORS):
        raise ValueError(f"prior: expected None or one of {PRIORS}, got {prior!r}")


def check_bool(name: str, value: bool) -> bool:
    """``value`` as True or False. Raise unless it is one, also NumPy's: "no" would mean True, and [] False."""
    if value is True or value is False:
        return value
    if str(getattr(value, "dtype", "")) != "bool" or value.shape != ():
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def check_letterbox(letterbox: bool, image: Tensor | Sequence[Tensor]) -> bool:
    """``letterbox`` as True or False. Raise, too, if a program is exported whose letterboxes would be those of one size."""
    letterbox = check_bool("letterbox", letterbox)
    if letterbox and torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import has_static_value  # where strict=True, a SymInt looks like an int

        images = [image] if isinstance(image, Tensor) else image
        if not all(has_static_value(length) for x in images for length in x.shape):
            raise ValueError(
                "letterbox: expected images of fixed size and number where programs are exported, got dynamic ones"
            )
    return letterbox


def check_backend(backend: str) -> None:
    """Raise unless ``backend`` is a known one."""
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {BACKENDS}, got {backend!r}")


def check_weights(weights: CoefficientWeights, texture_channels: int, taps: int, prior: str | None) -> None:
    """Types and shapes, layer by layer."""
    if not isinstance(weights, CoefficientWeights):
        raise TypeError(f"weights: expected a CoefficientWeights, got {type(weights).__name__}")
    if (weights.distance_weight is None) != (weights.distance_bias is None):
        raise ValueError("weights: expected both distance_weight and distance_bias, or neither")
    channels = texture_channels
    if weights.distance_weight is not None and weights.distance_bias is not None:
        distance_channels = _check_layer("distance", weights.distance_weight, weights.distance_bias, 2 * taps, "2 * taps")
        channels += distance_channels
    if channels == 0:
        raise ValueError("weights: expected distance weights or a texture, got neither")
    channels = _check_hidden_layers(weights, channels)
    out = _check_layer("out", weights.out_weight, weights.out_bias, channels, "the channels before it")
    rows = output_rows(taps, prior)
    if out != rows:
        raise ValueError(f"weights: expected out_weight with {output_rows_text(prior)} = {rows} rows, got {out}")


def output_rows_text(prior: str | None) -> str:
    """:func:`output_rows` as a formula."""
    return f"taps*taps + 1 (prior {prior!r})" if prior in SHARPENING else "taps*taps"


def _check_hidden_layers(weights: CoefficientWeights, channels: int) -> int:
    """Check the hidden layers, the first of which reads ``channels``; return how many channels the last one writes."""
    for name, tensors in (("hidden_weights", weights.hidden_weights), ("hidden_biases", weights.hidden_biases)):
        if not isinstance(tensors, (tuple, list)):
            raise TypeError(f"weights: expected {name} to be a tuple of tensors, got {type(tensors).__name__}")
    if len(weights.hidden_weights) != len(weights.hidden_biases):
        raise ValueError(
            f"weights: expected as many hidden_biases as hidden_weights, got {len(weights.hidden_biases)} and "
            f"{len(weights.hidden_weights)}"
        )
    if len(weights.hidden_weights) > MAX_HIDDEN_LAYERS:
        raise ValueError(f"weights: expected at most {MAX_HIDDEN_LAYERS} hidden layers, got {len(weights.hidden_weights)}")
    width = None
    for index, (weight, bias) in enumerate(zip(weights.hidden_weights, weights.hidden_biases, strict=True)):
        out = _check_layer(f"hidden[{index}]", weight, bias, channels, "the channels before it")
        if width is not None and out != width:
            raise ValueError(f"weights: expected hidden layers of one width, got {width} and {out}")
        channels = width = out
    return channels


def _check_layer(name: str, weight: Tensor, bias: Tensor, channels: int, meaning: str) -> int:
    """Check one layer that reads ``channels``, and return how many it writes."""
    for part, tensor in (("weight", weight), ("bias", bias)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"weights: expected {name} {part} to be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(f"weights: expected {name} {part} to be dense, got layout {tensor.layout}")
    shape = weight.shape
    if len(shape) != 2 or shape[0] < 1 or shape[1] != channels:
        raise ValueError(
            f"weights: expected {name} weight of shape (out, {channels}), {channels} being {meaning}, got {tuple(shape)}"
        )
    if bias.shape != shape[:1]:
        raise ValueError(f"weights: expected {name} bias of shape ({shape[0]},), got {tuple(bias.shape)}")
    return shape[0]


def check_dtype(name: str, x: Tensor) -> None:
    """Raise unless ``x`` is of a floating dtype that is taken."""
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


def check_alike(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless ``x`` has the dtype and device of ``other``."""
    if x.dtype != other.dtype:
        raise TypeError(f"{name}: expected the dtype of {other_name}, {other.dtype}, got {x.dtype}")
    check_device(name, x, other_name, other)


def check_device(name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless ``x`` is on the device of ``other``."""
    if x.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}, got {x.device}")


def check_all_alike(name: str, tensors: Sequence[Tensor], other_name: str, other: Tensor) -> None:
    """Raise unless each of ``tensors`` has the dtype and device of ``other``."""
    dtype, device = other.dtype, other.device  # once: each is a call into C++
    for tensor in tensors:
        if tensor.dtype != dtype or tensor.device != device:
            check_alike(name, tensor, other_name, other)


def check_dense(name: str, x: Tensor) -> None:
    """Raise unless ``x`` is a tensor, and neither sparse nor nested nor quantised."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(x).__name__}")
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: expected a dense tensor, got layout {x.layout}")
    if x.is_nested or x.is_quantized:
        raise TypeError(f"{name}: expected a dense tensor, got a {'nested' if x.is_nested else 'quantised'} one")


def check_count(name: str, value: int, least: int, most: int | None = None) -> int:
    """``value`` as an integer. Raise unless it is at least ``least`` and, if given, at most ``most``."""
    if type(value) is not int:
        value = geometry.integer(name, value, "an integer")
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}: expected {expected}, got {value}")
    return value


def check_label(fill: float, dtype: torch.dtype) -> float:
    """The label ``fill`` as Python's number. Raise unless ``dtype`` holds it: PyTorch would make 255 of -1 in uint8."""
    if not isinstance(fill, numbers.Real):
        raise TypeError(f"fill: expected a number, got {fill!r}")
    if dtype.is_floating_point or dtype.is_complex:
        fits = abs(fill) <= torch.finfo(dtype).max
        if fill != fill or abs(fill) == math.inf:  # some dtypes have no infinity
            held = torch.tensor(float(fill), dtype=torch.float64, device="cpu").to(dtype).to(torch.float64).item()
            fits = str(held) == str(float(fill))
    else:
        low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        fits = low <= fill <= high and fill == int(fill)
    if not fits:
        raise ValueError(f"fill: expected a value of {dtype}, got {fill!r}")
    return float(fill) if dtype.is_floating_point or dtype.is_complex else int(fill)
