"""Folders as main_pretrain.py leaves them, without a training."""

import csv
import json
from pathlib import Path
from typing import Any

EVIL = "<img src=x onerror=alert(1)>\"'</script>"  # as a text of a flag or a name


def write_pretraining(folder: Path, steps: int = 40, **flags: Any) -> Path:
    """Write flags, results and logged values.

    Args:
        folder: Folder of the run.
        steps: Number of logged steps.
        flags: Further flags of the run.
    """
    folder.mkdir(parents=True)
    arguments = {"data_mode": "seco", "num_negatives": 64, "batch_size": 8, "note": EVIL} | flags
    facts = {"arguments": arguments, "versions": {"torch": "2.15"}, "finished": True}
    (folder / "results.json").write_text(json.dumps(facts | {"metrics": {"train/loss": 1.5}}))
    with (folder / "timing.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "learning_rate", "samples_per_s", "waiting_percent"])
        rows.writerows([step, 0.1, 200 + step % 3, 4] for step in range(steps))
    with (folder / "metrics.csv").open("w", newline="") as file:
        names = [
            f"train/{kind}_{space}" for kind in ("loss", "accuracy", "spread") for space in range(3)
        ]
        writer = csv.DictWriter(file, ["step", "epoch", *names, "online/knn_accuracy"])
        writer.writeheader()
        for step in range(steps):
            row = {"step": step, "epoch": 0} | dict.fromkeys(names, 1 + 1 / (1 + step))
            writer.writerow(row | ({"online/knn_accuracy": 50 + step} if step % 20 == 0 else {}))
    return folder
