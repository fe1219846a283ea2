"""A report in a headless Chromium: no error, no request, and figures that answer to the mouse."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from models.run_report.spaces import Sample
from models.run_report.writing import write_report
from tests.references.run_folders import write_pretraining

webdriver = pytest.importorskip("selenium.webdriver")
support = pytest.importorskip("selenium.webdriver.support.ui")
NAMES = [shutil.which(name) for name in ("chromium", "chromedriver")]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(None in NAMES, reason="needs chromium and chromedriver"),
]
FLAGS: tuple[str, ...] = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "no-first-run",
    "disable-background-networking",
)
FLAGS += ("disable-component-update", "disable-sync", "window-size=1200,900")


def make_sample(count: int = 40) -> Sample:
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (count, 16, 16, 3), np.uint8))
    vectors = {name: rng.standard_normal((count, 8)) for name in ("encoder", "all", "season")}
    names = [f"{n // 4:06d}/{n}" for n in range(count)]
    days = [f"2019-{1 + n % 12:02d}-05" for n in range(count)]
    centres = rng.uniform(-60, 60, (count, 2))
    return Sample(names, days, centres, pictures, vectors, "40 patches", "0123")


def test_the_figures_of_a_report_answer_without_an_error_or_a_request(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "pretrain" / "version_0")
    spaces = {"seco": ["all", "season", "synthetic"]}
    write_report([folder], folder / "report.html", spaces, make_sample())
    assert (folder / "report.html").stat().st_size < 15e6
    options = webdriver.ChromeOptions()
    options.binary_location = NAMES[0]
    for flag in (*FLAGS, f"user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=NAMES[1])
    with webdriver.Chrome(options, service) as browser:
        browser.set_page_load_timeout(300)
        browser.get((folder / "report.html").as_uri())
        box = browser.find_element("css selector", "[data-points]")
        shown = [view.is_displayed() for view in box.find_elements("css selector", ".view")]
        assert shown == [True, False, False, False]  # t-SNE and PCA by two colours
        image = box.find_element("css selector", ".hovered img")
        assert not image.get_attribute("src")
        point = box.find_element("css selector", ".view use")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
        webdriver.ActionChains(browser).move_to_element(point).perform()
        wait = support.WebDriverWait(browser, 120)
        wait.until(lambda _: (image.get_attribute("src") or "").startswith("data:image/jpeg"))
        text = browser.find_element("css selector", ".hovered figcaption").text
        assert "2019-" in text
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        ink, fills = browser.execute_script(
            "return [getComputedStyle(document.body).color, [...document.querySelectorAll("
            "'svg text')].map(text => getComputedStyle(text).fill)]"
        )
        assert ink == "rgb(230, 237, 243)"  # light on dark, as every text of a figure
        assert set(fills) == {ink}
        assert browser.get_log("browser") == []
        events = [
            json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
        ]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("data:", "file:", "chrome"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
