"""What users put on the layer's modules takes effect: adapters, hooks, norms, pruning, quantisation, offloading and others."""

import copy

import accelerate
import peft
import pytest
import torch
from cases import BACKENDS, PRIORS, net_of
from torch import nn
from torch.nn.utils import parametrizations, prune

import tritonds

TARGETS = ["out", "hidden.0", "distance"]


def given(backend="torch", **options):
    """A network, images, and the network's result before anything is changed."""
    net = net_of(backend, (6, 8), **options)
    return net, torch.rand(2, 3, 13, 17)


def with_weight(net, target, weight):
    """A copy of ``net`` whose module ``target`` has another weight."""
    net = copy.deepcopy(net)
    net.get_submodule(target).weight.data.copy_(weight)
    return net


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("target", TARGETS)
def test_adapters_are_those_of_the_merged_network(target, backend):
    net, image = given(backend)
    adapted = peft.get_peft_model(copy.deepcopy(net), peft.LoraConfig(r=2, target_modules=[target], init_lora_weights=False))
    result = adapted(image)
    merged = copy.deepcopy(adapted).merge_and_unload()
    torch.testing.assert_close(result, merged(image), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result, net(image), atol=1e-3)
    result.square().sum().backward()
    trained = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name and grad is not None and grad.abs().sum() > 0 for name, grad in trained.items())


@pytest.mark.parametrize("target", TARGETS)
def test_hooks_run_and_may_change_what_they_see(target):
    net, image = given()
    before, module, seen = net(image), net.get_submodule(target), []
    handles = [module.register_forward_hook(lambda module, args, output: seen.append(output.shape))]
    torch.testing.assert_close(net(image), before, rtol=1e-4, atol=1e-5)
    assert len(seen) == 1
    handles.append(module.register_forward_pre_hook(lambda module, args: (args[0] * 0,)))
    zeroed = with_weight(net, target, torch.zeros_like(module.weight))
    for handle in handles:
        handle.remove()
    handle = module.register_forward_pre_hook(lambda module, args: (args[0] * 0,))
    torch.testing.assert_close(net(image), zeroed(image), rtol=1e-4, atol=1e-5)
    handle.remove()
    assert torch.equal(net(image), before)


def test_hooks_may_change_how_wide_it_is():
    """As those of tensor parallelism do."""
    net, image = given()
    expected = net(image)
    net.hidden[0].register_forward_hook(lambda module, args, output: torch.cat((output, output), dim=1))
    net.out.register_forward_pre_hook(lambda module, args: (args[0][:, 7:],))
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("norm", ["spectral", "weight", "pruned"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_norms_and_masks_by_hooks(norm, target):
    net, image = given()
    expected = copy.deepcopy(net)
    module = net.get_submodule(target)
    weight = module.weight.detach().clone()
    if norm == "spectral":
        nn.utils.spectral_norm(module, n_power_iterations=100)
        weight = weight / torch.linalg.matrix_norm(weight, 2)
        source = "weight_orig"
    elif norm == "weight":
        nn.utils.weight_norm(module)
        module.weight_g.data.mul_(3)
        weight, source = 3 * weight, "weight_g"
    else:
        prune.l1_unstructured(module, "weight", amount=0.5)
        weight = weight * module.weight_mask
        source = "weight_orig"
    result = net(image)
    torch.testing.assert_close(result, with_weight(expected, target, weight)(image), rtol=1e-4, atol=1e-4)
    result.square().sum().backward()
    assert getattr(module, source).grad.abs().sum() > 0
    with pytest.raises(ValueError, match=rf"{target}: expected an nn.Linear with bias and without hooks"):
        net.weights()


@pytest.mark.parametrize("backend", BACKENDS)
def test_parametrisations_still_go_to_the_kernels(backend, monkeypatch):
    net, image = given(backend)
    expected = with_weight(net, "out", 3 * net.out.weight.detach())
    parametrizations.weight_norm(net.out)
    net.out.parametrizations.weight.original0.data.mul_(3)
    monkeypatch.setattr(tritonds.submodules, "downsize", lambda *_: pytest.fail("called, not read"))
    result = net(image)
    torch.testing.assert_close(result, expected(image), rtol=1e-4, atol=1e-5)
    result.square().sum().backward()
    assert net.out.parametrizations.weight.original0.grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning", "ignore::DeprecationWarning")  # it moves
def test_quantised_linear_layers():
    net, image = given()
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear}, dtype=torch.qint8)
    assert type(quantised.out) is not nn.Linear
    torch.testing.assert_close(quantised(image), net(image), rtol=0, atol=0.1)
    assert not torch.equal(quantised(image), net(image))


