"""What training puts around the layer: checkpoints of activations, averaged weights, a compiled step, Lightning."""

import copy

import lightning
import pytest
import torch
import torch.nn.functional as F
from cases import assert_same_parameters, each_backend, net_of
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from tritonds import DownsizeNet


def images():
    return torch.rand(2, 3, 11, 9), [torch.randint(256, (3, height, 12), dtype=torch.uint8) for height in (7, 8)]


def loss_of(net, batch, listed):
    return net(batch).square().mean() + net(listed).square().mean()


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


@each_backend
def test_checkpointing_gives_the_same_bits(backend):
    net, given = net_of(backend), images()
    plain = loss_of(net, *given)
    recomputed = loss_of(lambda x: checkpoint(net, x, use_reentrant=False), *given)
    parameters = list(net.parameters())
    for x, y in zip(torch.autograd.grad(recomputed, parameters), torch.autograd.grad(plain, parameters), strict=True):
        assert x.abs().sum() > 0
        assert torch.equal(x, y)


def test_averages_follow_the_formula(tmp_path):
    """m <- 0.9 m + 0.1 w, from the first weights on; the average is a network that files hold."""
    net = net_of("torch")
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer, expected = sgd(net), None
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net, *images()).backward()
        optimizer.step()
        averaged.update_parameters(net)
        now = [p.detach().clone() for p in net.parameters()]
        expected = now if expected is None else [0.9 * m + 0.1 * w for m, w in zip(expected, now, strict=True)]
    average = averaged.module
    average.save_pretrained(tmp_path)
    batch, _ = images()
    assert torch.equal(DownsizeNet.from_pretrained(tmp_path)(batch), averaged(batch))
    for m, y, w in zip(average.parameters(), expected, net.parameters(), strict=True):
        torch.testing.assert_close(m, y, rtol=1e-6, atol=1e-7)
        assert not torch.allclose(m, w, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("backend", "compiler"),
    [("triton", "aot_eager"), ("torch", "aot_eager"), pytest.param("triton", "inductor", marks=pytest.mark.long)],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # the compiler's own
def test_a_compiled_step_is_the_eager_one(backend, compiler):
    """Forward, backward and optimizer, twice: what the first step wrote, the second reads."""

    def step(model, optimizer):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    net, expected, (batch, _) = net_of(backend), net_of(backend), images()
    losses = []
    for model, function in ((net, torch.compile(step, backend=compiler)), (expected, step)):
        optimizer = sgd(model)
        losses.append([function(model, optimizer) for _ in range(2)])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    assert losses[1][1] < losses[1][0]
    assert_same_parameters(net, expected)


class Training(lightning.LightningModule):
    """A downsizer and what it is trained with."""

    def __init__(self, backend):
        super().__init__()
        self.downsize = net_of(backend)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 4))
        nn.init.constant_(self.network[1].weight, 0.01)

    def training_step(self, batch, index):
        images, labels = batch
        return F.cross_entropy(self.network(self.downsize(images)), labels)

    def configure_optimizers(self):
        return sgd(self)


@each_backend
@pytest.mark.filterwarnings("ignore::UserWarning:lightning")  # of workers, and of devices that would be faster
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # which Lightning uses
def test_lightning_steps_as_a_loop_does(backend, tmp_path):
    """Of two batches each, with gradients clipped."""
    data = [(torch.randint(256, (2, 3, 11, 9), dtype=torch.uint8), torch.randint(4, (2,))) for _ in range(4)]
    module = Training(backend)
    expected = copy.deepcopy(module)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", devices=1, accumulate_grad_batches=2, gradient_clip_val=0.1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, batch_size=None))
    optimizer = sgd(expected)
    for index, batch in enumerate(data):
        (expected.training_step(batch, index) / 2).backward()
        if index % 2:
            nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    assert_same_parameters(module, expected, rtol=1e-6, atol=1e-7)
    assert not torch.equal(module.downsize.out.weight, net_of(backend).out.weight)
