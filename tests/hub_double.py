"""A Hugging Face Hub in this process: as much of its HTTP as huggingface_hub needs to load and to commit."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading

from huggingface_hub import constants


class Hub(http.server.ThreadingHTTPServer):
    """``repositories[name][revision]`` has the contents of its files by name; a branch or tag is one more name of a commit."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories = {}
        self.requests = []
        """(verb, path, User-Agent, JSON that was sent), in order."""

    def commit(self, name, files):
        """Add ``files`` to what the repository's main branch holds; the new commit."""
        repository = self.repositories.setdefault(name, {"main": {}})
        repository["main"] = repository["main"] | files
        commit = commit_of(repository["main"])
        repository[commit] = repository["main"]
        return commit


def commit_of(files):
    """Forty digits, as git has them."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code):
        self.answer({"error": code}, 404, X_Error_Code=code)

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.requests.append((self.command, path, self.headers["User-Agent"], None))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)", path)
        if not api and not file:
            return self.answer({}, 404)
        name, revision = (api[1], api[3]) if api else (file[1], file[2])
        if name not in self.server.repositories:
            return self.refuse("RepoNotFound")
        if revision not in self.server.repositories[name]:
            return self.refuse("RevisionNotFound")
        files = self.server.repositories[name][revision]
        if file and file[3] not in files:
            return self.refuse("EntryNotFound")
        if file:
            etag = f'"{hashlib.sha1(files[file[3]]).hexdigest()}"'
            return self.answer(files[file[3]], ETag=etag, X_Repo_Commit=commit_of(files))
        if api[2] == "revision":
            return self.answer({"id": name, "sha": commit_of(files)})
        oids = {file: hashlib.sha1(content).hexdigest() for file, content in files.items()}
        return self.answer([{"type": "file", "path": file, "size": len(files[file]), "oid": oids[file]} for file in files])

    do_HEAD = do_GET  # noqa: N815, as http.server calls it

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = [json.loads(line) for line in body.splitlines()]
        self.server.requests.append((self.command, self.path, self.headers["User-Agent"], sent))
        if self.path == "/api/repos/create":
            name = f"{sent[0]['organization'] or 'me'}/{sent[0]['name']}"
            url = {"url": f"{self.server.endpoint}/{name}"}
            if name in self.server.repositories:
                return self.answer(url, 409)
            self.server.repositories[name] = {"main": {}}
            return self.answer(url)
        if self.path == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        name, verb = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
        if verb == "preupload":
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in sent[0]["files"]]
            return self.answer({"files": modes})
        added = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in sent if line["key"] == "file"}
        commit = self.server.commit(name, added)
        return self.answer({"commitUrl": f"{self.server.endpoint}/{name}/commit/{commit}", "commitOid": commit})


@contextlib.contextmanager
def serving(cache, monkeypatch):
    """The Hub to which huggingface_hub talks meanwhile, which caches it in that folder."""
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setenv("HF_TOKEN", "hf_double")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
