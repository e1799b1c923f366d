"""Where a command's words go: data to standard output, everything else to standard error.

Text is rendered first and written in one piece, so that a terminal without UTF-8 gets an ASCII
version instead of an error. Files appear whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType

from planner.errors import InputError, Problem
from planner.report.format import ascii_text

WIDTH = 100
"""Columns of a report that does not go to a terminal, and the most that it takes there."""

UNWRAPPED = 10_000
"""Columns where lines are not wrapped."""

STDOUT = "-"
"""The file name that means standard output."""


class ReaderGone(Exception):
    """Whoever read our output stopped doing so (``planner show plan.json | head``)."""


class Format(StrEnum):
    """How a command answers."""

    text = "text"
    json = "json"


def console(stream: TextIO) -> Console:
    """A console of at most 100 columns; no escape sequences in a file or with ``NO_COLOR``."""
    plain = bool(os.environ.get("NO_COLOR"))
    found = Console(
        file=stream,
        highlight=False,
        no_color=plain or None,
        color_system=None if plain else "auto",
        soft_wrap=False,
    )
    if not found.is_terminal or found.width > WIDTH:
        found.width = WIDTH
    return found


def render(content: RenderableType, stream: TextIO, *, wrap: bool = True) -> str:
    """The text that ``stream`` can show: without colours or without UTF-8 where it has none."""
    made = console(stream)
    if not wrap and not made.is_terminal:
        made.width = UNWRAPPED
    with made.capture() as captured:
        made.print(content)
    text = captured.get()
    if not made.is_terminal or made.color_system is None:
        text = re.sub(r"[ ]+$", "", text, flags=re.MULTILINE)
    return text if speaks_utf8(stream) else ascii_text(text)


def speaks_utf8(stream: TextIO) -> bool:
    """Whether the stream can carry more than ASCII letters."""
    return (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "") == "utf8"


def show(content: RenderableType, *, to_stderr: bool = False, wrap: bool = True) -> None:
    """Write a renderable to standard output, or beside it.

    Without ``wrap``, lines stay whole outside a terminal: people search logs for messages.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    _write(stream, render(content, stream, wrap=wrap))


def show_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write one JSON value to standard output."""
    write_text(STDOUT, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(target: str, text: str) -> None:
    """Write to a file, whole or not at all, or to standard output for ``-``."""
    if target == STDOUT:
        _write(sys.stdout, text, encoded=True)
    else:
        write_file(target, lambda file: file.write(text))


def write_file(target: str, write: Callable[[TextIO], object]) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete.

    Raises InputError when the place cannot be written.
    """
    check_writable(target)
    path = Path(os.path.realpath(target))
    if path.exists() and not path.is_file():  # a device or a pipe: there is nothing to replace
        try:
            with path.open("w", encoding="utf-8", newline="\n") as file:
                write(file)
        except OSError as error:
            raise _unwritable(target, error.strerror or str(error)) from None
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            write(file)
        if path.exists():
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(target, error.strerror or str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: str, data: bytes) -> None:
    """Write a file that is no text, whole or not at all. Raises InputError as write_file."""
    if target == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    check_writable(target)
    path = Path(os.path.realpath(target))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(target, error.strerror or str(error)) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(target: str | None) -> None:
    """Find out before an hour of work that its result has no place. Raises InputError."""
    if target is None or target == STDOUT:
        return
    path = Path(target)
    if path.is_dir():
        raise _unwritable(target, "is a folder")
    if not path.parent.is_dir():
        raise _unwritable(target, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(target, f"the folder {path.parent} is read-only")


def write_folder(
    target: str, files: Sequence[tuple[str, str, bool]], *, overwrite: bool = False
) -> None:
    """Fill a folder that appears under its name only when it is complete.

    ``files`` are relative path, text and whether it may be executed. Raises InputError when the
    place cannot be written, or is taken and ``overwrite`` is not set.
    """
    check_folder(target, overwrite=overwrite)
    path = Path(os.path.realpath(target))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        for name, text, executable in files:
            place = temporary / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8", newline="\n")
            if executable:
                place.chmod(place.stat().st_mode | 0o111)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise _unwritable(target, error.strerror or str(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_folder(target: str, *, overwrite: bool = False) -> None:
    """Whether :func:`write_folder` could make this folder. Raises InputError."""
    if target == STDOUT:
        problem = Problem("--output", "an export is a folder, not one file", "name a folder")
        raise InputError([problem])
    path = Path(os.path.realpath(target))
    if path.exists() and not path.is_dir():
        raise InputError([Problem(target, "is a file, not a folder", "name another folder")])
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        remedy = "name another folder, or add --overwrite to replace it"
        raise InputError([Problem(target, "exists and is not empty", remedy)])
    if not path.parent.is_dir():
        raise _unwritable(target, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(target, f"the folder {path.parent} is read-only")


def _unwritable(target: str, why: str) -> InputError:
    return InputError([Problem(target, f"cannot be written: {why}", "name another file")])


def _write(stream: TextIO, text: str, *, encoded: bool = False) -> None:
    """Write and flush; ``encoded`` data are UTF-8 whatever the terminal speaks, as in a file."""
    buffer = getattr(stream, "buffer", None) if encoded else None
    try:
        if buffer is None:
            stream.write(text)
        else:
            stream.flush()
            buffer.write(text.encode("utf-8"))
        stream.flush()
    except BrokenPipeError:
        # What is still buffered cannot be written either; keep the interpreter from trying.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise ReaderGone from None
