"""Networks as files: what is written is read again, what is not a network's file is refused, and what the package holds."""

import json
import os
import pickle
import random
import re
from importlib import resources
from pathlib import Path

import pytest
import torch
from cases import MEAN, STD, randomized
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tritonds
from tritonds import DownsizeNet
from tritonds.coefficient_weights import SHARPENING
from tritonds.pretrained import CONFIG, FILE, KEY, SHIPPED


@pytest.fixture
def saved(tmp_path):
    """The file of a small network."""
    net = randomized(DownsizeNet(taps=2, texture_channels=2, distance_channels=3, hidden_channels=4))
    net.save_pretrained(tmp_path)
    return tmp_path / FILE


def entry_of(file):
    with safe_open(file, framework="pt") as content:
        return json.loads(content.metadata()[KEY])


def forge(file, entry=None, state=None):
    """The same file with another header's entry, any text or object, or with other tensors; alone in its folder."""
    file.with_name(CONFIG).unlink(missing_ok=True)
    entry = entry_of(file) if entry is None else entry
    state = load_file(file) if state is None else state
    save_file(state, file, {KEY: entry if isinstance(entry, str) else json.dumps(entry)})


VARIANTS = {
    "default": {},
    "size": dict(size=(5, 4)),
    "deep": dict(texture_layers=3, hidden_layers=0),
    "texture-only": dict(distance_channels=0, taps=4, prior="antialias"),
    "distance-only": dict(texture_channels=0, texture_layers=3, hidden_layers=3),
    "grey": dict(in_channels=1, taps=3, prior="bilinear", hidden_layers=2, hidden_channels=5),
    "pixels": dict(mean=MEAN[:3], std=STD[:3], out_dtype=torch.float16),
    "sharpening": dict(taps=3, prior="bicubic"),
    "one-tap": dict(taps=1, mean=(0, 1, 2)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_saved_is_loaded(variant, dtype, tmp_path):
    net = randomized(DownsizeNet(**VARIANTS[variant])).to(dtype)
    net.save_pretrained(tmp_path / "below" / "folder")
    random_state = torch.get_rng_state()
    loaded = DownsizeNet.from_pretrained(tmp_path / "below" / "folder")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert loaded.options() == net.options()
    assert loaded.state_dict().keys() == net.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == dtype
        assert torch.equal(value, net.state_dict()[name])
        assert value.stride() == net.state_dict()[name].stride()
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    image = torch.randint(256, (1, net.in_channels, 11, 9), dtype=torch.uint8)
    assert torch.equal(loaded(image, (5, 4)), net(image, (5, 4)))


def test_the_same_network_gives_the_same_file(saved, tmp_path):
    DownsizeNet.from_pretrained(saved).save_pretrained(str(tmp_path / "again"))
    for name in (FILE, CONFIG):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_configuration_that_says_otherwise_is_refused(saved, tmp_path):
    """It repeats the header; a folder without one, or with somebody else's, is as before there were any."""
    path, expected = tmp_path / CONFIG, DownsizeNet.from_pretrained(saved).options()
    config = json.loads(path.read_text())
    assert config == {"library_name": "tritonds", **entry_of(saved)}
    for other in (config | {"options": config["options"] | {"size": [3, 4]}}, config | {"format": 2}):
        path.write_text(json.dumps(other))
        for where in (tmp_path, saved):
            with pytest.raises(ValueError, match=rf"{path}: expected what the header of model\.safetensors says"):
                DownsizeNet.from_pretrained(where)
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path}: expected JSON"):
        DownsizeNet.from_pretrained(tmp_path)
    for other in ({"model_type": "segformer"}, [], config | {"more": 1}):
        path.write_text(json.dumps(other))
        assert DownsizeNet.from_pretrained(tmp_path).options() == expected
    path.unlink()
    assert DownsizeNet.from_pretrained(tmp_path).options() == expected
    saved.rename(tmp_path / "own.safetensors")
    DownsizeNet(taps=5).save_pretrained(tmp_path)
    assert DownsizeNet.from_pretrained(tmp_path / "own.safetensors").options() == expected


def test_files_folders_and_names(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved.rename("own.safetensors")
    DownsizeNet(taps=3).save_pretrained("natural-k2")
    DownsizeNet(taps=5).save_pretrained("own")
    for where, taps in [("own.safetensors", 2), ("own", 5), ("natural-k2", 2), ("./natural-k2", 3), (Path("natural-k2"), 3)]:
        assert DownsizeNet.from_pretrained(where).taps == taps
    assert DownsizeNet.from_pretrained("natural-k2").texture_channels == 16


def test_missing_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=rf"expected one of {re.escape(str(SHIPPED))}, a file, a folder or a repository 'org/name', got 'natural-k3'",
    ):
        DownsizeNet.from_pretrained("natural-k3")
    (tmp_path / "empty").mkdir()
    for missing in ("./natural-k3", "natural-k3.safetensors", Path("natural-k3"), "empty"):
        with pytest.raises(FileNotFoundError, match=r"model\.safetensors" if missing == "empty" else "natural-k3"):
            DownsizeNet.from_pretrained(missing)
    (tmp_path / "empty" / FILE).mkdir()
    for other in ("empty", *filter(os.path.exists, ["/dev/null"])):
        with pytest.raises(ValueError, match="expected a safetensors file, got a folder or a device"):
            DownsizeNet.from_pretrained(other)


def changed(**options):
    """The header's entry of :func:`saved` with other options."""
    return lambda entry: {**entry, "options": {**entry["options"], **options}}


ENTRIES = {
    "no JSON": (lambda _: "{", "expected JSON"),
    "nested too deep": (lambda _: "[" * 100_000, "expected JSON|expected a format"),
    "a list": (lambda _: [], r"expected a format and options, got \[\]"),
    "no format": (lambda entry: {"options": entry["options"]}, "expected a format and options"),
    "format of another type": (lambda entry: {**entry, "format": True}, "expected a format and options"),
    "no options": (lambda entry: {"format": 1}, "expected a format and options"),
    "format to come": (lambda entry: {**entry, "format": 2}, "expected format 1, got 2"),
    "unknown option": (changed(speed="high"), r"expected \['distance_channels'.*'speed'"),
    "backend": (changed(backend="triton"), r"expected \['distance_channels'.*'backend'"),
    "missing option": (
        lambda entry: {"format": 1, "options": {k: v for k, v in entry["options"].items() if k != "taps"}},
        r"'taps'.*, got \['distance_channels'",
    ),
    "taps of another type": (changed(taps=2.0), "taps: expected an integer, got 2.0"),
    "too many taps": (changed(taps=9), "taps: expected 1 to 8, got 9"),
    "no number of layers": (changed(texture_layers="one"), "options: "),
    "no layers": (changed(texture_layers=None), "options: "),
    "unknown prior": (changed(prior=["bilinear"]), "prior: expected None or one of"),
    "odd size": (changed(size=[3]), "size: expected a pair"),
    "infinite mean": (changed(mean=[float("inf")] * 3), "mean: expected 3 finite numbers"),
    "endless mean": (changed(mean=[10**400] * 3), "options: "),
    "std of zero": (changed(std=[0, 0, 0]), "std: expected numbers above"),
    "unknown dtype": (changed(out_dtype="int8"), "out_dtype: expected null or one of .*'float32'.*, got 'int8'"),
    "unhashable dtype": (changed(out_dtype=["float16"]), "out_dtype: expected null or one of"),
    "more taps": (changed(taps=3), r"distance.weight: expected shape \(3, 6\), got \(3, 4\)"),
    "more layers": (changed(hidden_layers=2), r"got unknown ones \[\] and not \['hidden.1.bias', 'hidden.1.weight'\]"),
    "fewer layers": (changed(hidden_layers=0), r"got unknown ones \['hidden.0.bias', 'hidden.0.weight'\] and not \[\]"),
    "terabytes": (changed(hidden_channels=10**12), r"hidden.0.bias: expected shape \(1000000000000,\), got \(4,\)"),
    "beyond numbers": (changed(hidden_channels=10**30), "options: "),
    "endless layers": (changed(texture_layers=10**9), "texture_layers: expected as many as the file holds, got 1000000000"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_headers_are_refused(name, saved):
    change, message = ENTRIES[name]
    forge(saved, entry=change(entry_of(saved)))
    with pytest.raises(ValueError, match=rf"{saved}.*({message})"):
        DownsizeNet.from_pretrained(saved)


STATES = {
    "renamed": (lambda s: {**{k: v for k, v in s.items() if k != "out.bias"}, "bias": s["out.bias"]},
                r"got unknown ones \['bias'\] and not \['out.bias'\]"),
    "empty": (lambda s: {}, "texture_layers: expected as many"),
    "shape": (lambda s: {**s, "out.bias": torch.zeros(5)}, r"out.bias: expected shape \(4,\), got \(5,\)"),
    "turned": (lambda s: {**s, "distance.weight": s["distance.weight"].view(4, 3)}, r"expected shape \(3, 4\), got \(4, 3\)"),
    "mixed": (lambda s: {**s, "out.bias": s["out.bias"].half()}, "out.bias: expected one of .*'bfloat16'.* got torch.float16"),
    "integers": (lambda s: {k: v.long() for k, v in s.items()}, "got torch.int64"),
    "eight bits": (lambda s: {k: v.to(torch.float8_e4m3fn) for k, v in s.items()}, "got torch.float8_e4m3fn"),
    "nan": (lambda s: {**s, "out.bias": torch.full((4,), torch.nan)}, "out.bias: expected finite numbers"),
    "infinity": (lambda s: {**s, "texture.0.bias": torch.full((2,), torch.inf)}, "texture.0.bias: expected finite numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_tensors_are_refused(name, saved):
    change, message = STATES[name]
    forge(saved, state=change(load_file(saved)))
    with pytest.raises(ValueError, match=rf"{saved}.*{message}"):
        DownsizeNet.from_pretrained(saved)


def test_other_files_are_refused_and_run_no_code(saved):
    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code ran')",))

    state = load_file(saved)
    torch.save({"options": Evil(), "state_dict": {}}, saved)
    zipped = saved.read_bytes()
    for content in (zipped, pickle.dumps(Evil()), b"", b"hello", b"\xff" * 100):
        saved.write_bytes(content)
        with pytest.raises(ValueError, match=f"{saved}: expected a safetensors file, got"):
            DownsizeNet.from_pretrained(saved)
    save_file(state, saved)
    with pytest.raises(ValueError, match=r"expected a file written by DownsizeNet\.save_pretrained, got one without metadata"):
        DownsizeNet.from_pretrained(saved)


def test_damaged_files_never_do_worse_than_valueerror(saved, seed):
    """Cut anywhere they are refused; a changed byte may be a changed number, which no reader can tell."""
    whole, rng = saved.read_bytes(), random.Random(seed)
    saved.with_name(CONFIG).unlink()
    header = 8 + int.from_bytes(whole[:8], "little")
    for length in [*range(0, 16), *rng.sample(range(len(whole)), 50), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="expected a safetensors file"):
            DownsizeNet.from_pretrained(saved)
    loaded = 0
    for _ in range(400):
        content = bytearray(whole)
        content[rng.randrange(header + 40)] = rng.randrange(256)
        saved.write_bytes(content)
        try:
            net = DownsizeNet.from_pretrained(saved)
        except ValueError:
            continue
        loaded += 1
        assert all(p.isfinite().all() for p in net.parameters())
    assert 0 < loaded < 200


def test_saving_refuses_what_loading_would(tmp_path):
    replaced, mixed, diverged, empty = (DownsizeNet() for _ in range(4))
    empty.out.to("meta")
    replaced.texture[0] = torch.nn.Conv2d(3, 16, 5, padding=2)
    mixed.out.half()
    torch.nn.init.constant_(diverged.out.bias, torch.nan)
    for net, message in [(replaced, "texture.0: expected it as"), (mixed, "the same for all"), (diverged, "finite"),
                         (empty, "some on the meta device")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            net.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_what_was_saved_stays_where_saving_fails(step, saved, monkeypatch):
    whole = saved.read_bytes()

    def fail(path, content):
        if step == "write_bytes":
            with open(path, "wb") as file:
                file.write(content[:100])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(OSError, match="no space left"):
            DownsizeNet().save_pretrained(saved.parent)
    assert saved.read_bytes() == whole
    assert {path.name for path in saved.parent.iterdir()} == {FILE} | ({CONFIG} if step == "write_bytes" else set())
    assert DownsizeNet.from_pretrained(saved.parent).taps == 2


def test_given_options_come_before_stored_ones(saved):
    net = DownsizeNet.from_pretrained(saved, size=[6, 7], out_dtype=torch.float64, backend="torch")
    assert (net.size, net.out_dtype, net.backend) == ((6, 7), torch.float64, "torch")
    net.save_pretrained(saved.parent)
    kept = DownsizeNet.from_pretrained(saved)
    assert (kept.size, kept.out_dtype, kept.backend) == ((6, 7), torch.float64, "auto")
    for wrong, error in [({"size": (0, 1)}, ValueError), ({"mean": [1.0]}, ValueError), ({"backend": "c"}, ValueError),
                         ({"std": "1"}, TypeError), ({"out_dtype": torch.int8}, TypeError)]:  # fmt: skip
        with pytest.raises(error, match=rf"^{next(iter(wrong))}: expected"):  # what the caller wrote, not what the file holds
            DownsizeNet.from_pretrained(saved, **wrong)


@pytest.mark.parametrize("stored", [{}, dict(mean=[0.1, 0.2, 0.3], std=[2.0, 0.5, 0.7]), dict(std=[0.3, 0.4, 0.5])])
@pytest.mark.parametrize("layers", [1, 2])
def test_normalising_keeps_coefficients(stored, layers, tmp_path):
    """But for target pixels at the edge, where the zeros of the convolution's padding stand for another colour."""
    net = randomized(DownsizeNet((8, 9), taps=4, prior="antialias", texture_layers=layers, **stored)).double()
    net.save_pretrained(tmp_path)
    other = DownsizeNet.from_pretrained(tmp_path, mean=MEAN[:3], std=STD[:3])
    image = torch.rand(2, 3, 16, 18, dtype=torch.float64)
    expected, got = net.coefficients(image), other.coefficients(image)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(got[inside], expected[inside], rtol=1e-12, atol=1e-12)
    assert (got - expected).abs().max() > 1e-4
    mean, std, old_mean, old_std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
        for v in (MEAN[:3], STD[:3], stored.get("mean", [0.0] * 3), stored.get("std", [1.0] * 3))
    )
    picture = net(image) * old_std + old_mean
    torch.testing.assert_close(other(image)[inside], ((picture - mean) / std)[inside], rtol=1e-12, atol=1e-12)


def test_normalising_as_stored_changes_nothing(tmp_path):
    net = randomized(DownsizeNet(mean=MEAN[:3], std=STD[:3]))
    net.save_pretrained(tmp_path)
    again = DownsizeNet.from_pretrained(tmp_path, mean=MEAN[:3], std=STD[:3])
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    distance_only = DownsizeNet(texture_channels=0)
    distance_only.save_pretrained(tmp_path)
    assert DownsizeNet.from_pretrained(tmp_path, mean=MEAN[:3]).mean == MEAN[:3]


class TestShipped:
    """What holds whatever they learned."""

    def test_the_package_holds_those_it_names(self):
        files = {file.name for file in (resources.files(tritonds) / "weights").iterdir()}
        assert {name for name in files if name.endswith(".safetensors")} == {f"{name}.safetensors" for name in SHIPPED}

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("natural-k2", {"taps": 2, "prior": "bilinear"}),
            ("natural-k4", {"taps": 4, "prior": "antialias"}),
            ("natural-k8", {"taps": 8, "prior": "bicubic"}),
            ("natural-k8-lite", {"taps": 8, "prior": "bicubic", "texture_channels": 0}),
        ],
    )
    def test_options(self, name, options):
        net = DownsizeNet.from_pretrained(name)
        assert net.options() == DownsizeNet(**options).options()
        assert net.out.weight.dtype == torch.float32

    @pytest.mark.parametrize("name", SHIPPED)
    def test_results_are_pictures(self, name):
        net = DownsizeNet.from_pretrained(name, size=(9, 11))
        image = torch.rand(2, 3, 31, 24)
        result = net(image)
        if net.prior not in SHARPENING:
            assert 0 <= result.min() <= result.max() <= 1
        torch.testing.assert_close(net(torch.full((1, 3, 31, 24), 0.3)), torch.full((1, 3, 9, 11), 0.3))
        pixels = (image * 255).to(torch.uint8)
        torch.testing.assert_close(net(pixels), net(pixels / 255))

    @pytest.mark.parametrize("name", SHIPPED)
    def test_those_that_sharpen_go_beyond_at_edges_and_no_others_do(self, name):
        net = DownsizeNet.from_pretrained(name)
        edge = (torch.arange(32) >= 15).float().expand(1, 3, 20, 32)
        result = net(edge, (10, 16))
        if net.prior in SHARPENING:
            assert -0.5 < result.min() < -0.01
            assert 1.01 < result.max() < 1.5
        else:
            assert result.min() >= 0
            assert result.max() <= 1 + 1e-6

    @pytest.mark.parametrize("name", SHIPPED)
    def test_backends_agree(self, name, device):
        image = torch.rand(1, 3, 13, 12, device=device)
        triton, reference = (
            DownsizeNet.from_pretrained(name, size=(5, 6), backend=backend).to(device)(image) for backend in ("triton", "torch")
        )
        torch.testing.assert_close(triton, reference, rtol=1e-5, atol=1e-6)
