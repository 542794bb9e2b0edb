"""The operators as PyTorch sees them: registration, compilation, export, autocast, FLOPs."""

import pytest
import torch
from cases import (
    LAYOUTS,
    LIST_SIZES,
    Case,
    arrange,
    each_backend,
    flatten,
    images_of,
    leaves,
    make,
    make_image,
    net_of,
    split,
)
from torch.utils.flop_counter import FlopCounterMode

import tritonds
from tritonds import ops
from tritonds.coefficient_weights import flatten as flatten_weights

CASES = {
    "default": Case(n=1),
    "distance-only": Case(n=1, texture=0, layers=2),
    "texture-only": Case(n=1, distance=0, layers=0, layout="channels_last"),
    "bicubic": Case(n=1, prior="bicubic"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck_of_the_fused_operators(case, device):
    image, texture, weights = leaves(make(case, device))
    options = (weights.distance_weight is not None, *case.size_out, case.taps, case.prior or "bilinear")
    torch.library.opcheck(ops.downsize, (image, texture, flatten_weights(weights), *options))
    image, texture, weights = make(case, device)
    needs = [True, texture is not None, True]
    grad_output = torch.ones(case.n, case.c, *case.size_out, device=device)
    torch.library.opcheck(ops.downsize_backward, (grad_output, image, texture, flatten_weights(weights), *options, needs))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck_of_the_coefficients(case, device):
    _, texture, weights = leaves(make(case, device))
    options = (weights.distance_weight is not None, case.n, *case.size_in, *case.size_out, case.taps, case.prior or "bilinear")
    torch.library.opcheck(ops.coefficients, (texture, flatten_weights(weights), *options))
    _, texture, weights = make(case, device)
    needs = [texture is not None, True]
    grad_output = torch.ones(case.n, case.taps**2, *case.size_out, device=device)
    torch.library.opcheck(ops.coefficients_backward, (grad_output, texture, flatten_weights(weights), *options, needs))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_opcheck_of_the_partial_operators(memory_format, device):
    x = torch.randn(2, 3, 9, 8, device=device).contiguous(memory_format=memory_format)
    a = torch.randn(2, 4, 4, 3, device=device)
    grad = torch.randn(2, 3, 4, 3, device=device).contiguous(memory_format=memory_format)
    torch.library.opcheck(ops.area_pool2d, (x.clone().requires_grad_(), 4, 3))
    torch.library.opcheck(ops.area_pool2d_backward, (grad, 9, 8))
    torch.library.opcheck(ops.weighted_gather2d, (x.clone().requires_grad_(), a.clone().requires_grad_(), 2))
    for needs in [[True, True], [False, True], [True, False]]:
        torch.library.opcheck(ops.weighted_gather2d_backward, (grad, x, a, 2, needs))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fakes_have_the_strides_of_the_results(layout, device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = arrange(torch.randn(2, 3, 9, 8, device=device), layout)
    real = ops.area_pool2d(x, 4, 3)
    with FakeTensorMode() as mode:
        fake = ops.area_pool2d(mode.from_tensor(x), 4, 3)
    assert fake.shape == real.shape
    assert fake.stride() == real.stride()


def fused(image, texture, weights, size, **options):
    return tritonds.downsize(image, texture, weights, size, backend="triton", **options)


def test_compiles_whole_with_gradients(device):
    case = Case(n=1, prior="bilinear", layers=2)
    inputs = leaves(make(case, device))
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    y = compiled(*inputs, case.size_out, **case.options)
    z = fused(*inputs, case.size_out, **case.options)
    assert torch.equal(y, z)
    tensors = flatten(*inputs)
    for a, b in zip(torch.autograd.grad(y.sum(), tensors), torch.autograd.grad(z.sum(), tensors), strict=True):
        assert torch.equal(a, b)


def test_inductor_compiles_the_layer(device):
    net = tritonds.DownsizeNet((5, 4), prior="bilinear", backend="triton").to(device)
    torch.nn.init.normal_(net.out.weight)
    image = torch.rand(2, 3, 11, 9, device=device)
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(image), net(image), rtol=1e-5, atol=1e-6)


def test_dynamic_shapes_do_not_recompile(device):
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(fused, fullgraph=True, dynamic=True, backend=backend)
    # No size may equal another by chance at the first call: the compiler would take them for one symbol.
    for n, size_in, size_out in [(9, (10, 14), (8, 12)), (2, (17, 13), (5, 7)), (4, (5, 19), (8, 10))]:
        inputs = make(Case(n=n, size_in=size_in), device)
        assert torch.equal(compiled(*inputs, size_out), fused(*inputs, size_out))
    assert len(compilations) == 1


def test_exports_with_dynamic_batch_height_and_width(device):
    net = tritonds.DownsizeNet((5, 4), prior="antialias", taps=4, backend="triton").to(device).eval()
    torch.nn.init.normal_(net.out.weight)
    dim = torch.export.Dim
    dynamic = {"image": {0: dim("n", min=1, max=64), 2: dim("h", min=2, max=4096), 3: dim("w", min=2, max=4096)}}
    exported = torch.export.export(net, (torch.rand(2, 3, 11, 9, device=device),), dynamic_shapes=dynamic)
    for shape in [(1, 3, 17, 23), (3, 3, 6, 7)]:
        image = torch.rand(shape, device=device)
        torch.testing.assert_close(exported.module()(image), net(image))


@each_backend
def test_autocast_takes_its_dtype(backend, device):
    dtype = torch.float16 if device.type == "cpu" else torch.bfloat16
    net = tritonds.DownsizeNet((5, 4), backend=backend).to(device)
    image = torch.rand(1, 3, 11, 9, device=device, requires_grad=True)
    texture = torch.rand(1, 16, 11, 9, device=device)
    with torch.autocast(device.type, dtype=dtype):
        assert net(image).dtype == dtype
        assert net.coefficients(image).dtype == dtype
        assert tritonds.area_pool2d(image, (3, 3), backend=backend).dtype == dtype
        assert tritonds.weighted_gather2d(image, torch.rand(1, 4, 3, 3, device=device), (3, 3), backend=backend).dtype == dtype
        mixed = tritonds.downsize(image, texture.to(dtype), net.weights(), (5, 4), backend=backend)
        double = tritonds.area_pool2d(image.double(), (3, 3), backend=backend)
    assert mixed.dtype == dtype
    assert double.dtype == torch.float64
    mixed.float().sum().backward()
    assert image.grad.dtype == torch.float32
    assert net.out.weight.grad.dtype == torch.float32


def test_second_derivatives_are_refused_where_the_incoming_gradient_wants_one(device):
    x = torch.rand(1, 2, 6, 5, device=device, requires_grad=True)
    a = torch.rand(1, 4, 3, 2, device=device, requires_grad=True)
    y = tritonds.weighted_gather2d(x, a, (3, 2), backend="triton")
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_second_derivatives_are_refused_where_only_the_inputs_want_one(device):
    case = Case(n=1)
    image, texture, weights = leaves(make(case, device))
    y = fused(image, texture, weights, case.size_out)
    (grad,) = torch.autograd.grad(y.sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("prior", "taps", "distances", "outputs"), [(None, 2, 4, 4), ("bicubic", 2, 4, 5), ("lanczos", 3, 6, 10)]
)
def test_flops_are_counted(prior, taps, distances, outputs, device):
    """A prior that sharpens has one output more."""
    case = Case(n=2, c=3, taps=taps, prior=prior, distance=5, texture=6, hidden=7, layers=1)
    inputs = leaves(make(case, device))
    with FlopCounterMode(display=False) as counter:
        fused(*inputs, case.size_out, **case.options).sum().backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    pixels = case.n * 5 * 6
    network = 2 * pixels * (5 * distances + 7 * 11 + outputs * 7) + 2 * case.n * 6 * 11 * 14
    gather = 2 * pixels * taps**2 * 3
    assert counts == {"tritonds.downsize": network + gather, "tritonds.downsize_backward": 3 * network + 2 * gather}


def test_flops_are_those_of_the_gradients_that_are_wanted(device):
    case = Case(n=2, c=3, taps=2, distance=0, texture=6, layers=0)
    image, texture, weights = make(case, device)
    with FlopCounterMode(display=False) as counter:
        fused(image.requires_grad_(), texture, weights, case.size_out).sum().backward()
    network = 2 * case.n * 5 * 6 * 4 * 6 + 2 * case.n * 6 * 11 * 14
    gather = 2 * case.n * 5 * 6 * 4 * 3
    assert counter.get_flop_counts()["Global"][torch.ops.tritonds.downsize_backward] == network + gather


def test_flops_of_pooling_and_gathering_are_counted(device):
    x = torch.rand(2, 3, 9, 8, device=device, requires_grad=True)
    a = torch.rand(2, 4, 4, 3, device=device, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        tritonds.area_pool2d(x, (4, 3), backend="triton").sum().backward()
        tritonds.weighted_gather2d(x, a, (4, 3), backend="triton").sum().backward()
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    gather = 2 * 2 * 4 * 4 * 3 * 3
    assert counts == {
        "tritonds.area_pool2d": 2 * 2 * 3 * 9 * 8,
        "tritonds.area_pool2d_backward": 2 * 2 * 3 * 9 * 8,
        "tritonds.weighted_gather2d": gather,
        "tritonds.weighted_gather2d_backward": 2 * gather,
    }


def test_nothing_is_saved_but_the_inputs(device):
    case = Case(n=2, c=3)
    inputs = leaves(make(case, device))
    pointers = {t.data_ptr() for t in flatten_weights(inputs[2])} | {inputs[0].data_ptr(), inputs[1].data_ptr()}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.data_ptr()), t)[1], lambda t: t):
        fused(*inputs, case.size_out)
    assert set(saved) == pointers
    assert len(saved) == len(pointers)


