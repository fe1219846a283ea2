"""Whole runs with the variables of launchers: real ones, and those that they leave behind."""

import json
import os
import warnings
from pathlib import Path
from types import ModuleType

import pytest
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities import rank_zero_only

import main_eurosat
import main_oscd
import main_pretrain
from tests.references.launcher_variables import forget_launchers, lightning, salloc, set_all, srun
from tests.references.script import exit_code
from utils.launch import World, launch_kwargs

ROOT = Path(__file__).resolve().parents[2]
STALE = "hpc_ckpt_1.ckpt"  # pytorch_lightning/trainer/connectors/checkpoint_connector.py


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, _restored_signals: None) -> None:
    """No launcher, an own working directory, and signals and ranks as they were afterwards."""
    forget_launchers(monkeypatch)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def flags(text: str, data_dir: Path, log_dir: Path) -> list[str]:
    common = "--gpus 0 --num_workers 0 --max_epochs 1 --precision 32-true --data_dir"
    return [*text.split(), *common.split(), str(data_dir), "--log_dir", str(log_dir)]


# Two steps of a pre-training.
PRETRAIN = "--base_encoder resnet18_slim --crop_size 32 --batch_size 3 --num_negatives 8"


@pytest.fixture
def pretrain(seco_root: Path, tmp_path: Path) -> list[str]:
    return flags(PRETRAIN, seco_root, tmp_path / "logs")


@pytest.fixture
def eurosat(eurosat_root: Path, tmp_path: Path) -> list[str]:
    """Flags of a probe that Lightning trains."""
    text = "--protocol paper --backbone_type random --base_encoder resnet18_slim --batch_size 8"
    return flags(text, eurosat_root, tmp_path / "logs")


@pytest.fixture
def oscd(oscd_root: Path, tmp_path: Path) -> list[str]:
    """Flags of a change detector."""
    text = "--backbone_type random --base_encoder resnet18_slim --patch_size 32"
    return flags(text, oscd_root, tmp_path / "logs")


@pytest.fixture(scope="module")
def finished(seco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run that has its epoch."""
    log_dir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        forget_launchers(patch)
        main_pretrain.main(flags(PRETRAIN, seco_root, log_dir))
    return next(log_dir.rglob("last.ckpt"))


@pytest.mark.parametrize("variables", [srun(1), salloc(2)], ids=["srun", "salloc"])
@pytest.mark.difference("requeue")
def test_a_new_run_in_a_job_of_slurm_takes_no_checkpoint_from_the_working_directory(
    variables: dict[str, str],
    finished: Path,
    pretrain: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning would continue the other run, which has its epoch, and train nothing."""
    stale = finished.read_bytes()
    Path(STALE).write_bytes(stale)
    set_all(monkeypatch, variables)
    trainer = main_pretrain.main(pretrain)
    assert trainer.global_step == 2
    assert trainer.ckpt_path is None
    assert [path.name for path in Path().iterdir()] == [STALE]
    assert Path(STALE).read_bytes() == stale


def test_a_run_resumes_in_a_job_of_slurm_from_the_named_checkpoint_only(
    finished: Path, pretrain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(STALE).write_bytes(b"another run's")
    set_all(monkeypatch, srun(1))
    more = ["--max_epochs=2", f"--resume_from_checkpoint={finished}"]
    assert main_pretrain.main([*pretrain, *more]).global_step == 4


@pytest.mark.parametrize("script", [main_eurosat, main_oscd])
def test_downstream_runs_take_none_either(
    script: ModuleType, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(STALE).write_bytes(b"another run's")
    set_all(monkeypatch, srun(1))
    given = request.getfixturevalue(script.__name__.removeprefix("main_"))
    assert script.main([*given, "--debug"])
    assert [path.name for path in Path().iterdir()] == [STALE]


def test_every_trainer_is_built_for_the_planned_processes() -> None:
    """So that none asks Lightning to guess the launcher, or to requeue."""
    folders = (ROOT, *(ROOT / name for name in ("datasets", "models", "utils", "benchmarks")))
    sources = {path: path.read_text() for folder in folders for path in folder.glob("*.py")}
    builders = {path for path, source in sources.items() if " Trainer(\n" in source}
    builders.remove(ROOT / "benchmarks" / "plain_training.py")  # as a user writes it
    assert builders == {ROOT / "utils" / "training.py"}
    for path in builders:
        assert "launch_kwargs(world)" in sources[path]


def test_lightning_never_requeues_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, srun(2, rank=1, per_node=2))
    environment = launch_kwargs(World(1, 2, 1))["plugins"][0]
    assert isinstance(environment, SLURMEnvironment)
    assert not environment.auto_requeue


def test_tasks_that_lightning_would_reject_are_one_sentence(
    pretrain: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, srun(4, nodes=2, per_node=2))
    code = exit_code(monkeypatch, "main_pretrain.py", *pretrain, "--num_processes", "4")
    (line,) = capsys.readouterr().err.splitlines()
    assert (code, line.startswith("error: SLURM started ")) == (2, True)
    assert "use srun --nodes 1 --ntasks-per-node" in line


def test_oscd_refuses_several_tasks(
    oscd: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, srun(2, per_node=2))
    assert exit_code(monkeypatch, "main_oscd.py", *oscd) == 2
    assert "srun --nodes 1 --ntasks-per-node 1" in capsys.readouterr().err


def test_a_shell_of_slurm_does_not_advise_srun(
    pretrain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun_command = tmp_path / "bin" / "srun"
    srun_command.parent.mkdir()
    srun_command.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(srun_command.parent), prepend=os.pathsep)
    set_all(monkeypatch, salloc(1, "interactive"))
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        main_pretrain.main([*pretrain, "--debug"])
    assert not [warning for warning in recorded if "srun" in str(warning.message)]


def test_numbers_that_are_left_over_are_of_the_only_process(
    eurosat: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_all(monkeypatch, lightning(1, 2))
    # As it is when Lightning is imported with these variables.
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    metrics = main_eurosat.main(eurosat)
    assert metrics["val/accuracy_batch_mean"] > 0
    (path,) = (tmp_path / "logs").rglob("results.json")
    assert path.parent.name == "version_0"
    assert json.loads(path.read_text())["metrics"] == metrics
    assert str(path) in capsys.readouterr().out


def test_pre_training_with_a_number_left_over_writes_its_own_folder(
    pretrain: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    main_pretrain.main(pretrain)
    (kind,) = (tmp_path / "logs").iterdir()
    assert [path.name for path in kind.iterdir()] == ["version_0"]
    names = {path.name for path in (kind / "version_0").iterdir()}
    assert {"metrics.csv", "results.json", "curves.png", "checkpoints"} <= names
