"""``main_bigearthnet.py`` from flags to files, on a small BigEarthNet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

import main_bigearthnet
from datasets.bands import ALL_BANDS
from datasets.bigearthnet.index import open_bigearthnet
from datasets.bigearthnet.pictures import BigEarthNetPictures
from datasets.bigearthnet_dataset import main as write_lmdb
from models import features, finetuning
from models.backbones import Encoder, load_encoder
from models.ssl_finetuner import SSLFineTuner
from tests.references.bigearthnet_files import as_version_2, copied
from tests.references.bigearthnet_pictures import original_input
from tests.references.legacy_checkpoint import write_legacy_checkpoint
from tests.references.probe_pictures import stacked
from tests.references.script import as_flags, in_processes
from utils.errors import UserError
from utils.launch import World


@pytest.fixture(scope="module")
def data_dir(bigearthnet_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The LMDB of the 50 patches. Read only."""
    save_dir = tmp_path_factory.mktemp("lmdb") / "saved"
    write_lmdb(
        ["--data_dir", str(bigearthnet_root), "--save_dir", str(save_dir), "--num_workers", "0"]
    )
    return save_dir


@pytest.fixture
def flags(data_dir: Path, tmp_path: Path) -> list[str]:
    """Flags of a short run."""
    sizes = {"max_epochs": 3, "batch_size": 8, "image_size": 32, "num_workers": 0, "num_seeds": 1}
    encoder = {"backbone_type": "random", "base_encoder": "resnet18_slim"}
    where = {"data_dir": data_dir, "log_dir": tmp_path / "logs", "gpus": 0}
    return ["--lmdb", *as_flags(**encoder, **where, **sizes)]


@pytest.fixture
def probe(flags: list[str]) -> list[str]:
    return [*flags, "--freeze_backbone", "--learning_rate", "1e-2"]