def operands_of_images(device, ragged, dtype=torch.float32):
    case = Case(n=1, texture=3, dtype=dtype)
    image, texture_weights, weights = make_image(case, device)
    weight, bias = split(texture_weights, 3)
    images = images_of([(12, 16), (5, 7)], device) if ragged else [image]
    return images, [weight.contiguous(), bias.contiguous()], flatten_weights(weights)


@pytest.mark.parametrize("ragged", [False, True])
def test_opcheck_of_images(ragged, device):
    images, texture_weights, weights = operands_of_images(device, ragged)
    n = len(images) if ragged else 1
    options = (True, 6, 8, 2, "none", [0.5, 1.0, 2.0], [0.0, -1.0, 1.0], 0.5 if ragged else None)
    wanted = [t.detach().requires_grad_() for t in texture_weights], [t.detach().requires_grad_() for t in weights]
    torch.library.opcheck(ops.downsize_image, (images, *wanted, *options, torch.float16))
    grad = torch.ones(n, 3, 6, 8, device=device)
    backward = (grad, images, texture_weights, weights, *options, torch.float16, [not ragged, True])
    torch.library.opcheck(ops.downsize_image_backward, backward)


@pytest.mark.parametrize("letterbox", [False, True])
def test_the_layer_compiles_whole(letterbox, device):
    net = net_of("triton").to(device)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for given in (images_of(LIST_SIZES[:3], device), torch.rand(2, 3, 12, 16, device=device)):
        y, z = compiled(given, letterbox=letterbox), net(given, letterbox=letterbox)
        pairs = zip(y, z, strict=True) if letterbox else [(y, z)]
        assert all(torch.equal(a, b) for a, b in pairs)
    y, z = compiled(given), net(given)
    parameters = list(net.parameters())
    for a, b in zip(torch.autograd.grad(y.sum(), parameters), torch.autograd.grad(z.sum(), parameters), strict=True):
        assert torch.equal(a, b)


