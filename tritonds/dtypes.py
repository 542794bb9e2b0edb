"""Which dtypes are taken, which one arithmetic runs in, and which one autocast wants; and which tensors autograd saves."""

import torch
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that arithmetic runs in: float64 for float64, float32 for everything else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocasts(device_type: str) -> bool:
    """Whether autocast is on; some devices, such as meta, have none."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def autocast(tensors: list[Tensor], device_type: str) -> list[Tensor]:
    """``tensors`` in autocast's dtype if it is on, float64 excepted, as autocast does for PyTorch's own operators."""
    if not autocasts(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return [t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in tensors]


def in_transform() -> bool:
    """Whether a transform of torch.func runs, where vmap knows no memory formats; torch.compile traces this function, too."""
    return torch._C._functorch.get_dynamic_layer_stack_depth() > 0


def trainable(tensors: list[Tensor]) -> list[Tensor]:
    """``tensors``; those made in inference mode are copied where gradients are on, since autograd saves none of them."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return tensors
    return [t.clone() if t.is_inference() else t for t in tensors]
