"""Programs of the PyTorch backend for images of any height, width and batch, as they run elsewhere: at sizes never traced."""

import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim

from tritonds import DownsizeNet

SIZES = [(1, 17, 40), (3, 64, 50), (1, 8, 10), (2, 16, 20), (1, 5, 4), (2, 97, 89)]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
DYNAMIC = {
    "automatic": {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},
    "named": {0: Dim("n"), 2: Dim("h"), 3: Dim("w")},
}


def network(prior="antialias", taps=4, **options):
    net = DownsizeNet((8, 10), prior=prior, taps=taps, mean=MEAN, std=STD, backend="torch", **options)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.eval().requires_grad_(False)


def images(n, h, w):
    return torch.randint(256, (n, 3, h, w), dtype=torch.uint8)


def exported(net, dynamic="automatic"):
    return torch.export.export(net, (images(2, 23, 31),), dynamic_shapes=(DYNAMIC[dynamic],))


def assert_equal_at_all_sizes(run, net):
    for size in SIZES:
        x = images(*size)
        torch.testing.assert_close(run(x), net(x), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize(("prior", "taps"), [(None, 2), ("bilinear", 2), ("antialias", 4)])
def test_programs(prior, taps, dynamic):
    net = network(prior, taps)
    assert_equal_at_all_sizes(exported(net, dynamic).module(), net)


@pytest.mark.parametrize(("prior", "taps"), [(None, 2), ("antialias", 4)])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace:FutureWarning")
def test_programs_of_torchscript(prior, taps):
    net = network(prior, taps)
    assert_equal_at_all_sizes(torch.jit.trace(net, images(2, 23, 31), check_trace=False), net)


@pytest.mark.parametrize("layers", [1, 2])
def test_letterboxes_are_exported_for_one_size(layers):
    """Others are refused: the exporters of PyTorch would fix them without a word where dimensions are automatic."""
    net, x = network(texture_layers=layers), images(2, 23, 31)
    program = torch.export.export(net, (x,), {"letterbox": True}).module()
    for got, expected in zip(program(x, letterbox=True), net(x, letterbox=True), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-6)
    for dynamic in ({0: Dim.AUTO}, {3: Dim.AUTO}, DYNAMIC["named"]):
        with pytest.raises(ValueError, match="letterbox: expected images of fixed size and number"):
            torch.export.export(net, (x,), {"letterbox": True}, dynamic_shapes={"image": dynamic, "letterbox": None})


def test_program_of_a_network_of_several_layers():
    net = network(texture_layers=2, hidden_layers=2)
    assert_equal_at_all_sizes(exported(net).module(), net)


def test_program_for_one_size():
    """Nothing is lost where all is known."""
    net, x = network(), images(2, 23, 31)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x), rtol=1e-5, atol=5e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # the exporter's own
def test_onnx(tmp_path):
    net, path = network(), tmp_path / "net.onnx"
    torch.onnx.export(net, (images(2, 23, 31),), path, dynamo=True, dynamic_shapes=(DYNAMIC["automatic"],), verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = [x.name for x in session.get_inputs()]
    assert_equal_at_all_sizes(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), net)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # the compiler's own
def test_aotinductor(tmp_path):
    net = network()
    path = torch._inductor.aoti_compile_and_package(exported(net), package_path=str(tmp_path / "net.pt2"))
    assert_equal_at_all_sizes(torch._inductor.aoti_load_package(path), net)