def test_the_layer_compiles_for_any_mean(device):
    """Which PyTorch makes a symbol of once it has seen two."""

    def call(net, image):
        return net(image)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=True)
    image = torch.randint(256, (1, 3, 12, 16), dtype=torch.uint8, device=device)
    for mean in ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]):
        net = net_of("triton").to(device)
        net.mean = mean
        assert torch.equal(compiled(net, image), net(image))


def test_the_layer_exports_for_uint8(device):
    net = net_of("triton").to(device).eval()
    image = torch.randint(256, (2, 3, 12, 16), dtype=torch.uint8, device=device)
    program = torch.export.export(net, (image,))
    assert torch.equal(program.module()(image), net(image))


def test_second_derivatives_of_the_layer_are_refused(device):
    net = net_of("triton").to(device)
    image = torch.rand(1, 3, 12, 16, device=device, requires_grad=True)
    (grad,) = torch.autograd.grad(net(image).square().sum(), image, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize(("prior", "outputs"), [(None, 4), ("bicubic", 5)])
def test_flops_of_the_layer_count_its_convolution(prior, outputs, device):
    net = net_of("triton", prior=prior).to(device)
    image = torch.rand(2, 3, 12, 16, device=device)
    counts = []
    for given in (image, list(image)):
        with FlopCounterMode(display=False) as counter:
            net(given).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    network = 2 * 2 * 6 * 8 * (5 * 4 + 7 * 11 + outputs * 7)
    texture = 2 * 2 * 12 * 16 * 6 * (27 + 1)
    gather = 2 * 2 * 6 * 8 * 4 * 3
    assert counts[0] == 4 * (network + texture) + 2 * gather


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["default", "max-autotune"])
def test_compiles_on_cuda(mode, device):
    net = tritonds.DownsizeNet((54, 96), prior="bilinear").to(device)
    torch.nn.init.normal_(net.out.weight)
    image = torch.rand(2, 3, 108, 192, device=device)
    torch.testing.assert_close(torch.compile(net, mode=mode, fullgraph=True)(image), net(image), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_cuda_graphs_replay(device):
    case = Case(n=2, size_in=(64, 80), size_out=(31, 37), texture=16, distance=16, hidden=16, dtype=torch.bfloat16)
    inputs = make(case, device)
    fused(*inputs, case.size_out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = fused(*inputs, case.size_out)
    inputs[0].copy_(torch.randn_like(inputs[0]))
    graph.replay()
    assert torch.equal(y, fused(*inputs, case.size_out))


@pytest.mark.gpu
def test_other_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    inputs = make(Case(), torch.device("cuda:1"))
    with torch.cuda.device(0):
        y = fused(*inputs, (5, 6))
    torch.testing.assert_close(y, tritonds.downsize(*inputs, (5, 6), backend="torch"), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_gradients_of_large_batches_repeat(device):
    case = Case(n=4, size_in=(270, 480), size_out=(135, 240), texture=16, distance=16, hidden=16, dtype=torch.bfloat16)
    inputs = leaves(make(case, device))
    tensors = flatten(*inputs)
    runs = [torch.autograd.grad(fused(*inputs, case.size_out).float().square().sum(), tensors) for _ in range(3)]
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
