"""Reports of runs: what they say, what they escape, and that nothing leaves the file."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import main_report
from models.run_report import curves
from models.run_report.baseline import baseline_command, find_baseline
from models.run_report.interactive import scatter
from models.run_report.page import Section, page, table
from models.run_report.queue import (
    keys_of_a_query,
    own_keys_remark,
    samples_per_step,
    steps_to_fill,
)
from models.run_report.run_files import read_run
from models.run_report.spaces import Sample, space_sections
from models.run_report.writing import report_run, write_report
from tests.references.run_folders import EVIL, write_pretraining
from utils.errors import UserError

FORMULA = "$\\frac{x$"  # as the name of a class; matplotlib would parse it, and fail
SPACES = {"seco": ["all", "season", "synthetic"], "moco": ["synthetic"]}


class Tags(HTMLParser):
    """Collect the tags of a page, and the addresses that they load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "data", "xlink:href"):
                self.loaded.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def write_evaluation(folder: Path, backbone: str, accuracy: float) -> Path:
    folder.mkdir(parents=True)
    result = {"test/accuracy": accuracy, "test/accuracy_interval": [accuracy - 1, accuracy + 1]}
    metrics = result | {"classes": [FORMULA, EVIL], "test/confusion": [[3, 1], [0, 4]]}
    metrics |= {"test/recall": {FORMULA: 75.0, EVIL: None}, "data": {"digest": "0123"}}
    shares = {"0.1": result | {"num_labelled": 5}, "1": result | {"test/accuracy": accuracy + 5}}
    metrics |= {"by_method": {"linear": shares}}
    arguments = {
        "backbone_type": backbone,
        "data_dir": "a.zip",
        "train_frac": [0.1, 1.0],
        "seed": 4,
    }
    facts = {"metrics": metrics, "arguments": arguments, "finished": True}
    (folder / "results.json").write_text(json.dumps(facts))
    return folder


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_a_pretraining_is_reported_with_chance_and_nothing_leaves_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_pretraining(tmp_path / "pretrain" / "version_0")
    Image.new("RGB", (30, 20)).save(folder / "views.png")
    report_run(folder, SPACES)
    assert "report.html" in capsys.readouterr().out
    text = text_of(folder)
    # 1 + 64 keys in Z0; in the others also 2 x 8 keys of the other views (SeCo, section 3.2).
    assert f"{np.log(65):.4g}" in text
    assert f"{1 / 81:.4g}" in text
    for title in ("Is it training?", "Probes during the training", "Views", "Flags and versions"):
        assert title in text
    tags = Tags(text)
    assert tags.tags.count("svg") == 3
    assert ">samples per second</text>" in text
    assert not tags.handlers
    assert all(value.startswith(("data:", "#")) for value in tags.loaded)
    assert "script" not in tags.tags  # readable without
    assert "Z1, invariant to the season" in text
    assert "own sample" not in text  # an unknown number of samples
    assert EVIL not in text
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert len(text) < 2**20


def test_a_queue_longer_than_an_epoch_explains_its_curves(tmp_path: Path) -> None:
    """The loss of 800 pictures rose, because each met five keys of its own in the queue."""
    folder = write_pretraining(tmp_path / "pretrain" / "version_0", data_mode="moco")
    facts = json.loads((folder / "results.json").read_text())
    # Recorded of four processes, which the flags do not say: 24 of 30 samples are used.
    facts["metrics"]["training"] = {"samples": 30, "samples_per_step": 12, "processes": 4}
    (folder / "results.json").write_text(json.dumps(facts))
    write_report([folder], folder / "report.html", SPACES)
    text = text_of(folder)
    assert "holds 64 keys, but an epoch has 24 samples" in text
    assert f"about {64 / 24:.1f} keys of its own sample" in text
    assert "--num_negatives 15, or with more samples" in text
    assert "synthetic: the only space, invariant to synthetic change" in text
    assert "Z2" not in text
    run = read_run(folder)
    assert (samples_per_step(run), steps_to_fill(run)) == (12, 6)
    assert keys_of_a_query(run, 3) == [65, 65 + 2 * 12, 65 + 2 * 12]
    # An older run: the flags, and the patches of its data.
    facts["metrics"] = {"data": {"places": 10, "patches": 20}}
    older = run._replace(facts=facts)
    assert samples_per_step(older) == 8
    assert "an epoch has 16 samples" in own_keys_remark(older)
    assert "--num_negatives 10," in own_keys_remark(older)
    young = own_keys_remark(older._replace(rows=[{"step": 3}]))  # the end of the second epoch
    assert "about 1.0 keys of its own sample" in young
    facts["arguments"]["batch_size"] = 16
    assert "10 and at most 10 samples per step (--batch_size)," in own_keys_remark(older)
    assert own_keys_remark(older._replace(rows=[{"step": 0}])) == ""  # in the first epoch
    facts["metrics"]["data"]["patches"] = 65
    assert own_keys_remark(older) == ""


