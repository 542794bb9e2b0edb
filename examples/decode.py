"""A folder of photographs, decoded by torchcodec, to one letterboxed, normalised batch: python examples/decode.py FOLDER

Needs torchcodec.
"""

import pathlib
import sys

import torch
from torchcodec.decoders import decode_image

from tritonds import DownsizeNet

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(folder: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    paths = sorted(path for path in pathlib.Path(folder).iterdir() if path.suffix.lower() in SUFFIXES)
    images = [decode_image(path).to(device) for path in paths]  # (3, H, W), uint8, each of its own size
    downsize = DownsizeNet.from_pretrained("natural-k4", size=(224, 224), mean=[0.5] * 3, std=[0.25] * 3).to(device).eval()
    with torch.inference_mode():
        batch = downsize(images, letterbox=True)
    inside = batch.mask.flatten(1).float().mean(1)
    print(f"{len(images)} photographs to {tuple(batch.images.shape)}, {batch.images.dtype}")
    for path, image, share in zip(paths, images, inside.tolist(), strict=True):
        print(f"{path.name}: {image.shape[2]}x{image.shape[1]}, {share:.0%} of its part of the batch")


if __name__ == "__main__":
    main(*sys.argv[1:])
