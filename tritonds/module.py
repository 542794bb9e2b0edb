"""The DownsizeNet layer: a texture CNN in front of the operator, and the operator's weights as parameters."""

import itertools
from collections.abc import Sequence
from os import PathLike
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import functional, geometry, reference
from .reference import CoefficientWeights


class DownsizeNet(nn.Module):
    """Learned image resizing, to be trained with the loss of the network that it stands in front of.

    A CNN of ``texture_layers`` 3x3 convolutions (zero padding, ReLU) reads texture features off the image, and
    :func:`tritonds.downsize` does the rest. The output layer starts as zeros: with a prior, an untrained network equals
    ``F.interpolate(mode="bilinear")``, antialiased with prior "antialias" and ``taps >= 2 * ceil(scale)``; without one, it
    averages its taps.

    With one convolution this is :func:`tritonds.downsize_image`, for which the Triton backend needs one launch. With more, with
    hooks on the texture's modules, or with others in their place, PyTorch convolves first; the same up to rounding.

    Args:
        size: (h, w) of the result, in pixels; may be given to :meth:`forward` instead.
        in_channels: C of the images.
        taps: K, source pixels read per axis: 1 to 8.
        prior: None, "bilinear" or "antialias".
        texture_channels: F; 0 for the distance-only network.
        texture_layers: convolutions of the texture CNN, at least 1.
        distance_channels: E; 0 for the texture-only network.
        hidden_channels: M.
        hidden_layers: 0 to 3.
        mean: C numbers, subtracted from the images' channels; uint8 images are divided by 255 before.
        std: C numbers, by which they are divided then.
        out_dtype: of the result; if None, that of the parameters, or of autocast.
        backend: "auto", "triton" or "torch", as in :func:`tritonds.downsize`. Not part of the state_dict.

    Raises:
        TypeError, ValueError: an argument outside what is said above.

    Source: the poster; channel counts, ReLU and the zero start are our choice.

    >>> net = DownsizeNet((16, 16), prior="bilinear")
    >>> net(torch.rand(2, 3, 40, 30)).shape
    torch.Size([2, 3, 16, 16])
    """

    # Networks pickled by earlier versions have none of these.
    mean: list[float] | None = None
    std: list[float] | None = None
    out_dtype: torch.dtype | None = None

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        *,
        in_channels: int = 3,
        taps: int = 2,
        prior: str | None = None,
        texture_channels: int = 16,
        texture_layers: int = 1,
        distance_channels: int = 16,
        hidden_channels: int = 16,
        hidden_layers: int = 1,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        out_dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        functional.check_options(size, taps, prior, backend)
        _check_count("in_channels", in_channels, 1)
        _check_count("texture_channels", texture_channels, 0)
        _check_count("texture_layers", texture_layers, 1)
        _check_count("distance_channels", distance_channels, 0)
        _check_count("hidden_channels", hidden_channels, 1)
        _check_count("hidden_layers", hidden_layers, 0, functional.MAX_HIDDEN_LAYERS)
        functional.check_normalization(in_channels, mean, std, out_dtype)
        if texture_channels + distance_channels == 0:
            raise ValueError("texture_channels, distance_channels: expected at least one above 0, got 0 and 0")
        self.size = None if size is None else geometry.check_size("size", size)
        self.in_channels = in_channels
        self.taps = taps
        self.prior = prior
        self.texture_channels = texture_channels
        self.texture_layers = texture_layers
        self.distance_channels = distance_channels
        self.hidden_channels = hidden_channels
        self.hidden_layers = hidden_layers
        self.mean = None if mean is None else [float(m) for m in mean]
        self.std = None if std is None else [float(s) for s in std]
        self.out_dtype = out_dtype
        self.backend = backend
        self.texture = _texture_cnn(in_channels, texture_channels, texture_layers)
        self.distance = nn.Linear(2 * taps, distance_channels) if distance_channels else None
        widths = [distance_channels + texture_channels] + [hidden_channels] * hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], taps * taps)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def weights(self) -> CoefficientWeights:
        """The parameters of the coefficient network, as :func:`tritonds.downsize` takes them."""
        hidden = cast(list[nn.Linear], list(self.hidden))
        return CoefficientWeights(
            None if self.distance is None else self.distance.weight,
            None if self.distance is None else self.distance.bias,
            tuple(layer.weight for layer in hidden),
            tuple(layer.bias for layer in hidden),
            self.out.weight,
            self.out.bias,
        )

    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: tuple[int, int] | None = None,
        *,
        letterbox: bool = False,
        fill: float = 0.0,
    ) -> Tensor | functional.Letterboxed:
        """Resize ``image``, a batch (N, C, H, W) or a list of N images (C, H, W) of any sizes, to (N, C, h, w).

        Of uint8 or the parameters' dtype. ``size`` comes before the layer's own. With ``letterbox`` every image keeps its
        aspect and is surrounded by ``fill``; the result then is :class:`tritonds.Letterboxed`.
        """
        size = self._size_or(size)
        functional.check_channels(image, self.in_channels)
        options: dict[str, Any] = {"taps": self.taps, "prior": self.prior, "backend": self.backend}
        if self._is_plain():
            convolution = None if self.texture is None else cast(nn.Conv2d, self.texture[0])
            weight, bias = (None, None) if convolution is None else (convolution.weight, convolution.bias)
            options |= {"mean": self.mean, "std": self.std, "out_dtype": self.out_dtype, "letterbox": letterbox, "fill": fill}
            return functional.downsize_image(image, weight, bias, self.weights(), size, **options)
        functional.check_image(image, self.out.weight)
        functional.check_fill(fill, self.out_dtype or self.out.weight.dtype)

        def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
            x = self._normalized(x)
            texture = None if self.texture is None else self.texture(x)
            return functional.downsize(x, texture, self.weights(), size, **options)

        result = reference.to_batch(image, size, letterbox, fill, resize)
        result = result if self.out_dtype is None else result.to(self.out_dtype)
        return functional.letterboxed(result, image, size) if letterbox else result

    def coefficients(self, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The coefficients (N, K*K, h, w) with which :meth:`forward` resizes the batch ``image`` (N, C, H, W)."""
        if not isinstance(image, Tensor):
            raise TypeError(f"image: expected a torch.Tensor, got {type(image).__name__}")
        size = self._size_or(size)
        functional.check_image(image, self.out.weight)
        functional.check_channels(image, self.in_channels)
        image = self._normalized(image)
        texture = None if self.texture is None else self.texture(image)
        return functional.coefficients(
            image, texture, self.weights(), size, taps=self.taps, prior=self.prior, backend=self.backend
        )

    def _size_or(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """``size``, or the layer's own."""
        size = self.size if size is None else size
        if size is None:
            raise ValueError("size: expected (height, width) here or when the layer was made, got neither")
        return geometry.check_size("size", size)

    def _is_plain(self) -> bool:
        """Whether the texture is the one convolution that it was made as: calling its modules then is no different."""
        if self.texture is None:
            return True
        parts = list(self.texture)
        if len(parts) != 2 or type(parts[0]) is not nn.Conv2d or type(parts[1]) is not nn.ReLU:
            return False
        return _is_plain_convolution(parts[0]) and not any(_has_hooks(module) for module in (self.texture, *parts))

    def _normalized(self, image: Tensor) -> Tensor:
        if self.mean is None and self.std is None and image.dtype != torch.uint8:
            return image
        dtype = self.out.weight.dtype if image.dtype == torch.uint8 else image.dtype
        return reference.normalize(image, self.mean, self.std, dtype)

    def options(self) -> dict[str, Any]:
        """The arguments that make a network like this one, but for the backend."""
        names = ["size", "in_channels", "taps", "prior", "texture_channels", "texture_layers"]
        names += ["distance_channels", "hidden_channels", "hidden_layers", "mean", "std", "out_dtype"]
        return {name: getattr(self, name) for name in names}

    def save(self, file: str | PathLike[str]) -> None:
        """Write options and parameters to ``file``, for :meth:`load`."""
        torch.save({"options": self.options(), "state_dict": self.state_dict()}, file)

    @classmethod
    def load(cls, file: str | PathLike[str], *, backend: str = "auto") -> "DownsizeNet":
        """The network that :meth:`save` wrote, on the CPU and of the dtype it had. Runs no code from the file.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            net = cls(**content["options"], backend=backend)
            net.to(content["state_dict"]["out.weight"].dtype)
            net.load_state_dict(content["state_dict"])
        except OSError:
            raise
        except Exception as error:  # damaged files fail in many ways
            raise ValueError(f"{file}: expected a file written by DownsizeNet.save: {error}") from error
        return net

    def extra_repr(self) -> str:
        """What the submodules do not show."""
        given = {name: getattr(self, name) for name in ("mean", "std", "out_dtype")}
        pixels = "".join(f", {name}={value}" for name, value in given.items() if value is not None)
        return f"size={self.size}, taps={self.taps}, prior={self.prior!r}, backend={self.backend!r}{pixels}"


def _is_plain_convolution(layer: nn.Conv2d) -> bool:
    sizes = (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.groups)
    plain = sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and layer.padding_mode == "zeros" and layer.bias is not None
    return plain and "forward" not in vars(layer)


def _has_hooks(module: nn.Module) -> bool:
    """Of its own. Those of all modules, which profilers and FLOP counters set, see the layer alone."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _texture_cnn(in_channels: int, channels: int, layers: int) -> nn.Sequential | None:
    """The 3x3 convolutions, their weights channels-last so that their features come out as the kernels read them fastest."""
    if channels == 0:
        return None
    widths = [in_channels] + [channels] * layers
    parts: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        parts += [nn.Conv2d(i, o, kernel_size=3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _check_count(name: str, value: int, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < least or (most is not None and value > most):
        expected = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}: expected {expected}, got {value}")