def test_two_runs_share_their_curves_and_their_flags_are_compared(tmp_path: Path) -> None:
    first = write_pretraining(tmp_path / "pretrain" / "version_0")
    second = write_pretraining(tmp_path / "pretrain" / "version_1", learning_rate=0.5)
    write_report([first, second], first / "report.html", SPACES)
    text = text_of(first)
    compared = text[text.index("What differs") : text.index("Is it training?</h2>")]
    assert re.findall(r"<td>(--.*?)</td>", compared) == ["--learning_rate"]


def test_what_a_report_cannot_be_of_is_one_sentence(tmp_path: Path) -> None:
    first = write_pretraining(tmp_path / "pretrain" / "version_0")
    other = write_pretraining(tmp_path / "pretrain" / "version_1", data_mode="moco")
    with pytest.raises(UserError, match="runs of two kinds or modes: report them one by one"):
        write_report([first, other], first / "report.html", SPACES)
    with pytest.raises(UserError, match=r"results\.json must end in \.html"):
        main_report.main([str(first), "--save_path", str(first / "results.json")])
    odd = write_pretraining(tmp_path / "pretrain" / "version_2", batch_size=0.5)
    with pytest.raises(UserError, match="holds results that no run writes"):
        write_report([odd], odd / "report.html", SPACES)
    foreign = write_evaluation(tmp_path / "eurosat-pretrain" / "version_0", "pretrain", 40.0)
    facts = json.loads((foreign / "results.json").read_text())
    facts["metrics"]["encoder"] = "resnet18 base_encoder"
    (foreign / "results.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="holds results that no run writes"):
        main_report.main([str(foreign)])


@pytest.mark.usefixtures("laid_out")
def test_no_legend_covers_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []

    def keep(figure: Figure, caption: str) -> str:
        figures.append(figure)
        return caption

    monkeypatch.setattr(curves, "svg", keep)
    runs = [read_run(write_pretraining(tmp_path / "pretrain" / f"version_{n}")) for n in range(2)]
    for shown in (runs[:1], runs):
        curves.curve_sections(shown, SPACES["seco"])
    assert len(figures) == 6
    boxes = []
    for figure in figures:
        FigureCanvasAgg(figure).draw()
        for legend in figure.legends:
            boxes.append(legend.get_window_extent())
            assert not any(boxes[-1].overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert not any(axes.get_legend() for axes in figure.axes)
    assert len(boxes) == 4  # a single run needs none for probes and speed


def test_long_curves_are_means_of_neighbours() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    rows = [{"step": float(step), "a": value} for step, value in enumerate(values)]
    found = curves._points(rows, "a")
    parts = [slice(first, first + 3) for first in range(0, 4000, 3)]
    slow = [(np.arange(4000)[part].mean(), values[part].mean()) for part in parts]
    np.testing.assert_allclose(found, slow)
    np.testing.assert_array_equal(curves._points(rows[:1500], "a")[:, 1], values[:1500])


def test_an_evaluation_stands_next_to_the_random_encoder(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "eurosat-pretrain" / "version_0", "pretrain", 40.0)
    assert find_baseline(read_run(folder)) is None
    line = " ".join(baseline_command(read_run(folder)))
    assert line.startswith("main_eurosat.py --backbone_type random --data_dir a.zip")
    assert "--train_frac 0.1 1.0 --seed 4" in line
    assert line.endswith(f"--log_dir {tmp_path}")
    other = write_evaluation(tmp_path / "eurosat-random" / "version_3", "random", 50.0)
    write_report([folder], folder / "report.html", SPACES)
    text = text_of(folder)
    assert re.search(r'class="bad">-10\.0 \(worse than random\)', text)
    assert text.count("worse than random") == 2  # of both shares
    assert "40.00 [39.0, 41.0]" in text
    assert "50.00 [49.0, 51.0]" in text
    assert EVIL not in text
    assert f">{FORMULA}</text>" in text
    assert {"Labels and scores", "Classes", "Confusion"} <= set(re.findall(r"<h2>(.*?)</h2>", text))
    facts = json.loads((other / "results.json").read_text())
    low = {"test/accuracy": 41.5, "test/accuracy_interval": [40.5, 42.5]}
    for share in facts["metrics"]["by_method"]["linear"].values():
        share |= low
    (other / "results.json").write_text(json.dumps(facts))
    write_report([folder], folder / "report.html", SPACES)
    assert "-1.5 (not different from random)" in text_of(folder)  # 39 to 41, 40.5 to 42.5
    assert "worse than random" not in text_of(folder)
    facts["arguments"]["seed"] = 5
    (other / "results.json").write_text(json.dumps(facts))
    assert find_baseline(read_run(folder)) is None  # of another split
    facts["arguments"]["seed"], facts["metrics"]["data"] = 4, {"digest": "4567"}
    (other / "results.json").write_text(json.dumps(facts))
    assert find_baseline(read_run(folder)) is None  # of other data under the same path


def test_large_pictures_and_hundreds_of_classes_leave_a_page_small(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path / "oscd-random" / "version_0", "random", 40.0)
    facts = json.loads((folder / "results.json").read_text())
    classes = [f"class {number:03d}" for number in range(300)]
    recall = {name: float(number) / 3 for number, name in enumerate(classes)}
    matrix = (np.eye(300) * 3 + np.eye(300, k=1)).tolist()
    detected = {"test/f1": 40.0, "test/recall": 35.0}  # of a change detector, which has one class
    (folder / "results.json").write_text(json.dumps(facts | {"metrics": detected}))
    write_report([folder], folder / "report.html", SPACES)
    assert "test/f1" in text_of(folder)
    facts["metrics"] |= {"classes": classes, "test/recall": recall, "test/confusion": matrix}
    (folder / "results.json").write_text(json.dumps(facts))
    (folder / "maps").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (300, 1700, 3), np.uint8)
    for number in range(13):
        Image.fromarray(noise).save(folder / "maps" / f"city_{number:02d}.png", compress_level=0)
    write_report([folder], folder / "report.html", SPACES)
    text = text_of(folder)
    assert len(text) < 15e6
    assert "The first 12 of 13." in text
    assert text.count("data:image/jpeg") == 12
    assert text.count("the 40 lowest of 300 classes") == 2
    assert text.count(">class 039<") == 3  # a bar, a row and a column
    assert ">class 040<" not in text
    (folder / "maps" / "city_00.png").write_bytes(bytes(500_000))
    with pytest.raises(UserError, match=r"city_00\.png is not a picture of a run"):
        write_report([folder], folder / "report.html", SPACES)


def test_a_run_that_is_still_going_is_reported(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "pretrain" / "version_0", steps=0)
    facts = json.loads((folder / "results.json").read_text())
    (folder / "results.json").unlink()
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/arguments.json").write_text(json.dumps(facts | {"finished": False}))
    write_report([folder], folder / "report.html", SPACES, follow=True)
    assert "not finished; last values written 20" in text_of(folder)
    assert "No step has been logged yet." in text_of(folder)
    assert '<meta http-equiv="refresh" content="60">' in text_of(folder)


def test_following_ends_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_pretraining(tmp_path / "pretrain" / "version_0")
    results = (folder / "results.json").read_text()
    (folder / "results.json").write_text(results.replace("true", "false"))
    with (folder / "metrics.csv").open("a") as file:
        file.write("40,0,1.5")  # a line that is being written
    waited: list[float] = []

    def wait(seconds: float) -> None:
        assert 'http-equiv="refresh"' in text_of(folder)
        waited.append(seconds)
        (folder / "results.json").write_text(results)

    monkeypatch.setattr("main_report.time", SimpleNamespace(sleep=wait))  # threads sleep, too
    assert main_report.main([str(folder), "--follow"]) == folder / "report.html"
    assert waited == [60]
    assert 'http-equiv="refresh"' not in text_of(folder)
    with pytest.raises(UserError, match=r"last\.ckpt"):
        main_report.main([str(folder), "--data_dir", str(tmp_path)])


def test_what_is_no_run_or_damaged_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)
    folder = write_pretraining(tmp_path / "pretrain" / "version_0")
    with pytest.raises(UserError, match=r"did you mean .*version_0"):
        read_run(tmp_path)
    evaluation = write_evaluation(tmp_path / "eurosat-random" / "version_0", "random", 1.0)
    with pytest.raises(UserError, match="two kinds or modes"):
        write_report([folder, evaluation], folder / "report.html", SPACES)
    (folder / "metrics.csv").write_text("step,train/loss_0\n1,abc\n")
    report_run(folder, SPACES)
    assert "no report: " in capsys.readouterr().err
    (evaluation / "results.json").write_text('{"metrics": {"by_method": {"linear": 3}}}')
    with pytest.raises(UserError, match="holds results that no run writes"):
        write_report([evaluation], tmp_path / "r.html", SPACES)
    (evaluation / "results.json").write_text("[" * 10_000)
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        read_run(evaluation)
    assert not (tmp_path / "r.html").exists()


