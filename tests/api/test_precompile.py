"""What compiles when: few kernels for whatever sizes, and none after a warm-up."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

import tritonds
from tritonds import DownsizeNet, precompile

pytest.importorskip("triton")
pytest.importorskip("typer")

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, **environment):
    """Output of Python without the interpreter, which compiles nothing."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=inherited | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.long
def test_random_sizes_share_few_kernels_and_a_warm_up_knows_them_all():
    results = json.loads(run("-m", "bench.distinct", "--json"))
    assert len(results) > 15
    for result in results:
        assert result["missed"] == 0, result
        # Letterboxed images that want gradients are resized one by one, enlarged and reduced, all kernels being possible.
        assert result["kernels"] <= (9 if "letterboxed" in result["schedule"] else 7), result
        assert result["kernels"] <= result["warmed"] <= 11, result


AFTER_A_WARM_UP = """
import json, random, types
import torch, triton, tritonds
from triton.backends.compiler import GPUTarget
from tritonds import DownsizeNet, ops, precompile

loaded, compiled = [], []
class Driver:  # of a GPU that does nothing: Triton specialises and compiles for it
    launcher_cls = lambda *_: lambda *_: None
    utils = types.SimpleNamespace(
        load_binary=lambda name, *_: loaded.append(name) or (0, 0, 0, 0, 1024),
        get_device_properties=lambda _: {"max_shared_mem": 1 << 20},
    )
    get_current_device = lambda _: 0
    get_current_stream = lambda *_: 0
    get_current_target = lambda _: GPUTarget("cuda", 90, 32)
triton.runtime.driver.set_active(Driver())
triton.knobs.runtime.jit_post_compile_hook = lambda **values: compiled.append(values["fn"].name) and None
ops.why_no_triton = lambda _: None
precompile._compiles = lambda *_: True  # for a CPU

draw = random.Random(0)
images, sizes = (range(40, 91), range(40, 91)), (range(30, 31), range(20, 46))
net = DownsizeNet(backend="triton", mean=[0.5] * 3, std=[0.25] * 3).half()
weights = DownsizeNet(backend="triton").half().weights()

def layer(h, w, size):
    batch = torch.empty(draw.randint(1, 4), 3, h + 1, w + 1, dtype=torch.uint8)[:, :, 1:, 1:]  # at an odd address
    net(batch, size).sum().backward()

def operator(h, w, size):
    n = draw.randint(1, 4)
    texture = torch.empty(n, 16, h, w, dtype=torch.half).to(memory_format=torch.channels_last).requires_grad_()
    image = torch.empty(n, 3, h + 1, w + 1, dtype=torch.half)[:, :, 1:, 1:]
    tritonds.downsize(image, texture, weights, size, backend="triton").sum().backward()

done = [
    tritonds.warmup(net, images, sizes, dtype=torch.uint8),
    tritonds.warmup(weights, images, sizes, channels_last=True, backend="triton"),
    tritonds.warmup(net, images, sizes, dtype=torch.uint8, progress=False),
]
before = len(loaded), len(compiled)
for step in (layer, operator):
    for _ in range(50):
        step(draw.choice(images[0]), draw.choice(images[1]), (draw.choice(sizes[0]), draw.choice(sizes[1])))
    for h, w, size in [(60, 40, (30, 20)), (90, 60, (30, 20)), (60, 90, (30, 45))]:
        step(h, w, size)
print(json.dumps({"warmed": [one.kernels for one in done], "before": before, "after": (len(loaded), len(compiled))}))
"""


@pytest.mark.long
def test_nothing_compiles_after_a_warm_up(tmp_path):
    """By Triton's own account, with the keys that it makes of real tensors."""
    counts = json.loads(run("-c", AFTER_A_WARM_UP, TRITON_CACHE_DIR=str(tmp_path)))
    assert counts["warmed"][0] > 4
    assert counts["warmed"][1] > 4
    assert counts["warmed"][2] == 0
    assert counts["before"] == counts["after"] == [sum(counts["warmed"])] * 2


