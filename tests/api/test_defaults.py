"""Nothing depends on the default device or dtype: all of it under "meta" and float64, as inside a model being loaded."""

import contextlib

import pytest
import torch
from cases import each_backend, images_of, net_of

import tritonds
from tritonds import DownsizeNet, labels


@contextlib.contextmanager
def strange_defaults():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("options", [{}, {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}])
def test_files_are_read(options, tmp_path):
    expected = DownsizeNet.from_pretrained("natural-k4", **options)
    with strange_defaults():
        net = DownsizeNet.from_pretrained("natural-k4", **options)
        net.save_pretrained(tmp_path)
        again = DownsizeNet.from_pretrained(tmp_path)
    for x, y, z in zip(net.parameters(), expected.parameters(), again.parameters(), strict=True):
        assert torch.equal(x, y)
        assert torch.equal(x, z)
        assert x.dtype == torch.float32


@each_backend
def test_results_are_the_same(backend):
    net, images = net_of(backend, prior="antialias"), images_of([(9, 12), (7, 5)], "cpu")
    batch = torch.rand(2, 3, 9, 12)

    def results():
        boxed = net(images, letterbox=True)
        loss = boxed.images.square().sum() + net(images).sum()
        return [
            *boxed,
            net(batch),
            net.coefficients(batch),
            *torch.autograd.grad(loss, list(net.parameters())),
            tritonds.area_pool2d(batch, (4, 5), backend=backend),
            labels.map_boxes(batch[0, 0, :, :4], (9, 12), (6, 8), letterbox=True),
            labels.map_points(batch[0, 0, :, :2], (9, 12), (6, 8), letterbox=True),
            labels.map_masks(batch[0] > 0.5, (6, 8), letterbox=True),
        ]

    expected = results()
    with strange_defaults():
        got = results()
    for x, y in zip(got, expected, strict=True):
        assert x.device.type == "cpu"
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


@each_backend
def test_images_made_in_inference_mode_train(backend):
    for options in ({}, {"texture_layers": 2}, {"texture_channels": 0}, {"hidden_channels": 80}):
        net = DownsizeNet((4, 5), backend=backend, **options)
        with torch.inference_mode():
            batch, images = torch.rand(2, 3, 9, 8), [torch.rand(3, 7, 6), torch.rand(3, 9, 9)]
        for given in (batch, images):
            parameters = list(net.parameters())
            grads = torch.autograd.grad(net(given).square().sum(), parameters)
            again = torch.autograd.grad(
                net(given.clone() if given is batch else [x.clone() for x in images]).square().sum(), parameters
            )
            assert all(torch.equal(x, y) for x, y in zip(grads, again, strict=True))
    net = DownsizeNet((4, 5), backend=backend)
    net.out.register_forward_hook(lambda *_: None)
    net(batch).square().sum().backward()


@each_backend
def test_transforms_of_torch_func_name_the_way_out(backend):
    image = torch.rand(2, 3, 9, 8)
    net = DownsizeNet((4, 5), backend=backend)
    if backend == "torch":
        assert torch.func.vmap(lambda x: net(x.unsqueeze(0))[0])(image).shape == (2, 3, 4, 5)
        torch.func.grad(lambda x: net(x).square().sum())(image)
    else:
        with pytest.raises(RuntimeError, match='use backend="torch"'):
            torch.func.grad(lambda x: net(x).square().sum())(image)
        with pytest.raises(RuntimeError, match='use backend="torch"'):
            torch.func.vmap(lambda x: net(x.unsqueeze(0))[0])(image)


@pytest.mark.parametrize("options", [{}, {"texture_layers": 2}, {"mean": [0.5, 0.25, 0.75], "out_dtype": torch.float64}])
def test_vmap_over_images_and_networks(options):
    """Of either memory format: vmap knows none but the contiguous one."""
    nets = [tritonds.DownsizeNet((4, 5), prior="bilinear", **options) for _ in range(3)]
    for parameter in (p for net in nets for p in net.parameters()):
        torch.nn.init.normal_(parameter, std=0.5)
    batches = torch.rand(3, 2, 3, 8, 9)
    for images in (batches, batches.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        for resize in (nets[0], nets[0].coefficients, lambda x: nets[0](list(x), letterbox=True).images):
            torch.testing.assert_close(torch.func.vmap(resize)(images), torch.stack([resize(x) for x in images]))
    parameters, buffers = torch.func.stack_module_state(nets)
    together = torch.func.vmap(lambda state, x: torch.func.functional_call(nets[0], (state, buffers), (x,)), in_dims=(0, None))(
        parameters, batches[0]
    )
    torch.testing.assert_close(together, torch.stack([net(batches[0]) for net in nets]))
    torch.func.jacfwd(nets[0])(batches[0])


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"texture_layers": 2}])
def test_transforms_are_compiled(options):
    """Which vmap of memory formats it does not know would prevent."""
    net = tritonds.DownsizeNet((4, 5), prior="antialias", **options)
    torch.nn.init.normal_(net.out.weight)
    images = torch.rand(3, 2, 8, 9, 3).permute(0, 1, 4, 2, 3)

    def transformed(x):
        gradient = torch.func.grad(lambda image: net(image).square().sum())(x[0])
        return torch.vmap(lambda image: net(image))(x), torch.vmap(net.coefficients)(x), gradient

    compiled = torch.compile(transformed, backend="aot_eager", fullgraph=True)
    for got, expected in zip(compiled(images), transformed(images), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_table_of_images_is_made_in_pinned_memory_whatever_the_default_device(monkeypatch):
    """As on a GPU, by what PyTorch is asked for."""
    from tritonds.kernels import batch

    class Image:
        device, shape = torch.device("cuda"), (3, 9, 12)
        data_ptr = staticmethod(lambda: 16)
        stride = staticmethod(lambda: (108, 12, 1))

    class Host:
        copy_ = staticmethod(lambda table: Host())
        to = staticmethod(lambda device, non_blocking: device)

    asked = []
    monkeypatch.setattr(torch, "empty", lambda shape, **options: asked.append(options) or Host())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with strange_defaults():
        rows = batch.read([Image(), Image()], (6, 8), False)
        assert batch.table(rows, Image.device).type == "cuda"
    assert asked == [{"dtype": torch.int64, "device": "cpu", "pin_memory": True}]
