"""Runs the commands that the pages show, and keeps the output under them true.

python docs/examples.py             run README.md, docs/getting-started.md, docs/guides/*.md
python docs/examples.py --check     exit 1 if a page shows something else than its commands print
python docs/examples.py FILE …      these pages only

A fenced block with lines that begin with `$ ` shows commands, each with its output below it. The
blocks of a page run in order, in one scratch folder, under bash and with the `planner` that is
installed beside this Python. A line that is just `…` or `[...]` stands for any
lines of the output, and stays. HTML comments above a block say what is special about it:

    <!-- not run: needs GPUs -->     the block is left as it is
    <!-- exits 2 -->                 a command of the block is meant to fail with this code
    <!-- file: cluster.yaml -->      the block is an input: it becomes this file
    <!-- setup                       commands to run that readers do not see; $REPO is the checkout
    cp "$REPO/tests/data/x" y
    -->

A command that fails unexpectedly is named with its page and line, and its page stays as it was.
Pictures of a page that its commands made anew are put in their place beside it.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUTS = ("…", "[...]")
TIMEOUT_S = 3600
"""A command that takes longer is stopped, and fails with exit code 124."""
LIKE = 0.6
"""How alike (0 to 1) a line beside a cut has to be to the one that took its place."""

PROGRESS = re.compile(
    r"planning .* · [\d.,]+ \S*s|\d+ of \d+ scenarios\b.*|[a-z]+(?: · (?:best|bound|gap) [^·]*)+.*"
)
"""What a terminal shows only while a command works."""

TOOK = re.compile(r"(?P<kept>wrote .*) · [\d.]+ \S+")
"""The last word of a plan, which ends with how long it took."""

_FENCE = re.compile(r"(?P<fence>```+)\s*(?P<kind>\S*)\s*")
_MARK = re.compile(r"<!-- (?P<name>not run|exits|file):? (?P<value>.*?) -->")
_PICTURE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)#:]+)\)")


@dataclass(frozen=True)
class Shown:
    """A command of a page: ``line`` counts from 1, ``output`` is what stands below it."""

    line: int
    command: tuple[str, ...]
    output: tuple[str, ...]

    @property
    def text(self) -> str:
        """The command as bash reads it."""
        return "\n".join(self.command).removeprefix("$ ")


@dataclass(frozen=True)
class Block:
    """A part of a page that does something. ``first`` and ``end`` are its lines, from 0."""

    first: int
    end: int
    shown: tuple[Shown, ...] = ()
    exits: int = 0
    file: str = ""
    setup: str = ""


@dataclass(frozen=True)
class Ran:
    """What a command printed, and how it ended."""

    code: int
    lines: tuple[str, ...]
    wall_s: float


class ExampleFailed(Exception):
    """A command that did not do what the page says, and its line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def blocks_of(lines: Sequence[str]) -> Iterator[Block]:
    """The blocks of a page in their order. ExampleFailed where a mark or fence is not closed."""
    at, marks = 0, dict[str, str]()
    while at < len(lines):
        line = lines[at]
        mark, fence = _MARK.fullmatch(line), _FENCE.fullmatch(line)
        if mark is not None:
            marks[mark["name"]] = mark["value"]
        elif line == "<!-- setup":
            end = _closing(lines, at, "-->")
            yield Block(at, end, setup="\n".join(lines[at + 1 : end]))
            at = end
        elif fence is not None:
            end = _closing(lines, at, fence["fence"])
            yield from _block(lines, at, end, marks)
            at, marks = end, {}
        elif line.strip() and not line.startswith("<!--"):
            marks = {}
        at += 1


def _closing(lines: Sequence[str], at: int, mark: str) -> int:
    for end in range(at + 1, len(lines)):
        if lines[end] == mark:
            return end
    raise ExampleFailed(at + 1, f"{lines[at]!r} is not closed by a line {mark!r}")


def _block(lines: Sequence[str], at: int, end: int, marks: dict[str, str]) -> Iterator[Block]:
    """The block between two fences, if it does something."""
    if "not run" in marks:
        return
    if "file" in marks:
        yield Block(at + 1, end, file=marks["file"])
    elif end > at + 1 and lines[at + 1].startswith("$ "):
        shown = tuple(_commands(lines, at + 1, end))
        yield Block(at + 1, end, shown, exits=int(marks.get("exits", 0)))


def _commands(lines: Sequence[str], at: int, end: int) -> Iterator[Shown]:
    while at < end:
        start = at
        while lines[at].endswith("\\") and at + 1 < end:
            at += 1
        at += 1
        below = at
        while at < end and not lines[at].startswith("$ "):
            at += 1
        yield Shown(start + 1, tuple(lines[start:below]), tuple(lines[below:at]))


def is_cut(line: str) -> bool:
    """Whether a line stands for any lines."""
    return line.rstrip() in CUTS


def matches(shown: Sequence[str], actual: Sequence[str]) -> bool:
    """Whether the output is what the page shows, with anything in place of its cuts."""
    parts = [r"(?:.*\n)*?" if is_cut(line) else re.escape(f"{line.rstrip()}\n") for line in shown]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in actual)) is not None


