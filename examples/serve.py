"""Freeze a downsizer and the network behind it, export both as one program, and run that: python examples/serve.py [PROGRAM]"""

import sys

import torch
from torch import nn

from tritonds import DownsizeNet


def main(path: str = "served.pt2") -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    downsize = DownsizeNet.from_pretrained("natural-k4", size=(96, 96), mean=[0.5] * 3, std=[0.25] * 3)  # or your own folder
    network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    served = nn.Sequential(downsize, network).to(device).eval().requires_grad_(False)
    images = torch.randint(256, (2, 3, 180, 240), dtype=torch.uint8, device=device)
    program = torch.export.export(served, (images,), dynamic_shapes=({0: torch.export.Dim.AUTO},))  # any number of images
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    scores = loaded(images)  # in another process: import tritonds first, which registers its operators
    torch.testing.assert_close(scores, served(images), rtol=1e-4, atol=1e-5)
    print(f"{path}: {tuple(images.shape)} to {tuple(scores.shape)}, as before exporting")


if __name__ == "__main__":
    main(*sys.argv[1:])
