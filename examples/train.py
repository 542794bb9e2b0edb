"""Train a downsizer with the classifier behind it, and save it: python examples/train.py [FOLDER]

The images differ in the direction of fine stripes alone. Shrunk by antialiased interpolation, the stripes nearly vanish.
"""

import sys

import torch
from torch import Tensor, nn

from tritonds import DownsizeNet

STEPS = 40
PERIOD = 2.6
"""The stripes' period in source pixels: about one pixel of the result."""


def batch(count: int) -> tuple[Tensor, Tensor]:
    """Noisy stripes (N, 3, 40, 40), uint8, at random angles; label 1 where they lean to the right."""
    labels = torch.randint(2, (count,))
    angles = torch.where(labels == 1, 0.25, 0.75) * torch.pi + 0.2 * torch.randn(count)
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    across = angles.cos()[:, None, None] * x + angles.sin()[:, None, None] * y
    waves = (2 * torch.pi / PERIOD * across + 2 * torch.pi * torch.rand(count, 1, 1)).sin()
    images = 128 + 50 * waves[:, None] + 20 * torch.randn(count, 3, 40, 40)
    return images.clamp(0, 255).to(torch.uint8), labels


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


def main(folder: str = "downsize") -> None:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    downsize = DownsizeNet((16, 16), taps=4, prior="antialias", mean=[0.5] * 3, std=[0.25] * 3).to(device)
    network = classifier().to(device)
    groups = [{"params": network.parameters(), "lr": 5e-3}, {"params": downsize.parameters(), "lr": 5e-3}]
    optimizer = torch.optim.AdamW(groups)
    for step in range(STEPS):
        images, labels = batch(16)
        loss = nn.functional.cross_entropy(network(downsize(images.to(device))), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 9:
            print(f"step {step + 1}: loss {loss.item():.3f}")
    downsize.save_pretrained(folder)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
