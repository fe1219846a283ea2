"""``main_eurosat.py``: every method, curves over the labels, exports, bands, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import main_eurosat
from datasets.eurosat.splits import SPLITS
from datasets.eurosat_dataset import EurosatDataset
from datasets.mini_earth import write_eurosat
from models.ssl_finetuner import FineTuning
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.probe_pictures import stacked
from tests.references.waiting import HANG_S
from utils.errors import UserError
from utils.input_spec import InputSpec, input_transform
from utils.launch import World
from utils.training import make_trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes x 10 images of 32 px. Read only."""
    root = tmp_path_factory.mktemp("mini_earth") / "EuroSAT_RGB"
    write_eurosat(root, images_per_class=10, size=32, num_workers=1)
    return root


def short_flags(data_dir: Path, log_dir: Path, **changes: object) -> list[str]:
    values: dict[str, object] = {"data_dir": data_dir, "log_dir": log_dir}
    values |= {
        "backbone_type": "random",
        "base_encoder": "resnet18_slim",
        "max_epochs": 2,
        "finetune_epochs": 1,
        "gpus": 0,
    }
    values |= {"num_workers": 1, "feature_batch_size": 50, "precision": "32-true"} | changes
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def curve(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Metrics and log folder of a run with all methods on frozen features and two shares."""
    logs = tmp_path_factory.mktemp("curve")
    flags = short_flags(data_dir, logs, num_seeds=2, save_predictions=logs / "p.npz")
    extra = ["--method", "lbfgs", "linear", "knn", "--train_frac", "1", "0.5"]
    return main_eurosat.main([*flags, *extra]), logs


@pytest.mark.difference("eurosat-epoch")
def test_every_method_and_share_is_measured(curve: tuple[Any, Path]) -> None:
    metrics, _ = curve
    results = metrics["by_method"]
    assert list(results) == ["linear", "lbfgs", "knn5", "knn20"]
    for shares in results.values():
        assert [result["num_labelled"] for result in shares.values()] == [30, 60]
        assert list(shares) == ["0.5", "1"]
        for result in shares.values():
            low, high = result["test/accuracy_interval"]
            assert low <= result["test/accuracy"] <= high
            assert high - low > 5  # of 20 images
    assert len(results["linear"]["1"]["best_epochs"]) == 2
    assert set(results["linear"]["1"]["best_epochs"]) <= {1, 2}
    assert len(results["lbfgs"]["0.5"]["best_strengths"]) == 2
    # Nothing is random about neighbours among all labels.
    assert len(results["knn5"]["0.5"]["test/accuracy_per_seed"]) == 2
    assert len(results["knn5"]["1"]["test/accuracy_per_seed"]) == 1
    assert results["knn5"]["1"]["test/accuracy_std"] is None


def test_the_first_method_with_most_labels_stands_on_top(curve: tuple[Any, Path]) -> None:
    metrics, _ = curve
    first = metrics["by_method"]["lbfgs"]["1"]
    assert first.items() <= metrics.items()
    assert metrics["num_labelled"] == 60


def test_a_curve_has_its_picture(curve: tuple[Any, Path]) -> None:
    _, logs = curve
    (run_dir,) = logs.glob("eurosat-random/*")
    files = ["confusion.png", "label_efficiency.png", "results.json", "test.txt"]
    assert sorted(path.name for path in run_dir.iterdir()) == [*files, "train.txt", "val.txt"]
    picture = np.asarray(Image.open(run_dir / "label_efficiency.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10  # lines of several colours
    written = json.loads((run_dir / "results.json").read_text())
    assert written["metrics"]["by_method"].keys() == {"linear", "lbfgs", "knn5", "knn20"}


def test_an_interruption_keeps_the_methods_that_are_finished(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in fine-tuning threw away the finished methods."""

    def interrupt(self: FineTuning, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuning, "__call__", interrupt)
    flags = short_flags(data_dir, tmp_path, num_seeds=1)
    with pytest.raises(KeyboardInterrupt):
        main_eurosat.main([*flags, "--method", "finetune", "linear", "knn"])
    (path,) = tmp_path.glob("**/results.json")
    kept = json.loads(path.read_text())
    assert kept["finished"] is False
    assert kept["metrics"]["by_method"].keys() == {"linear", "knn5", "knn20"}
    assert kept["metrics"]["method"] == "linear"
    printed = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert printed[-3:] == [f"{name}, 60 labels" for name in ("linear", "knn5", "knn20")]


def test_a_share_of_val_leaves_test_whole(data_dir: Path, tmp_path: Path) -> None:
    flags = short_flags(data_dir, tmp_path, val_frac=0.5)
    metrics = main_eurosat.main([*flags, "--debug"])
    assert [metrics[f"num_{split}"] for split in SPLITS] == [60, 10, 20]


def test_fine_tuning_changes_the_features_and_not_the_encoder(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    load_task = main_eurosat.load_task

    def spy(args: Any) -> Any:
        seen.append(load_task(args))
        return seen[0]

    monkeypatch.setattr(main_eurosat, "load_task", spy)
    path = tmp_path / "p.parquet"
    flags = short_flags(data_dir, tmp_path / "logs", num_seeds=2, save_predictions=path)
    metrics = main_eurosat.main([*flags, "--method", "finetune", "--batch_size", "16"])
    assert len(metrics["test/accuracy_per_seed"]) == 2
    assert metrics["best_epochs"] == [1, 1]
    assert not (tmp_path / "logs" / "features").exists()
    table = pq.read_table(path).to_pydict()
    embeddings = torch.tensor(table["embeddings"])
    encoder, data, _ = seen[0]
    with torch.no_grad():
        frozen = encoder.eval()(data.transform.normalize(stacked(data, "test")))
    assert torch.equal(encoder.state_dict()["1.running_mean"], torch.zeros(16))
    assert (embeddings - frozen).abs().max() > 0.1
    right = np.array(table["scores"]).argmax(1) == np.array(table["targets"])
    assert 100 * right.mean() == pytest.approx(metrics["test/accuracy_per_seed"][0])


def test_the_protocol_of_the_paper_exports_val(data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    flags = short_flags(data_dir, tmp_path, num_seeds=1, batch_size=10, save_predictions=path)
    metrics = main_eurosat.main([*flags, "--protocol", "paper", "--debug"])
    content = np.load(path)
    assert len(content["names"]) == metrics["num_val"] == 20
    right = content["scores"].argmax(1) == content["targets"]
    assert 100 * right.mean() == pytest.approx(metrics["val/accuracy_batch_mean"])


def test_any_bands_of_the_13_are_probed(tmp_path: Path) -> None:
    write_eurosat(tmp_path / "tif", images_per_class=5, size=32, all_bands=True, num_workers=1)
    flags = short_flags(tmp_path / "tif", tmp_path, num_seeds=1)
    metrics = main_eurosat.main([*flags, "--debug", "--bands", "B8A", "B11", "B4", "B10"])
    assert metrics["num_test"] == 10
    args = main_eurosat.parse_args([*flags, "--bands", "B8A", "B11", "B4", "B10"])
    encoder, data, _ = main_eurosat.load_task(args)
    assert data.splits["train"].pictures[0][0].shape == (4, 32, 32)
    assert encoder.state_dict()["0.weight"].shape[1] == 4
    metrics = main_eurosat.main([*flags, "--debug"])  # red, green and blue
    assert 0 <= metrics["test/accuracy"] <= 100


def test_spatial_lists_are_used_where_asked_for(data_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "EuroSAT_RGB"
    root.symlink_to(data_dir)
    dataset = EurosatDataset(data_dir)
    for split, numbers in zip(SPLITS, ((1, 2, 3), (4, 5), (6, 7, 8)), strict=True):
        lines = [f"{name}_{number}.jpg" for name in dataset.classes for number in numbers]
        (tmp_path / f"eurosat-spatial-{split}.txt").write_text("\n".join(lines))
    flags = short_flags(root, tmp_path / "logs", num_seeds=1)
    metrics = main_eurosat.main([*flags, "--split", "spatial"])
    assert [metrics[f"num_{split}"] for split in SPLITS] == [30, 20, 30]
    (written,) = (tmp_path / "logs").glob("eurosat-random/*/val.txt")
    assert "Forest/Forest_5.jpg\n" in written.read_text()


def test_a_checkpoint_of_lightning_1_1_drives_the_script(data_dir: Path, tmp_path: Path) -> None:
    encoder = write_legacy_checkpoint(tmp_path / "seco_resnet18_1m.ckpt")
    path = tmp_path / "p.npz"
    flags = short_flags(data_dir, tmp_path, num_seeds=1, save_predictions=path)
    extra = ["--backbone_type", "pretrain", "--ckpt_path", str(tmp_path / "seco_resnet18_1m.ckpt")]
    extra += ["--base_encoder", "resnet18"]
    metrics = main_eurosat.main([*flags, *extra])
    assert 0 <= metrics["test/accuracy"] <= 100
    dataset = EurosatDataset(data_dir)
    transform = input_transform(InputSpec.of_pictures(), dataset.spec, "imagenet")
    test = dataset.read_images(transform, 1)[dataset.splits(0)["test"]]
    with torch.no_grad():
        features = encoder(transform.normalize(test))
    torch.testing.assert_close(torch.from_numpy(np.load(path)["embeddings"]), features)
    with pytest.raises(UserError, match="resnet18"):
        main_eurosat.main([*flags, *extra, "--base_encoder", "resnet50"])


def test_probes_say_once_that_they_run_on_one_device(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = short_flags(data_dir, tmp_path, num_seeds=1)
    main_eurosat.main([*flags, "--debug", "--num_processes", "2"])
    assert capsys.readouterr().err.count("probes run on one device") == 1


def test_further_processes_of_a_launcher_have_nothing_to_probe(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_eurosat.flags, "plan_processes", lambda _: World(1, 2, rank=1))
    assert main_eurosat.main(short_flags(data_dir, tmp_path / "logs")) == {}
    assert not (tmp_path / "logs").exists()


def test_each_training_of_several_processes_has_a_trainer_of_its_own(
    data_dir: Path, tmp_path: Path
) -> None:
    args = main_eurosat.parse_args(short_flags(data_dir, tmp_path))
    trainers = [
        make_trainer(args, World(1, 2), "x", epochs, None, seed=0, train_frac=1)
        for epochs in (3, 5)
    ]
    assert [trainer.max_epochs for trainer in trainers] == [3, 5]
    assert [trainer.world_size for trainer in trainers] == [2, 2]


@pytest.mark.slow
@pytest.mark.difference("eurosat-devices")
def test_two_processes_fine_tune_and_leave_one_folder(data_dir: Path, tmp_path: Path) -> None:
    flags = short_flags(data_dir, tmp_path, num_processes=2, num_seeds=2, batch_size=20)
    extra = ["--method", "knn", "finetune", "--accelerator", "dp"]
    done = subprocess.run(
        [sys.executable, "main_eurosat.py", *flags, *extra],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("eurosat-random/*/results.json")
    result = json.loads(path.read_text())["metrics"]["by_method"]["finetune"]["1"]
    assert len(result["test/accuracy_per_seed"]) == 2
    assert np.sum(result["test/confusion"]) == 20  # no image is scored twice
    assert done.stdout.count("knn5, 60 labels") == 1
    assert done.stderr.count("probes run on one device") == 1
    assert done.stderr.count("runs as ddp with the batch split") == 1
