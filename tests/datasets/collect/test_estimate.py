"""The estimate of requests, time and disk space of a plan."""

from pathlib import Path

from datasets.collect.estimate import estimate, plot_places
from tests.references.place_files import stub_plan


def test_the_estimate_of_the_default_is_that_of_the_note(tmp_path: Path) -> None:
    """A million images: 1.0 to 1.2 M requests, 1.67 TB, 10 to 16 h in flight, 3 h at full rate."""
    facts = estimate(stub_plan(200_000, 400_000, patch_px=264), places_per_search=20)
    assert facts["images"] == "1,000,000"
    assert facts["requests *"] == f"{1_000_000 + 200_000 * 16 // 200:,}, 1.02 per image"
    assert facts["received *"] == "1.673 TB"  # 12 bands of 264 squared, 2 bytes
    assert facts["on disk *"] == "208 GB, 13,000,000 files"
    assert facts["time *"] == "9.2 to 14 hours with 40 requests in flight"
    assert facts["time at least"] == "2.8 hours at 100 requests per second"
    assert facts["Community tier"] == "enough below 0.54 EECU-seconds per image"
    assert facts["Contributor tier"] == "enough below 3.6 EECU-seconds per image"
    small = stub_plan(60, 30)
    assert "enough below 1,200,000 EECU" in estimate(small, 20)["Partner tier"]
    assert "measures the EECU-seconds" in estimate(small, 20)["* assumed"]
    assert estimate(small, 20)["time *"].startswith("less than a minute with")
    assert estimate(stub_plan(2_000, 0), 20)["time *"].startswith("5.5 to 8.4 minutes with")
    stac = stub_plan(60, 30, source="stac", format="packed")
    facts = estimate(stac, 1)
    assert facts["requests *"].startswith(f"{90 + 300 * 40:,}, ")
    assert facts["on disk *"] == "518 kB, few files"  # 300 x 12 x 144
    assert facts["received *"] == "3 GB to 4.5 GB"
    assert "EECU" not in str(facts)
    plot_places(tmp_path / "plan.png", small)
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
