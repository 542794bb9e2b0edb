"""The layer as a transform of ``torchvision.transforms.v2``: images, boxes, keypoints and masks of a sample together."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from . import checks, geometry, labels
from .batches import Letterboxed
from .module import DownsizeNet

try:
    from PIL.Image import Image as PILImage
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional
except ImportError as error:
    raise ImportError("tritonds.transforms needs torchvision: pip install 'tritonds[torchvision]'") from error


class Downsize(v2.Transform):
    """Resize a sample's images by a network, and all that belongs to them: a transform of ``torchvision.transforms.v2``.

    Takes what ``v2.Resize`` takes: one image, or dictionaries, lists and tuples of images, boxes, keypoints, masks and
    anything else, nested as you like. As there, a plain tensor is an image only if it is the first, and if no
    ``tv_tensors.Image`` or ``Video`` is beside it. What is none of the following passes through:

    - ``Image``, ``Video`` or a plain tensor, (..., C, H, W): resized by ``net`` to (..., C, h, w).
    - ``BoundingBoxes`` of every format, rotated ones too: moved and clamped as ``v2.Resize`` does it; letterboxed, as
      ``v2.functional.pad`` goes on.
    - ``KeyPoints`` (..., 2): likewise.
    - ``Mask`` (..., H, W): :func:`tritonds.labels.map_masks`, which is "nearest-exact", to (..., h, w).

    Args:
        net: the layer. Its dtype and device are those of images; uint8 images are divided by 255, and its mean and std are
            applied, so ``v2.ToDtype`` and ``v2.Normalize`` are not needed.
        size: (h, w) of results, in pixels, or one number for both (not for the shorter side); if None, that of ``net``.
        letterbox: whether images keep their aspect, placed as :func:`tritonds.geometry.letterbox` says.
        fill: around letterboxed images, as the network behind sees it.
        mask_fill: around letterboxed masks, such as the number that a loss ignores.

    Returns:
        The same structure. All tensors keep class and device; boxes and points keep dtype and format, and have the new canvas
        size; masks keep their dtype; images have the one that ``net`` gives, never uint8.

    Raises:
        TypeError: a PIL image, which ``v2.ToImage()`` converts; images of another dtype than uint8 or that of ``net``.
        ValueError: no size, here or in ``net``; and what ``net`` and :func:`tritonds.labels.map_masks` raise.
        RuntimeError: a network that wants gradients, in a DataLoader's worker: gradients do not leave it, and its copy of the
            parameters never changes. Elsewhere gradients flow as from the layer.

    Source: torchvision's own transforms; the letterbox is that of :class:`tritonds.DownsizeNet`.

    >>> sample = {"image": tv_tensors.Image(torch.rand(3, 480, 640)), "label": 7}
    >>> sample["boxes"] = tv_tensors.BoundingBoxes([[0.0, 0, 640, 480]], format="XYWH", canvas_size=(480, 640))
    >>> Downsize(DownsizeNet(prior="bilinear"), (224, 224), letterbox=True)(sample)["boxes"]
    BoundingBoxes([[  0.,  28., 224., 168.]], format=BoundingBoxFormat.XYWH, canvas_size=(224, 224), clamping_mode=soft)
    """

    # A subclass of TVTensor that is none of these passes through, as in torchvision.
    _transformed_types = (
        functional.is_pure_tensor, tv_tensors.Image, tv_tensors.Video, tv_tensors.Mask, tv_tensors.BoundingBoxes,
        tv_tensors.KeyPoints, PILImage,
    )  # fmt: skip

    def __init__(
        self, net: DownsizeNet, size: int | tuple[int, int] | None = None, *, letterbox: bool = False, fill: float = 0.0,
        mask_fill: float = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        size = net.size if size is None else size
        if size is None:
            raise ValueError("size: expected (height, width) here or when the network was made, got neither")
        self.net = net
        self.size = geometry.check_size("size", size)
        self.letterbox = checks.check_bool("letterbox", letterbox)
        self.fill = fill
        self.mask_fill = mask_fill

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image, box set, point set or mask, resized. ``v2.Transform`` calls this."""
        if isinstance(inpt, PILImage):
            raise TypeError("image: expected a tensor, got a PIL image; put torchvision.transforms.v2.ToImage() before")
        if isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints)):
            return self._moved(inpt)
        if isinstance(inpt, tv_tensors.Mask):
            masks = inpt.as_subclass(Tensor)
            return tv_tensors.wrap(labels.map_masks(masks, self.size, letterbox=self.letterbox, fill=self.mask_fill), like=inpt)
        # No call on a plain tensor that torch.compile could not trace.
        plain = functional.is_pure_tensor(inpt)
        return self._resized(inpt) if plain else tv_tensors.wrap(self._resized(inpt.as_subclass(Tensor)), like=inpt)

    def _moved(self, coordinates: Any) -> Any:
        """Boxes or keypoints, resized and padded by torchvision, which knows every format."""
        (h, w), (top, left) = geometry.place(coordinates.canvas_size, self.size, self.letterbox)
        moved = functional.resize(coordinates, [h, w])
        if not self.letterbox:
            return moved
        return functional.pad(moved, [left, top, self.size[1] - w - left, self.size[0] - h - top])

    def _resized(self, image: Tensor) -> Tensor:
        """``image`` (..., C, H, W), as one batch."""
        if image.dim() < 3:
            raise ValueError(f"image: expected shape (..., channels, height, width), got {tuple(image.shape)}")
        batch = image.unsqueeze(0) if image.dim() == 3 else image.flatten(0, -4)
        result = self.net(batch, self.size, letterbox=self.letterbox, fill=self.fill)
        result = result.images if isinstance(result, Letterboxed) else result
        # torch.compile cannot trace where it is called.
        if result.requires_grad and not torch.compiler.is_compiling() and get_worker_info() is not None:
            raise RuntimeError("net: expected no gradients in a DataLoader's worker; freeze it by net.requires_grad_(False)")
        return result[0] if image.dim() == 3 else result.unflatten(0, image.shape[:-3])
