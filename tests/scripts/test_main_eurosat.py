"""``main_eurosat.py`` from flags to files: methods, curves, exports, bands, processes."""

import json
import pickle
import shutil
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

import main_eurosat
from datasets.bands import ALL_BANDS
from datasets.eurosat.splits import SPLITS
from datasets.eurosat_dataset import EurosatDataset
from datasets.mini_earth import write_eurosat
from models import finetuning
from models.backbones import Encoder, load_encoder
from models.features import cached, extract_features, feature_key
from models.finetuning import FineTuning
from models.ssl_finetuner import SSLFineTuner
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.probe_pictures import stacked
from tests.references.script import as_flags, exit_code, in_processes
from utils.errors import UserError
from utils.input_spec import DataSpec, InputSpec, input_transform
from utils.launch import World

DATA = DataSpec.of_pictures("EuroSAT")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 classes x 10 images of 32 px. Read only."""
    root = tmp_path_factory.mktemp("mini_earth") / "EuroSAT_RGB"
    write_eurosat(root, images_per_class=10, size=32, num_workers=1)
    return root


def short_flags(data_dir: Path, log_dir: Path, **changes: object) -> list[str]:
    """Write the flags of a short run."""
    small = {"backbone_type": "random", "base_encoder": "resnet18_slim", "feature_batch_size": 50}
    epochs = {"max_epochs": 3, "finetune_epochs": 1, "gpus": 0, "num_workers": 1}
    where = {"data_dir": data_dir, "log_dir": log_dir, "precision": "32-true"}
    return as_flags(**(small | epochs | where | changes))


@pytest.fixture
def flags(data_dir: Path, tmp_path: Path) -> list[str]:
    return short_flags(data_dir, tmp_path / "logs")


def tensors(encoder: Encoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def tiny_features(encoder: Encoder, images: Tensor, **changes: Any) -> Tensor:
    settings: dict[str, Any] = {"precision": "32-true", "device": torch.device("cpu")} | changes
    transform = input_transform(InputSpec.of_pictures(), DATA, "auto")
    return extract_features(encoder, transform, images.split(4), len(images), **settings)


def save_checkpoint(path: Path, bands: tuple[str, ...]) -> None:
    """Write what main_pretrain.py leaves of an encoder on these bands."""
    state = Encoder("resnet18_slim", in_channels=len(bands)).state_dict()
    zeros, ones = (0.0,) * len(bands), (1.0,) * len(bands)
    spec = InputSpec(bands, low=zeros, high=ones, mean=zeros, std=ones)
    torch.save(
        {
            "hyper_parameters": {"base_encoder": "resnet18_slim", "input_spec": spec.to_dict()},
            "state_dict": {f"encoder_q.{name}": tensor for name, tensor in state.items()},
        },
        path,
    )


@pytest.mark.difference("eurosat-accuracy")
def test_run_leaves_results_split_and_picture(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = main_eurosat.main([*flags, "--num_seeds", "2"])

    run_dir = tmp_path / "logs" / "eurosat-random" / "version_0"
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {run_dir / 'results.json'}"
    written = json.loads((run_dir / "results.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(metrics))
    assert written["arguments"]["num_seeds"] == 2
    assert sorted(path.name for path in run_dir.iterdir()) == [
        *("arguments.json", "config.yaml", "confusion.png", "errors.png", "report.html"),
        *("results.json", "test.txt", "train.txt", "val.txt"),
    ]
    assert Image.open(run_dir / "confusion.png").width > 300
    assert [metrics[f"num_{split}"] for split in ("train", "val", "test")] == [60, 20, 20]
    assert len(metrics["test/accuracy_per_seed"]) == 2
    assert metrics["test/accuracy"] == pytest.approx(np.mean(metrics["test/accuracy_per_seed"]))
    confusion = np.array(metrics["test/confusion"])
    assert confusion.sum(1).tolist() == [2.0] * 10
    assert 100 * np.trace(confusion) / 20 == pytest.approx(metrics["test/accuracy"])
    assert np.mean(list(metrics["test/recall"].values())) == pytest.approx(metrics["test/accuracy"])


@pytest.mark.difference("eurosat-encoders")
def test_any_resnet_can_be_probed(flags: list[str], tmp_path: Path) -> None:
    extra = ["--base_encoder", "resnet50", "--num_seeds", "1", "--debug"]  # 2048 features
    metrics = main_eurosat.main([*flags, *extra, "--labels_per_class", "3"])
    assert 0 <= metrics["test/accuracy"] <= 100
    assert metrics["num_labelled"] == 30
    assert not (tmp_path / "logs").exists()  # --debug writes nothing


@pytest.mark.difference("eurosat-normalisation")
def test_features_are_those_of_the_encoder_in_eval_mode_on_normalised_pictures() -> None:
    encoder = load_encoder("random", "resnet18_slim")[0]
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    features = tiny_features(encoder.train(), images)
    spec = InputSpec.of_pictures()
    mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
    with torch.no_grad():
        for image, row in zip(images, features, strict=True):
            expected = encoder.eval()(((image / 255 - mean) / std)[None])[0]
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)


def test_bf16_features_are_close_but_not_equal() -> None:
    encoder = load_encoder("random", "resnet18_slim")[0]
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    exact, rounded = (tiny_features(encoder, images, precision=p) for p in ("32", "bf16-mixed"))
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.05 * exact.abs().max()


def test_key_of_features_depends_on_all_that_they_depend_on() -> None:
    encoder, spec = load_encoder("random", "resnet18_slim")
    transform, other = (input_transform(spec, DATA, norm) for norm in ("auto", "none"))
    key = feature_key(encoder, transform, "data", "32-true")
    assert key == feature_key(encoder, transform, "data", "32")  # two names of one precision
    keys = {
        key,
        feature_key(encoder, other, "data", "32"),
        feature_key(encoder, transform, "other", "32"),
        feature_key(encoder, transform, "data", "bf16-mixed"),
    }
    with torch.no_grad():
        encoder.state_dict()["1.running_mean"][3] += 1e-3
    assert len(keys | {feature_key(encoder, transform, "data", "32")}) == 5


def test_features_that_fail_leave_no_file(tmp_path: Path) -> None:
    def fail() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "a.npy", (1, 2), fail)
    assert list(tmp_path.iterdir()) == []


def _npy(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _huge_header() -> bytes:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 512), }\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    "content",
    [
        b"nonsense",
        b"",
        _huge_header(),
        _npy(np.zeros((3, 2), np.float32)),
        _npy(np.zeros((2, 2), np.float64)),
        _npy(np.zeros((2, 2), np.float32))[:-4],
        _npy(np.full((2, 2), np.nan, np.float32)),
        pickle.dumps([1]),
    ],
)
def test_a_file_of_other_features_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.npy .*: delete it"):
        cached(path, (2, 2), lambda: torch.zeros(2, 2))
    assert path.read_bytes() == content


@pytest.mark.difference("eurosat-normalisation", "eurosat-batch-norm", "eurosat-accuracy")
def test_paper_protocol_drifts_statistics_but_no_weights_and_drops_the_last_batch(
    flags: list[str], data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, spec = load_encoder("random", "resnet18_slim")
    before, probes = tensors(encoder), []

    class Recorded(SSLFineTuner):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            probes.append(self)

    monkeypatch.setattr("models.backbones.load_encoder", lambda *_: (encoder, spec))
    monkeypatch.setattr(finetuning, "SSLFineTuner", Recorded)
    paper = ["--protocol", "paper", "--batch_size", "16", "--num_seeds", "1", "--debug"]
    metrics = main_eurosat.main([*flags, *paper])

    probe = probes[0].eval()
    for name, tensor in probe.encoder_q.state_dict().items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(tensor, before[name]) != is_statistic, name
    assert probe.encoder_q.state_dict()["1.num_batches_tracked"] == 3 * 3  # of 60 images, 48 count
    dataset = EurosatDataset(data_dir)
    rows = dataset.splits(0)["val"][:16]  # of 20
    images = dataset.read_images(input_transform(spec, dataset.spec, "paper"), 1)
    with torch.no_grad():
        logits = probe.classifier(probe.encoder_q(images[rows] / 255))
    accuracy = 100 * (logits.argmax(1) == dataset.labels[rows]).float().mean().item()
    assert metrics["val/accuracy_batch_mean"] == pytest.approx(accuracy, abs=1e-3)
    assert "test/accuracy" not in metrics


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that cannot be used here."""
    folder = tmp_path_factory.mktemp("saved")
    (folder / "text.ckpt").write_text("not a checkpoint")
    (folder / "cut.zip").write_bytes(b"PK")
    save_checkpoint(folder / "nir.ckpt", ("B8", "B4", "B3"))
    save_checkpoint(folder / "twelve.ckpt", ALL_BANDS)
    return folder


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data_dir", "{tmp}/nowhere"], "does not exist"),
        (["--split_seed", "99999999999999999999"], "--split_seed must be 0 or more and below"),
        (["--data_dir", "{tmp}"], "has no class folders"),
        (["--base_encoder", "resnet19"], "unknown encoder resnet19: the known ones are .*resnet18"),
        (["--backbone_type", "pretrain"], "needs --ckpt_path"),
        (["--backbone_type", "pretrain", "--ckpt_path", "{tmp}/none.ckpt"], "does not exist"),
        (
            ["--backbone_type", "pretrain", "--ckpt_path", "{saved}/text.ckpt"],
            "not a readable check",
        ),
        (
            ["--backbone_type", "pretrain", "--ckpt_path", "{saved}/nir.ckpt"],
            "trained on B8 B4 B3, but EuroSAT in RGB has no B8",
        ),
        (
            ["--backbone_type", "pretrain", "--ckpt_path", "{saved}/twelve.ckpt"],
            "trained on B1 .* B12, but EuroSAT in RGB has no B1 B5 B6 B7 B8 B8A B9 B11 B12",
        ),
        (["--gpus", "64"], "--gpus 64 was requested"),
        (["--resume_from_checkpoint", __file__], "probes write no checkpoint"),
        (["--num_workers", "-1"], "--num_workers must be 0 or more"),
        (["--num_seeds", "0"], "--num_seeds must be above 0"),
        (["--val_frac", "1.1"], "--val_frac must be above 0"),
        (["--train_frac", "0.1", "0"], "--train_frac must be above 0"),
        (["--train_frac", "0.5", "0.5"], "names a share twice"),
        (["--train_frac", "0.05", "1"], "--train_frac 0.05 leaves no sample of .* more: raise it"),
        (["--train_frac", "0.5", "--labels_per_class", "2"], "exclude each other"),
        (["--method", "knn", "--labels_per_class", "1"], "10 labelled images are fewer than 20"),
        (
            ["--method", "knn", "linear", "--protocol", "paper"],
            "paper has only --method linear",
        ),
        (["--split", "spatial"], "--split spatial needs eurosat-spatial-train.txt"),
        (["--bands", "B8", "B4", "B3"], "trained on B8 B4 B3, but EuroSAT in RGB has no B8"),
        (["--save_predictions", "{tmp}/p.csv"], "must end in .npz or .parquet"),
        (["--finetune_epochs", "0"], "--finetune_epochs must be above 0"),
        (["--data_dir", "{saved}/cut.zip"], "cut.zip is not a whole zip"),
        (["--labels_per_class", "7"], "more than the 6 train images"),
        (["--protocol", "paper", "--batch_size", "32"], "more than the 20 val images"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(
    extra: list[str], message: str, flags: list[str], saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        main_eurosat.main([*flags, *[part.format(tmp=tmp_path, saved=saved) for part in extra]])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "logs").exists()


def test_script_reports_bad_input_on_stderr_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "nowhere"
    flags = ["--data_dir", str(missing), "--log_dir", str(tmp_path / "logs")]
    flags += ["--backbone_type", "random", "--gpus", "0"]
    assert exit_code(monkeypatch, "main_eurosat.py", *flags) == 2
    says = f"error: --data_dir {missing} does not exist: correct the path\n"
    assert capsys.readouterr().err == says
    assert list(tmp_path.iterdir()) == []


# --- methods ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """Metrics and log folder of a run with all methods on frozen features and two shares."""
    logs = tmp_path_factory.mktemp("curve")
    flags = short_flags(data_dir, logs, num_seeds=2, save_predictions=logs / "p.npz")
    extra = ["--method", "lbfgs", "linear", "knn", "--train_frac", "1", "0.5"]
    return main_eurosat.main([*flags, *extra]), logs


@pytest.mark.difference("eurosat-epoch")
def test_every_method_and_share_is_measured(curve: tuple[Any, Path]) -> None:
    metrics, logs = curve
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
    # The first method with most labels is on top.
    assert results["lbfgs"]["1"].items() <= metrics.items()
    assert metrics["num_labelled"] == 60
    (run_dir,) = logs.glob("eurosat-random/*")
    files = ["arguments.json", "config.yaml", "confusion.png", "errors.png", "label_efficiency.png"]
    files += ["report.html", "results.json", "test.txt", "train.txt", "val.txt"]
    assert sorted(path.name for path in run_dir.iterdir()) == files


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


def test_spatial_lists_are_used_when_requested(data_dir: Path, tmp_path: Path) -> None:
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
    encoder = write_legacy_checkpoint(tmp_path / "published.ckpt")
    path = tmp_path / "p.npz"
    flags = short_flags(data_dir, tmp_path, num_seeds=1, save_predictions=path)
    extra = ["--backbone_type", "pretrain", "--ckpt_path", str(tmp_path / "published.ckpt")]
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


def test_further_processes_of_a_launcher_have_nothing_to_probe(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_eurosat.flags, "plan_processes", lambda _: World(1, 2, rank=1))
    assert main_eurosat.main(short_flags(data_dir, tmp_path / "logs")) == {}
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
@pytest.mark.difference("eurosat-devices")
def test_two_processes_fine_tune_and_leave_one_folder(data_dir: Path, tmp_path: Path) -> None:
    flags = short_flags(data_dir, tmp_path, num_processes=2, num_seeds=2, batch_size=20)
    extra = ["--method", "knn", "finetune", "--accelerator", "dp"]
    done = in_processes("main_eurosat.py", *flags, *extra)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("eurosat-random/*/results.json")
    result = json.loads(path.read_text())["metrics"]["by_method"]["finetune"]["1"]
    assert len(result["test/accuracy_per_seed"]) == 2
    assert np.sum(result["test/confusion"]) == 20  # no image is scored twice
    assert done.stdout.count("knn5, 60 labels") == 1
    assert done.stderr.count("probes run on one device") == 1
    assert done.stderr.count("runs as ddp with the batch split") == 1


@pytest.mark.parametrize("method", ["linear", "lbfgs"])
def test_classes_without_pictures_keep_their_places(method: str, tmp_path: Path) -> None:
    """Labels of a part of EuroSAT's classes stay those of the whole."""
    write_eurosat(tmp_path / "EuroSAT", images_per_class=5, size=16, num_workers=1)
    kept = ("Forest", "River", "SeaLake")
    for name in set(EurosatDataset.all_classes) - set(kept):
        shutil.rmtree(tmp_path / "EuroSAT" / name)
    flags = short_flags(tmp_path / "EuroSAT", tmp_path, method=method, num_seeds=1, batch_size=4)
    metrics = main_eurosat.main([*flags, "--debug"])
    assert metrics["classes"] == list(EurosatDataset.all_classes)
    assert set(metrics["test/recall"]) == set(kept)
    assert len(metrics["test/confusion"]) == 10
    assert metrics["num_train"] == 9
