"""Pictures out of Debian's packages: made up here, packed by ar and tar, and served by a server of this machine."""

import hashlib
import http.server
import io
import re
import subprocess
import tarfile
import threading

import pytest
from training import invoke

from bench.accuracy import collection, packages

PICTURES = {"a/one.png": b"\x89PNG one" * 3000, "two.jpg": bytes(range(256)) * 100}
OTHERS = {"usr/share/pictures/three.png": b"not wanted", "usr/share/doc/made-up/copyright": b"License: CC0-1.0\n"}


def made_up(folder, contents=PICTURES, data="data.tar.xz"):
    """A package as dpkg-deb makes it, and its description."""
    files = {f"usr/share/pictures/{name}": content for name, content in contents.items()} | OTHERS
    with tarfile.open(folder / data, "w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (folder / "debian-binary").write_bytes(b"2.0\n")
    (folder / "control.tar.xz").write_bytes(b"odd")  # behind which there is a byte of padding
    path = folder / "made-up_1_all.deb"
    path.unlink(missing_ok=True)
    subprocess.run(["ar", "rc", path, "debian-binary", "control.tar.xz", data], cwd=folder, check=True)
    return described(path.read_bytes())


def described(content):
    digest = hashlib.sha256(content).hexdigest()
    pool, root = "pool/made-up_1_all.deb", "usr/share/pictures"
    return content, packages.Package("made-up", "1", pool, len(content), digest, ("CC0-1.0",), root, tuple(PICTURES))


class Server(http.server.ThreadingHTTPServer):
    """Serves one package: from where it is asked to, if ``ranges``, and no more than ``most`` bytes before it hangs up."""

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.most, self.asked = content, True, len(content), []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if not self.path.startswith("/pool/"):
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        part = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part[: server.most])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path):
    """A server, the package that it has, and an empty folder."""
    content, package = made_up(tmp_path)
    with Server(content) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server, package, tmp_path / "fetched"
        server.shutdown()
        thread.join()


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


WHOLE = ["made-up/a/one.png", "made-up/copyright", "made-up/two.jpg"]


def assert_whole(folder):
    """Nothing but what is wanted is there, as it was packed."""
    assert names(folder) == WHOLE
    for name, content in PICTURES.items():
        assert (folder / "made-up" / name).read_bytes() == content


def test_what_is_wanted_is_unpacked_and_asked_for_once(served):
    server, package, folder = served
    done = []
    packages.fetch(package, folder, server.url, done.append)
    assert_whole(folder)
    assert done[-1] == package.size
    packages.fetch(package, folder, server.url)
    assert server.asked == [("/pool/made-up_1_all.deb", None)]


def test_another_file_is_refused_and_removed(served):
    server, package, folder = served
    server.content = bytes([*server.content[:-1], server.content[-1] ^ 1])
    with pytest.raises(ValueError, match=rf"SHA-256 is \w+, expected {package.sha256}"):
        packages.fetch(package, folder, server.url)
    assert names(folder) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_what_was_cut_off_goes_on(served, ranges):
    server, package, folder = served
    server.most = 100
    with pytest.raises(OSError, match=r"made-up_1_all\.deb: "):
        packages.fetch(package, folder, server.url)
    assert names(folder) == ["made-up.deb.part"]
    server.most, server.ranges = package.size, ranges
    packages.fetch(package, folder, server.url)
    assert_whole(folder)
    assert server.asked[1:] == [("/pool/made-up_1_all.deb", "bytes=100-")]


def test_what_was_downloaded_is_not_downloaded_again(served, monkeypatch):
    """Unpacking ends in the middle of it, and leaves nothing that looks whole."""
    server, package, folder = served

    def interrupted(archive, package, folder):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "stale.png").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packages, "_unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            packages.fetch(package, folder, server.url)
    assert package.lacking(folder) == [*PICTURES, packages.COPYRIGHT]
    packages.fetch(package, folder, server.url)
    assert_whole(folder)
    assert len(server.asked) == 1


def test_a_picture_that_was_lost_is_fetched_anew(served):
    server, package, folder = served
    packages.fetch(package, folder, server.url)
    (folder / "made-up" / "two.jpg").unlink()
    assert package.lacking(folder) == ["two.jpg"]
    packages.fetch(package, folder, server.url)
    assert_whole(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: described(b"a page that says no"), "not a package"),
        (lambda folder: made_up(folder, data="data.tar.zst"), "not a package"),
        (lambda folder: made_up(folder, {"two.jpg": b""}), r"made-up 1 holds no a/one\.png"),
    ],
    ids=["no-archive", "other-compression", "lacking"],
)
def test_packages_that_hold_something_else_are_named(served, tmp_path, make, message):
    server, _, folder = served
    server.content, package = make(tmp_path)
    with pytest.raises(ValueError, match=message):
        packages.fetch(package, folder, server.url)
    assert package.lacking(folder)


def test_the_command_says_what_is_missing_and_whose_it_is(served, monkeypatch):
    server, package, folder = served
    monkeypatch.setattr(collection, "PACKAGES", (package,))
    options = ("fetch", "--folder", folder, "--mirror", server.url)
    server.most = 100
    assert "cut off after 100 of" in invoke(*options, code=2)
    server.most = package.size
    output = invoke(*options)
    assert "made-up: 3 files are missing" in output
    assert f"made-up 1: CC0-1.0; see {folder / 'made-up' / 'copyright'}" in output
    assert "scikit-learn, which is installed: CC-BY-2.0" in output
    assert "missing" not in invoke(*options)
    assert_whole(folder)
    (folder / "made-up" / "two.jpg").unlink()
    assert "HTTP Error 404" in invoke("fetch", "--folder", folder, "--mirror", f"{server.url}/elsewhere", code=2)
