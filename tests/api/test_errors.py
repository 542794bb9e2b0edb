"""Every refusal, by its message: what was wrong, what came, what was expected."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

import tritonds
from tritonds import CoefficientWeights, DownsizeNet, area_pool2d, coefficients, downsize, downsize_image, weighted_gather2d

IMAGE = torch.rand(2, 3, 8, 9)
TEXTURE = torch.rand(2, 4, 8, 9)
WEIGHTS = CoefficientWeights(
    torch.rand(5, 4), torch.rand(5), (torch.rand(6, 9),), (torch.rand(6),), torch.rand(4, 6), torch.rand(4)
)


def weights(**changes):
    return WEIGHTS._replace(**changes)


BAD_ARGUMENTS = [
    (dict(image=[1]), TypeError, "image: expected a torch.Tensor, got list"),
    (dict(image=IMAGE[0]), ValueError, "image: expected 4 dimensions (N, channels, height, width), got shape (3, 8, 9)"),
    (dict(image=IMAGE[:, :, :0]), ValueError, "image: expected channels, height and width of at least 1"),
    (dict(image=IMAGE[:, :0]), ValueError, "image: expected channels, height and width of at least 1"),
    (dict(image=IMAGE.int()), TypeError, "image: expected float16, bfloat16, float32 or float64, got torch.int32"),
    (dict(image=IMAGE.double()), TypeError, "texture: expected the dtype of image, torch.float64, got torch.float32"),
    (dict(texture=3), TypeError, "texture: expected a torch.Tensor, got int"),
    (dict(texture=TEXTURE[0]), ValueError, "texture: expected 4 dimensions"),
    (dict(texture=TEXTURE[:1]), ValueError, "texture: expected the image's batch size 2, got 1"),
    (dict(texture=TEXTURE.to("meta")), ValueError, "texture: expected the device of image, cpu, got meta"),
    (dict(texture=TEXTURE[:, :3]), ValueError, "weights: expected hidden[0] weight of shape (out, 8)"),
    (dict(texture=None), ValueError, "weights: expected hidden[0] weight of shape (out, 5)"),
    (dict(size=5.0), TypeError, "size: expected a pair of integers (height, width), or one for both, got 5.0"),
    (dict(size=(5, 4, 3)), TypeError, "size: expected a pair of integers (height, width), or one for both, got (5, 4, 3)"),
    (dict(size=(5, 4.0)), TypeError, "size: expected a pair of integers (height, width), or one for both, got (5, 4.0)"),
    (dict(size=(5, True)), TypeError, "size: expected a pair of integers"),
    (dict(size=(0, 4)), ValueError, "size: expected height and width of at least 1, got (0, 4)"),
    (dict(size=(4, -1)), ValueError, "size: expected height and width of at least 1, got (4, -1)"),
    (dict(taps=0), ValueError, "taps: expected 1 to 8, got 0"),
    (dict(taps=9), ValueError, "taps: expected 1 to 8, got 9"),
    (dict(taps=2.0), TypeError, "taps: expected an integer, got 2.0"),
    (dict(taps=3), ValueError, "weights: expected distance weight of shape (out, 6), 6 being 2 * taps, got (5, 4)"),
    (dict(prior="cubic"), ValueError, "None or one of ('bilinear', 'antialias', 'bicubic', 'lanczos'), got 'cubic'"),
    (dict(backend="cuda"), ValueError, "backend: expected one of ('auto', 'triton', 'torch'), got 'cuda'"),
    (dict(weights=tuple(WEIGHTS)), TypeError, "weights: expected a CoefficientWeights, got tuple"),
    (dict(weights=weights(distance_bias=None)), ValueError, "expected both distance_weight and distance_bias, or neither"),
    (dict(weights=weights(distance_weight=torch.rand(5, 3))), ValueError, "distance weight of shape (out, 4)"),
    (dict(weights=weights(distance_bias=torch.rand(4))), ValueError, "distance bias of shape (5,), got (4,)"),
    (dict(image=IMAGE.to_sparse()), TypeError, "image: expected a dense tensor, got layout torch.sparse_coo"),
    (dict(size=("5", 4)), TypeError, "size: expected a pair of integers (height, width), or one for both, got ('5', 4)"),
    (dict(prior=["bilinear"]), ValueError, "prior: expected None or one of"),
    (dict(backend=None), ValueError, "backend: expected one of"),
    (dict(weights=weights(hidden_weights=None)), TypeError, "expected hidden_weights to be a tuple of tensors, got NoneType"),
    (dict(weights=weights(hidden_biases=())), ValueError, "as many hidden_biases as hidden_weights, got 0 and 1"),
    (dict(weights=weights(hidden_biases=(3,))), TypeError, "hidden[0] bias to be a torch.Tensor, got int"),
    (dict(weights=weights(hidden_weights=(torch.rand(6, 9),) * 4, hidden_biases=(torch.rand(6),) * 4)), ValueError,
     "at most 3 hidden layers, got 4"),
    (dict(weights=weights(hidden_weights=(torch.rand(6, 9), torch.rand(7, 6)), hidden_biases=(torch.rand(6), torch.rand(7)))),
     ValueError, "hidden layers of one width, got 6 and 7"),
    (dict(weights=weights(out_weight=torch.rand(4, 7))), ValueError, "out weight of shape (out, 6)"),
    (dict(weights=weights(out_weight=torch.rand(5, 6), out_bias=torch.rand(5))), ValueError, "taps*taps = 4 rows, got 5"),
    (dict(prior="lanczos"), ValueError, "expected out_weight with taps*taps + 1 (prior 'lanczos') = 5 rows, got 4"),
    (dict(weights=weights(out_bias=torch.rand(4).half())), TypeError, "weights: expected the dtype of image"),
    (dict(weights=weights(out_weight=torch.rand(4, 6).to_sparse())), TypeError,
     "expected out weight to be dense, got layout torch.sparse_coo"),
    (dict(weights=weights(out_bias=torch.rand(4).to("meta"))), ValueError, "weights: expected the device of image"),
    (dict(texture=None, weights=CoefficientWeights(None, None, (), (), torch.rand(4, 1), torch.rand(4))), ValueError,
     "weights: expected distance weights or a texture, got neither"),
]  # fmt: skip


@pytest.mark.parametrize("function", [downsize, coefficients])
@pytest.mark.parametrize(("changes", "error", "message"), BAD_ARGUMENTS, ids=[str(i) for i in range(len(BAD_ARGUMENTS))])
def test_downsize_and_coefficients(changes, error, message, function):
    arguments = {"image": IMAGE, "texture": TEXTURE, "weights": WEIGHTS, "size": (4, 4)} | changes
    with pytest.raises(error, match=re.escape(message)):
        function(**arguments)


def test_numbers_of_other_libraries(monkeypatch):
    """Those of NumPy, of tensors, and fractions; and one number for a square."""
    expected = downsize(IMAGE, TEXTURE, WEIGHTS, (4, 4), taps=2)
    for size in (4, np.int64(4), (np.int32(4), torch.tensor(4)), [4, 4]):
        assert torch.equal(downsize(IMAGE, TEXTURE, WEIGHTS, size, taps=np.int64(2)), expected)
    plain = DownsizeNet((4, 4), mean=[0.5, 0.25, 0.75], std=[0.5, 0.5, 0.25])
    mean, std = torch.tensor([0.5, 0.25, 0.75]), np.array([0.5, 0.5, 0.25])
    net = DownsizeNet(4, taps=np.int64(2), texture_channels=torch.tensor(16), mean=mean, std=std)
    assert net.options() == plain.options()
    assert [type(value) for value in net.options().values()] == [type(value) for value in plain.options().values()]
    images = [torch.rand(3, 5, 9), torch.rand(3, 7, 3)]
    half = net(images, letterbox=True, fill=Fraction(1, 2)).images
    assert torch.equal(half, net(images, letterbox=True, fill=0.5).images)
    assert torch.equal(net.coefficients(images), torch.cat([net.coefficients(x[None]) for x in images]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs no GPU: bfloat16 is right on a GPU")
def test_bfloat16_is_refused_in_the_interpreter():
    """Whose products of it are wrong; float32 networks may still write it."""
    with pytest.raises(RuntimeError, match='backend="triton" cannot run here: Triton\'s interpreter multiplies bfloat16'):
        DownsizeNet((4, 4), backend="triton").bfloat16()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match='backend="triton" cannot run here: Triton\'s interpreter multiplies bfloat16'):
        DownsizeNet((4, 4), backend="triton", texture_layers=2).bfloat16()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    image = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    net = DownsizeNet((4, 4), out_dtype=torch.bfloat16)
    expected = net(image)
    net.backend = "triton"
    torch.testing.assert_close(net(image), expected)


BAD_IMAGES = [
    ({"image": 3}, TypeError, "image: expected a torch.Tensor or a list of them, got int"),
    ({"image": []}, ValueError, "image: expected at least one image"),
    ({"image": [torch.zeros(1, 3, 8, 8)]}, ValueError, r"image\[0\]: expected shape \(channels, height, width\)"),
    ({"image": [torch.zeros(3, 8, 8), torch.zeros(3, 0, 8)]}, ValueError, r"image\[1\]: expected shape"),
    ({"image": [torch.zeros(3, 8, 8), torch.zeros(1, 8, 8)]}, ValueError, r"image\[1\]: expected the first image's 3"),
    ({"image": [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8).half()]}, TypeError, r"image\[1\]: expected the dtype"),
    ({"image": [torch.zeros(3, 8, 8), "x"]}, TypeError, r"image\[1\]: expected a torch.Tensor, got str"),
    ({"image": torch.zeros(1, 3, 8, 8, dtype=torch.int32)}, TypeError, "image: expected uint8 or the weights' dtype"),
    ({"image": torch.zeros(1, 3, 8, 8).half()}, TypeError, "image: expected uint8 or the weights' dtype"),
    ({"image": torch.zeros(3, 8, 8)}, ValueError, "image: expected 4 dimensions"),
    (
        {"texture_weights": (torch.zeros(2, 4, 3, 3), torch.zeros(2))},
        ValueError,
        r"texture_weight: expected shape \(F, 3, 3, 3\)",
    ),
    ({"texture_weights": (torch.zeros(2, 3, 5, 5), torch.zeros(2))}, ValueError, "texture_weight: expected shape"),
    ({"texture_weights": (torch.zeros(2, 3, 3, 3), torch.zeros(3))}, ValueError, r"texture_bias: expected shape \(2,\)"),
    ({"texture_weights": (torch.zeros(2, 3, 3, 3), None)}, ValueError, "expected both or neither"),
    ({"texture_weights": (torch.zeros(2, 3, 3, 3).half(), torch.zeros(2))}, TypeError, "texture_weight: expected the dtype"),
    ({"texture_weights": (torch.zeros(3, 3, 3, 3), torch.zeros(3))}, ValueError, "weights: expected out weight of shape"),
    ({"mean": 0.5}, TypeError, "mean: expected a list of numbers"),
    ({"mean": [0.5]}, ValueError, "mean: expected 3 finite numbers"),
    ({"std": [1.0, 0.0, 1.0]}, ValueError, "std: expected numbers above"),
    ({"std": [1.0, float("nan"), 1.0]}, ValueError, "std: expected 3 finite numbers"),
    ({"out_dtype": torch.int8}, TypeError, "out_dtype: expected float16"),
    ({"out_dtype": "half"}, TypeError, "out_dtype: expected a torch.dtype"),
    ({"fill": "black"}, TypeError, "fill: expected a number"),
    ({"fill": float("nan")}, ValueError, "fill: expected a finite number of torch.float32"),
    ({"fill": 70_000, "out_dtype": torch.float16}, ValueError, "fill: expected a finite number of torch.float16"),
    ({"std": [1.0, 1e-40, 1.0]}, ValueError, "std: expected numbers above"),
    ({"size": (0, 4)}, ValueError, "size: expected"),
    ({"taps": 9}, ValueError, "taps: expected"),
    ({"backend": "cuda"}, ValueError, "backend: expected"),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD_IMAGES, ids=[str(i) for i in range(len(BAD_IMAGES))])
def test_downsize_image(changes, error, message):
    weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 2), torch.zeros(4))
    arguments = {"image": torch.zeros(1, 3, 8, 8), "weights": weights, "size": (4, 4)} | changes
    texture_weight, texture_bias = arguments.pop("texture_weights", (torch.zeros(2, 3, 3, 3), torch.zeros(2)))
    with pytest.raises(error, match=message):
        downsize_image(texture_weight=texture_weight, texture_bias=texture_bias, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, (4, 4)), TypeError, "x: expected a torch.Tensor, got int"),
        ((IMAGE.long(), (4, 4)), TypeError, "x: expected float16, bfloat16, float32 or float64, got torch.int64"),
        ((IMAGE[0], (4, 4)), ValueError, "x: expected 4 dimensions"),
        ((IMAGE, (4, 0)), ValueError, "size: expected height and width of at least 1, got (4, 0)"),
    ],
)
def test_area_pool2d(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        area_pool2d(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((IMAGE, [1], (4, 4)), TypeError, "coefficients: expected a torch.Tensor, got list"),
        ((IMAGE, torch.rand(2, 9, 4, 4), (4, 4)), ValueError, "coefficients: expected shape (2, 4, 4, 4)"),
        ((IMAGE, torch.rand(2, 4, 4, 4), (4, 5)), ValueError, "coefficients: expected shape (2, 4, 4, 5)"),
        ((IMAGE, torch.rand(2, 4, 4, 4).double(), (4, 4)), TypeError, "coefficients: expected the dtype of image"),
    ],
)
def test_weighted_gather2d(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        weighted_gather2d(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(size=(3, 0)), ValueError, "size: expected height and width of at least 1"),
        (dict(taps=0), ValueError, "taps: expected 1 to 8, got 0"),
        (dict(prior="area"), ValueError, "prior: expected None or one of"),
        (dict(backend="gpu"), ValueError, "backend: expected one of"),
        (dict(hidden_layers=4), ValueError, "hidden_layers: expected 0 to 3, got 4"),
        (dict(hidden_channels=0), ValueError, "hidden_channels: expected at least 1, got 0"),
        (dict(texture_layers=0), ValueError, "texture_layers: expected at least 1, got 0"),
        (dict(in_channels=2.5), TypeError, "in_channels: expected an integer, got 2.5"),
        (dict(mean=[True, False, True]), TypeError, "mean: expected a list of numbers, got [True, False, True]"),
        (dict(std=[10**400] * 3), ValueError, "std: expected 3 finite numbers, one for each channel, got [1000"),
        (dict(texture_channels=0, distance_channels=0), ValueError, "expected at least one above 0, got 0 and 0"),
    ],
)
def test_layer(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        DownsizeNet(**arguments)


@pytest.mark.parametrize("value", ["no", 1, 0, None, [], torch.tensor(True), np.array([True])], ids=repr)
def test_choices_are_true_or_false(value):
    """Where "no" would mean True."""
    boxes, masks = torch.rand(2, 4), torch.zeros(8, 9)
    net, deep = DownsizeNet((4, 4)), DownsizeNet((4, 4), texture_layers=2)
    weights = CoefficientWeights(None, None, (), (), torch.zeros(4, 2), torch.zeros(4))
    calls = {
        "letterbox": [
            lambda: net(IMAGE, letterbox=value),
            lambda: deep(IMAGE, letterbox=value),
            lambda: downsize_image(IMAGE, torch.zeros(2, 3, 3, 3), torch.zeros(2), weights, 4, letterbox=value),
            lambda: tritonds.labels.map_boxes(boxes, 8, 4, letterbox=value),
            lambda: tritonds.labels.map_masks(masks, 4, letterbox=value),
            lambda: tritonds.warmup(net, (8, 8), letterbox=value),
        ],
        "inverse": [lambda: tritonds.labels.map_boxes(boxes, 8, 4, inverse=value)],
    }
    for name in ("as_list", "channels_last", "backward", "image_gradient"):
        calls[name] = [lambda name=name: tritonds.warmup(net, (8, 8), **{name: value})]
    for name, each in calls.items():
        for call in each:
            with pytest.raises(TypeError, match=f"^{name}: expected True or False, got "):
                call()


def test_numpys_choices():
    boxed = DownsizeNet((4, 4))(IMAGE, letterbox=np.bool_(True))
    assert torch.equal(boxed.images, DownsizeNet((4, 4))(IMAGE, letterbox=True).images)
    assert isinstance(DownsizeNet((4, 4))(IMAGE, letterbox=np.bool_(False)), torch.Tensor)


def test_layer_without_size_or_with_other_channels():
    with pytest.raises(ValueError, match="size: expected"):
        DownsizeNet()(IMAGE)
    with pytest.raises(ValueError, match="image: expected 1 channels, got shape"):
        DownsizeNet((4, 4), in_channels=1)(IMAGE)
    with pytest.raises(TypeError, match=r"image\[0\]: expected a torch"):
        DownsizeNet((4, 4))([[1]])


def test_layer_and_its_images():
    with pytest.raises(ValueError, match="mean: expected 3 finite numbers"):
        DownsizeNet(mean=[0.5])
    with pytest.raises(TypeError, match="out_dtype"):
        DownsizeNet(out_dtype=torch.uint8)
    with pytest.raises(TypeError, match="image: expected uint8 or"):
        DownsizeNet((4, 4))(torch.zeros(1, 3, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="image: expected 3 channels"):
        DownsizeNet((4, 4))([torch.zeros(1, 8, 8)])
    with pytest.raises(TypeError, match=r"image: expected a torch\.Tensor or a list of them, got int"):
        DownsizeNet((4, 4)).coefficients(3)
    with pytest.raises(TypeError, match="fill: expected a number"):
        DownsizeNet((4, 4), texture_layers=2)(torch.zeros(1, 3, 8, 8), letterbox=True, fill="black")


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_layer_refuses_nested_batches(layout):
    nested = torch.nested.nested_tensor([torch.rand(3, 8, 8), torch.rand(3, 9, 8)], layout=layout)
    for net in (DownsizeNet((4, 4)), DownsizeNet((4, 4), texture_layers=2)):
        for resize in (net, net.coefficients):
            with pytest.raises(TypeError, match="image: expected a dense tensor, got"):
                resize(nested)


def test_layer_names_a_dtype_that_does_not_fit():
    for texture_channels in (0, 16):
        net = DownsizeNet((4, 4), texture_channels=texture_channels)
        for image in (IMAGE.int(), IMAGE.double()):
            with pytest.raises(TypeError, match=r"image: expected uint8 or the weights' dtype, torch\.float32, got"):
                net(image)
        with pytest.raises(ValueError, match="image: expected the weights' device, cpu, got meta"):
            net(IMAGE.to("meta"))
        with pytest.raises(ValueError, match="size: expected height and width of at least 1"):
            net(IMAGE, (0, 3))


@pytest.fixture
def asked_anew():
    """The reason why Triton cannot run is not that of an earlier call, nor kept for a later one."""
    tritonds.ops.why_no_triton.cache_clear()
    yield
    tritonds.ops.why_no_triton.cache_clear()


def assert_refused(reason):
    with pytest.raises(RuntimeError, match=re.escape(f'backend="triton" cannot run here: {reason}')):
        area_pool2d(IMAGE, (4, 4), backend="triton")


@pytest.mark.usefixtures("asked_anew")
def test_triton_cannot_run_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(tritonds.ops, "HAS_TRITON", False)
    assert_refused("Triton is not installed")


@pytest.mark.usefixtures("asked_anew")
def test_triton_cannot_run_in_an_old_version(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.5.1")
    assert_refused("Triton 3.5.1 is installed; 3.6 or later is needed")


@pytest.mark.usefixtures("asked_anew")
def test_triton_cannot_run_on_a_cpu_without_its_interpreter(monkeypatch):
    monkeypatch.setattr(tritonds.ops, "is_interpreted", lambda: False)
    assert_refused("CPU tensors need Triton's interpreter")


def test_triton_refuses_forward_mode(device):
    image = IMAGE.to(device)

    def pool(x):
        return area_pool2d(x, (4, 4), backend="triton")

    with pytest.raises(RuntimeError, match=r"torch\.func's transforms know nothing of the kernels; use backend"):
        torch.func.jvp(pool, (image,), (torch.ones_like(image),))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(image, torch.ones_like(image))
        with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
            pool(dual)
        assert pool(image).shape == (2, 3, 4, 4)


def test_sizes_of_other_libraries_are_taken():
    import numpy as np

    assert area_pool2d(IMAGE, (np.int64(4), np.int32(3))).shape == (2, 3, 4, 3)


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_meta_tensors_give_shapes(backend):
    with torch.device("meta"):
        net = DownsizeNet((4, 5), backend=backend)
        assert net(torch.rand(2, 3, 8, 9)).shape == (2, 3, 4, 5)
        assert area_pool2d(torch.rand(2, 3, 8, 9), (4, 5), backend=backend).shape == (2, 3, 4, 5)


def test_nothing_starts_before_the_arguments_are_checked(monkeypatch):
    from tritonds.kernels import launchers as kernels

    monkeypatch.setattr(kernels.launch, "run", lambda *_: pytest.fail("a kernel was started"))
    for backend in ("triton", "torch"):
        with pytest.raises(ValueError, match="taps"):
            downsize(IMAGE, TEXTURE, WEIGHTS, (4, 4), taps=9, backend=backend)
