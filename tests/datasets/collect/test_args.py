"""Flags of the downloader: those of the original, what counts as given, and the shards of SLURM."""

import pytest

from datasets.collect.args import check_fetching, parse_args, parse_shard, settings_of
from datasets.collect.settings import Settings
from utils.errors import UserError

ORIGINAL = (
    "--save_path d --preview --num_workers 16 --num_locations 200 --cloud_pct 20 --log_freq 50 "
    "--indices_file numbers.txt --debug"
)


def test_flags_of_the_original_are_understood() -> None:
    args = parse_args(None, ORIGINAL.split())

    assert (args.num_workers, args.log_freq, args.debug) == (16, 50, True)
    assert str(args.indices_file) == "numbers.txt"
    assert settings_of(args) == Settings(num_locations=200, cloud_pct=20.0, preview=True)


def test_a_flag_that_repeats_its_default_counts_as_given() -> None:
    assert parse_args(None, ["--save_path", "d"]).given == set()
    assert parse_args(None, ["--save_path", "d", "--seed", "42"]).given == {"seed"}


@pytest.mark.difference("collect-clouds")
def test_the_paper_protocol_chooses_as_the_original_and_counts_as_given() -> None:
    args = parse_args(None, ["--save_path", "d", "--protocol", "paper", "--compress", "deflate"])

    chosen = settings_of(args)
    assert (chosen.scene_choice, chosen.cloud_score, chosen.land_mask) == ("newest", "none", False)
    assert chosen.clear_fraction == 0
    assert chosen.compress == "deflate"  # a flag wins over the protocol
    assert args.given == {
        *("scene_choice", "cloud_score", "clear_fraction", "land_mask", "compress")
    }


@pytest.mark.difference("collect-harmonised")
def test_each_source_has_its_collection() -> None:
    earth_engine = settings_of(parse_args(None, ["--save_path", "d"]))
    stac = settings_of(parse_args(None, ["--save_path", "d", "--source", "stac"]))

    assert (earth_engine.collection, earth_engine.stac_url) == ("COPERNICUS/S2_SR_HARMONIZED", "")
    assert stac.collection == "sentinel-2-l2a"
    assert stac.stac_url.startswith("https://")


def test_bands_have_the_order_of_the_archives() -> None:
    args = parse_args(None, ["--save_path", "d", "--bands", "B4", "B8A", "B2"])
    assert settings_of(args).bands == ("B2", "B4", "B8A")


def array_of(values: str) -> dict[str, str]:
    names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT")]
    return dict(zip(names, values.split(" "), strict=True))


@pytest.mark.parametrize(
    ("values", "shard"),
    [
        ("2 0 3 1 4", (2, 4)),
        ("1 1 4 1 4", (0, 4)),
        ("30 10 30 10 3", (2, 3)),
        ("5 5 5 1 1", (0, 1)),
    ],
)
def test_an_array_task_of_slurm_is_a_shard(values: str, shard: tuple[int, int]) -> None:
    assert parse_shard(None, {}) == (0, 1)
    assert parse_shard(None, array_of(values)) == shard
    assert parse_shard("1/2", array_of(values)) == (1, 2)


@pytest.mark.parametrize(
    "values",
    ["0 0 3 0 4", "9 0 3 1 4", "0 1 3 1 3", "1 0 4 2 3", "3 3 0 1 0", "a b c d e", "1 0 3  4",
     "-1 0 3 1 4", "1 0 3 1 ", "1 0 " + "9" * 5000 + " 1 4", "1 0 " + "9" * 50 + " 1 4",
     "4 1 7 1 3", "0 0 9 1 2", "1 1 20 2 5", "5 1 7 1 8"],
)  # fmt: skip
def test_an_array_with_holes_or_odd_variables_is_refused(values: str) -> None:
    """--array=1,4,7 knows its smallest and largest index, and that it has 3 tasks."""
    with pytest.raises(UserError, match=r"SLURM_ARRAY_TASK_ID=.* is not a task of .*--array a ra"):
        parse_shard(None, array_of(values))
    assert parse_shard("1/2", array_of(values)) == (1, 2)


@pytest.mark.parametrize(
    "text", ["", "1", "2/2", "-1/2", "a/b", "1/0", "0/99999", "1/2/3", "1/" + "9" * 5000, "²/³"]
)
def test_what_is_not_a_shard_is_named(text: str) -> None:
    with pytest.raises(UserError, match="--shard is I/N"):
        parse_shard(text, {})


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(UserError, match="--save_path: an empty path"):
        parse_args(None, ["--save_path", ""])


@pytest.mark.parametrize("key", ['{"private_key": "secret"}', "-----BEGIN PRIVATE KEY-----secret"])
@pytest.mark.parametrize(
    "flag", ["--service_acount_key {}", "--service_acount_key={}", "--seed {}"]
)
def test_a_key_that_is_given_to_a_wrong_flag_is_not_repeated(flag: str, key: str) -> None:
    argv = [word.format(key) for word in flag.split()]
    with pytest.raises(UserError, match=flag.split("=")[0].split()[0]) as refused:
        parse_args(None, ["--save_path", "d", *argv])

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "flags",
    ["--num_workers 0", "--max_in_flight 0", "--max_rate -1", "--timeout nan", "--probe 0",
     "--num_workers 1001", "--max_rate 1e-300", "--timeout 1e99", "--give_up_after 1e99",
     "--retry_wait 1e99", "--log_freq 0", "--min_free_gb -1", "--shard 0/41"],
)  # fmt: skip
def test_values_that_cannot_work_are_named(flags: str) -> None:
    args = parse_args(None, ["--save_path", "d", *flags.split()])

    with pytest.raises(UserError, match=flags.split()[0] if "shard" not in flags else "41 shards"):
        check_fetching(args)
