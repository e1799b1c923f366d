"""explain, diff, size and whatif on the command line: answers, formats, files, mistakes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from planner.commands.size import token_count
from planner.commands.whatif_options import progress_words
from planner.errors import InputError
from planner.whatif import RunProgress
from tests.command_line import Run
from tests.small_plans import laid_out

TINY = ["gpt2", "2xA100-SXM-40GB", "--global-batch", "8", "--seq-len", "512"]
GAP = ["--gap", "0.3"]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every test has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def plans(tmp_path: Path) -> tuple[Path, Path]:
    """Two plans as files: pipeline and data parallel."""
    found = []
    for name, layout in (("pipeline", "tp: 2, pp: 2"), ("data", "tp: 1, dp: 4")):
        path = tmp_path / f"{name}.json"
        path.write_text(laid_out(layout).to_json())
        found.append(path)
    return found[0], found[1]


# -- explain and diff -------------------------------------------------------------------------


def test_explain_answers_wishes_first_and_exits_0(run: Run, plans: tuple[Path, Path]) -> None:
    ended = run("explain", plans[0], "--quick", "--why-not", "tp=8", "--why-not", "dp=4")
    assert ended.code == 0
    assert ended.out.startswith("Why not tp=8\n  not legal")
    for title in ("Why not dp=4", "Time", "Memory", "One decision changed"):
        assert title in ended.out


def test_explain_for_programs(run: Run, plans: tuple[Path, Path]) -> None:
    found = run("explain", plans[0], "--quick", "--why-not", "tp=4", "--format", "json").json
    terms = found["bottleneck"]["terms_s"]
    assert sum(terms.values()) == pytest.approx(found["step_time_s"])
    (answer,) = found["why_not"]
    assert answer["wish"] == "tp=4"
    assert answer["verdict"] in ("slower", "faster", "equal")
    assert answer["step_time_s"] > 0


def test_explain_writes_the_plan_of_a_wish(
    run: Run, plans: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "wish.json"
    ended = run("explain", plans[0], "--quick", "--why-not", "tp=1, pp=1", "-o", out)
    assert ended.code == 0
    assert run("check", out).code == 0
    degrees = {
        s["replicas"][0]["mesh"]["tensor_parallel"]
        for p in json.loads(out.read_text())["pipelines"]
        for s in p["stages"]
    }
    assert degrees == {1}


def test_mistakes_in_wishes_are_told_at_once(run: Run, plans: tuple[Path, Path]) -> None:
    ended = run("explain", plans[0], "--why-not", "tp=much", "--why-not", "make it fast")
    assert ended.code == 2
    assert "no whole number" in ended.err
    assert "is not understood" in ended.err
    assert "Traceback" not in ended.err
    assert run("explain", plans[0], "-o", "x.json").code == 2
    assert run("explain", plans[0], "--quick", "--why-not", "use h100").code == 2


def test_diff_speaks_text_json_and_markdown(run: Run, plans: tuple[Path, Path]) -> None:
    text = run("diff", *plans)
    assert text.code == 0
    assert "6 of 6 layers move to other devices" in text.out
    assert "resharded" in text.out
    found = run("diff", *plans, "--format", "json").json
    assert found["reshard"]["needed"] is True
    assert found["layers_moved"] == 6
    assert found["after"]["usd_per_hour"] == pytest.approx(4 * 1.79)
    markdown = run("diff", *plans, "--format", "markdown", "--price", "a100=2.5").out
    assert "| USD per hour | 10.00 | 10.00 |" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert all(line.count("|") == table[0].count("|") for line in table[:10])


def test_diff_of_a_plan_with_itself(run: Run, plans: tuple[Path, Path]) -> None:
    ended = run("diff", plans[0], plans[0])
    assert "both plans do the same on the same devices" in ended.out
    assert "checkpoints can be read as they are" in ended.out


# -- what if ----------------------------------------------------------------------------------


def test_scenarios_side_by_side_with_pictures_and_plans(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "compare.html"
    ended = run(
        "whatif", "compare", *TINY, *GAP, "-s", "one chip: chips a100 -1", "--plot", page,
        "--plans", tmp_path,
    )  # fmt: skip
    assert ended.code == 0
    assert "as it is" in ended.out
    assert "one chip" in ended.out
    html = page.read_text()
    assert "<svg" in html
    assert not re.search(r'(src|href)="http', html)
    assert run("check", tmp_path / "scenario-0.json", tmp_path / "scenario-1.json").code == 0


def test_a_sweep_resumes_draws_and_writes_csv(run: Run, tmp_path: Path) -> None:
    table, picture = tmp_path / "sweep.csv", tmp_path / "sweep.png"
    command = [
        "whatif", "sweep", *TINY, *GAP, "-a", "seq_len = 128..512*2", "-j", "1",
        "--csv", table, "--plot", picture,
    ]  # fmt: skip
    first = run(*command)
    assert first.code == 0
    assert "0 of 3 scenarios" in first.err
    rows = list(csv.DictReader(io.StringIO(table.read_text())))
    assert [r["seq_len"] for r in rows] == ["128", "256", "512"]
    assert all(float(r["tokens_per_s"]) > 0 for r in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    before = picture.read_bytes(), table.read_text(), first.out
    again = run(*command)
    assert "3 of 3 scenarios, 3 known already" in again.err
    assert (picture.read_bytes(), table.read_text(), again.out) == before
    found = run(*command, "--format", "json").json
    assert found["complete"] is True
    assert len(found["points"]) == 3


def test_the_largest_micro_batch_for_programs(run: Run) -> None:
    ended = run(
        "whatif", "largest", "gpt2", "1xV100-SXM2-16GB", "--global-batch", "16", "--seq-len",
        "1024", "--what", "micro_batch_rows", "--format", "json", "--set",
        "job.techniques.recompute_full=false", "--set", "job.techniques.recompute_selective=false",
    )  # fmt: skip
    assert ended.code == 0
    found = ended.json
    assert 1 <= found["size"] < 16
    assert found["next"]["proven"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["whatif", "compare", *TINY], "--scenario: is missing"),
        (["whatif", "compare", *TINY, "-s", "chips a100"], "is not understood"),
        (["whatif", "compare", *TINY, "-s", "nodes v100 -1"], "the cluster has no v100"),
        (["whatif", "compare", "gpt2", "-s", "seq_len=1"], "needs a cluster"),
        (["whatif", "sweep", *TINY, "-a", "seq_len = 4"], "has one value"),
        (["whatif", "sweep", *TINY, "-a", "seq_len=1,2", "--pareto", "fame"], "no goal is called"),
        (["whatif", "sweep", *TINY, "-a", "seq_len=1,2", "--plot", "x.gif"], "no kind of picture"),
        (["whatif", "sweep", *TINY, "-a", "seq_len=1,2", "--address", "auto"], "for a Ray cluster"),
        (["whatif", "sweep", *TINY, "-a", "seq_len=1,2", "--price", "a100=0"], "never 0"),
        (["whatif", "price", *TINY, "--chip", "a100"], "the only kind of chip"),
        (["whatif", "link", *TINY, "--link", "network"], "the cluster has no network"),
        (["whatif", "replace", "--from", "8xH100", "gpt2"], "--to: is missing"),
        (["whatif", "replace", "--from", "8xA100", "--to", "h800", "gpt2"], "fits 4 chips"),
        (["size", "gpt2", "--tokens", "many", "--chip", "h800"], "is no number of tokens"),
        (["size", "gpt2", "--tokens", "1T"], "--chip: is missing"),
        (["size", "gpt2", "--chip", "h800", "--days", "0"], "there is no time"),
    ],
)
def test_mistakes_are_told_with_exit_2_and_no_trace(
    run: Run, arguments: list[str], says: str
) -> None:
    ended = run(*arguments)
    assert ended.code == 2
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_tokens_are_read() -> None:
    assert token_count("1T") == 1e12
    assert token_count("300B") == 3e11
    assert token_count("1.4e12") == 1.4e12
    with pytest.raises(InputError):
        token_count("0")


def test_progress_says_what_is_left() -> None:
    words = progress_words(RunProgress(3, 10, 2, 1, 30.0, 200.0))
    assert words == "2 known already, 1 failed, 3 min left"
    assert progress_words(RunProgress(10, 10, 0, 0, 30.0, 0.0)) == ""
