"""The trials of docs/reliability.md: the few that run here, their counts, and the table."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import reliability
from benchmarks.reliability import PARTS, RESULTS, table
from benchmarks.reliability_verify import ONLY_LISTED
from benchmarks.trials import Trial

PAGE = RESULTS.parents[2] / "docs" / "reliability.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_lost_in_the_quick_trials(name: str, tmp_path: Path) -> None:
    pytest.importorskip(f"benchmarks.reliability_{PARTS[name].module}")
    found = reliability.main(["--quick", "--parts", name, "--folder", str(tmp_path)])
    state = found["parts"][name]
    failures = [each for each in state["examples"] if ONLY_LISTED not in each]
    assert (state["count"], failures) == (PARTS[name].quick, [])


def test_the_frame_counts_resumes_and_shows_plain_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--quick", "--parts", "endless", "--folder", str(tmp_path)]
    begun: list[int] = []

    def some(start: int, stop: int, folder: Path) -> Iterator[Trial]:
        begun.append(start)
        for number in range(start, stop):
            yield Trial(f"{number}", "lost \x1b[2J" if number == 1 else None)
            if number == 4 and start == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.reliability_bombs.endless", some)
    monkeypatch.setattr(reliability, "BLOCK_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        reliability.main(flags)
    state = reliability.main(flags)["parts"]["endless"]
    assert begun == [0, 5]
    assert (state["count"], state["failures"]) == (165, 1)
    assert state["examples"] == [r"1: lost \x1b[2J"]
    assert "| Pipes, devices, sockets, 3 GB files | 165 | 1 | - |" in capsys.readouterr().out
    content = json.loads((tmp_path / "quick/reliability.json").read_text())
    assert content["parts"]["endless"]["count"] == 165


def test_the_page_shows_what_the_file_holds() -> None:
    found = json.loads(RESULTS.read_text())
    page = PAGE.read_text().splitlines()
    assert [line for line in page if line.startswith("|")] == table(found["parts"], found["plain"])
