"""Many sessions with random faults in virtual time, audited at the end: a short one of ``python -m bench.long_run``."""

import pytest

from bench.long_run import ROBOTS, STATIONS, LongWorld, run_world


@pytest.mark.parametrize("seed", [1, 2])
def test_the_auditor_finds_nothing_after_many_faults(seed) -> None:
    tally = run_world(60, seed)
    assert tally.findings == []
    assert tally.sessions >= 60
    for fault in ("messages lost", "messages doubled", "messages late", "programs killed"):
        assert tally.faults[fault] > 0, fault
    assert tally.ended["EnergyLimitReached"] > tally.sessions // 2
    assert tally.locked_atomic == 0


def test_the_auditor_would_find_it(tmp_path, monkeypatch) -> None:
    world = LongWorld(tmp_path, 3, ROBOTS // 4, STATIONS // 2)
    try:
        world.live(5)
        record = world.record()
        world.audit()
        assert world.tally.findings == []
        monkeypatch.setattr(LongWorld, "record", lambda _world: record)
        channel = next(iter(record.channels))
        record.channels[channel] = (record.channels[channel][0] + 1, record.channels[channel][1])
        world.audit()
        assert any("invariant 6" in finding for finding in world.tally.findings)
    finally:
        world.close()
