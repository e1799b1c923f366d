"""Files appear whole or not at all, wherever they are."""

import os
import threading

import pytest

from planner.commands.output import write_file, write_text
from planner.errors import InputError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")

    def half(file) -> None:
        file.write("half of the new")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_file(str(target), half)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_written_file_keeps_its_mode(tmp_path):
    target = tmp_path / "plan.json"
    target.write_text("old")
    target.chmod(0o600)
    write_text(str(target), "new")
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed_and_not_replaced(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    write_text(str(link), "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(str(pipe), "through")
    reader.join(timeout=10)
    assert found == ["through"]
    assert pipe.is_fifo()


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_text(str(tmp_path), "x")
