"""What tests of the speed benchmark share: tiny workloads, its command line, providers of their own."""

import json

from typer.testing import CliRunner

from bench.workloads import Workload

TINY = Workload("poster160", 2, (20, 24), (9, 11))
RAGGED = Workload("ragged32", 3, (31, 40), (9, 11), sizes=((31, 22), (20, 40), (17, 12)))
QUICK = ("--quick", "--budget", "inf")  # however busy the machine is, nothing is left out


def run(*arguments):
    from bench import __main__ as cli

    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def rows_of(out):
    return {(row["provider"], row["mode"]): row for row in json.loads(out.read_text())["rows"]}


def implement(monkeypatch, name, prepare, kind="operator"):
    from bench import providers

    monkeypatch.setitem(providers.PROVIDERS, name, providers.Provider(kind, prepare))
