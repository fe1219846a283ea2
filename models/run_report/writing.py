"""Put the sections of a report together, and write the file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.run_report.curves import curve_sections, explained
from models.run_report.evaluations import evaluation_sections
from models.run_report.facts import facts, summary
from models.run_report.interactive import SCRIPT
from models.run_report.page import Section, page, picture_file
from models.run_report.run_files import Run, read_run
from models.run_report.spaces import Sample, space_sections
from utils.errors import NOT_AS_WRITTEN, UserError
from utils.files import written_whole

NAME = "report.html"
FOLLOW_S = 60


def write_report(
    folders: Sequence[Path],
    path: Path,
    space_names: Mapping[str, Sequence[str]],
    sample: Sample | None = None,
    *,
    follow: bool = False,
) -> None:
    """Write the report of one or several runs as one file.

    Args:
        folders: Folders of the runs, all pre-trainings or all evaluations.
        path: File to write.
        space_names: Names of the embedding spaces of each ``--data_mode``.
        sample: Patches in the spaces of the only run; None leaves these sections out.
        follow: Whether the browser reads the file again every minute.

    Raises:
        UserError: A folder holds no run, a file of it is damaged, or the runs are of two kinds.
    """
    runs = [read_run(folder) for folder in folders]
    kinds = [(run.is_pretraining, run.arguments.get("data_mode")) for run in runs]
    if other := [run.name for run, kind in zip(runs, kinds, strict=True) if kind != kinds[0]]:
        raise UserError(
            f"{runs[0].name} and {other[0]} are runs of two kinds or modes: report them one by one"
        )
    try:
        sections = _sections(runs, space_names, sample)
    except NOT_AS_WRITTEN as error:
        names = ", ".join(str(run.folder) for run in runs)
        raise UserError(f"{names} holds results that no run writes: restore its files") from error
    title = " and ".join(run.name for run in runs)
    text = page(title, sections, SCRIPT if sample else "", FOLLOW_S if follow else 0)
    with written_whole(path) as partial:
        partial.write_text(text, "utf-8")


def report_run(run_dir: Path, space_names: Mapping[str, Sequence[str]]) -> None:
    """Write the report of a run into its folder; a run does not fail because of its report.

    Args:
        run_dir: Folder of the finished run.
        space_names: Names of the embedding spaces of each ``--data_mode``.
    """
    try:
        write_report([run_dir], run_dir / NAME, space_names)
        print(f"report: {run_dir / NAME}")
    except (UserError, OSError) as error:
        print(f"no report: {error}", file=sys.stderr)


def _sections(
    runs: Sequence[Run], space_names: Mapping[str, Sequence[str]], sample: Sample | None
) -> list[Section]:
    sections = [Section("Summary", summary(runs))]
    if not runs[0].is_pretraining:
        sections += evaluation_sections(runs)
    else:
        names = space_names.get(str(runs[0].arguments.get("data_mode")), ())
        sections += curve_sections(runs, names)
        views = runs[0].folder / "views.png"
        if len(runs) == 1 and views.is_file():
            caption = "A query, and its key in each space, as the network sees them."
            sections.append(Section("Views", picture_file(views, caption)))
        if sample is not None:
            meanings = {"encoder": "features of the encoder"} | explained(names)
            trained = str((runs[0].metrics.get("data") or {}).get("digest", ""))
            sections += space_sections(sample, meanings, trained)
    sections.append(Section("Flags and versions", "".join(map(facts, runs))))
    return sections