@pytest.mark.parametrize("outputs", [range(7, 8), range(1, 9)], ids=["one size", "any size"])
def test_representatives_have_every_decision_of_their_ranges(outputs):
    """Every combination of sizes, one by one, beside those that stand for all."""
    from tritonds.kernels.area_pool import size_decisions

    inputs = range(1, 24)
    axes = list(itertools.product(inputs, outputs))
    every = {size_decisions((h, w), (out_h, out_w)) for (h, out_h), (w, out_w) in itertools.product(axes, axes)}
    chosen = precompile._representatives((inputs, inputs), (outputs, outputs))
    assert {size_decisions(*sizes) for sizes in chosen} == every
    for axis in range(2):
        assert {1, 23} <= {size_in[axis] for size_in, _ in chosen}
        assert {min(outputs), max(outputs)} <= {size[axis] for _, size in chosen}


def test_classes_of_tensors_are_those_of_integers():
    from tritonds.kernels.area_pool import size_class

    lengths = torch.arange(1, 40)
    for n in range(1, 40):
        assert size_class(lengths, n).tolist() == [size_class(int(m), n) for m in lengths]
        assert size_class(n, lengths).tolist() == [size_class(n, int(m)) for m in lengths]


@pytest.fixture
def planned(monkeypatch):
    """Launches that a warm-up would compile, on a machine where nothing is."""
    launches = []
    monkeypatch.setattr(precompile, "_compiles", lambda *_: True)
    monkeypatch.setattr(precompile, "compile_launches", lambda given, *_: launches.extend(given) or len(given))
    return launches


def names(launches):
    return {launch.kernel.__name__ for launch in launches}


def constants(launch):
    return launch.arguments["C"].values


FORWARD = {"downsize_kernel"}
BACKWARD = {"downsize_kernel", "downsize_backward_kernel", "texture_grad_weights_kernel", "sum_rows_kernel"}
TABLE = {"coefficient_table_kernel", "tabulated_sum_kernel"}
TO_IMAGE = {"weighted_gather_grad_image_kernel", "texture_grad_image_kernel"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backward": False}, FORWARD),
        ({}, BACKWARD),
        ({"image_gradient": True}, BACKWARD | TO_IMAGE),
        ({"as_list": True}, BACKWARD),
        ({"letterbox": True, "fill": 0.5}, BACKWARD),
        ({"letterbox": True, "image_gradient": True}, BACKWARD | TO_IMAGE),
        ({"dtype": torch.uint8}, BACKWARD),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_kernels_are_those_of_the_call(options, expected, planned):
    net = DownsizeNet((30, 40))
    result = tritonds.warmup(net, ((40, 200), range(50, 300, 7)), **options)
    assert result.kernels == len(planned) >= len(expected)
    assert names(planned) == expected
    tables = {launch.arguments["table_ptr"] is not None for launch in planned if "table_ptr" in launch.arguments}
    lists = bool({"as_list", "letterbox"} & options.keys())
    assert tables == ({False} if options.get("image_gradient") else {lists})
    assert {constants(launch)["FILL"] for launch in planned if launch.kernel.__name__ == "downsize_kernel"} <= {0.0, 0.5}


def test_frozen_layers_need_no_backward_kernels(planned):
    tritonds.warmup(DownsizeNet((30, 40)).requires_grad_(False), (100, 100))
    assert names(planned) == FORWARD


def test_the_layer_is_left_as_it_is(planned):
    net = DownsizeNet((30, 40), texture_layers=2)
    before = {name: (t.data_ptr(), t.device, t.dtype) for name, t in net.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tritonds.warmup(net, (100, 100), dtype=torch.float32)
    assert {name: (t.data_ptr(), t.device, t.dtype) for name, t in net.state_dict().items()} == before
    assert net.backend == "auto"
    assert all(t.grad is None for t in net.parameters())


def test_autocast_decides_the_dtype(planned):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        tritonds.warmup(DownsizeNet((30, 40)), (100, 100), dtype=torch.float32)
    dtypes = {launch.arguments["image_ptr"].dtype for launch in planned if "image_ptr" in launch.arguments}
    assert dtypes == {torch.bfloat16}
    assert names(planned) == BACKWARD


@pytest.mark.parametrize("texture_channels", [0, 5], ids=["distance alone", "texture"])
def test_the_operator_of_given_texture(texture_channels, planned):
    net = DownsizeNet(taps=3, texture_channels=texture_channels, hidden_layers=2)
    options = dict(prior="bilinear", in_channels=4, texture_size=((9, 20), 11), channels_last=True)
    tritonds.warmup(net.weights(), (16, (16, 20)), ((5, 10), 6), **options)
    textures = [constants(launch)["TEXTURE"] for launch in planned if "TEXTURE" in constants(launch)]
    assert {texture.values["CHANNELS"] for texture in textures} == {texture_channels}
    for launch in planned:
        if launch.kernel.__name__ == "downsize_kernel":
            assert constants(launch)["TAPS"] == 3
            assert constants(launch)["PRIOR"] == "bilinear"
            assert constants(launch)["CHANNELS"] == 4
    assert ("area_pool_kernel" in names(planned)) == (texture_channels > 0)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((90, 120), TABLE),
        ((89, 121), {"downsize_kernel"}),
        ((range(83, 96), range(113, 128)), TABLE | {"downsize_kernel"}),
    ],
)
def test_without_texture_sizes_may_have_a_table_of_coefficients(image_size, expected, planned):
    """Among the many sizes of ranges few do, and neither the smallest nor the largest."""
    net = DownsizeNet((60, 80), texture_channels=0)
    tritonds.warmup(net, image_size, backward=False)
    assert names(planned) == expected
    planned.clear()
    tritonds.warmup(net.weights(), image_size, net.size, texture_size=(5, 7), backward=False)
    assert names(planned) == expected


