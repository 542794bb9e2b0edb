"""A downsizer and the network behind it as one program: decoded images in, at sizes never traced, here and elsewhere."""

import copy
import os
import subprocess
import sys

import onnxruntime
import oracle
import pytest
import torch
from torch import nn
from torch.export import Dim

from tritonds import DownsizeNet

SIZES = [(1, 17, 40), (3, 64, 50), (1, 8, 10), (2, 16, 20), (1, 5, 4), (2, 97, 89)]
TRACED = (2, 23, 31)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
DYNAMIC = {
    "automatic": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},
    "named": {0: Dim("n"), 2: Dim("h"), 3: Dim("w")},
    "none": None,
}


class Served(nn.Module):
    """The normalised batch, and what a network makes of it."""

    def __init__(self, downsize):
        super().__init__()
        self.downsize = downsize
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, images):
        small = self.downsize(images)
        return small, self.network(small)


def served(prior="antialias", taps=4, backend="torch", **options):
    net = DownsizeNet((8, 10), prior=prior, taps=taps, mean=MEAN, std=STD, backend=backend, **options)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Served(net).eval().requires_grad_(False)


def images(n, h, w):
    return torch.randint(256, (n, 3, h, w), dtype=torch.uint8)


def exported(model, dynamic="automatic"):
    return torch.export.export(model, (images(*TRACED),), dynamic_shapes=(DYNAMIC[dynamic],))


def assert_right(results, model, given):
    """Of ``model``, by the oracle in float64."""
    model = copy.deepcopy(model).double()
    net = model.downsize
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    image = (given / 255.0 - mean) / std
    small = oracle.downsize(image, net.texture(image), net.weights(), net.size, taps=net.taps, prior=net.prior)
    for x, y in zip(results, (small, model.network(small)), strict=True):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=5e-6)


def assert_right_at_all_sizes(run, model):
    for size in SIZES:
        given = images(*size)
        assert_right(run(given), model, given)


@pytest.mark.parametrize("dynamic", ["automatic", "named"])
@pytest.mark.parametrize(("prior", "taps"), [(None, 2), ("bilinear", 2), ("antialias", 4), ("lanczos", 4)])
def test_programs(prior, taps, dynamic):
    model = served(prior, taps)
    assert_right_at_all_sizes(exported(model, dynamic).module(), model)


@pytest.mark.parametrize(("prior", "taps"), [(None, 2), ("antialias", 4), ("bicubic", 4)])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace:FutureWarning")
def test_programs_of_torchscript(prior, taps):
    model = served(prior, taps)
    assert_right_at_all_sizes(torch.jit.trace(model, images(*TRACED), check_trace=False), model)


@pytest.mark.parametrize("layers", [1, 2])
def test_letterboxes_are_exported_for_one_size(layers):
    """Others are refused: the exporters of PyTorch would fix them without a word where dimensions are automatic."""
    net, x = served(texture_layers=layers).downsize, images(*TRACED)
    program = torch.export.export(net, (x,), {"letterbox": True}).module()
    for got, expected in zip(program(x, letterbox=True), net(x, letterbox=True), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-6)
    for dynamic in ({0: Dim.AUTO}, {3: Dim.AUTO}, DYNAMIC["named"]):
        for strict, error in ((False, ValueError), (True, torch._dynamo.exc.Unsupported)):  # ONNX's exporter tries both
            with pytest.raises(error, match="letterbox: expected images of fixed size and number"):
                torch.export.export(
                    net, (x,), {"letterbox": True}, dynamic_shapes={"image": dynamic, "letterbox": None}, strict=strict
                )


def test_program_of_a_network_of_several_layers():
    model = served(texture_layers=2, hidden_layers=2)
    assert_right_at_all_sizes(exported(model).module(), model)


def test_program_for_one_size():
    """Nothing is lost where all is known."""
    model, given = served(), images(*TRACED)
    assert_right(exported(model, "none").module()(given), model, given)


@pytest.mark.parametrize(
    ("dynamic", "prior", "taps"),
    [
        ("automatic", "antialias", 4),
        ("none", "antialias", 4),
        pytest.param("automatic", "bicubic", 3, marks=pytest.mark.long),
        pytest.param("automatic", "lanczos", 6, marks=pytest.mark.long),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # the exporter's own
def test_onnx(dynamic, prior, taps, tmp_path):
    model, path = served(prior, taps), tmp_path / "served.onnx"
    torch.onnx.export(model, (images(*TRACED),), path, dynamo=True, dynamic_shapes=(DYNAMIC[dynamic],), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (described,) = session.get_inputs()
    assert described.type == "tensor(uint8)"

    def run(given):
        return [torch.from_numpy(x) for x in session.run(None, {described.name: given.numpy()})]

    if dynamic == "none":
        assert described.shape == [2, 3, 23, 31]
        given = images(*TRACED)
        assert_right(run(given), model, given)
    else:
        assert_right_at_all_sizes(run, model)


ELSEWHERE = """
import sys
sys.modules["tritonds"] = None  # nothing can import it
import torch
folder = sys.argv[1]
if sys.argv[2] == "program":
    load = lambda name: torch.export.load(f"{folder}/{name}").module()
else:
    load = lambda name: torch._inductor.aoti_load_package(f"{folder}/{name}")
given = torch.load(f"{folder}/images.pt")
model = load("torch.pt2")
results = {"torch": [tuple(model(x)) for x in given]}
try:
    load("triton.pt2")
except RuntimeError as error:
    print("refused:", error, file=sys.stderr)
    del sys.modules["tritonds"]
    import tritonds
    model = load("triton.pt2")
    results["triton"] = [tuple(model(x)) for x in given]
torch.save(results, f"{folder}/results.pt")
"""


@pytest.mark.parametrize(
    ("form", "prior", "taps"),
    [
        ("program", "antialias", 4),
        *[pytest.param("aotinductor", prior, 2, marks=pytest.mark.long) for prior in ("bilinear", "lanczos")],
    ],  # four taps take a minute to compile
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # the compiler's own
def test_only_the_triton_operator_needs_tritonds_where_a_program_is_loaded(form, prior, taps, tmp_path):
    """In a process of its own: a program of the PyTorch backend runs without, one of the Triton backend once it is imported."""
    models = {backend: served(prior, taps, backend) for backend in ("torch", "triton")}
    for backend, model in models.items():
        path = str(tmp_path / f"{backend}.pt2")
        if form == "program":
            torch.export.save(exported(model), path)
        else:
            torch._inductor.aoti_compile_and_package(exported(model), package_path=path)
    given = [images(*size) for size in SIZES[:2]]  # interpreted, each takes a while
    torch.save(given, tmp_path / "images.pt")
    command = [sys.executable, "-c", ELSEWHERE, tmp_path, form]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    assert process.returncode == 0, process.stderr
    assert "downsize_image" in process.stderr  # which operator it lacks
    results = torch.load(tmp_path / "results.pt")
    assert results.keys() == models.keys()
    for backend, model in models.items():
        for x, result in zip(given, results[backend], strict=True):
            assert_right(result, model, x)
