"""Writes docs/reference/ from the program itself: the command line, the JSON Schemas, what
exporters can run, the fitted constants, and the published runs against what is predicted of them.

python docs/generate.py            write the pages
python docs/generate.py --check    exit 1 if a page is not what the program says now
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
REFERENCE = ROOT / "reference"
sys.path.insert(0, str(ROOT.parent))

from planner.cli import EPILOG, commands  # noqa: E402 - after the path is set
from planner.commands.on_demand import OnDemand  # noqa: E402
from planner.exporters import TARGETS  # noqa: E402
from planner.exporters.capability import Capability  # noqa: E402
from planner.exporters.exporter import Exporter  # noqa: E402
from planner.report.validation_page import markdown_page  # noqa: E402
from planner.schema import SCHEMAS, json_schema  # noqa: E402
from planner.validate import predict_table, validation_of  # noqa: E402
from planner.validate.table import read_table  # noqa: E402

HEADER = "<!-- Made by docs/generate.py; do not edit. -->\n"
RULE = "|---"
TABLES = ("published_runs.csv", "vtrain_single_node.csv", "vtrain_multi_node.csv")

CONSTANTS_INTRO = """\
Fitted by `planner calibrate --refit` to the rows in `costmodels/data/rows`, those of the H200 not
among them; what each constant does
is in [Cost model](../concepts/cost-model.md). A constant without an interval is held at its judged
value: no row determines it.
"""

PUBLISHED_INTRO = """\
The shipped calibration was fitted to these rows and to those of this project's H100: the errors
below are of the fit. What to expect of runs that it has not seen is in
[What is checked](../validation.md).

