"""The queue of a pre-training: what chance is, when it is full, and whether it holds own keys."""

from __future__ import annotations

from models.run_report.run_files import Run
from utils.cli import shorter_queue


def samples_per_step(run: Run) -> int:
    """Return the samples per step of all processes; of an older run, those that its flags say.

    Args:
        run: A pre-training.
    """
    if run.training.get("samples_per_step"):
        return int(run.training["samples_per_step"])
    flags = run.arguments
    processes = max(1, flags.get("gpus") or flags.get("num_processes") or 1)
    split = 1 if flags.get("accelerator") == "dp" else processes * (flags.get("num_nodes") or 1)
    return int(flags.get("batch_size") or 1) * split


def keys_of_a_query(run: Run, num_spaces: int) -> list[int]:
    """Return the number of keys among which a query finds its own, per space.

    Args:
        run: A pre-training.
        num_spaces: Number of its embedding spaces.
    """
    more = (num_spaces - 1) * samples_per_step(run)  # of the other views, but in space 0
    return [1 + _length(run) + more * (space > 0) for space in range(num_spaces)]


def steps_to_fill(run: Run) -> int:
    """Return the number of steps after which the queue holds only keys of the run.

    Args:
        run: A pre-training.
    """
    return -(-_length(run) // samples_per_step(run))


def own_keys_remark(run: Run) -> str:
    """Explain the curves of a run whose queries meet earlier keys of their own sample; else "".

    Args:
        run: A pre-training with logged values.
    """
    samples, length = _num_samples(run), _length(run)
    per_epoch = samples - samples % samples_per_step(run)  # the last batch is left out
    last_step = max(row["step"] for row in run.rows)
    if not per_epoch or length < samples or (last_step + 1) * samples_per_step(run) <= per_epoch:
        return ""  # unknown, long enough, or before the second epoch
    # Each epoch leaves one key of a sample: a young run has fewer than its queue can hold.
    own = min(length / per_epoch, last_step * samples_per_step(run) // per_epoch)
    remedy = shorter_queue(samples, samples_per_step(run), run.training.get("processes", 1))
    # Seen with 800 pictures, of which 768 were used: the loss rose from 6.4 to 7.2 with 4096 keys,
    # and fell from 5.9 to 4.9 with 400.
    return (
        f"The queue is too long for these data: it holds {length:,} keys, but an epoch has "
        f"{per_epoch:,} samples. Each query meets about {own:.1f} keys of its own sample, from "
        "earlier epochs, among the negatives, and the training pushes them apart although they "
        "show the same. The loss can then rise instead of falling. Remedy: train again with "
        f"{remedy}, or with more samples."
    )


def _length(run: Run) -> int:
    return int(run.arguments.get("num_negatives") or 1)


def _num_samples(run: Run) -> int:
    """Return the samples of the data; 0 if an older run has not recorded them."""
    data = run.metrics.get("data") or {}
    of_older = data.get("patches" if run.arguments.get("data_mode") == "moco" else "places")
    return int(run.training.get("samples") or of_older or 0)