def test_what_a_set_of_pictures_lacks_is_not_spoken_of(tmp_path: Path) -> None:
    """A flat folder has neither dates nor classes; the page names it with its digest."""
    vectors = np.eye(12, 4, dtype=np.float32)
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 12
    flat = Sample(
        [f"{n}.jpg" for n in range(12)],
        [""] * 12,
        np.full((12, 2), np.nan),
        pictures,
        {"encoder": vectors, "synthetic": vectors},
        "12 patches of 4 x 4 px in my_pictures",
        "0123",
    )
    html = "".join(section.html for section in space_sections(flat, {}, "0123"))
    assert "12 of 12 patches of 4 x 4 px in my_pictures, digest 0123" in html
    assert "the data of the pre-training are these." in html
    assert "season" not in html
    assert re.findall("<option>(.*?)</option>", html) == ["t-SNE", "PCA"]
    dated = flat._replace(
        names=[f"{n // 6}/{n}" for n in range(12)],
        days=[f"2020-{1 + 6 * (n % 2):02d}-01" for n in range(12)],
    )
    html = "".join(section.html for section in space_sections(dated, {}, "4567"))
    assert "the data of the pre-training are of 4567." in html
    assert "In a space that ignores the season" in html
    kinds = [f"{m} by {k}" for m in ("t-SNE", "PCA") for k in ("season", "folder (class or place)")]
    assert re.findall("<option>(.*?)</option>", html) == kinds


def test_a_long_name_of_one_word_is_cut_and_not_left_out() -> None:
    names = ["Forest", "Land_principally_occupied_by_agriculture"]
    html = table(names, [], is_turned=True)
    assert re.findall("<span>(.*?)</span>", html) == ["Forest", "Land_principally_occupied_by_…"]
    assert f'title="{names[1]}"' in html


def test_names_cannot_leave_a_figure_or_a_table() -> None:
    points, pictures = np.zeros((2, 2)), [np.zeros((4, 4, 3), np.uint8)] * 2
    html = scatter("a", {EVIL: (points, [EVIL, "b"])}, [EVIL, "c"], pictures)
    html += table([EVIL], [[EVIL], [1.23456789], [None]])
    text = page(EVIL, [Section(EVIL, html)])
    assert EVIL not in text
    assert not Tags(text).handlers
    (content,) = re.findall(r'<script type="application/json" id="a">(.*?)</script>', text)
    assert json.loads(content)["texts"] == [EVIL, "c"]
    assert '<td class="number">1.235</td>' in text
