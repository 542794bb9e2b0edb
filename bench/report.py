"""Results of the measurements: tables in the terminal and in the docs, and plots."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from . import predicted
from .measure import SCHEMA, Row
from .providers import COPIES, PROVIDERS
from .workloads import AUTOTUNED, MODES, NAMED, SWEEPS, Workload

BILINEAR = {"image": "image-bilinear-aa", "image-interpolation": "image-bilinear-aa"}
"""What a kind replaces, where that is not bilinear-aa."""
EAGER = {"operator": ("reference",), "network": ("net-eager",), "image": ("image-composed", "image-eager")}
COMPILED = {"operator": ("reference-compiled", AUTOTUNED), "network": ("net-compiled",)}
"""Peers in plain PyTorch, or for images in several steps; against several, the fastest counts."""

CPU_COLUMNS = (
    "reference", "reference-compiled", "net-eager", "net-compiled", "bilinear", "bilinear-aa", "bicubic-aa", "area", "copy",
)  # fmt: skip
CPU_IMAGE_COLUMNS = ("image-eager", "image-bilinear-aa", "image-copy")
IMAGES = "From uint8 images to a normalised batch:"
NOT_MEASURED = {
    "predicted": "not predicted yet: `python -m bench.compile --json > bench/results/kernels/sm_90.json`",
    "cpu": "not measured yet: `python -m bench` fills this table.",
    "gpu": "not measured yet: `make gpu` on a machine with a GPU fills this table.",
}

PLOTS = "https://github.com/tritonds/tritonds/tree/main/bench/results"
"""Where the pages of the docs find what lies outside them."""

Group = dict[str, Row]
"""Rows of one workload and mode, by provider."""


def read(path: pathlib.Path, schema: int = SCHEMA) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is of another version of the format, or damaged.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(result, dict):
        raise ValueError(f"{path}: expected an object, got a {type(result).__name__}")
    if result.get("schema") != schema:
        raise ValueError(f"{path}: expected schema {schema}, got {result.get('schema')!r}")
    return result


def workload_of(row: Row) -> Workload:
    fields = row["workload"]
    sizes = tuple(tuple(size) for size in fields.get("sizes", ()))
    return Workload(**fields | {"image": tuple(fields["image"]), "size": tuple(fields["size"]), "sizes": sizes})


def grouped(rows: Sequence[Row]) -> dict[tuple[Workload, str], Group]:
    """Rows by workload and mode, in the order of measuring. What was not measured for want of time or of a GPU is left out."""
    groups: dict[tuple[Workload, str], Group] = {}
    for row in rows:
        if row["status"] != "not measured":
            groups.setdefault((workload_of(row), row["mode"]), {})[row["provider"]] = row
    return {key: {name: group[name] for name in PROVIDERS if name in group} for key, group in groups.items()}


def speedup(group: Group, provider: str, peers: Sequence[str]) -> float | None:
    """The fastest peer's time over the provider's; None where one of them has none, or they are the same."""
    medians = [group[peer]["median_ms"] for peer in peers if peer != provider and _measured(group, peer)]
    return min(medians) / group[provider]["median_ms"] if medians and _measured(group, provider) else None


def rich_tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each workload and mode."""
    return [_rich_table(workload, mode, group) for (workload, mode), group in grouped(rows).items()]