def tensors(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def fixed_encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    """Let the script judge an encoder that the test holds, too."""
    encoder, spec = load_encoder("random", "resnet18_slim")
    monkeypatch.setattr("models.backbones.load_encoder", lambda *_: (encoder, spec))
    return encoder


def stem(encoder: nn.Module) -> Tensor:
    """Return the filters of the first layer."""
    return encoder.get_parameter("0.weight")


def caught_modules(monkeypatch: pytest.MonkeyPatch) -> list[SSLFineTuner]:
    """Collect what is trained."""
    modules: list[SSLFineTuner] = []

    class Caught(SSLFineTuner):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            modules.append(self)

    monkeypatch.setattr(finetuning, "SSLFineTuner", Caught)
    return modules


def test_the_originals_command_means_what_it_meant() -> None:
    command = (
        "--gpus 4 --accelerator dp --batch_size 1024 --data_dir D --lmdb --train_frac 0.1 "
        "--backbone_type pretrain --ckpt_path X --freeze_backbone --learning_rate 1e-3"
    )
    args = main_bigearthnet.parse_args(command.split())
    assert (args.gpus, args.accelerator, args.batch_size) == (4, "dp", 1024)
    assert args.lmdb
    assert args.freeze_backbone
    assert args.train_frac == [0.1]
    args = main_bigearthnet.parse_args(["--data_dir", "D"])
    assert (args.backbone_type, args.base_encoder) == ("imagenet", None)
    assert (args.learning_rate, args.batch_size, args.max_epochs) == (1e-5, 256, 100)
    assert (args.milestones, args.train_frac, args.image_size) == ([60, 80], [1.0], 128)
    assert not args.lmdb
    assert not args.freeze_backbone


@pytest.mark.difference("ben-test")
def test_a_probe_leaves_results_pictures_and_predictions(
    probe: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "predictions.npz"
    many = ["--num_seeds", "2", "--train_frac", "1", "0.8", "--save_predictions", str(file)]
    metrics = main_bigearthnet.main([*probe, *many])

    run_dir = tmp_path / "logs" / "bigearthnet-probe-random" / "version_0"
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"results: {run_dir / 'results.json'}"
    assert "left out: " in err
    written = json.loads((run_dir / "results.json").read_text())
    assert written["metrics"] == json.loads(json.dumps(metrics))
    assert sorted(path.name for path in run_dir.iterdir()) == [
        *("arguments.json", "average_precision.png", "config.yaml", "errors.png"),
        *("label_efficiency.png", "report.html", "results.json"),
    ]
    assert Image.open(run_dir / "label_efficiency.png").width > 300
    assert list(metrics["by_train_frac"]) == ["0.8", "1"]
    labelled = [result["num_labelled"] for result in metrics["by_train_frac"].values()]
    assert labelled == [round(0.8 * metrics["num_train"]), metrics["num_train"]]
    for name in ("map_micro", "map_macro", "f1_micro", "f1_macro"):
        assert len(metrics[f"test/{name}_per_seed"]) == 2
        assert len(metrics[f"test/{name}_interval"]) == 2

    with np.load(file, allow_pickle=False) as saved:
        micro = average_precision_score(saved["targets"], saved["scores"], average="micro")
        assert metrics["test/map_micro_per_seed"][0] == pytest.approx(100 * micro, abs=1e-9)
        assert saved["embeddings"].shape == (metrics["num_test"], 128)
        assert len(saved["names"]) == metrics["num_test"]


def test_a_second_run_takes_the_features_from_the_first(
    probe: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = main_bigearthnet.main(probe)

    def fail(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("extracted again")

    monkeypatch.setattr(features, "extract_features", fail)
    second = main_bigearthnet.main([*probe, "--max_epochs", "3"])
    assert not first["features_were_cached"]
    assert second["features_were_cached"]
    assert second["test/map_micro_per_seed"] == first["test/map_micro_per_seed"]
    for other in (["--image_size", "48"], ["--seed", "7"], ["--input_norm", "paper"]):
        with pytest.raises(AssertionError, match="extracted again"):
            main_bigearthnet.main([*probe, *other])


def slow_probe(
    features: Tensor,
    targets: Tensor,
    *,
    seed: int,
    batch_size: int,
    falls: list[int],
    dropout: float = 0.0,
    drop_last: bool = False,
) -> Iterator[nn.Linear]:
    """Re-state the training of a layer by Adam; give the layer after each of 3 epochs."""
    generator = torch.Generator().manual_seed(seed)
    dim = features.shape[1]
    start = torch.empty(19, dim + 1).uniform_(-(dim**-0.5), dim**-0.5, generator=generator)
    layer = nn.Linear(dim, 19)
    layer.weight.data, layer.bias.data = start[:, :-1].clone(), start[:, -1].clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls)
    for _ in range(3):
        for rows in torch.randperm(len(features), generator=generator).split(batch_size):
            if drop_last and len(rows) < batch_size:
                continue
            inputs = features[rows]
            if dropout:
                kept = torch.rand(inputs.shape, generator=generator) >= dropout
                inputs = inputs * kept / (1 - dropout)
            optimizer.zero_grad()
            nn.MultiLabelSoftMarginLoss()(layer(inputs), targets[rows]).backward()
            optimizer.step()
        scheduler.step()
        yield layer.requires_grad_(False)
        layer.requires_grad_(True)


def test_methods_on_features_are_their_slow_restatement(
    probe: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam by autograd, its epoch by scikit-learn's micro-AP on val; neighbours by sorting."""
    encoder = fixed_encoder(monkeypatch)
    file = tmp_path / "predictions.npz"
    flags = ["--method", "knn", "linear", "lbfgs", "--milestones", "2", "--seed", "5", "--debug"]
    flags += ["--save_predictions", str(file), "--precision", "32-true"]
    metrics = main_bigearthnet.main([*probe, *flags])["by_method"]

    data = main_bigearthnet.load_task(main_bigearthnet.parse_args(probe), World())[1]
    with torch.no_grad():
        train, val, test = (
            encoder.eval()(data.transform.normalize(stacked(data, split))) for split in data.splits
        )
    labels, of_val, of_test = (data.targets[split].float() for split in data.splits)
    scale = torch.where(train.std(0) > 0, train.std(0), 1.0)

    def standardised(features: Tensor) -> Tensor:
        return (features - train.mean(0)) / scale

    layers = slow_probe(standardised(train), labels, seed=5, batch_size=8, falls=[2])
    epochs = []
    for layer in layers:
        scores = [layer(standardised(each)) for each in (val, test)]
        pairs = zip((of_val, of_test), scores, strict=True)
        epochs.append([100 * micro_precision(*pair) for pair in pairs])
    best = max(range(3), key=lambda epoch: epochs[epoch][0])
    linear = metrics["linear"]["1"]
    assert linear["best_epochs"] == [best + 1]
    assert linear["val/map_micro"] == pytest.approx(epochs[best][0], abs=1e-6)
    assert linear["test/map_micro"] == pytest.approx(epochs[best][1], abs=1e-6)

    for k in (5, 20):
        votes = torch.zeros(len(test), 19)
        for row, feature in enumerate(test):
            for neighbour, similarity in nearest(train, feature, k):
                closeness = (1 + similarity) / 2 / (k + 1)  # decides between equal votes
                votes[row] += labels[neighbour] * (1 + closeness)
        expected = 100 * micro_precision(of_test, votes)
        assert metrics[f"knn{k}"]["1"]["test/map_micro"] == pytest.approx(expected, abs=1e-6)
    with np.load(file, allow_pickle=False) as saved:  # of the first method, 5 neighbours
        counts = [sum(labels[neighbour] for neighbour, _ in nearest(train, f, 5)) for f in test]
        assert np.array_equal(saved["scores"] > 0, torch.stack(counts) > 2.5)  # type: ignore[arg-type]


def nearest(train: Tensor, feature: Tensor, k: int) -> list[tuple[int, float]]:
    """Return rows and similarities of the neighbours."""
    center = train.mean(0)
    similarity = torch.cosine_similarity(feature - center, train - center)
    return [(int(row), float(similarity[row])) for row in similarity.argsort(descending=True)[:k]]


def micro_precision(targets: Tensor, scores: Tensor) -> float:
    return float(average_precision_score(targets, scores, average="micro"))


@pytest.mark.difference("ben-normalisation", "ben-probe")
def test_paper_protocol_of_the_probe_is_the_original(
    probe: list[str], bigearthnet_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fixed_encoder(monkeypatch)
    flags = ["--protocol", "paper", "--batch_size", "4", "--milestones", "1", "2", "--debug"]
    flags += ["--train_frac", "0.6", "--image_size", "128"]
    metrics = main_bigearthnet.main([*probe, *flags])

    index = open_bigearthnet(bigearthnet_root, keep_unlabelled=True)
    train, val = index.splits["train"], index.splits["val"]
    train = train[np.random.default_rng(42).choice(range(len(train)), int(0.6 * len(train)))]
    folder = bigearthnet_root / "BigEarthNet-v1.0"
    seen, held_out = (
        torch.stack([original_input(folder / index.names[row]) for row in rows])
        for rows in (train, val)
    )
    with torch.no_grad():
        features, of_val = encoder.eval()(seen), encoder(held_out)
    settings = {"dropout": 0.2, "drop_last": True, "batch_size": 4, "falls": [1, 2]}
    targets_of_train = index.targets[train].float()
    *_, layer = slow_probe(features, targets_of_train, seed=42, **settings)  # type: ignore[arg-type]
    scores = layer(of_val).sigmoid().detach().numpy()
    targets = index.targets[val].numpy()
    batches = [slice(start, start + 4) for start in range(0, len(val) // 4 * 4, 4)]
    expected = [
        100 * average_precision_score(targets[b], scores[b], average="micro") for b in batches
    ]
    assert len(batches) * 4 < len(val), "nothing of val is dropped"
    assert len(train) % 4 > 1, "nothing of train is dropped"
    assert metrics["val/map_micro_batch_mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert metrics["num_labelled"] == len(train)
    assert not [name for name in metrics if name.startswith("test/")]


@pytest.mark.difference("ben-batch-norm")
def test_paper_protocol_fine_tunes_in_eval_mode_and_keeps_the_last_epoch(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fixed_encoder(monkeypatch)
    modules = caught_modules(monkeypatch)
    extra = ["--protocol", "paper", "--learning_rate", "1e-3", "--batch_size", "4", "--debug"]
    extra += ["--train_frac", "0.6"]
    metrics = main_bigearthnet.main([*flags, *extra])
    tuned = modules[0]
    assert tuned.dropout.p == 0.2
    for name, buffer in encoder.named_buffers():
        assert torch.equal(buffer, tuned.encoder_q.get_buffer(name)), name
    assert not torch.equal(stem(encoder), stem(tuned.encoder_q))
    assert metrics["num_labelled"] % 4 > 1, "nothing is dropped"
    assert tuned.trainer.global_step == 3 * (metrics["num_labelled"] // 4)
    assert not tuned.best.state  # val, every 10 epochs, was never looked at
    assert metrics["by_method"] == {"finetune": metrics["by_train_frac"]}
    assert list(metrics["by_train_frac"]["0.6"]) == [
        *("val/map_micro_batch_mean", "val/map_micro_batch_mean_std"),
        *("val/map_micro_batch_mean_per_seed", "num_labelled", "seconds_training"),
    ]


@pytest.mark.difference("ben-batch-norm")
def test_fine_tuning_learns_statistics_and_leaves_the_encoder_as_it_was(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = fixed_encoder(monkeypatch)
    modules, before = caught_modules(monkeypatch), tensors(encoder)
    file = tmp_path / "predictions.parquet"
    extra = ["--num_seeds", "2", "--learning_rate", "1e-3", "--save_predictions", str(file)]
    metrics = main_bigearthnet.main([*flags, *extra, "--max_epochs", "2"])
    tuned = [module.encoder_q for module in modules]
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not torch.equal(tuned[0].get_buffer("1.running_mean"), before["1.running_mean"])
    assert not torch.equal(stem(tuned[0]), stem(tuned[1]))
    assert metrics["best_epochs"] == [module.best.epoch for module in modules]
    assert metrics["val/map_micro_per_seed"][0] == pytest.approx(modules[0].best.score, abs=1e-9)
    saved = pq.read_table(file)
    assert saved.num_rows == metrics["num_test"]
    assert len(saved["embeddings"][0]) == 128


def test_a_checkpoint_of_2021_is_evaluated_with_its_own_stretch(
    probe: list[str], data_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "published.ckpt"
    write_legacy_checkpoint(path)
    extra = as_flags(backbone_type="pretrain", base_encoder="resnet18", ckpt_path=path)
    assert 0 < main_bigearthnet.main([*probe, *extra, "--debug"])["test/map_micro"] < 100

    args = main_bigearthnet.parse_args([*probe, *extra, "--image_size", "120"])
    _, data, *_ = main_bigearthnet.load_task(args, World())
    train = data.splits["train"]
    assert isinstance(train.pictures, BigEarthNetPictures)
    picture = train.take()[0][0]
    (red, *_) = train.pictures.source.read(train.names[0], ["B4"])
    stored = np.floor(np.clip(red / 10_000, 0, 1) * 255)  # as SeCo stores reflectance
    assert np.array_equal(picture[0], np.floor(np.clip(stored / 129 * 255, 0, 255)))


def test_any_bands_and_43_classes_can_be_probed(probe: list[str]) -> None:
    extra = ["--bands", *ALL_BANDS, "--num_classes", "43", "--debug"]
    metrics = main_bigearthnet.main([*probe, *extra])
    assert len(metrics["classes"]) == len(metrics["test/ap_per_class"]) == 43


def test_a_probe_takes_the_batch_of_all_devices_on_one(
    probe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    one = main_bigearthnet.main([*probe, "--debug"])
    four = [*probe, "--num_processes", "4", "--debug"]
    with pytest.warns(UserWarning, match="runs as ddp"):
        split = main_bigearthnet.main([*four, "--accelerator", "dp"])
    assert capsys.readouterr().err.count("probes run on one device") == 1
    each = main_bigearthnet.main([*four, "--batch_size", "2"])
    for other in (split, each):
        assert other["val/map_micro_per_seed"] == one["val/map_micro_per_seed"]


@pytest.mark.difference("ben-devices")
@pytest.mark.slow
def test_two_processes_fine_tune_with_the_batch_split(flags: list[str], tmp_path: Path) -> None:
    extra = ["--accelerator", "dp", "--num_processes", "2", "--max_epochs", "1"]
    done = in_processes("main_bigearthnet.py", *flags, *extra)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "logs").glob("bigearthnet-finetune-random/version_*/results.json")
    metrics = json.loads(path.read_text())["metrics"]
    assert 0 < metrics["test/map_micro"] < 100
    assert done.stdout.count("labelled patches") == 1
    assert done.stderr.count("left out: ") == 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--train_frac", "0.1"], r"--train_frac 0\.1 leaves no sample of "),
        (["--protocol", "paper", "--batch_size", "64"], "64 is more than the 25 train images"),
        (["--protocol", "paper", "--batch_size", "9"], "9 is more than the 6 val images"),
        (["--bands", "B4", "B3", "B10"], "BigEarthNet has no B10"),
        (
            [*as_flags(backbone_type="imagenet", base_encoder="resnet18"), "--bands", *ALL_BANDS],
            "was trained on red, green",
        ),
        (["--method", "finetune"], "--freeze_backbone and --method finetune exclude each other"),
        (["--method", "knn", "--train_frac", "0.8"], "18 labelled images are fewer than 20"),
        (["--method", "knn", "--protocol", "paper"], "paper has only --method linear and finetune"),
        (["--image_size", "0"], "--image_size must be above 0"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_behind(
    probe: list[str], tmp_path: Path, extra: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        main_bigearthnet.main([*probe, *extra])
    assert not (tmp_path / "logs").exists()


def test_lists_without_test_run_as_the_original_only(
    probe: list[str], bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = copied(bigearthnet_root, tmp_path / "copy")
    (root / "bigearthnet-test.txt").unlink()
    plain = [*(flag for flag in probe if flag != "--lmdb"), "--data_dir", str(root), "--debug"]
    with pytest.raises(UserError, match="do not include the test split"):
        main_bigearthnet.main(plain)
    found = main_bigearthnet.main([*plain, "--protocol", "paper", "--batch_size", "4"])
    assert 0 < found["val/map_micro_batch_mean"] < 100


def test_version_2_has_no_43_classes(
    probe: list[str], bigearthnet_root: Path, tmp_path: Path
) -> None:
    root = as_version_2(bigearthnet_root, tmp_path / "v2")
    plain = [*(flag for flag in probe if flag != "--lmdb"), "--data_dir", str(root), "--debug"]
    assert 0 < main_bigearthnet.main(plain)["test/map_micro"] < 100
    with pytest.raises(UserError, match="use --num_classes 19"):
        main_bigearthnet.main([*plain, "--num_classes", "43"])


def test_the_rate_of_a_probe_is_not_that_of_fine_tuning() -> None:
    """The default of the original, 1e-5, is for fine-tuning; its commands give 1e-3 to probes."""
    parse = main_bigearthnet.parse_args
    both = parse(["--data_dir", "x", "--method", "linear", "finetune"])
    assert (both.learning_rate, both.finetune_learning_rate) == (1e-3, 1e-5)
    given = parse(["--data_dir", "x", "--method", "linear", "--learning_rate", "0.1"])
    assert (given.learning_rate, given.finetune_learning_rate) == (0.1, None)
    assert parse(["--data_dir", "x", "--freeze_backbone"]).learning_rate == 1e-5  # the original's
