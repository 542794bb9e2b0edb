"""A folder of photographs of any sizes to one letterboxed, normalised batch: python examples/batch.py FOLDER

Needs Pillow, which comes with tritonds[cli].
"""

import pathlib
import sys

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tritonds import DownsizeNet

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""ImageNet's mean and deviation."""
SUFFIXES = {".jpg", ".jpeg", ".png"}


def read(path: pathlib.Path) -> Tensor:
    """(3, H, W), uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(image).convert("RGB"))).permute(2, 0, 1)


def main(folder: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    paths = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    images = [read(path).to(device) for path in paths]
    downsize = DownsizeNet.from_pretrained("natural-k4", size=(224, 224), mean=MEAN, std=STD).to(device).eval()
    with torch.inference_mode():
        batch = downsize(images, letterbox=True)
    print(f"{len(images)} photographs to {tuple(batch.images.shape)}, {batch.images.dtype}")
    for path, image, scale, (left, top) in zip(paths, images, batch.scale[:, 0], batch.offset.tolist(), strict=True):
        print(f"{path.name}: {image.shape[2]}x{image.shape[1]}, scale {scale:.3f}, from x = {left:.0f}, y = {top:.0f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