def rewritten(shown: Sequence[str], actual: Sequence[str]) -> tuple[str, ...]:
    """The output as the page is to show it: new lines, the cuts where they were.

    ValueError if the lines beside a cut have nothing like them in the output.
    """
    if matches(shown, actual) or not any(map(is_cut, shown)):
        return tuple(shown) if matches(shown, actual) else tuple(actual)
    made: list[str] = []
    at = 0
    for n, line in enumerate(shown):
        if is_cut(line):
            made.append(line)
        elif n == 0 or is_cut(shown[n - 1]):
            kept = _until_cut(shown, n)
            start = 0 if n == 0 else _place(kept[0], actual, at)
            last = n + len(kept) == len(shown)
            at = len(actual) if last else _place(kept[-1], actual, start + len(kept) // 2) + 1
            made += actual[start:at]
    return tuple(made)


def _until_cut(shown: Sequence[str], start: int) -> Sequence[str]:
    end = next((n for n in range(start, len(shown)) if is_cut(shown[n])), len(shown))
    return shown[start:end]


def _place(line: str, actual: Sequence[str], start: int) -> int:
    """Where a line of the old output has its like in the new one, figures aside."""
    wanted = _skeleton(line)
    likeness = [
        difflib.SequenceMatcher(None, wanted, _skeleton(other), autojunk=False).ratio()
        for other in actual[start:]
    ]
    best = max(likeness, default=0.0)
    if best < LIKE:
        raise ValueError(f"nothing in the output is like the line {line.strip()!r} beside a cut")
    return start + likeness.index(best)


def _skeleton(line: str) -> str:
    """A line without its figures and bars."""
    return " ".join(re.sub(r"[\d,.]+", "0", re.sub(r"[█▓▒░]+", "█", line)).split())


def run_command(text: str, folder: Path) -> Ran:
    """One command under bash, its standard output and error in the order of their coming."""
    tools = (str(folder / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    environment = {
        "PATH": os.pathsep.join(tools),
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder / ".cache"),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "REPO": str(ROOT),
    }
    started = time.monotonic()
    limited = ["timeout", "--kill-after=10", str(TIMEOUT_S)]
    done = subprocess.run(
        [*limited, "bash", "-o", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    lines = [
        TOOK.sub(r"\g<kept>", line.rstrip())
        for line in done.stdout.decode().splitlines()
        if not PROGRESS.fullmatch(line)
    ]
    while lines and not lines[-1]:
        lines.pop()
    return Ran(done.returncode, tuple(lines), time.monotonic() - started)


def run_page(text: str, folder: Path, log: Callable[[str], None] = lambda _: None) -> str:
    """The page with what its commands print now. ExampleFailed names the first that fails."""
    lines = text.splitlines()
    made: list[str] = []
    at = 0
    for block in blocks_of(lines):
        made += lines[at : block.first]
        made += _run_block(block, lines[block.first : block.end], folder, log)
        at = block.end
    return "".join(f"{line}\n" for line in (*made, *lines[at:]))


def _run_block(
    block: Block, body: list[str], folder: Path, log: Callable[[str], None]
) -> list[str]:
    """The lines of a block after it did what it is there for."""
    if block.file:
        (folder / block.file).write_text("".join(f"{line}\n" for line in body), encoding="utf-8")
        return body
    if block.setup:
        _checked(run_command(block.setup, folder), block.first + 1, "setup", (0,))
        return body
    made: list[str] = []
    codes = []
    for shown in block.shown:
        ran = run_command(shown.text, folder)
        log(f"{ran.wall_s:6.1f} s  {shown.text.splitlines()[0]}")
        _checked(ran, shown.line, shown.text, (0, block.exits))
        codes.append(ran.code)
        try:
            made += (*shown.command, *rewritten(shown.output, ran.lines))
        except ValueError as error:
            raise ExampleFailed(shown.line, str(error)) from None
    if block.exits not in codes:
        raise ExampleFailed(block.first, f"no command exits with {block.exits}")
    return made


def _checked(ran: Ran, line: int, command: str, codes: Sequence[int]) -> None:
    if ran.code not in codes:
        what = command.splitlines()[0]
        said = "".join(f"\n    {line}" for line in ran.lines[-5:])
        raise ExampleFailed(line, f"exits with {ran.code}: {what}{said}")


def put_pictures(text: str, page: Path, folder: Path) -> None:
    """Copy pictures that the page shows and its commands made."""
    for match in _PICTURE.finditer(text):
        made = folder / Path(match["path"]).name
        if made.is_file():
            shutil.copyfile(made, page.parent / match["path"])


def log(text: str) -> None:
    """A line on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def work(page: Path, check: bool) -> bool:
    """Run one page; whether it is as it should be, or was rewritten so."""
    name = os.path.relpath(page, ROOT)
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        log(name)
        try:
            made = run_page(text, Path(scratch), log)
        except ExampleFailed as failure:
            log(f"{name}:{failure.line}: {failure}")
            return False
        if check and made != text:
            changes = difflib.unified_diff(
                text.splitlines(), made.splitlines(), name, "what the commands print", "", "", 1, ""
            )
            log("\n".join(changes))
            return False
        if not check:
            put_pictures(made, page, Path(scratch))
        if made != text:
            page.write_text(made, encoding="utf-8", newline="\n")
            log(f"wrote {name}")
    return True


def main(arguments: list[str]) -> int:
    """Rewrite or compare the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run (default: all)")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    given = parser.parse_args(arguments)
    pages = [page.resolve() for page in given.pages] or default_pages()
    wrong = [page for page in pages if not work(page, given.check)]
    for page in wrong:
        log(f"{'stale or failed' if given.check else 'failed'}: {os.path.relpath(page, ROOT)}")
    return 1 if wrong else 0


def default_pages() -> list[Path]:
    """README.md, then all guides."""
    guides = sorted((ROOT / "docs" / "guides").glob("*.md"))
    return [ROOT / "README.md", ROOT / "docs" / "getting-started.md", *guides]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
