"""The DownsizeNet layer: a texture CNN in front of the operator, and the operator's weights as parameters."""

import itertools
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from . import checks, functional, geometry, hub, pretrained, submodules
from .batches import Letterboxed, channels_last, letterboxed, normalize, to_batch
from .coefficient_weights import SHARPENING, CoefficientWeights, output_rows
from .dtypes import DTYPES, autocasts, trainable

OPTIONS = (
    "size",
    "in_channels",
    "taps",
    "prior",
    "texture_channels",
    "texture_layers",
    "distance_channels",
    "hidden_channels",
    "hidden_layers",
    "mean",
    "std",
    "out_dtype",
)
"""The arguments of :class:`DownsizeNet` that a file keeps: all but the backend."""


class DownsizeNet(nn.Module):
    """Learned image resizing, to be trained with the loss of the network that it stands in front of.

    A CNN of ``texture_layers`` 3x3 convolutions (zero padding, ReLU) reads texture features off the image, and
    :func:`tritonds.downsize` does the rest. The output layer starts as zeros, with a strength of 1 where the prior sharpens:
    an untrained network equals the interpolation that its prior says. Without a prior it averages its taps.

    With one convolution this is :func:`tritonds.downsize_image`, for which the Triton backend needs one launch. With more, with
    hooks on the texture's modules, or with others in their place, PyTorch convolves first. The results are the same up to
    rounding. ``texture`` may be any module from (N, C, H, W) to (N, F, Ht, Wt), of any Ht and Wt.

    If ``distance``, ``out`` or a module of ``hidden`` has a hook, is wrapped (an adapter, ``torch.compile``) or replaced
    (quantised), all of these are called, with a row for each target pixel, and PyTorch computes the coefficients. Another
    module in place of ``hidden`` is called as a whole, without ReLU after it. Parametrisations of
    :mod:`torch.nn.utils.parametrizations` are no such change: the kernels read the weights that come out of them.

    Args:
        size: (h, w) of the result, in pixels, or one number for both; may be given to :meth:`forward` instead.
        in_channels: C of the images.
        taps: K, source pixels read per axis: 1 to 8.
        prior: None, "bilinear", "antialias", "bicubic" or "lanczos", as in :func:`tritonds.downsize`.
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

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
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
        checks.check_options(size, taps, prior, backend)
        taps = checks.check_taps(taps)
        in_channels = checks.check_count("in_channels", in_channels, 1)
        texture_channels = checks.check_count("texture_channels", texture_channels, 0)
        texture_layers = checks.check_count("texture_layers", texture_layers, 1)
        distance_channels = checks.check_count("distance_channels", distance_channels, 0)
        hidden_channels = checks.check_count("hidden_channels", hidden_channels, 1)
        hidden_layers = checks.check_count("hidden_layers", hidden_layers, 0, checks.MAX_HIDDEN_LAYERS)
        self.mean, self.std = checks.check_normalization(in_channels, mean, std, out_dtype)
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
        self.out_dtype = out_dtype
        self.backend = backend
        self.texture = _texture_cnn(in_channels, texture_channels, texture_layers)
        self.distance = nn.Linear(2 * taps, distance_channels) if distance_channels else None
        widths = [distance_channels + texture_channels] + [hidden_channels] * hidden_layers
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.out = nn.Linear(widths[-1], output_rows(taps, prior))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if prior in SHARPENING:
            nn.init.ones_(self.out.bias[taps * taps :])

    def weights(self) -> CoefficientWeights:
        """The parameters of the coefficient network, as :func:`tritonds.downsize` takes them.

        Raises:
            ValueError: ``distance``, ``hidden`` or ``out`` is wrapped, hooked or replaced.
        """
        return submodules.weights(self)

    @overload
    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: int | tuple[int, int] | None = ...,
        *,
        letterbox: Literal[False] = ...,
        fill: float = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: int | tuple[int, int] | None = ...,
        *,
        letterbox: Literal[True],
        fill: float = ...,
    ) -> Letterboxed: ...
    @overload
    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: int | tuple[int, int] | None = ...,
        *,
        letterbox: bool,
        fill: float = ...,
    ) -> Tensor | Letterboxed: ...
    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: int | tuple[int, int] | None = None,
        *,
        letterbox: bool = False,
        fill: float = 0.0,
    ) -> Tensor | Letterboxed:
        """Resize ``image``, a batch (N, C, H, W) or a list of N images (C, H, W) of any sizes, to (N, C, h, w).

        Images are of uint8 or the parameters' dtype. ``size`` replaces the layer's own for this call. With ``letterbox`` every
        image keeps its aspect and is surrounded by ``fill``; the result then is :class:`tritonds.Letterboxed`.
        """
        size = self._size_or(size)
        checks.check_channels(image, self.in_channels)
        called = submodules.changed_linear(self) is not None
        if not called and self.texture_layers == 1 and submodules.changed_texture(self) is None:
            weight, bias = submodules.read_convolution(self)
            return functional.downsize_image(
                image, weight, bias, submodules.read(self), size, taps=self.taps, prior=self.prior, mean=self.mean,
                std=self.std, out_dtype=self.out_dtype, letterbox=letterbox, fill=fill, backend=self.backend,
            )  # fmt: skip
        parameter = self._checked_parameter(image)
        letterbox = checks.check_letterbox(letterbox, image)
        fill = checks.check_fill(fill, self.out_dtype or parameter.dtype)

        def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
            x, texture = self._with_texture(x)
            if called:
                return submodules.downsize(self, x, texture, size)
            weights = submodules.read(self)
            return functional.downsize(x, texture, weights, size, taps=self.taps, prior=self.prior, backend=self.backend)

        result = to_batch(image, size, letterbox, fill, resize)
        result = result if self.out_dtype is None else result.to(self.out_dtype)
        return letterboxed(result, image, size) if letterbox else result

    if TYPE_CHECKING:
        __call__ = forward  # nn.Module's takes and returns Any

    def coefficients(self, image: Tensor | Sequence[Tensor], size: int | tuple[int, int] | None = None) -> Tensor:
        """The coefficients (N, K*K, h, w) with which :meth:`forward` resizes ``image``, a batch or a list without letterbox."""
        size = self._size_or(size)
        self._checked_parameter(image)
        checks.check_channels(image, self.in_channels)
        if not isinstance(image, Tensor):
            return torch.cat([self.coefficients(x.unsqueeze(0), size) for x in image])
        image, texture = self._with_texture(image)
        if submodules.changed_linear(self) is not None:
            return submodules.coefficients(self, image, texture, size)
        return functional.coefficients(
            image, texture, self.weights(), size, taps=self.taps, prior=self.prior, backend=self.backend
        )

    def _size_or(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        """``size``, or the layer's own."""
        size = self.size if size is None else size
        if size is None:
            raise ValueError("size: expected (height, width) here or when the layer was made, got neither")
        return checks.check_size(size)

    def _parameter(self) -> Tensor:
        """A parameter whose dtype and device images have to have. It is on the meta device if all are offloaded."""
        offloaded = torch.empty(0, dtype=torch.float32, device="meta")
        return next((p for p in self.parameters() if p.dtype in DTYPES), offloaded)  # quantised ones may be of integers

    def _checked_parameter(self, image: Tensor | Sequence[Tensor]) -> Tensor:
        """As :meth:`_parameter`. Raise unless the layer can take ``image`` and its own options, which are attributes."""
        checks.check_options(None, self.taps, self.prior, self.backend)
        checks.check_normalization(self.in_channels, self.mean, self.std, self.out_dtype)
        parameter = self._parameter()
        checks.check_image(image, parameter)
        return parameter

    def _with_texture(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """``image`` normalised, and its texture features, channels-last, which the kernels read fastest."""
        mean, std = checks.check_normalization(self.in_channels, self.mean, self.std, self.out_dtype)
        if mean is not None or std is not None or image.dtype == torch.uint8:
            dtype = self._parameter().dtype if image.dtype == torch.uint8 else image.dtype
            image = normalize(image, mean, std, dtype)
        (image,) = trainable([image])
        if self.texture is None:
            return image, None
        texture = self.texture(channels_last(image))
        checks.check_texture(texture, image)
        if not autocasts(image.device.type):
            checks.check_alike("texture", texture, "image", image)
        return image, texture

    def options(self) -> dict[str, Any]:
        """The arguments that make a network like this one, but for the backend."""
        return {name: getattr(self, name) for name in OPTIONS}

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write options and parameters to ``model.safetensors`` in ``directory``, which is made, for :meth:`from_pretrained`.

        Beside it, ``config.json`` repeats the options for other readers.

        Where parameters are sharded over processes (FSDP), all of these call it, since it gathers them; each writes the same
        file, so that every machine has one.

        Raises:
            ValueError: a module is wrapped, hooked, replaced or set otherwise than the layer made it; parameters are of several
                dtypes, or not finite. Nothing is written then.
        """
        path = Path(directory) / pretrained.FILE
        changed = submodules.changed_linear(self) or submodules.changed_texture(self)
        if changed is not None:
            raise ValueError(
                f"{changed}: expected it as DownsizeNet made it, since a file holds no more than options and parameters"
            )
        state = pretrained.gathered(self.state_dict())
        with torch.device("meta"):
            expected = DownsizeNet(**self.options()).state_dict()
        pretrained.check_state(path, state, expected)
        pretrained.write(path, self.options(), state)

    def push_to_hub(self, repository: str, *, license: str | None = None, private: bool | None = None) -> str:
        """Commit what :meth:`save_pretrained` writes to a repository of the Hugging Face Hub, which is made unless it is there.

        A repository without a model card gets one. It says how to load the network, and names no figures. Who uploads is known
        from ``hf auth login`` or the environment variable ``HF_TOKEN``. Of several processes that hold a sharded network each
        would upload: have all save, and one upload the folder.

        Args:
            repository: "org/name"; or a name alone, of the user who is logged in.
            license: of the card, as the Hub spells it: "apache-2.0". Nothing is said of it if not given.
            private: whether a repository that is made is private; the owner's default if not given.

        Returns:
            The commit's URL.

        Raises:
            ImportError: ``huggingface_hub`` is not installed; the extra "hub" brings it.
            ValueError: as :meth:`save_pretrained`, or no name that the Hub takes.
            huggingface_hub.errors.HfHubHTTPError: an OSError; the Hub refuses, for want of a login among others.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repository, license, private)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        revision: str | None = None,
        size: int | tuple[int, int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        out_dtype: torch.dtype | None = None,
        backend: str = "auto",
    ) -> "DownsizeNet":
        """A trained network: one that the package holds, or one that :meth:`save_pretrained` wrote, here or to a repository.

        Each of ``size``, ``mean``, ``std`` and ``out_dtype`` that is given replaces the stored one. The first convolution is
        adapted to ``mean`` and ``std``: the network sees what it was trained on, and results differ in their normalisation
        alone. The outermost ``texture_layers`` pixels of an image are an exception, since the convolution puts zeros around
        them after normalising. Reading runs no code from the file and draws no random numbers.

        Args:
            name_or_path: the name of a network that the package holds, "natural-k2", "natural-k4", "natural-k8" or
                "natural-k8-lite"; or the path of a .safetensors file, or of a folder that holds ``model.safetensors``; or, if
                there is no such path, the string "org/name", a repository of the Hugging Face Hub. A shipped name is never
                taken for a path: write ``./natural-k2`` for a folder called so.
            revision: branch, tag or commit of the repository; "main" if not given.

        Returns:
            The network on the CPU, in the dtype that it was stored in, and in training mode. Evaluation mode computes the same.

        Raises:
            OSError: the file is missing, or cannot be opened. For "org/name" it is FileNotFoundError without such a path,
                repository or revision, or without ``huggingface_hub``; and ConnectionError where the Hub cannot be reached and
                its cache does not have it.
            ValueError: an unknown name; or a file that is none of :meth:`save_pretrained`, or whose parameters do not fit its
                options, or are not finite; a ``config.json`` that says otherwise; a revision of what is no repository.
            TypeError, ValueError: an argument outside what :class:`DownsizeNet` says.

        >>> DownsizeNet.from_pretrained("natural-k2", size=(16, 16))(torch.rand(1, 3, 40, 30)).shape
        torch.Size([1, 3, 16, 16])
        """
        given = {"size": size, "mean": mean, "std": std, "out_dtype": out_dtype}
        with pretrained.locate(name_or_path, revision) as path:
            options, state = pretrained.read(path)
            stored = cls._without_memory(path, options, len(state))
            pretrained.check_state(path, state, stored.state_dict())
            with torch.device("meta"):
                net = cls(**options | {name: value for name, value in given.items() if value is not None}, backend=backend)
            net.to(state["out.weight"].dtype).to_empty(device="cpu").load_state_dict(state)
        if net.texture is not None:
            _renormalize(cast(nn.Conv2d, net.texture[0]), stored, net)
        return net

    @classmethod
    def _without_memory(cls, path: Path, options: dict[str, Any], tensors: int) -> "DownsizeNet":
        """The network of a file's options, on the meta device, whatever sizes the file claims. It holds so many ``tensors``."""
        if options.keys() != set(OPTIONS):
            raise ValueError(f"{path}: options: expected {sorted(OPTIONS)}, got {sorted(options)}")
        layers = options["texture_layers"]
        try:
            # Each layer becomes an object, and two tensors.
            if options["texture_channels"] and 2 * layers > tensors:
                raise ValueError(f"texture_layers: expected as many as the file holds, got {layers} and {tensors} tensors")
            with torch.device("meta"):
                return cls(**options)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ValueError(f"{path}: options: {error}") from error

    def extra_repr(self) -> str:
        """The options that the submodules do not show."""
        given = {name: getattr(self, name) for name in ("mean", "std", "out_dtype")}
        pixels = "".join(f", {name}={value}" for name, value in given.items() if value is not None)
        return f"size={self.size}, taps={self.taps}, prior={self.prior!r}, backend={self.backend!r}{pixels}"