def _rich_table(workload: Workload, mode: str, group: Group) -> Table:
    image = f"{workload.image[0]}x{workload.image[1]}"
    image = f"(up to {image})" if workload.sizes else image
    shape = f"{workload.batch}x{workload.channels}x{image}"
    network = f"K={workload.taps}, F={workload.texture_channels}, M={workload.hidden}, layers={workload.layers}"
    title = f"{workload.name} ({shape} to {workload.size[0]}x{workload.size[1]}, {network})"
    table = Table(title=f"{title}, {workload.dtype}, {workload.layout}, {mode}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("provider", no_wrap=True, min_width=max(map(len, group)))
    lines = [_cells(group, provider) for provider in group]
    # What no row has, such as launches on a CPU, gets no column.
    headers = [header for header in lines[0] if any(line[header] for line in lines)]
    for header in headers:
        table.add_column(escape(header), justify="right", no_wrap=True)
    for provider, line in zip(group, lines, strict=True):
        table.add_row(provider, *(escape(line[header]) for header in headers))
    reasons = [f"{p}: {' '.join(row['reason'].split())[:300]}" for p, row in group.items() if row["reason"]]
    table.caption = escape("\n".join(reasons)) or None
    table.caption_justify = "left"
    return table


def _cells(group: Group, provider: str) -> dict[str, str]:
    row, kind = group[provider], PROVIDERS[provider].kind
    spread = f"[{digits(row['p20_ms'])}, {digits(row['p80_ms'])}]" if row["status"] == "measured" else ""
    peak = row.get("peak_bytes")
    return {
        "ms": digits(row.get("median_ms")) or row["status"],
        "[p20, p80]": spread,
        "GB/s": digits(row.get("gb_per_s")),
        "of copy": percent(row.get("copy_share")),
        "MiB": digits(None if peak is None else peak / 2**20),
        "launches": digits(row.get("launches")),
        "host µs": digits(row.get("host_us")),
        "vs bilinear-aa": times(speedup(group, provider, [BILINEAR.get(kind, "bilinear-aa")])),
        "vs eager": times(speedup(group, provider, EAGER.get(kind, ()))),
        "vs compiled": times(speedup(group, provider, COMPILED.get(kind, ()))),
    }


def digits(value: float | None) -> str:
    """Three significant digits, and all of those before the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:#.3g}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


def times(ratio: float | None) -> str:
    return "" if ratio is None else f"{digits(ratio)}x"


def with_tables(page: str, results: pathlib.Path) -> str:
    """The text of a page with its sections ``<!-- speed:cpu -->``, ``speed:gpu`` and ``speed:predicted`` written anew.

    The first two show the newest result of their kind in the folder ``results``; quick ones do not count. The last shows
    what ``bench.compile`` predicts, and beside it what the GPU's result has of the same.

    Raises:
        ValueError: a section is missing.
    """
    newest: dict[str, dict[str, Any]] = {}
    for path, result in sorted(((path, read(path)) for path in results.glob("*.json")), key=lambda pair: str(pair[1]["date"])):
        if not result["quick"]:
            kind = "gpu" if result["machine"]["device_type"] == "cuda" else "cpu"
            newest[kind] = result | {"plots": f"plots/{path.stem}" if (results / "plots" / path.stem).is_dir() else None}
    texts = dict(NOT_MEASURED)
    texts |= {name: f"{TABLES[name](result)}\n\n{_origin(result)}" for name, result in newest.items()}
    kernels = results / "kernels" / "sm_90.json"
    if kernels.exists():
        texts["predicted"] = _predicted_table(json.loads(kernels.read_text()), newest.get("gpu", {"rows": []})["rows"])
    for name, text in texts.items():
        page = with_section(page, f"speed:{name}", text)
    return page


def with_section(document: str, name: str, text: str) -> str:
    """``document`` with what lies between its marks ``name`` replaced.

    Raises:
        ValueError: it has no such marks.
    """
    before, opening, rest = document.partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not closing:
        raise ValueError(f"expected a section between <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{opening}{text}\n{closing}{after}"


def _cpu_table(result: dict[str, Any]) -> str:
    """Milliseconds forward, of named workloads: of float images, and of uint8 ones if they were measured."""
    tables = []
    for columns in (CPU_COLUMNS, CPU_IMAGE_COLUMNS):
        lines = []
        for (workload, mode), group in grouped(result["rows"]).items():
            cells = [digits(group[p]["median_ms"]) if _measured(group, p) else "" for p in columns]
            if mode == "forward" and workload.name in NAMED and any(cells):
                lines.append([f"{workload.name}, K={workload.taps}, {workload.layout}", *cells])
        tables.append((["ms, forward", *columns], lines))
    return _with_images(*tables)


def _gpu_table(result: dict[str, Any]) -> str:
    """The fused operator and network on the headline workloads; then images, if they were measured."""
    header = ["workload, mode", "fused ms", "of copy", "vs reference", "vs compiled", "MiB", "launches", "host µs"]
    lines = []
    for (workload, mode), group in _headline(result).items():
        if _measured(group, "fused"):
            cells = _cells(group, "fused")
            fused = [cells[name] for name in ("ms", "of copy", "vs eager", "vs compiled", "MiB", "launches", "host µs")]
            network = _cells(group, "net-fused") if _measured(group, "net-fused") else {}
            lines.append([f"{workload.name}, {mode}", *fused, network.get("ms", ""), network.get("vs bilinear-aa", "")])
    header += ["net-fused ms", "net-fused vs bilinear-aa"]
    return _with_images((header, lines), _gpu_image_table(result))


def _gpu_image_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One launch, beside a copy, the same in several steps, and antialiased interpolation."""
    header = ["workload, mode", "image-fused ms", "times image-copy", "vs image-composed", "vs image-bilinear-aa"]
    lines = []
    for (workload, mode), group in _headline(result).items():
        if _measured(group, "image-fused"):
            cells = _cells(group, "image-fused")
            peers = [times(speedup(group, "image-fused", [peer])) for peer in ("image-composed", "image-bilinear-aa")]
            floor = times(speedup(group, "image-copy", ["image-fused"]))
            composed = _cells(group, "image-composed")["MiB"] if _measured(group, "image-composed") else ""
            line = [cells["ms"], floor, *peers, cells["MiB"], composed, cells["launches"], cells["host µs"]]
            lines.append([f"{workload.name}, {mode}", *line])
    return [*header, "MiB", "image-composed MiB", "launches", "host µs"], lines


def _with_images(table: tuple[list[str], list[list[str]]], images: tuple[list[str], list[list[str]]]) -> str:
    """Header and lines of a table, and of a second one, of images, unless it has no line."""
    text = markdown(*table)
    return f"{text}\n\n{IMAGES}\n\n{markdown(*images)}" if images[1] else text


TABLES = {"cpu": _cpu_table, "gpu": _gpu_table}


def _predicted_table(compiled: dict[str, Any], rows: Sequence[Row]) -> str:
    """Forward and backward passes in the fastest form, beside what was measured of them."""
    table = predicted.lines(compiled["rows"], rows)
    cells = [[cell if isinstance(cell, str) else digits(cell) for cell in line.values()] for line in table]
    return f"{markdown(list(table[0]), cells)}\n\nTriton {compiled['triton']}, sm_90, {compiled['date']}; `make kernels`."


def _headline(result: dict[str, Any]) -> dict[tuple[Workload, str], Group]:
    """Named workloads with two taps, channels-last, in the dtype that the device is used with."""
    dtype = "bf16" if result["machine"]["device_type"] == "cuda" else "fp32"
    return {
        (w, mode): group
        for (w, mode), group in grouped(result["rows"]).items()
        if w.name in NAMED and w.taps == 2 and w.channels_last and w.dtype == dtype
    }


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table, its first column to the left and all others to the right."""
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _origin(result: dict[str, Any]) -> str:
    """Machine, versions, date and command, in one line."""
    m = result["machine"]
    device = m["device"] if m["device_type"] == "cuda" else f"{m['device']}, {m['threads']} threads"
    versions = [
        f"{name} {m[key]}" for name, key in (("PyTorch", "torch"), ("Triton", "triton"), ("driver", "driver")) if m[key]
    ]
    commit = f"commit {m['commit']}" if m["commit"] else "commit unknown"
    plots = f" [Plots]({PLOTS}/{result['plots']})." if result["plots"] else ""
    return f"{device}; {', '.join(versions)}; {commit}; {result['date'][:10]}; `{result['command']}`.{plots}"


def plot(result: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw what ``result`` has of sweeps and of the headline workloads, a picture each for forward and forward+backward."""
    folder.mkdir(parents=True, exist_ok=True)
    where = f"{result['machine']['device']}, PyTorch {result['machine']['torch']}, {result['date'][:10]}"
    pictures = {}
    for mode in MODES:
        for sweep in SWEEPS:
            groups = {w: g for (w, m), g in grouped(result["rows"]).items() if m == mode and w.name.startswith(f"{sweep}-")}
            if groups:
                pictures[f"sweep-{sweep}-{mode}"] = _draw_sweep(sweep, groups, result["copy_gb_per_s"])
        groups = {w: group for (w, m), group in _headline(result).items() if m == mode}
        if groups:
            pictures[f"headline-{mode}"] = _draw_bars(groups)
        if groups and mode == "forward":
            pictures[f"roofline-{mode}"] = _draw_roofline(groups, result["copy_gb_per_s"])
    paths = []
    for name, figure in pictures.items():
        figure.suptitle(f"{name}: {where}", fontsize="medium")
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _draw_sweep(sweep: str, groups: dict[Workload, Group], copy_gb_per_s: float) -> Figure:
    """Time against what is varied; dashed, the time in which a copy moves the bytes that are necessary."""
    figure, axis = _figure()
    floors: dict[str, list[tuple[float, float]]] = {}
    for provider in PROVIDERS:
        measured = [(_position(w), group[provider]) for w, group in groups.items() if _measured(group, provider)]
        if measured:
            axis.plot(
                [x for x, _ in measured],
                [row["median_ms"] for _, row in measured],
                marker="o",
                color=_color(provider),
                label=provider,
            )
            floors[PROVIDERS[provider].kind] = [(x, row["necessary_bytes"] / copy_gb_per_s / 1e6) for x, row in measured]
    for kind, points in floors.items():
        if kind not in COPIES:
            axis.plot(*zip(*points, strict=True), linestyle="--", color="grey", linewidth=1, label=f"floor: {kind}")
    if min(map(_position, groups)) > 0:
        axis.set_xscale("log")
    axis.set_xticks([_position(w) for w in groups], labels=[f"{_position(w):g}" for w in groups], minor=False)
    axis.minorticks_off()
    axis.set_yscale("log")
    axis.set_xlabel("megapixels" if sweep == "pixels" else sweep)
    axis.set_ylabel("ms")
    figure.legend(loc="outside right upper")
    return figure


def _draw_roofline(groups: dict[Workload, Group], copy_gb_per_s: float) -> Figure:
    """Arithmetic per second against arithmetic per necessary byte, under the roof that a copy's bandwidth sets.

    The roof of arithmetic is not drawn: at these intensities it is far above, on GPUs.
    """
    figure, axis = _figure()
    intensities = []
    for provider, implementation in PROVIDERS.items():
        if implementation.kind not in ("operator", "network", "image"):
            continue
        points = []
        for workload, group in groups.items():
            if _measured(group, provider):
                flops, row = workload.flops(implementation.kind), group[provider]
                points.append((flops / row["necessary_bytes"], flops / row["median_ms"] / 1e6))
        if points:
            axis.scatter(*zip(*points, strict=True), color=_color(provider), label=provider)
            intensities += [x for x, _ in points]
    ends = [min(intensities, default=1) / 2, 2 * max(intensities, default=1)]
    axis.plot(ends, [x * copy_gb_per_s for x in ends], linestyle="--", color="grey", label="copy")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("FLOP per necessary byte")
    axis.set_ylabel("GFLOP/s")
    figure.legend(loc="outside right upper")
    return figure


def _draw_bars(groups: dict[Workload, Group]) -> Figure:
    """A bar for each provider, side by side for each workload."""
    figure, axis = _figure()
    providers = [name for name in PROVIDERS if any(_measured(group, name) for group in groups.values())]
    width = 0.8 / max(1, len(providers))
    for index, provider in enumerate(providers):
        bars = [(i, g[provider]["median_ms"]) for i, g in enumerate(groups.values()) if _measured(g, provider)]
        positions = [i + (index + 0.5) * width - 0.4 for i, _ in bars]
        axis.bar(positions, [y for _, y in bars], width, color=_color(provider), label=provider)
    axis.set_xticks(range(len(groups)), labels=[w.name for w in groups])
    axis.set_ylabel("ms")
    axis.set_yscale("log")
    figure.legend(loc="outside right upper")
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10, 5), layout="constrained")
    axis = figure.subplots()
    axis.grid(axis="y", alpha=0.3)
    return figure, axis


def _color(provider: str) -> Any:
    """The same in every picture."""
    return colormaps["tab20"](list(PROVIDERS).index(provider))


def _position(workload: Workload) -> float:
    return float(workload.name.rpartition("-")[2])


def _measured(group: Group, provider: str) -> bool:
    return provider in group and group[provider]["status"] == "measured"
