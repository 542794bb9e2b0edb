"""What tests of the accuracy benchmark share: short trainings, rows of results, its command line."""

import dataclasses
import math

import torch
from typer.testing import CliRunner

from bench import measure
from bench.__main__ import app
from bench.accuracy import data, plan, runner, train
from bench.accuracy.pipelines import PIPELINES
from bench.accuracy.plan import Run

CPU = torch.device("cpu")


TINY = dataclasses.replace(plan.PROFILES["tiny"], steps=6)


def run_one(folder, method="downsizenet-k2", pipeline="segformer", profile=TINY, device=CPU, **options):
    run = Run(pipeline, method, seed=1)
    return train.train(run, profile, data.load("scenes", pipeline, profile, run.seed), folder, device, **options)


def outcome(row):
    return {name: value for name, value in row.items() if name != "train_s"}


def started(tmp_path, runs):
    """What comes of runs, in processes, where RuntimeError and death are what some methods do."""
    job = runner.Job(plan.PROFILES["tiny"], "scenes", tmp_path, CPU, 1)
    return job, dict(runner.run_job(job, [Run(*run) for run in runs], jobs=1, budget=math.inf))


def rows_of(values):
    """Rows from {(pipeline, method): values by seed}."""
    metric = {"detection": "mAP", "segmentation": "mIoU", "classification": "accuracy", "reconstruction": "PSNR"}
    return [
        {
            "pipeline": pipeline,
            "method": method,
            "seed": seed,
            "metrics": {metric[PIPELINES[pipeline].task]: value},
            "losses": [1.0],
        }
        for (pipeline, method), column in values.items()
        for seed, value in enumerate(column)
    ]


def append(job, row, date):
    old = runner.read(job.results) if job.results.exists() else job.origin() | {"machine": measure.machine(CPU), "rows": []}
    row |= {"date": date, "commit": "abc1234"}
    measure.write(old | {"rows": [*old["rows"], row]}, job.results)


def invoke(*arguments, code=0):
    result = CliRunner().invoke(app, ["accuracy", *map(str, arguments)], env={"COLUMNS": "500"})  # no message is cut to lines
    assert result.exit_code == code, result.output
    return result.output
