"""The layer's modules, which users may change. Reading their weights replaces calling them where that is the same.

A module is as it was made if it is of PyTorch's own class, with a plain weight, no hooks and no ``forward`` of its own; a
parametrisation of its weight is allowed, since reading the weight applies it. Only such modules' weights go to the kernels.
Adapters, hooks (old-style weight and spectral norm, pruning, offloading), quantised and compiled modules are called instead.
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import checks, functional, reference
from .coefficient_weights import CoefficientWeights, output_rows
from .dtypes import autocasts

if TYPE_CHECKING:
    from .module import DownsizeNet


def is_as_made(module: Any, kind: type[nn.Module]) -> bool:
    """Whether ``module`` computes what a ``kind`` with its attributes computes."""
    if type(module) is not kind and not (parametrize.is_parametrized(module) and type(module).__bases__ == (kind,)):
        return False
    return not has_hooks(module) and "forward" not in module.__dict__ and not _is_quantized(module)


def _is_quantized(module: nn.Module) -> bool:
    """Whether the weight's class has operators of its own, as torchao's have. DTensor does not count: FSDP makes it plain."""
    kind = type(module._parameters.get("weight"))  # of which torch.compile knows more than of the weight
    return kind is not nn.Parameter and hasattr(kind, "__tensor_flatten__") and not hasattr(kind, "full_tensor")


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has hooks of its own. Global hooks, as profilers and FLOP counters set, do not count."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


def _get(module: nn.Module, name: str) -> Any:
    """``module.name``, a parameter or module. At once, since PyTorch's own way costs as much as a launch for twenty of them."""
    found: Any = module._parameters.get(name)
    if found is None:
        found = module._modules.get(name)
    return getattr(module, name) if found is None else found


def changed_linear(net: "DownsizeNet") -> str | None:
    """The name of the first of ``distance``, ``hidden`` and ``out`` that has to be called, if there is one."""
    hidden, distance = _get(net, "hidden"), _get(net, "distance")
    if not is_as_made(hidden, nn.ModuleList):
        return "hidden"
    if distance is not None and not _is_linear(distance):
        return "distance"
    for name, layer in hidden._modules.items():
        if not _is_linear(layer):
            return f"hidden.{name}"
    return None if _is_linear(_get(net, "out")) else "out"


def _is_linear(module: nn.Module) -> bool:
    return is_as_made(module, nn.Linear) and _get(module, "bias") is not None


def changed_texture(net: "DownsizeNet") -> str | None:
    """The name of the first module of the texture CNN that is not as the layer made it, if there is one."""
    texture = _get(net, "texture")
    if texture is None:
        return "texture" if net.texture_channels else None
    if not is_as_made(texture, nn.Sequential) or len(texture._modules) != 2 * net.texture_layers:
        return "texture"
    for index, (name, part) in enumerate(texture._modules.items()):
        if not (is_as_made(part, nn.ReLU) if index % 2 else _is_convolution(part)):
            return f"texture.{name}"
    return None


def _is_convolution(module: nn.Module) -> bool:
    if not is_as_made(module, nn.Conv2d):
        return False
    layer = cast(nn.Conv2d, module)
    sizes = (layer.kernel_size, layer.padding, layer.stride, layer.dilation, layer.groups)
    plain = sizes == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and layer.padding_mode == "zeros" and _get(layer, "bias") is not None


def weights(net: "DownsizeNet") -> CoefficientWeights:
    """The weights of modules that are as they were made.

    Raises:
        ValueError: a module is not, and may compute with more than its weights.
    """
    changed = changed_linear(net)
    if changed is not None:
        module = net.get_submodule(changed)
        raise ValueError(
            f"{changed}: expected an nn.Linear with bias and without hooks or quantised weights, got {type(module).__name__}"
        )
    return read(net)


def read(net: "DownsizeNet") -> CoefficientWeights:
    """The weights of modules that are known to be as they were made."""
    distance, out, hidden = _get(net, "distance"), _get(net, "out"), _get(net, "hidden")._modules.values()
    return CoefficientWeights(
        None if distance is None else _get(distance, "weight"),
        None if distance is None else _get(distance, "bias"),
        tuple([_get(layer, "weight") for layer in hidden]),
        tuple([_get(layer, "bias") for layer in hidden]),
        _get(out, "weight"),
        _get(out, "bias"),
    )


