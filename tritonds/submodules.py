"""The layer's modules as users leave them: read where that is the same as calling them, called where it may not be.

A module is as it was made if it is of PyTorch's own class, with a plain weight, no hooks and no ``forward`` of its own; a
parametrisation of its weight is allowed, since reading the weight applies it. Only such modules' weights go to the kernels.
Adapters, hooks (old-style weight and spectral norm, pruning, offloading), quantised and compiled modules are called instead.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from . import functional, reference
from .coefficient_weights import CoefficientWeights

if TYPE_CHECKING:
    from .module import DownsizeNet


def is_as_made(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling ``module`` is what reading the attributes of a ``kind`` is."""
    is_kind = type(module) is kind or (parametrize.is_parametrized(module) and type(module).__bases__ == (kind,))
    return is_kind and not has_hooks(module) and "forward" not in vars(module) and not _is_quantized(module)


def _is_quantized(module: nn.Module) -> bool:
    """Whether the weight's class has operators of its own, as torchao's have. DTensor does not count: FSDP makes it plain."""
    weight = module._parameters.get("weight")
    if weight is None or type(weight) is nn.Parameter:
        return False
    return is_traceable_wrapper_subclass(weight) and not hasattr(weight, "full_tensor")


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks of its own. Global hooks, as profilers and FLOP counters set, do not count."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def changed_linear(net: "DownsizeNet") -> str | None:
    """The name of the first of ``distance``, ``hidden`` and ``out`` that has to be called, if there is one."""
    if not is_as_made(net.hidden, nn.ModuleList):
        return "hidden"
    if net.distance is not None and not _is_linear(net.distance):
        return "distance"
    for index, layer in enumerate(net.hidden):
        if not _is_linear(layer):
            return f"hidden.{index}"
    return None if _is_linear(net.out) else "out"


def _is_linear(module: nn.Module) -> bool:
    return is_as_made(module, nn.Linear) and module.bias is not None


def changed_texture(net: "DownsizeNet") -> str | None:
    """The name of the first module of the texture CNN that is not as the layer made it, if there is one."""
    if net.texture is None:
        return "texture" if net.texture_channels else None
    if not is_as_made(net.texture, nn.Sequential):
        return "texture"
    parts = list(net.texture)
    if len(parts) != 2 * net.texture_layers:
        return "texture"
    for index, part in enumerate(parts):
        if not (is_as_made(part, nn.ReLU) if index % 2 else _is_convolution(part)):
            return f"texture.{index}"
    return None


def _is_convolution(module: nn.Module) -> bool:
    if not is_as_made(module, nn.Conv2d):
        return False
    layer = cast(nn.Conv2d, module)
    sizes = (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.groups)
    plain = sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and layer.padding_mode == "zeros" and layer.bias is not None


def weights(net: "DownsizeNet") -> CoefficientWeights:
    """The weights of modules that are as they were made.

    Raises:
        ValueError: one is not, so that its weights are not all that it computes with.
    """
    changed = changed_linear(net)
    if changed is not None:
        module = net.get_submodule(changed)
        raise ValueError(
            f"{changed}: expected an nn.Linear with bias and without hooks or quantised weights, got {type(module).__name__}"
        )
    distance, out = net.distance, net.out
    hidden = [cast(nn.Linear, layer) for layer in net.hidden]
    return CoefficientWeights(
        None if distance is None else distance.weight,
        None if distance is None else distance.bias,
        tuple(layer.weight for layer in hidden),
        tuple(layer.bias for layer in hidden),
        out.weight,
        out.bias,
    )


def coefficients(net: "DownsizeNet", image: Tensor, texture: Tensor | None, size: tuple[int, int]) -> Tensor:
    """The coefficients (N, K*K, h, w) of ``image`` (N, C, H, W), inferred by calling each module.

    Modules are given one row a target pixel. For ``distance`` it holds 2K distances, in source pixels: (h * w, 2K). For the
    others it holds channels: (N * h * w, channels).

    Raises:
        ValueError: ``out`` does not give K*K numbers a row.
    """
    (h, w), n, taps = size, image.shape[0], net.taps
    inputs = []
    if net.distance is not None:
        distances = reference.tap_distances(image, size, taps).to(image.dtype)
        inputs.append(net.distance(distances).relu().expand(n, -1, -1).flatten(0, 1))
    if texture is not None:
        pooled = functional.area_pool2d(texture, size, backend=net.backend)
        inputs.append(pooled.permute(0, 2, 3, 1).flatten(0, 2))
    z = torch.cat(inputs, dim=1)
    if isinstance(net.hidden, nn.ModuleList):
        for layer in net.hidden:
            z = layer(z).relu()
    else:
        z = net.hidden(z)
    logits = net.out(z)
    if logits.shape != (n * h * w, taps * taps):
        raise ValueError(f"out: expected to give {(n * h * w, taps * taps)} (pixels, taps*taps), got {tuple(logits.shape)}")
    logits = logits.view(n, h, w, taps * taps).permute(0, 3, 1, 2)
    return reference.constrain(logits, image, size, taps, net.prior).to(logits.dtype).contiguous()


def downsize(net: "DownsizeNet", image: Tensor, texture: Tensor | None, size: tuple[int, int]) -> Tensor:
    """``image`` (N, C, H, W) resized with :func:`coefficients`."""
    a = coefficients(net, image, texture, size).to(image.dtype)
    return functional.weighted_gather2d(image, a, size, taps=net.taps, backend=net.backend)