def _texture_cnn(in_channels: int, channels: int, layers: int) -> nn.Sequential | None:
    """The 3x3 convolutions. Their weights are contiguous, as FSDP demands."""
    if channels == 0:
        return None
    widths = [in_channels] + [channels] * layers
    parts: list[nn.Module] = []
    for i, o in itertools.pairwise(widths):
        parts += [nn.Conv2d(i, o, kernel_size=3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts)


@torch.no_grad()
def _renormalize(convolution: nn.Conv2d, old: DownsizeNet, new: DownsizeNet) -> None:
    """Change the convolution of images normalised as ``old`` does, so that it sees the same in those of ``new``.

    With x = (image - mean) / std, x_old = x_new * std_new / std_old + (mean_new - mean_old) / std_old.
    """
    zeros, ones, weight = [0.0] * old.in_channels, [1.0] * old.in_channels, convolution.weight.double()
    old_mean, new_mean = (weight.new_tensor(net.mean or zeros) for net in (old, new))
    old_std, new_std = (weight.new_tensor(net.std or ones) for net in (old, new))
    summand = (weight.sum(dim=(2, 3)) * ((new_mean - old_mean) / old_std)).sum(dim=1)
    assert convolution.bias is not None
    convolution.bias.copy_(convolution.bias + summand)
    convolution.weight.copy_(weight * (new_std / old_std).view(-1, 1, 1))