def read_convolution(net: "DownsizeNet") -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of the texture's first convolution, known to be as it was made; None for both if there is no texture."""
    texture = _get(net, "texture")
    if texture is None:
        return None, None
    convolution = next(iter(texture._modules.values()))
    return _get(convolution, "weight"), _get(convolution, "bias")


def coefficients(net: "DownsizeNet", image: Tensor, texture: Tensor | None, size: tuple[int, int]) -> Tensor:
    """The coefficients (N, K*K, h, w) of ``image`` (N, C, H, W), inferred by calling each module.

    Modules are given one row a target pixel. For ``distance`` it holds 2K distances, in source pixels: (h * w, 2K). For the
    others it holds channels: (N * h * w, channels).

    Raises:
        TypeError, ValueError: a module gives something else than such rows, or is given channels that it does not take.
    """
    (h, w), n, taps = size, image.shape[0], net.taps
    inputs, sources = [], []
    if net.distance is not None:
        distances = reference.tap_distances(image, size, taps).to(image.dtype)
        inputs.append(_rows("distance", net.distance, distances, "2 * taps distances").relu().repeat(n, 1))
        sources.append(f"{inputs[-1].shape[1]} of distance")
    if texture is not None:
        pooled = functional.area_pool2d(texture, size, backend=net.backend)
        inputs.append(pooled.permute(0, 2, 3, 1).flatten(0, 2))
        sources.append(f"{inputs[-1].shape[1]} of texture")
    if not inputs:
        raise ValueError("distance, texture: expected at least one, got None for both")
    z, source = torch.cat(inputs, dim=1), " and ".join(sources)
    if isinstance(net.hidden, nn.ModuleList):
        for index, layer in enumerate(net.hidden):
            z = _rows(f"hidden.{index}", layer, z, source).relu()
            source = f"{z.shape[1]} of hidden.{index}"
    else:
        z = _rows("hidden", net.hidden, z, source)
        source = f"{z.shape[1]} of hidden"
    logits = _rows("out", net.out, z, source)
    expected = (n * h * w, output_rows(taps, net.prior))
    if logits.shape != expected:
        raise ValueError(
            f"out: expected to give {expected} (pixels, {checks.output_rows_text(net.prior)}), got {tuple(logits.shape)}"
        )
    logits = logits.view(n, h, w, -1).permute(0, 3, 1, 2)
    return reference.constrain(logits, image, size, taps, net.prior).to(logits.dtype).contiguous()


def _rows(name: str, module: nn.Module, rows: Tensor, source: str) -> Tensor:
    """``module(rows)``, checked. Errors have the module's name, and say what ``source`` the rows come from."""
    if module is None:
        raise TypeError(f"{name}: expected a module, got None")
    width = getattr(module, "in_features", None)
    # Hooks may change what it is given, as those of tensor parallelism do.
    if isinstance(width, int) and width != rows.shape[1] and not has_hooks(module):
        raise ValueError(f"{name}: expected {width} channels, got {rows.shape[1]}: {source}")
    dtype = cast(nn.Linear, module).weight.dtype if _is_linear(module) else rows.dtype
    if dtype != rows.dtype and not autocasts(rows.device.type):
        raise TypeError(f"{name}: expected its weight's dtype, {dtype}, got {rows.dtype}: {source}")
    result: Tensor = module(rows)
    checks.check_dense(name, result)
    checks.check_dtype(name, result)
    checks.check_device(name, result, "image", rows)
    if result.dim() != 2 or result.shape[0] != rows.shape[0] or result.shape[1] < 1:
        raise ValueError(f"{name}: expected to give ({rows.shape[0]}, channels), got {tuple(result.shape)}")
    return result


def downsize(net: "DownsizeNet", image: Tensor, texture: Tensor | None, size: tuple[int, int]) -> Tensor:
    """``image`` (N, C, H, W) resized with :func:`coefficients`."""
    a = coefficients(net, image, texture, size).to(image.dtype)
    return functional.weighted_gather2d(image, a, size, taps=net.taps, backend=net.backend)
