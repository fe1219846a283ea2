"""The evaluation of a random encoder that belongs to an evaluation: find it, or how to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.run_report.run_files import Run, read_run

# Flags that say what is scored, not which encoder or machine.
_SAME = (
    *("data_dir", "split", "split_seed", "val_frac", "labels_per_class", "train_frac", "method"),
    *("num_seeds", "seed", "protocol", "num_classes", "image_size", "max_epochs", "bands"),
    *("base_encoder", "freeze_backbone", "patch_size", "finetune_epochs", "finetune_backbone"),
    *("pos_weight", "input_norm", "learning_rate", "finetune_learning_rate", "batch_size"),
    "milestones",
)
_OF_READING = ("lmdb", "num_workers", "precision")


def find_baseline(run: Run) -> Run | None:
    """Return the newest finished run of a random encoder with the same flags, if there is one.

    Args:
        run: An evaluation; its folder is ``LOG_DIR/NAME-BACKBONE/version_N``.
    """
    backbone = str(run.arguments.get("backbone_type"))
    if backbone == "random":
        return None
    name = run.folder.resolve().parent.name.removesuffix(f"-{backbone}")
    folders = run.folder.resolve().parents[1].glob(f"{name}-random/version_*")
    for folder in sorted(folders, key=_number, reverse=True):
        if (folder / "results.json").is_file():
            found = read_run(folder)
            if found.is_finished and _what_is_scored(found) == _what_is_scored(run):
                return found
    return None


def baseline_command(run: Run) -> list[str]:
    """Return the command line that evaluates a random encoder as a run has evaluated its own."""
    script = f"main_{run.folder.resolve().parent.name.split('-')[0]}.py"
    line = [script, "--backbone_type", "random"]
    encoder = run.metrics.get("encoder") or {}
    values = run.arguments | {n: encoder[n] for n in ("base_encoder", "bands") if n in encoder}
    values["log_dir"] = str(run.folder.resolve().parents[1])
    for name in (*_SAME, *_OF_READING, "log_dir"):
        value = values.get(name)
        if value is True:
            line.append(f"--{name}")
        elif isinstance(value, list):
            line += [f"--{name}", *map(str, value)]
        elif value is not None and value is not False:
            line += [f"--{name}", str(value)]
    return line


def _what_is_scored(run: Run) -> dict[str, Any]:
    flags = run.arguments
    found = {name: flags.get(name) for name in _SAME}
    # The encoder of a file names its architecture and bands itself.
    encoder = run.metrics.get("encoder") or {}
    found["data"] = (run.metrics.get("data") or {}).get("digest")
    return found | {name: encoder.get(name, found[name]) for name in ("base_encoder", "bands")}


def _number(folder: Path) -> int:
    text = folder.name.removeprefix("version_")
    return int(text) if text.isdigit() else -1
