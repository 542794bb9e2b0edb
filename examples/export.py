"""Export a downsizer and the network behind it as one program, and run that: python examples/export.py [FORM] [PATH]

FORM is "program" (torch.export), "onnx" (needs onnxscript and onnxruntime) or "aotinductor" (needs a C++ compiler).
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.export import Dim

from tritonds import DownsizeNet

ANY_IMAGES = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
"""Any number of images of any height and width."""


def model() -> nn.Module:
    """Decoded images (N, 3, H, W), uint8, to ten scores (N, 10)."""
    downsize = DownsizeNet.from_pretrained("natural-k2", size=(96, 96), mean=[0.5] * 3, std=[0.25] * 3)  # or your own folder
    downsize.backend = "torch"  # the program then needs nothing of tritonds; "triton" keeps the fused operator, for GPUs
    network = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return nn.Sequential(downsize, network).eval().requires_grad_(False)


def program(served: nn.Module, images: Tensor, path: str) -> Callable[[Tensor], Tensor]:
    torch.export.save(torch.export.export(served, (images,), dynamic_shapes=ANY_IMAGES), path)
    return torch.export.load(path).module()


def onnx(served: nn.Module, images: Tensor, path: str) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    torch.onnx.export(served, (images,), path, dynamo=True, dynamic_shapes=ANY_IMAGES, input_names=["images"], verbose=False)
    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def aotinductor(served: nn.Module, images: Tensor, path: str) -> Callable[[Tensor], Tensor]:
    exported = torch.export.export(served, (images,), dynamic_shapes=ANY_IMAGES)
    return torch._inductor.aoti_load_package(torch._inductor.aoti_compile_and_package(exported, package_path=path))


FORMS = {"program": program, "onnx": onnx, "aotinductor": aotinductor}
"""Each writes a file, and gives back what that file computes."""


def main(form: str = "program", path: str | None = None) -> None:
    torch.manual_seed(0)
    path = path or ("served.onnx" if form == "onnx" else "served.pt2")
    served = model()
    run = FORMS[form](served, torch.randint(256, (2, 3, 180, 240), dtype=torch.uint8), path)
    images = torch.randint(256, (3, 3, 150, 130), dtype=torch.uint8)  # of another size, and one more
    scores = run(images)
    torch.testing.assert_close(scores, served(images), rtol=1e-4, atol=1e-5)
    print(f"{path}: {tuple(images.shape)} to {tuple(scores.shape)}, as before exporting")


if __name__ == "__main__":
    main(*sys.argv[1:])
