"""The day's report from a history, and what an export may not carry."""

import csv
import time

import pytest
from click.testing import CliRunner

from depai_robot.console.dayreport import parse_day, write_day
from depai_robot.console.export import to_csv
from depai_robot.console.fleet import DAY_S, Session
from depai_robot.console.history import History
from depai_robot.console.main import cli
from depai_robot.values.error import ConfigError

DAY = 1_800_000_000 // DAY_S * DAY_S


@pytest.fixture
def history(tmp_path):
    made = History(tmp_path / "h.sqlite")
    made.add_sessions(
        [
            Session(
                "depai/R1", "dock-1", "s1", DAY + 10, DAY + 600, 5_000_000, 2_000_000, 400_000, "SETTLED"
            ),
            Session(
                "depai/R1", "dock-2", "s2", DAY + 4000, DAY + 7200, 1_000_000, 500_000, 500_000, "SETTLED"
            ),
            Session(
                "depai/R2",
                "dock-2",
                "s3",
                DAY + 80_000,
                DAY + 86_399,
                0,
                0,
                None,
                "FAILED",
                "meter: <b>band</b>",
            ),
            Session("depai/R2", "dock-2", "s4", DAY + 80_000, DAY + DAY_S, 9, 9, 9, "SETTLED"),
        ]
    )
    made.flush()
    yield made
    made.close()


def test_a_day_adds_up(history, tmp_path):
    page = write_day(history, DAY, "2027-01-15", tmp_path / "out")
    text = page.read_text()
    assert text.count("<svg") == 4
    assert "2.5000" in text, "USDC spent"
    assert "6.000" in text, "kWh bought"
    assert "0.4167" in text, "USDC per kWh"
    assert "<b>band" not in text, "a station's words are no markup"
    assert "meter: &lt;b&gt;band" in text
    with (tmp_path / "out" / "fleet-2027-01-15-stations.csv").open() as file:
        rows = {row["station"]: row for row in csv.DictReader(file)}
    assert rows["dock-1"] == {
        "station": "dock-1",
        "sessions": "1",
        "energy_milliwh": "5000000",
        "cost_atomic": "2000000",
        "price_atomic_per_kwh": "400000",
        "faults": "0",
        "meter_faults": "0",
    }
    assert (rows["dock-2"]["sessions"], rows["dock-2"]["meter_faults"]) == ("2", "1"), (
        "the next day's is not in it"
    )
    assert "http" not in text.replace("http-equiv", ""), "the page needs nothing but itself"


def test_an_empty_day_is_a_page_too(history, tmp_path):
    assert "No session had a fault" in write_day(history, 0.0, "1970-01-01", tmp_path).read_text()


def test_days_by_name():
    now_s = DAY + 5000.0
    assert parse_day("today", now_s) == (DAY, "2027-01-15")
    assert parse_day("yesterday", now_s) == (DAY - DAY_S, "2027-01-14")
    assert parse_day("2027-01-15", 0)[0] == DAY
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        parse_day("15.1.2027", now_s)


def test_the_command_writes_it(history, tmp_path):
    history.flush()
    done = CliRunner().invoke(
        cli,
        [
            "--history",
            str(tmp_path / "h.sqlite"),
            "report",
            "--day",
            "2027-01-15",
            "--out",
            str(tmp_path / "o"),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0
    assert done.output.strip().endswith("fleet-2027-01-15.html")


def test_a_cell_is_no_formula():
    text = to_csv([{"a": "=1+1", "b": -5, "c": "-x", "d": None, "e": ["x", "y"]}], ["a", "b", "c", "d", "e"])
    assert text == "a,b,c,d,e\n'=1+1,-5,'-x,,x y\n"


def test_old_samples_go_a_day_later(tmp_path):
    from depai_robot.console.history import Sample
    from depai_robot.console.vda import Address

    history = History(tmp_path / "p.sqlite")
    address, now_s = Address("uagv", "v2", "m", "s"), time.time()
    history.add_samples(
        (address, Sample(int(now_s - age_s), 50.0, 0, 0, 0, "IDLE")) for age_s in (2 * DAY_S, DAY_S + 9, 60)
    )
    history.prune(now_s)
    history.flush()
    (left,) = history.samples("m/s", 0)
    assert now_s - left.at_s < 70
    history.close()