class Rounded(torch.Tensor):
    """A weight that linear layers alone can use, as torchao's: int8 with one scale, inside an nn.Linear."""

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)

    def __init__(self, values, scale):
        self.values, self.scale = values, scale

    def __tensor_flatten__(self):
        return ["values", "scale"], None

    @staticmethod
    def __tensor_unflatten__(parts, _, size, stride):
        return Rounded(parts["values"], parts["scale"])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            x, weight, bias = args
            return nn.functional.linear(x, weight.values * weight.scale, bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        raise NotImplementedError(f"{function} of a quantised weight")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("target", TARGETS)
def test_weights_with_operators_of_their_own(target, backend, tmp_path):
    net, image = given(backend)
    module, expected = net.get_submodule(target), net(image)
    scale = module.weight.detach().abs().max() / 127
    module.weight = nn.Parameter(Rounded((module.weight.detach() / scale).round().to(torch.int8), scale), requires_grad=False)
    assert type(module) is nn.Linear
    torch.testing.assert_close(net(image), expected, rtol=0, atol=0.1)
    torch.testing.assert_close(torch.compile(net, backend="eager")(image), expected, rtol=0, atol=0.1)
    with pytest.raises(ValueError, match=f"^{target}: expected an nn.Linear with bias and without hooks or quantised weights"):
        net.weights()
    with pytest.raises(ValueError, match=f"^{target}: expected it as DownsizeNet made it"):
        net.save_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_integer_parameters_say_nothing_of_images(dtype):
    """The first parameter of a network without texture is the distances' weight."""
    net, image = tritonds.DownsizeNet((6, 8), texture_channels=0), torch.rand(2, 3, 13, 17)
    nn.init.normal_(net.out.weight)
    expected = net(image)
    scale = net.distance.weight.detach().abs().max() / 127
    net.distance.weight = nn.Parameter((net.distance.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
    net.distance.forward = lambda x: nn.functional.linear(x, net.distance.weight * scale, net.distance.bias)
    image = image.mul(255).to(dtype) if dtype == torch.uint8 else image
    torch.testing.assert_close(net(image), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("target", TARGETS)
def test_called_modules_and_float64_under_autocast(target):
    """Which autocast leaves alone; read or called, the image is named."""
    net, image = given()
    net.get_submodule(target).register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", torch.bfloat16):
        assert net(image.half()).dtype == torch.bfloat16
        with pytest.raises(TypeError, match=r"^image: expected uint8 or the weights' dtype"):
            net(image.double())
        assert net.double()(image.double()).dtype == torch.float64


@pytest.mark.parametrize("target", [*TARGETS, "texture.0"])
def test_weights_that_are_offloaded(target):
    net, image = given()
    expected = net(image)
    accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    assert net.get_submodule(target).weight.is_meta
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)
    images = [x.mul(255).to(torch.uint8) for x in image]
    assert net(images, letterbox=True).images.shape == (2, 3, 6, 8)
    with pytest.raises(TypeError, match="image: expected float16, bfloat16, float32 or float64"):
        net(image.int())


def test_called_modules_agree_everywhere(monkeypatch):
    """Called, as after a hook, or read: the same, for all that a layer may have, in values and in gradients."""
    for options in ({"distance_channels": 0}, {"texture_channels": 0}, {"hidden_layers": 0}, {"hidden_layers": 3}, {"taps": 4}):
        for prior in PRIORS:
            net = tritonds.DownsizeNet((6, 8), prior=prior, **options).double()
            for parameter in net.parameters():
                nn.init.normal_(parameter, std=0.5)
            image = torch.rand(2, 3, 13, 17, dtype=torch.float64, requires_grad=True)
            inputs = [image, *net.parameters()]
            read = net(image)
            read = [read, net.coefficients(image), *torch.autograd.grad(read.square().sum(), inputs)]
            net.out.register_forward_hook(lambda *_: None)
            called = net(image)
            called = [called, net.coefficients(image), *torch.autograd.grad(called.square().sum(), inputs)]
            for x, y in zip(called, read, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11)


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


TEXTURES = {
    "a CNN of another stride": lambda: nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.Tanh()),
    "a subclass with its own forward": lambda: Doubled(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
    "the layer's own, compiled": lambda: torch.compile(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()), backend="aot_eager"
    ),
    "a module of one's own": lambda: nn.Conv2d(3, 6, 1),
}


@pytest.mark.parametrize("name", TEXTURES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_replaced_textures_are_called(name, backend):
    net, image = given(backend)
    net.texture = TEXTURES[name]()
    image = (image - image.new_tensor(net.mean).view(-1, 1, 1)) / image.new_tensor(net.std).view(-1, 1, 1)
    net.mean = net.std = None
    expected = tritonds.downsize(
        image, net.texture(image), net.weights(), (6, 8), taps=net.taps, prior=net.prior, backend="torch"
    )
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^texture(\.0)?: expected it as DownsizeNet made it"):
        net.save_pretrained("nowhere")


def test_the_image_itself_as_texture():
    net = tritonds.DownsizeNet((6, 8), texture_channels=3, prior="bilinear")
    nn.init.normal_(net.out.weight)
    net.texture = nn.Identity()
    image = torch.rand(2, 3, 13, 17)
    expected = tritonds.downsize(image, image, net.weights(), (6, 8), prior="bilinear")
    assert torch.equal(net(image), expected)


def test_hidden_layers_of_ones_own_are_called_as_a_whole():
    """So that no ReLU comes between their parts, or after the last."""
    net, image = given()
    layer, expected = net.hidden[0], net(image)
    net.hidden = nn.Sequential(layer, nn.ReLU())
    torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)
    seen = []
    net.hidden = nn.Sequential(nn.Identity(), layer)
    net.out.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer.weight.data.zero_()
    layer.bias.data.fill_(-1)
    net(image)
    assert seen[0].eq(-1).all()
    with pytest.raises(ValueError, match=r"^hidden: expected it as DownsizeNet made it"):
        net.save_pretrained("nowhere")


class Giving(nn.Module):
    """Gives whatever ``function`` makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: None, TypeError, "texture: expected a torch.Tensor, got NoneType"),
        (lambda x: (x,), TypeError, "texture: expected a torch.Tensor, got tuple"),
        (lambda x: x[0], ValueError, "texture: expected 4 dimensions"),
        (lambda x: x[:1], ValueError, "texture: expected the image's batch size 2, got 1"),
        (lambda x: x.double(), TypeError, "texture: expected the dtype of image"),
        (lambda x: x.to("meta"), ValueError, "texture: expected the device of image"),
    ],
)
def test_textures_that_do_not_fit_are_named(function, error, message, called):
    net, image = given()
    net.texture = Giving(function)
    if called:
        net.out.register_forward_hook(lambda *_: None)
    for resize in (net, net.coefficients):
        with pytest.raises(error, match=message):
            resize(image)


GIVEN = [
    (lambda z: None, TypeError, "{}: expected a torch.Tensor, got NoneType"),
    (lambda z: (z,), TypeError, "{}: expected a torch.Tensor, got tuple"),
    (lambda z: z[:, 0], ValueError, r"{}: expected to give \((48|96), channels\), got \((48|96),\)"),
    (lambda z: z[:1], ValueError, r"{}: expected to give \((48|96), channels\), got \(1, \d\)"),
    (lambda z: z[:, :0], ValueError, "{}: expected to give"),
    (lambda z: z.int(), TypeError, "{}: expected float16, bfloat16, float32 or float64, got torch.int32"),
    (lambda z: z.to("meta"), ValueError, "{}: expected the device of image, cpu, got meta"),
    (lambda z: z.to_sparse(), TypeError, "{}: expected a dense tensor"),
    (lambda z: z[:, :3], ValueError, r"expected (\d+ channels, got \d+: 3 of {}|to give \(96, 4\) .*, got \(96, 3\))"),
]


@pytest.mark.parametrize("target", [*TARGETS, "hidden"])
@pytest.mark.parametrize(("function", "error", "message"), GIVEN, ids=[message for _, _, message in GIVEN])
def test_what_called_modules_give_is_named_if_it_does_not_fit(function, error, message, target):
    net, image = given()
    replacement = nn.Sequential(net.hidden[0] if target == "hidden" else net.get_submodule(target), Giving(function))
    net.set_submodule(target, replacement)
    for resize in (net, net.coefficients):
        with pytest.raises(error, match=message.format(target)):
            resize(image)


def test_what_does_not_fit_is_named():
    net, image = given()
    net.out = nn.Sequential(nn.Linear(7, 3))
    with pytest.raises(ValueError, match=r"out: expected to give \(96, 4\) \(pixels, taps\*taps\), got \(96, 3\)"):
        net(image)
    net.out = nn.Sequential(nn.Linear(7, 4))
    assert net(image).shape == (2, 3, 6, 8)
    net.texture = None
    with pytest.raises(ValueError, match=r"hidden\.0: expected 11 channels, got 5: 5 of distance"):
        net(image)
    net.distance = None
    with pytest.raises(ValueError, match="distance, texture: expected at least one, got None for both"):
        net(image)
    for name in ("out", "hidden", "hidden.0"):
        net, image = given()
        net.set_submodule(name, nn.Identity())
        parent, _, child = name.rpartition(".")
        setattr(net.get_submodule(parent), child, None)
        with pytest.raises(TypeError, match=f"^{name}: expected a module, got None"):
            net(image)
    net, image = given()
    net.out.double()
    net.hidden[0].register_forward_hook(lambda *_: None)
    with pytest.raises(TypeError, match=r"out: expected its weight's dtype, torch\.float64, got .*: 7 of hidden\.0"):
        net(image)


@pytest.mark.parametrize("how", ["called", "in steps", "in one launch"])
@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("prior", "antialiased", ValueError),
        ("backend", "cuda", ValueError),
        ("taps", 9, ValueError),
        ("std", [0.0, 1.0, 1.0], ValueError),
        ("mean", [0.5], ValueError),
        ("out_dtype", torch.int8, TypeError),
    ],
)
def test_options_set_afterwards_are_checked(option, value, error, how):
    net, image = given(texture_layers=2 if how == "in steps" else 1)
    if how == "called":
        net.out.register_forward_hook(lambda *_: None)
    setattr(net, option, value)
    with pytest.raises(error, match=f"^{option}: expected"):
        net(image)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda net: net.texture.__setitem__(1, nn.SiLU()), "texture.1"),
        (lambda net: setattr(net.texture[0], "padding_mode", "reflect"), "texture.0"),
        (lambda net: setattr(net.texture[0], "dilation", (2, 2)), "texture.0"),
        (lambda net: net.texture.append(nn.Dropout()), "texture"),
        (lambda net: setattr(net, "out", nn.Sequential(net.out)), "out"),
        (lambda net: net.hidden[0].register_forward_hook(lambda *_: None), "hidden.0"),
        (lambda net: prune.identity(net.distance, "weight"), "distance"),
    ],
)
def test_files_hold_no_changed_modules(change, name, tmp_path):
    net, _ = given()
    change(net)
    with pytest.raises(ValueError, match=rf"^{name}: expected it as DownsizeNet made it"):
        net.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
