"""Training in several processes: data parallel, and fully sharded; batches and lists of images."""

import datetime
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import net_of

from tritonds import DownsizeNet

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="PyTorch was built without gloo")
WORLD = 2


def images(rank):
    generator = torch.Generator().manual_seed(rank)
    batch = torch.rand(2, 3, 11, 9, generator=generator)
    listed = [torch.randint(256, (3, 7 + rank, 12), dtype=torch.uint8, generator=generator) for _ in range(2)]
    return batch, listed


def loss_of(net, rank):
    batch, listed = images(rank)
    return net(batch).square().mean() + net(listed).square().mean()


def step(net, model, rank):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss_of(model, rank).backward()
    optimizer.step()


def in_process(rank, kind, backend, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=datetime.timedelta(seconds=100))
    net = net_of(backend)
    if kind == "ddp":
        step(net, torch.nn.parallel.DistributedDataParallel(net), rank)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (WORLD,))
        if kind == "each module sharded":
            for module in (net.texture[0], net.distance, net.hidden[0], net.out):
                fully_shard(module, mesh=mesh)
        fully_shard(net, mesh=mesh)
        step(net, net, rank)
    if kind != "each module sharded":  # whose hooks a file cannot hold
        net.save_pretrained(folder / str(rank))
    else:
        state = {name: value.full_tensor() for name, value in net.state_dict().items()}
        whole = net_of(backend)
        whole.load_state_dict(state)
        whole.save_pretrained(folder / str(rank))
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("ddp", "triton"),
        pytest.param("ddp", "torch", marks=pytest.mark.long),
        ("sharded", "triton"),
        pytest.param("each module sharded", "torch", marks=pytest.mark.long),
    ],
)
def test_one_step_is_that_of_one_process(kind, backend, tmp_path):
    mp.start_processes(in_process, args=(kind, backend, tmp_path), nprocs=WORLD, start_method="spawn")
    expected = net_of(backend)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    (sum(loss_of(expected, rank) for rank in range(WORLD)) / WORLD).backward()
    optimizer.step()
    for rank in range(WORLD):
        got = DownsizeNet.from_pretrained(tmp_path / str(rank))
        for (name, x), y in zip(got.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
            assert not torch.equal(y, dict(net_of(backend).named_parameters())[name])
