"""``main_oscd.py`` from flags to files, in process, on four small cities."""

import csv
import json
import shutil
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from torch import Tensor

import main_oscd
from datasets import mini_earth
from datasets.oscd.tiles import WholeCities
from models.backbones import Encoder, load_encoder
from models.change_detector import ChangeDetector
from models.change_runs import ChangeTask
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.script import as_flags
from utils.checkpoint import read_checkpoint
from utils.errors import UserError
from utils.input_spec import InputSpec

ROOT = Path(__file__).resolve().parents[2]
SIDE = 70  # 3 x 3 tiles of 32 px, of which the last ones have 6


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cities to train (aguasclaras), validate (bercy) and test (brasilia, montpellier)."""
    root = tmp_path_factory.mktemp("mini_earth") / "oscd"
    mini_earth.write_oscd(root, num_cities=4, size=SIDE, num_workers=1)
    return root


def short_flags(data_dir: Path, log_dir: Path) -> list[str]:
    sizes = {"max_epochs": 1, "num_workers": 0, "num_seeds": 1, "patch_size": 32, "batch_size": 4}
    where = {"data_dir": data_dir, "log_dir": log_dir, "gpus": 0, "precision": "32-true"}
    encoder = {"backbone_type": "random", "base_encoder": "resnet18_slim"}
    return as_flags(**encoder, **where, **sizes)


@pytest.fixture
def flags(data_dir: Path, tmp_path: Path) -> list[str]:
    """Flags of a short run."""
    return short_flags(data_dir, tmp_path / "logs")


@dataclass(frozen=True)
class Finished:
    """What two detectors of three epochs left."""

    run_dir: Path
    metrics: dict[str, Any]
    arrays: dict[str, np.ndarray]
    printed: list[str]


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root, printed = tmp_path_factory.mktemp("finished"), StringIO()
    extra = ["--max_epochs", "3", "--num_seeds", "2", "--save_predictions", str(root / "maps.npz")]
    with redirect_stdout(printed):
        metrics = main_oscd.main([*short_flags(data_dir, root), *extra])
    arrays = dict(np.load(root / "maps.npz", allow_pickle=False))
    run_dir = root / "oscd-random/version_0"
    return Finished(run_dir, metrics, arrays, printed.getvalue().splitlines())


@pytest.fixture
def detectors(monkeypatch: pytest.MonkeyPatch) -> list[ChangeDetector]:
    """Every detector that is built."""
    built: list[ChangeDetector] = []
    build = ChangeTask.build

    def record(self: ChangeTask, seed: int, frac: float) -> ChangeDetector:
        built.append(build(self, seed, frac))
        return built[-1]

    monkeypatch.setattr(ChangeTask, "build", record)
    return built


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """The encoder that the run copies."""
    made, spec = load_encoder("random", "resnet18_slim")
    monkeypatch.setattr("models.backbones.load_encoder", lambda *_, **__: (made, spec))
    return made


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        band: np.ndarray = file.read(1)
    return band


def test_run_leaves_scores_and_checkpoints(finished: Finished) -> None:
    run_dir, metrics = finished.run_dir, finished.metrics
    assert finished.printed[-2:] == [
        f"checkpoint: {run_dir / 'seed=42/best.ckpt'}",
        f"results: {run_dir / 'results.json'}",
    ]
    written = json.loads((run_dir / "results.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(metrics))
    # From which the report finds the random encoder that belongs to it.
    assert metrics["encoder"] == {"base_encoder": "resnet18_slim", "bands": ["B4", "B3", "B2"]}
    assert [metrics[f"num_{split}_cities"] for split in ("train", "val", "test")] == [1, 1, 2]
    for name in ("f1", "precision", "recall", "iou"):
        assert len(metrics[f"test/{name}_per_seed"]) == 2
        low, high = metrics[f"test/{name}_interval"]
        assert 0 <= low <= metrics[f"test/{name}"] <= high <= 100
    for seed in ("seed=42", "seed=43"):
        names = ["arguments.json", "best.ckpt", "last.ckpt", "metrics.csv"]
        found = sorted(path.name for path in (run_dir / seed).iterdir())
        assert found == [*names, "previous.ckpt"]
        with (run_dir / seed / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len([row for row in rows if row["train/loss"]]) == 3


def test_maps_are_georeferenced_like_their_images_and_show_the_detections(
    finished: Finished, data_dir: Path
) -> None:
    folder, arrays = finished.run_dir / "maps", finished.arrays
    cities = ("brasilia", "montpellier")
    endings = (".png", "_change.tif", "_probability.tif")
    names = [f"{city}{ending}" for city in cities for ending in endings]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert arrays["threshold"] == finished.metrics["val/threshold_per_seed"][0]
    for city in cities:
        changed, probability = folder / f"{city}_change.tif", folder / f"{city}_probability.tif"
        for path in (changed, probability):
            with (
                rasterio.open(data_dir / city / "imgs_1_rect/B04.tif") as one,
                rasterio.open(path) as other,
            ):
                assert one.crs == other.crs
                assert one.transform == other.transform
                assert one.shape == other.shape
        assert np.array_equal(read(probability), arrays[city])
        assert set(np.unique(read(changed))) <= {1, 2}
        found = arrays[city] >= np.float32(arrays["threshold"])
        assert np.array_equal(read(changed) == 2, found)
        truth = np.asarray(Image.open(data_dir / city / "cm/cm.png")) == 255
        assert np.array_equal(arrays[f"{city}_changed"], truth)
        assert Image.open(folder / f"{city}.png").width > 1000


@pytest.mark.difference("oscd-scores")
def test_global_scores_equal_a_slow_recount_of_the_maps(finished: Finished, data_dir: Path) -> None:
    total = {"true": 0, "false": 0, "missed": 0}
    metrics = finished.metrics
    for city in ("brasilia", "montpellier"):
        count = dict.fromkeys(total, 0)
        found = (read(finished.run_dir / f"maps/{city}_change.tif") == 2).tolist()
        changed = (read(data_dir / city / f"cm/{city}-cm.tif") == 2).tolist()
        for row in range(SIDE):
            for column in range(SIDE):
                if found[row][column] and changed[row][column]:
                    count["true"] += 1
                elif found[row][column]:
                    count["false"] += 1
                elif changed[row][column]:
                    count["missed"] += 1
        total = {name: total[name] + count[name] for name in total}
    for name, value in slow_scores(**total).items():
        assert metrics[f"test/{name}_per_seed"][0] == pytest.approx(value)


def slow_scores(true: int, false: int, missed: int) -> dict[str, float]:
    precision, recall = true / max(1, true + false), true / (true + missed)
    return {
        "precision": 100 * precision,
        "recall": 100 * recall,
        "f1": 100 * 2 * precision * recall / (precision + recall) if true else 0,
        "iou": 100 * true / (true + false + missed),
    }


@pytest.mark.difference("oscd-batch-norm")
@pytest.mark.parametrize("extra", [[], ["--finetune_backbone"]])
def test_frozen_means_that_no_tensor_of_the_encoder_changes(
    extra: list[str],
    flags: list[str],
    tmp_path: Path,
    encoder: Encoder,
    detectors: list[ChangeDetector],
) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    main_oscd.main([*flags, "--debug", *extra])
    after = detectors[-1].model.siamese.encoder.state_dict()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != bool(extra), name  # fine-tuning changes all
        assert torch.equal(encoder.state_dict()[name], before[name]), name
    assert not (tmp_path / "logs").exists()


def test_best_checkpoint_draws_the_maps_again(
    finished: Finished, flags: list[str], detectors: list[ChangeDetector]
) -> None:
    best = read_checkpoint(finished.run_dir / "seed=42/best.ckpt")
    assert best["hyper_parameters"]["threshold"] == finished.arrays["threshold"]
    task, data, _ = main_oscd.prepare(main_oscd.parse_args(flags))
    detector = task.build(0, 1.0)
    detector.load_state_dict(best["state_dict"])
    with torch.no_grad():
        for city in data.cities["test"]:
            pair = (torch.from_numpy(image)[None] for image in (city.image_1, city.image_2))
            probability = detector.eval()(*pair).sigmoid()[0]
            assert np.allclose(probability, finished.arrays[city.name], atol=1e-5)


def test_epoch_and_threshold_are_those_of_the_highest_validation_f1(finished: Finished) -> None:
    for position, seed in enumerate((42, 43)):
        with (finished.run_dir / f"seed={seed}/metrics.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["val/f1"]]
        f1 = [float(row["val/f1"]) for row in rows]
        best = f1.index(max(f1))
        chosen = {
            "f1": f1[best],
            "epoch": best + 1,
            "threshold": float(rows[best]["val/threshold"]),
        }
        for name, value in chosen.items():
            found = finished.metrics[f"val/{name}_per_seed"][position]
            assert found == pytest.approx(value, abs=1e-4)
        assert len(f1) == 3


@pytest.mark.difference("oscd-randomness")
def test_resumed_run_equals_an_unbroken_one_on_any_number_of_workers(
    finished: Finished, flags: list[str], tmp_path: Path
) -> None:
    main_oscd.main([*flags, "--num_workers", "1"])
    runs = tmp_path / "logs/oscd-random"
    last = ["--resume_from_checkpoint", str(runs / "version_0/seed=42/last.ckpt")]
    resumed = main_oscd.main([*flags, *last, "--max_epochs", "3"])
    for name in ("val/f1", "val/epoch", "val/threshold", "test/f1", "test/recall"):
        assert resumed[name] == finished.metrics[f"{name}_per_seed"][0]
    one, other = (
        torch.load(folder / "seed=42/last.ckpt", weights_only=True)
        for folder in (finished.run_dir, runs / "version_1")
    )
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for name, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][name]), name
    moments = [content["optimizer_states"][0]["state"] for content in (one, other)]
    assert len(moments[0]) == len(moments[1]) == 4 * 5 + 2  # of the decoder alone
    for number, state in moments[0].items():
        assert torch.equal(state["exp_avg"], moments[1][number]["exp_avg"])
    (rate,) = one["lr_schedulers"][0]["_last_lr"]
    assert rate == pytest.approx(1e-3 * 0.95**3)


def test_another_run_is_not_resumed(finished: Finished, flags: list[str], tmp_path: Path) -> None:
    folder = finished.run_dir / "seed=42"
    last = ["--resume_from_checkpoint", str(folder / "last.ckpt")]
    for extra, message in (
        (["--learning_rate", "0.1"], r"0\.1 contradicts the run of .*, which has 0\.001"),
        (["--seed", "7"], "--seed 7 contradicts the run of .*, which has 42: leave it out"),
        (["--base_encoder", "resnet34"], "--base_encoder resnet34 contradicts"),
        (["--num_seeds", "2"], "--num_seeds 2 contradicts .* has 1: leave it out"),
        ([], "has its 3 epochs already: raise --max_epochs above 3"),
        (["--resume_from_checkpoint", str(folder / "best.ckpt")], "cannot be resumed"),
    ):
        with pytest.raises(UserError, match=message):
            main_oscd.main([*flags, *last, *extra])
    assert not (tmp_path / "logs").exists()


@pytest.mark.difference("oscd-images", "oscd-input", "oscd-scores")
def test_paper_protocol_is_the_originals(
    flags: list[str],
    data_dir: Path,
    tmp_path: Path,
    encoder: Encoder,
    detectors: list[ChangeDetector],
) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    root = tmp_path / "native"
    shutil.copytree(data_dir, root, ignore=shutil.ignore_patterns("imgs_*_rect"))
    paper = ["--protocol", "paper", "--data_dir", str(root)]
    paper += ["--batch_size", "7", "--max_epochs", "2"]
    metrics = main_oscd.main([*flags, *paper])

    assert metrics["num_train_cities"] == 2  # all of them: 18 tiles, of which 14 count
    model = detectors[-1].model.eval()
    assert model.siamese.feature_indices == (0, 4, 5, 6, 7)
    assert detectors[-1].pos_weight == 1
    for name, tensor in model.siamese.encoder.state_dict().items():
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(tensor, before[name]) != is_statistic, name
    assert model.siamese.encoder.state_dict()["1.num_batches_tracked"] == 2 * 2 * 2
    tiles = [
        tile for city in ("brasilia", "montpellier") for tile in original_tiles(root / city, 32)
    ]
    order = np.random.default_rng(np.random.SeedSequence(42, spawn_key=(1,))).permutation(18)
    f1, precision, recall = [], [], []
    for batch in (order[:7], order[7:14]):
        one, two, mask = (
            torch.stack(part) for part in zip(*(tiles[i] for i in batch), strict=True)
        )
        with torch.no_grad():
            found = model(one, two)[:, 0].sigmoid() >= 0.5
        true = (found & (mask == 1)).sum().item()
        precision.append(100 * true / max(1, found.sum().item()))
        recall.append(100 * true / max(1, mask.sum().item()))
        f1.append(200 * true / max(1, found.sum().item() + mask.sum().item()))
    for name, values in (("f1", f1), ("precision", precision), ("recall", recall)):
        assert metrics[f"val/{name}_batch_mean"] == pytest.approx(sum(values) / 2, abs=1e-3)
    assert max(f1) > 0
    assert "val/f1" not in metrics
    assert "val/threshold" not in metrics
    run_dir = tmp_path / "logs/oscd-random/version_0"
    assert not (run_dir / "seed=42/best.ckpt").exists()
    with pytest.raises(UserError, match="has no B04"):
        main_oscd.main([*flags, "--data_dir", str(root)])  # by default registered images are read


def original_tiles(city: Path, side: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Read a city with PIL as the original does: pictures in 0..1, padding included."""
    quantiles = {"B04": (426, 3698), "B03": (667, 2969), "B02": (885, 2620)}
    layers = []
    for date in (1, 2):
        bands = []
        for band, (low, high) in quantiles.items():
            (path,) = (city / f"imgs_{date}").glob(f"*_{band}.tif")
            share = np.clip((read(path).astype(float) - low) / (high - low), 0, 1)
            bands.append((share * 255).astype(np.uint8))
        layers.append(Image.fromarray(np.dstack(bands)))
    layers.append(Image.open(city / "cm/cm.png").convert("L"))
    tiles = []
    for top in range(0, layers[0].height, side):
        for left in range(0, layers[0].width, side):
            cut = [np.asarray(p.crop((left, top, left + side, top + side))) for p in layers]
            one, two, mask = (torch.from_numpy(part.copy()) / 255 for part in cut)
            tiles.append((one.permute(2, 0, 1), two.permute(2, 0, 1), mask))
    return tiles