def test_nothing_is_compiled_on_a_cpu():
    result = tritonds.warmup(DownsizeNet((30, 40)), ((40, 2000), (40, 2000)))
    assert result.kernels == 0
    assert result.seconds >= 0
    weights = DownsizeNet((30, 40)).weights()
    assert tritonds.warmup(weights, (100, 100), (30, 40), backend="torch").kernels == 0
    if not torch.cuda.is_available():  # but in the interpreter
        assert tritonds.warmup(weights, (100, 100), (30, 40), backend="triton").kernels == 0


WEIGHTS = DownsizeNet((30, 40)).weights()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"net": torch.nn.Linear(2, 2)}, TypeError, "net: expected a DownsizeNet or CoefficientWeights, got Linear"),
        ({"image_size": 100}, TypeError, "image_size: expected"),
        ({"image_size": (100, "wide")}, TypeError, "image_size: expected a number"),
        ({"image_size": (100, (1, 2, 3))}, TypeError, "image_size: expected a number"),
        ({"image_size": (100, (20, 10))}, ValueError, "image_size: expected at least one length"),
        ({"image_size": (100, (0, 10))}, ValueError, "image_size: .* none below 1"),
        ({"size": (0, 10)}, ValueError, "size: .* none below 1"),
        ({"net": DownsizeNet()}, TypeError, "size: expected"),
        ({"net": WEIGHTS, "size": (3, 3), "texture_size": 3}, TypeError, "texture_size: expected"),
        ({"net": WEIGHTS, "size": None}, TypeError, "size: expected"),
        ({"net": WEIGHTS, "letterbox": True}, ValueError, "letterbox: expected nothing: only a layer has a choice"),
        ({"prior": "bilinear"}, ValueError, "prior: expected nothing: a layer has its own"),
        ({"backend": "torch"}, ValueError, "backend: expected nothing: a layer has its own"),
        ({"prior": "cubic"}, ValueError, "prior: expected"),
        ({"backend": "numpy"}, ValueError, "backend: expected"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        tritonds.warmup(**{"net": DownsizeNet((30, 40)), "image_size": (100, 100)} | arguments)


def test_images_that_the_layer_refuses(planned):
    with pytest.raises(TypeError, match="image: expected uint8 or the weights' dtype"):
        tritonds.warmup(DownsizeNet((30, 40)), (100, 100), dtype=torch.float16)
