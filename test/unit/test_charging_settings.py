"""Settings and the table of moves: what they refuse."""

import pytest

from depai_robot.charging import fact as ft
from depai_robot.charging import robot, station
from depai_robot.charging.setting import tranche_need_milliwh
from depai_robot.charging.transition import (
    ROBOT_TRANSITIONS,
    STATION_TRANSITIONS,
    RobotPhase,
    StationPhase,
    require_move,
)
from depai_robot.values.error import BugError, ConfigError, JournalError
from test.builders import (
    make_instant,
    make_meter,
    make_network,
    make_robot_settings,
    make_station_settings,
)
from test.pretend import World


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"robot": "a/b"}, "robot must be"),
        ({"zone": "#"}, "zone must be"),
        ({"identity": b""}, "identity must be 20 bytes"),
        ({"payer": bytes(20)}, "not all zero"),
        ({"current_type": "XC"}, "AC or DC"),
        ({"clock_skew_max_s": 0}, "clock_skew_max_s must be an integer from 1"),
        ({"retry_ms": True}, "retry_ms"),
        ({"shutdown_permille": 100, "reserve_permille": 50}, "must not be above"),
    ],
)
def test_refused_robot_settings(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_robot_settings(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"station": "+"}, "station must be"),
        ({"zone": ""}, "zone must be"),
        ({"receiver": bytes(20)}, "receiver must be"),
        ({"meters": ()}, "1 to 64 connectors"),
        ({"meters": (make_meter(key="did:web:x"),)}, "did:pkh"),
        ({"start_fee_atomic": 0}, "start_fee_atomic must be an integer from 1"),
        ({"price_floor_atomic_per_kwh": 500_000}, "must not be above"),
        ({"tranche_milliwh": 499}, "must hold power_max_w"),
        ({"current_type": "AC/DC"}, "AC or DC"),
        ({"withdraw_delay_s": 899}, "withdraw_delay_s"),
    ],
)
def test_refused_station_settings(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_station_settings(**changes)


def test_refused_network():
    with pytest.raises(ConfigError, match="token"):
        make_network(token=b"")


def test_what_a_tranche_must_hold():
    assert tranche_need_milliwh(300, 1000, 5000) == 500
    assert tranche_need_milliwh(301, 1000, 5000) == 502  # rounded up


def test_every_phase_of_the_tables_is_known_and_no_row_comes_twice():
    for rows, phases in ((ROBOT_TRANSITIONS, RobotPhase), (STATION_TRANSITIONS, StationPhase)):
        assert len(rows) == len(set(rows))
        named = {row.before for row in rows} | {row.after for row in rows}
        assert named == {phase.value for phase in phases}


def test_failure_never_goes_back_a_row():
    order = [phase.value for phase in RobotPhase][1:11]  # QUOTING to SETTLED, in the order of the procedure
    for row in ROBOT_TRANSITIONS:
        signed = row.before in order[2:] and row.after in order
        if signed and row.cause != "ChargeRequested":
            assert order.index(row.after) > order.index(row.before), row


def test_a_move_that_is_not_in_the_table_raises():
    with pytest.raises(BugError, match="no move from CHARGING to IDLE by Quote"):
        require_move("robot", "CHARGING", "Quote", "IDLE")


@pytest.mark.parametrize(
    ("machine", "settings", "alien"),
    [
        (robot, make_robot_settings(), ft.ContactorFailed(make_instant(), 1, "?")),
        (station, make_station_settings(), ft.ProbeRead(make_instant(), bytes(32))),
        (station, make_station_settings(), ft.PresenceChanged(make_instant(), 7, True, bytes(32))),
    ],
)
def test_a_fact_of_the_other_role_raises_and_changes_nothing(machine, settings, alien):
    state = machine.initial_state(settings)
    with pytest.raises(BugError):
        machine.step(state, alien)
    assert state == machine.initial_state(settings)


@pytest.mark.parametrize(
    "late",
    [
        ft.TimerFired(make_instant(), "s-9/retry"),
        ft.MessageSealed(make_instant(), "s-9.r.1", "token"),
        ft.ChainFailed(make_instant(), "s-9:head", True, "no"),
        ft.TransactionConfirmed(make_instant(), "s-9:claim", bytes(32), 1, 1, ()),
        ft.ChannelObserved(make_instant(), bytes(32), 0, 0, 0, 0, 1),
        ft.StopRequested(make_instant(), "why"),
    ],
)
@pytest.mark.parametrize("machine", [robot, station])
def test_late_facts_of_no_session_are_counted_and_change_nothing_else(machine, late):
    settings = make_robot_settings() if machine is robot else make_station_settings()
    state = machine.initial_state(settings)
    after, effects = machine.step(state, late)
    assert effects == ()
    assert sum(after.ignored.values()) == 1


def test_snapshots_give_the_same_state():
    world = World()
    world.run_session(energy_milliwh=1000)
    data = robot.encode_state(world.robot.state)
    assert robot.decode_state(data, world.robot.settings) == world.robot.state
    with pytest.raises(BugError, match="at rest"):
        station.encode_state(world.stations["a"].state)
    world.run(seconds=200)
    state = world.stations["a"].state
    assert station.decode_state(station.encode_state(state), world.stations["a"].settings) == state
    assert state.count == 1
    assert state.finished["s-1"].funded
    for machine, settings in ((robot, world.robot.settings), (station, world.stations["a"].settings)):
        with pytest.raises(JournalError):
            machine.decode_state(b"\x00", settings)


def test_no_snapshot_while_something_is_open():
    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    with pytest.raises(BugError, match="QUOTING"):
        robot.encode_state(world.robot.state)


def test_summaries_are_plain_values():
    import msgspec

    world = World()
    world.run(lambda: bool(world.robot.state.offers), 5)
    world.request()
    world.run(lambda: world.pads_uwh > 1_000_000)
    told = robot.summary(world.robot.state)
    assert told["phase"] == "CHARGING"
    assert told["tranches"]
    assert told["ranking"][0]["chosen"] is True
    sold = station.summary(world.stations["a"].state)
    assert sold["sessions"]["s-1"]["phase"] == "CHARGING"
    assert sold["available"] is False
    assert msgspec.json.encode([told, sold])
