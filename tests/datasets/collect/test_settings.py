"""Settings of a collection that cannot work are refused, each by its flag."""

from dataclasses import replace
from typing import Any

import pytest

from datasets.collect.settings import check_settings
from tests.references.place_files import SMALL
from utils.errors import UserError


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_locations": 0}, "--num_locations must be from 1 to"),
        ({"num_locations": 4_000_000}, "with --spares 0.5 are more"),
        *(({name: -1}, f"--{name} must be") for name in ("seed", "spares", "max_shift_days")),
        *(({name: 0}, f"--{name} must be") for name in ("num_dates", "interval_days")),
        *(({name: 0}, f"--{name} must be") for name in ("window_days", "std_km", "cloud_pct")),
        ({"cloud_pct": 101.0}, "--cloud_pct must be"),
        ({"patch_px": 100}, "--patch_px must be a multiple of 6"),
        ({"patch_px": 0}, "--patch_px must be from 6"),
        ({"clear_threshold": 65.0}, "--clear_threshold must be from 0 to 1"),
        ({"clear_fraction": 90.0}, "--clear_fraction must be from 0 to 1"),
        ({"sampler": "grid"}, "--sampler must be one of gaussian, uniform, bounded, not grid"),
        ({"sampler": "bounded"}, "--bounds W S E N need each other"),
        ({"bounds": (1.0, 2.0, 3.0, 4.0)}, "--bounds W S E N need each other"),
        ({"sampler": "bounded", "bounds": (1.0, 4.0, 3.0, 2.0)}, "--bounds 1 4 3 2 is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 1.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, 999.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (-999.0, 2.0, 1.0, 4.0)}, "is not an area"),
        ({"sampler": "bounded", "bounds": (1.0, 2.0, float("nan"), 4.0)}, "is not an area"),
        ({"reference_date": "30.6.2021"}, "--reference_date must be a day such as"),
        ({"reference_date": "2017-07-05"}, "744 days .* launch of Sentinel-2 on 2015-06-23"),
        ({"bands": ()}, "--bands needs distinct names"),
        ({"bands": ("B4", "B4")}, "--bands needs distinct names"),
        ({"bands": ("B10",)}, "unknown band B10"),
        ({"bands": ("B2", "B8"), "preview": True}, "--preview shows B4, which --bands leaves out"),
        ({"dtype": "uint16", "compress": "jpeg"}, "hold 8 bits: give --dtype uint8"),
        ({"dtype": "uint16", "format": "packed"}, "hold 8 bits: give --dtype uint8"),
        ({"source": "stac"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "file:///etc"}, "--stac_url must begin with http"),
        ({"source": "stac", "stac_url": "https://me:secret@x.org"}, "only open catalogues"),
        ({"source": "stac", "stac_url": "https://x.org/?token=x"}, "only open catalogues"),
        ({"collection": ""}, "--collection must be a name"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, Any], sentence: str) -> None:
    check_settings(SMALL)
    # The oldest window begins 4 * 84 + 15 + 365 + 28 days before.
    check_settings(replace(SMALL, reference_date="2017-07-06"))
    with pytest.raises(UserError, match=sentence):
        check_settings(replace(SMALL, **change))