"""

SECTIONS = {
    "vendor": ("Vendors", "On the sustained share of the catalogue, by class of precision."),
    "architecture": ("Architectures", "On top of the vendor."),
    "sustained": ("Silicon", "On top of the architecture, by precision or recipe."),
    "attention": ("Fused attention", "Rate over the reference kernel, by generation of kernel."),
    "pace": ("Software", "Factor of a generation on the whole step, by silicon and recipe."),
}


def pages() -> dict[str, str]:
    """Every page by its path below docs/reference/."""
    found = {
        "cli.md": command_page(),
        "exporters.md": exporter_page(),
        "schemas.md": schema_page(),
        "constants.md": constants_page(),
        "published-runs.md": published_page(),
    }
    for name in SCHEMAS:
        text = json.dumps(json_schema(name), indent=1, ensure_ascii=False)
        found[f"schemas/{name}.schema.json"] = text + "\n"
    return found


def command_page() -> str:
    """All commands with their arguments and options."""
    root = commands()
    parts = [HEADER, "# Command line\n", str(root.help).strip() + "\n", EPILOG + "\n"]
    for path, command in _commands(root, "planner"):
        parts.append(f"## {path}\n")
        parts.append(_usage(path, command))
        parts.append(_prose(str(command.help or "")))
        rows = [_row(parameter) for parameter in command.params if not _hidden(parameter)]
        parts.append("| | | |\n|---|---|---|\n" + "".join(rows))
    return "\n".join(parts)


def schema_page() -> str:
    """Which schemas there are."""
    lines = [f"- [{name}](schemas/{name}.schema.json): {e.about}" for name, e in SCHEMAS.items()]
    intro = "JSON Schemas of the files, as `planner schema NAME` prints them.\n"
    return "\n".join([HEADER, "# Schemas\n", intro, *lines]) + "\n"


def exporter_page() -> str:
    """What every export target can run, and which rules its files are held against."""
    intro = (
        "Made from the declarations in `planner/exporters/targets`. A plan with anything that a "
        "target does not list is refused by name; `planner export plan.json --list` says what "
        "stands against one plan.\n"
    )
    columns = ("target", *TARGETS)
    rows = [[name, *(cell(e.CAPABILITY) for e in TARGETS.values())] for name, cell in CELLS.items()]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    parts = [HEADER, "# Export targets\n", intro, "\n".join(lines) + "\n"]
    parts += [_target_section(name, exporter) for name, exporter in TARGETS.items()]
    return "\n".join(parts)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _chips(c: Capability) -> str:
    return ", ".join(c.vendors) if c.vendors is not None else "any with a torch device"


CELLS: dict[str, Callable[[Capability], str]] = {
    "plans": lambda c: ", ".join(c.plan_classes),
    "schedules": lambda c: ", ".join(c.schedules) or "no pipeline",
    "tensor parallelism": lambda c: _yes(c.tensor_parallel),
    "pipeline": lambda c: _yes(c.pipeline_parallel),
    "uneven layers": lambda c: _yes(c.pipeline_parallel and c.uneven_layers),
    "recomputation": lambda c: ", ".join(c.recompute),
    "recomputation differs by": lambda c: c.recompute_shape,
    "ZeRO": lambda c: ", ".join(map(str, c.zero)),
    "precision": lambda c: ", ".join(c.precisions),
    "gradients, bytes": lambda c: ", ".join(map(str, c.gradient_bytes)),
    "optimizer": lambda c: ", ".join(c.optimizers),
    "models": lambda c: ", ".join(c.families) if c.families is not None else "any layers",
    "in-flight depth of the plan": lambda c: _yes(c.keeps_depth),
    "chips": _chips,
    "several vendors": lambda c: _yes(c.mixed_vendors),
    "oldest NVIDIA chip": lambda c: (
        ".".join(map(str, c.floor.compute_capability)) if c.floor else "—"
    ),
}
"""Rows of the table, each from a capability."""


def _target_section(name: str, exporter: Exporter) -> str:
    c = exporter.CAPABILITY
    lines = [
        f"## {name}\n",
        f"{c.title[0].upper()}{c.title[1:]}: {c.writes}.\n",
        f"- placement: {c.placement}",
    ]
    if c.floor is not None:
        floor = ".".join(map(str, c.floor.compute_capability))
        lines.append(f"- NVIDIA chips from compute capability {floor}: {c.floor.reason}")
    lines.append(f"- checked by the target itself: {c.checked_by_target}")
    lines.append("\nIts files are read back and must hold:\n")
    lines += [f"- `{rule.name}` {rule.text}" for rule in exporter.RULES]
    return "\n".join(lines) + "\n"


def constants_page() -> str:
    """The fitted constants and efficiencies with their intervals."""
    data = ROOT.parent / "costmodels" / "data"
    constants = json.loads((data / "constants.json").read_text(encoding="utf-8"))
    factors = json.loads((data / "efficiencies.json").read_text(encoding="utf-8"))
    lines = [HEADER, "# Constants of the cost model\n", CONSTANTS_INTRO, "## Constants\n"]
    lines += ["| name | meaning | judged | value | 90 % interval | evidence |", RULE * 6 + "|"]
    for name, entry in constants["constants"].items():
        meaning = f"{entry['meaning']} ({entry['unit']})"
        known = "low" in entry and entry["low"] != entry["high"]
        interval = f"{entry['low']:.4g} – {entry['high']:.4g}" if known else "held"
        lines.append(
            f"| `{name}` | {meaning} | {entry['judged']:.4g} | {entry['value']:.4g} | {interval} "
            f"| {entry['evidence']} |"
        )
    for section, about in SECTIONS.items():
        lines += ["", f"## {about[0]}\n", about[1] + "\n"]
        lines += ["| of | factor | 90 % interval | rows |", RULE * 4 + "|"]
        for key, entry in factors[section].items():
            name = key.replace("|", " · ")
            interval = f"{entry['low']:.3f} – {entry['high']:.3f}"
            lines.append(f"| {name} | {entry['value']:.3f} | {interval} | {entry['rows']} |")
    return "\n".join(lines) + "\n"


def published_page() -> str:
    """Published runs against what is predicted of them, as ``planner validate --page`` writes."""
    folder = ROOT.parent / "costmodels" / "data" / "rows"
    tables = [replace(read_table(str(folder / name)), source=name) for name in TABLES]
    found = [validation_of(table, predict_table(table)) for table in tables]
    return HEADER + "# Published runs\n\n" + PUBLISHED_INTRO + markdown_page(found)


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - Typer's own
    for name, command in group.commands.items():
        command = command.load() if isinstance(command, OnDemand) else command
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _usage(path: str, command: Any) -> str:  # noqa: ANN401 - Typer's own
    words = [path]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = _name(parameter)
            words.append(name if parameter.required else f"[{name}]")
    return f"    {' '.join(words)} [OPTIONS]\n"


def _prose(text: str) -> str:
    """The docstring; a paragraph that is a command line becomes code."""
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text.strip())]
    shown = [f"    {p}" if p.startswith("planner ") else " ".join(p.split()) for p in paragraphs]
    return "\n\n".join(shown) + "\n"


def _row(parameter: Any) -> str:  # noqa: ANN401 - Typer's own
    is_option = parameter.param_type_name == "option"
    if is_option:
        names = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
        flag = getattr(parameter, "is_flag", False)
        value = "" if flag else f"`{_name(parameter)}`".replace("|", "\\|")
    else:
        names, value = f"`{_name(parameter)}`", ""
    text = " ".join(str(parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    if is_option and default is not None and default is not False and not callable(default):
        text += f" Default: {getattr(default, 'value', default)}."
    return f"| {names} | {value} | {text} |\n"


def _name(parameter: Any) -> str:  # noqa: ANN401 - Typer's own
    return str(parameter.metavar or parameter.name.upper())


def _hidden(parameter: Any) -> bool:  # noqa: ANN401 - Typer's own
    return bool(getattr(parameter, "hidden", False)) or "--help" in parameter.opts


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    stale = []
    made = pages()
    for name, text in made.items():
        path = REFERENCE / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
    for name in stale:
        sys.stderr.write(f"{'stale' if '--check' in arguments else 'wrote'}: {name}\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
