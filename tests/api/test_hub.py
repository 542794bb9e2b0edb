"""Networks on the Hugging Face Hub: huggingface_hub itself, talking to a double of the Hub."""

import json
import pathlib
import sys
from importlib import resources

import pytest
import torch
from cases import randomized
from huggingface_hub import ModelCard, constants
from safetensors.torch import save

import tritonds
from tritonds import DownsizeNet
from tritonds.pretrained import CONFIG, FILE


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def same(net, other):
    return net.options() == other.options() and all(
        torch.equal(x, y) for x, y in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )


def small(**options):
    return randomized(DownsizeNet(texture_channels=2, distance_channels=3, hidden_channels=4, **options))


def test_what_is_pushed_is_loaded(hub):
    first, second = small(taps=2), small(taps=3, size=(4, 5), mean=[0.1, 0.2, 0.3], out_dtype=torch.float16)
    url = first.push_to_hub("org/net", private=True, license="mit")
    _, _, commit = url.rpartition("/")
    assert same(DownsizeNet.from_pretrained("org/net"), first)
    second.push_to_hub("org/net")
    assert same(DownsizeNet.from_pretrained("org/net"), second)
    assert same(DownsizeNet.from_pretrained("org/net", revision=commit), first)
    hub.repositories["org/net"]["v1"] = hub.repositories["org/net"][commit]
    assert same(DownsizeNet.from_pretrained("org/net", revision="v1"), first)
    assert DownsizeNet.from_pretrained("org/net", size=(6, 7), backend="torch").size == (6, 7)
    (created,) = [sent for _, path, _, (sent, *_) in filter(lambda r: r[3], hub.requests) if "create" in path][:1]
    assert created["visibility"] == "private"
    assert all("tritonds" in agent for verb, _, agent, _ in hub.requests if verb == "POST")
    commits = [sent for _, path, _, sent in hub.requests if "/commit/" in path]
    assert [len(lines) for lines in commits] == [4, 3]  # each a header and all of its files at once


def test_card_has_front_matter_and_no_figures(hub):
    small().push_to_hub("org/net", license="apache-2.0")
    files = hub.repositories["org/net"]["main"]
    assert set(files) == {FILE, CONFIG, "README.md"}
    card = ModelCard(files["README.md"].decode())
    expected = {"license": "apache-2.0", "library_name": "tritonds", "pipeline_tag": "image-to-image"}
    assert card.data.to_dict() == expected | {"tags": ["image-resizing", "downsampling"]}
    assert 'DownsizeNet.from_pretrained("org/net")' in card.text
    small().push_to_hub("org/other")
    assert ModelCard(hub.repositories["org/other"]["main"]["README.md"].decode()).data.license is None


def test_cards_of_others_stay(hub):
    hub.commit("org/net", {"README.md": b"written by hand"})
    small().push_to_hub("org/net")
    assert hub.repositories["org/net"]["main"]["README.md"] == b"written by hand"


def test_the_shipped_networks_have_a_card():
    text = (resources.files(tritonds) / "weights" / "README.md").read_text()
    card = ModelCard(text)
    assert (card.data.license, card.data.library_name, card.data.pipeline_tag) == ("apache-2.0", "tritonds", "image-to-image")
    assert "](.." not in text  # a link that would lead nowhere on the Hub


def test_the_configuration_repeats_the_header(hub):
    net = small(size=(4, 5), std=[0.25, 0.5, 1.0])
    net.push_to_hub("org/net")
    config = json.loads(hub.repositories["org/net"]["main"][CONFIG])
    options = net.options()
    assert config == {"library_name": "tritonds", "format": 1, "options": json.loads(json.dumps(options))}


def test_paths_come_before_repositories(hub):
    small(taps=2).push_to_hub("org/net")
    small(taps=3).save_pretrained("org/net")
    assert DownsizeNet.from_pretrained("org/net").taps == 3
    with pytest.raises(ValueError, match=r"^revision: expected one only of a repository"):
        DownsizeNet.from_pretrained("org/net", revision="main")
    with pytest.raises(ValueError, match=r"^revision: expected one only of a repository"):
        DownsizeNet.from_pretrained("natural-k2", revision="main")
    for path in ("./org/none", "../org/none", "org/none.safetensors", "org/net/none"):
        count = len(hub.requests)
        with pytest.raises(FileNotFoundError):
            DownsizeNet.from_pretrained(path)
        assert len(hub.requests) == count


def test_folders_of_before_load_from_a_repository(hub):
    """They have no configuration."""
    net = small()
    net.save_pretrained("old")
    hub.commit("org/old", {FILE: pathlib.Path("old", FILE).read_bytes()})
    assert same(DownsizeNet.from_pretrained("org/old"), net)


def test_what_is_missing_is_named(hub):
    hub.commit("org/net", {"README.md": b""})
    hub.commit("org/other", {FILE: save({"x": torch.ones(1)})})
    for name, revision, message in [
        ("org/none", None, "^org/none: there is no such file or folder, nor a repository"),
        ("org/net", "v9", "^org/net: the repository on the Hugging Face Hub has no revision 'v9'"),
        ("org/net", None, r"^org/net: expected model\.safetensors in the repository"),
    ]:
        with pytest.raises(FileNotFoundError, match=message):
            DownsizeNet.from_pretrained(name, revision=revision)
    small().push_to_hub("org/net")
    DownsizeNet.from_pretrained("org/net")  # the cache has a branch of it
    for name in ("org/net", "org/new"):
        with pytest.raises(ValueError, match=r"^revision: expected a branch, a tag or a commit, got ''$"):
            DownsizeNet.from_pretrained(name, revision="")
    with pytest.raises(ValueError, match=r"models--org--other.*one without metadata"):
        DownsizeNet.from_pretrained("org/other")


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_connection_the_cache_serves(offline, hub, monkeypatch):
    net = small()
    net.push_to_hub("org/net")
    DownsizeNet.from_pretrained("org/net")
    hub.repositories.clear()
    if offline:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    assert same(DownsizeNet.from_pretrained("org/net"), net)
    with pytest.raises(
        ConnectionError, match=r"^org/more: .* not in the Hugging Face Hub's cache, and the Hub cannot be reached"
    ):
        DownsizeNet.from_pretrained("org/more")


def test_saving_fails_before_anything_is_made(hub):
    net = small()
    torch.nn.init.constant_(net.out.bias, torch.nan)
    with pytest.raises(ValueError, match="finite"):
        net.push_to_hub("org/net")
    assert hub.repositories == {}


def test_without_the_library_it_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        FileNotFoundError, match=r"^org/net: there is no such file or folder, and .* pip install 'tritonds\[hub\]'"
    ):
        DownsizeNet.from_pretrained("org/net")
    with pytest.raises(ImportError, match=r"^push_to_hub takes huggingface_hub: pip install 'tritonds\[hub\]'"):
        small().push_to_hub("org/net")