def test_shares_of_the_tiles_make_a_curve(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = main_oscd.main([*flags, "--train_frac", "1", "0.5"])
    printed = capsys.readouterr().out.splitlines()
    finished = [line.split(":")[0] for line in printed if line.endswith(" %")]
    assert finished[:2] == ["50 % of the tiles", "100 % of the tiles"]
    shares = [line.split()[1] for line in printed if line.startswith("test/f1")]
    assert shares == ["50", "100"]
    assert "test F1 of each city, 100 % of the tiles" in printed
    run_dir = tmp_path / "logs/oscd-random/version_0"
    assert list(metrics["by_train_frac"]) == ["0.5", "1"]
    assert metrics["test/f1"] == metrics["by_train_frac"]["1"]["test/f1"]
    assert (run_dir / "frac=0.5/seed=42/best.ckpt").exists()
    assert (run_dir / "frac=1/seed=42/best.ckpt").exists()
    assert Image.open(run_dir / "label_efficiency.png").width > 300


@pytest.mark.difference("oscd-patch-size")
def test_thirteen_bands_in_a_deeper_encoder_are_trained_on_tiles_of_the_given_size(
    flags: list[str], detectors: list[ChangeDetector]
) -> None:
    bands = [f"B{number}" for number in range(1, 13)] + ["B8A"]
    extra = ["--base_encoder", "resnet34", "--bands", *bands, "--debug"]
    extra += ["--patch_size", "40"]
    task, data, _ = main_oscd.prepare(main_oscd.parse_args([*flags, *extra]))
    tiles, val = data.samples(40, 42, 1.0)
    assert tiles[0, 0][0].shape == (13, 40, 40)
    assert len(tiles) == 4
    masks = [city.mask for city in data.cities["train"]]
    ratio = sum((~mask).sum() for mask in masks) / sum(mask.sum() for mask in masks)
    whole = WholeCities(data.cities["test"])
    outcome = task.run(42, 1.0, tiles, val, [whole[0], whole[1]], None)
    assert detectors[-1].pos_weight.item() == pytest.approx(ratio)
    assert [tuple(map_.shape) for map_ in outcome.probabilities] == [(SIDE, SIDE)] * 2


@pytest.mark.difference("oscd-input")
def test_checkpoint_is_read_with_its_own_bands_and_stretch(
    flags: list[str], tmp_path: Path, data_dir: Path
) -> None:
    spec = InputSpec(("B8", "B4", "B3"), (0.0,) * 3, (100.0,) * 3, (0.5,) * 3, (0.2,) * 3)
    state = Encoder("resnet18").state_dict()
    content = {"hyper_parameters": {"base_encoder": "resnet18", "input_spec": spec.to_dict()}}
    content["state_dict"] = {f"encoder_q.{name}": tensor for name, tensor in state.items()}
    torch.save(content, tmp_path / "nir.ckpt")
    extra = ["--backbone_type", "pretrain", "--ckpt_path", str(tmp_path / "nir.ckpt")]
    extra += ["--base_encoder", "resnet18"]
    task, data, transform = main_oscd.prepare(main_oscd.parse_args([*flags, *extra]))
    assert transform.bands == ("B8", "B4", "B3")
    stored = read(data_dir / "brasilia/imgs_2_rect/B08.tif").astype(float)
    steps = np.floor(255 * np.minimum(stored / 10_000, 1))  # SeCo's unit
    picture = np.floor(np.minimum(steps / 100, 1) * 255)
    assert np.abs(data.cities["test"][0].image_2[0] - picture).max() <= 1
    for name, tensor in task.encoder.state_dict().items():
        assert torch.equal(tensor, state[name])
    released = write_legacy_checkpoint(tmp_path / "nir.ckpt")  # one of the original
    task, _, transform = main_oscd.prepare(main_oscd.parse_args([*flags, *extra]))
    for name, tensor in task.encoder.state_dict().items():
        assert torch.equal(tensor, released.state_dict()[name]), name
    assert transform.bands == ("B4", "B3", "B2")


def test_the_originals_command_parses_with_its_defaults() -> None:
    args = main_oscd.parse_args(
        ["--data_dir", "datasets/oscd", "--backbone_type", "pretrain", "--ckpt_path", "a.ckpt"]
    )
    assert (args.patch_size, args.batch_size, args.max_epochs) == (96, 32, 100)
    assert args.learning_rate == 1e-3
    assert not args.finetune_backbone


@pytest.mark.difference("oscd-devices")
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--data_dir", "{tmp}/nowhere"], "does not exist"),
        (["--data_dir", "{tmp}"], "holds no OSCD city"),
        (["--patch_size", "31"], "--patch_size must be 32 or more, not 31"),
        (["--protocol", "paper", "--patch_size", "32", "--batch_size", "1"], "too small for batch"),
        (["--seed", "4294967295", "--num_seeds", "2"], r"must be below 2\*\*32"),
        (["--save_predictions", "/dev/null/p.npz"], r"/dev/null/p\.npz cannot be written"),
        (["--pos_weight", "-1"], "--pos_weight must be above 0"),
        (["--val_frac", "0.5"], "--val_frac is not a flag"),
        (["--save_predictions", "a.parquet"], r"a\.parquet must end in \.npz"),
        (["--gpus", "64"], "--gpus 64: OSCD is small"),
        (["--resume_from_checkpoint", "{tmp}/none.ckpt"], "does not exist"),
        (["--resume_from_checkpoint", __file__, "--train_frac", "0.1", "1"], "one --train_frac"),
        (["--protocol", "paper", "--batch_size", "19"], "19 is more than the 18 train images"),
        (["--data_dir", "{tmp}/still"], "no pixel changed in bercy: there is nothing to find"),
        (["--bands", "B4", "B3", "B13"], "OSCD has no B13"),
        (["--protocol", "paper", "--bands", "B4", "B3", "B5"], "take bands of one resolution"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(
    extra: list[str], message: str, flags: list[str], tmp_path: Path, data_dir: Path
) -> None:
    if extra[-1] == "{tmp}/still":
        shutil.copytree(data_dir, tmp_path / "still")
        Image.new("L", (SIDE, SIDE)).save(tmp_path / "still/bercy/cm/cm.png")
    with pytest.raises(UserError, match=message) as caught:
        main_oscd.main([*flags, *[part.format(tmp=tmp_path) for part in extra]])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "logs").exists()
