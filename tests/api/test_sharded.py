"""Training in several processes: data parallel, fully sharded, by accelerate; batches and lists of images."""

import datetime
import os

import interpreter
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate import Accelerator
from cases import assert_same_parameters, net_of
from torch import nn
from torch.utils.data import DataLoader

from tritonds import DownsizeNet

WORLD = 2
KINDS = ("ddp", "sharded", "each module sharded", "accelerate")


def images(rank):
    generator = torch.Generator().manual_seed(rank)
    batch = torch.rand(2, 3, 11, 9, generator=generator)
    listed = [torch.randint(256, (3, 7 + rank, 12), dtype=torch.uint8, generator=generator) for _ in range(2)]
    return batch, listed


def loss_of(net, rank):
    batch, listed = images(rank)
    return net(batch).square().mean() + net(listed).square().mean()


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def in_process(rank, backend, folder):
    """A step of each kind; the network that it makes goes to ``folder/kind/rank``."""
    interpreter.quicken()
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))  # which accelerate reads
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=datetime.timedelta(seconds=300))
    for kind in KINDS:
        net = net_of(backend)
        if kind == "accelerate":
            net = accelerated(net)
        elif kind == "ddp":
            step(net, nn.parallel.DistributedDataParallel(net), rank)
        else:
            sharded(net, kind == "each module sharded")
            step(net, net, rank)
        if kind == "each module sharded":  # whose hooks a file cannot hold
            state = {name: value.full_tensor() for name, value in net.state_dict().items()}
            net = net_of(backend)
            net.load_state_dict(state)
        net.save_pretrained(folder / kind / str(rank))
    dist.destroy_process_group()


def step(net, model, rank):
    optimizer = sgd(net)
    loss_of(model, rank).backward()
    optimizer.step()


def sharded(net, each):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    for module in (net.texture[0], net.distance, net.hidden[0], net.out) if each else ():
        fully_shard(module, mesh=mesh)
    fully_shard(net, mesh=mesh)


def accelerated(net):
    """Which gives every process its part of the loader: here the number of its images."""
    accelerator = Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(net, sgd(net), DataLoader(range(WORLD)))
    for part in loader:
        accelerator.backward(loss_of(model, part.item()))
        optimizer.step()
    return accelerator.unwrap_model(model)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch was built without gloo")
@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.long)])
def test_one_step_of_two_processes_is_that_of_one_with_all_images(backend, tmp_path):
    mp.start_processes(in_process, args=(backend, tmp_path), nprocs=WORLD, start_method="spawn")
    before, expected = net_of(backend), net_of(backend)
    optimizer = sgd(expected)
    (sum(loss_of(expected, rank) for rank in range(WORLD)) / WORLD).backward()
    optimizer.step()
    for kind in KINDS:
        for rank in range(WORLD):
            assert_same_parameters(DownsizeNet.from_pretrained(tmp_path / kind / str(rank)), expected, kind)
    for x, y in zip(before.parameters(), expected.parameters(), strict=True):
        assert not torch.equal(x, y)
