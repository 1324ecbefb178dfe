"""What the robot remembers of each station's meter: a drift that no single session shows adds up over sessions."""

from msgspec.structs import replace

from depai_robot.charging.reconciliation import MeterRecord, remember
from depai_robot.charging.robot_turn import CHEATED, RobotTurn

RECORDS_MAX = 1024
"""Stations whose meters are remembered; beyond, the one with the fewest sessions is forgotten."""


def note_meters(turn: RobotTurn) -> None:
    """A session is over: both meters' energies go into the station's record, which may speak against it."""
    session = turn.session
    meter = session.meter
    if (
        session.closing
        or meter.begin_milliwh < 0
        or (session.stop is not None and session.stop.fault == CHEATED)
    ):
        return
    sender = session.contract().offer.sender
    key = sender.hex()
    records = turn.state.meter_records
    after, complaint = remember(
        records.get(key, MeterRecord()),
        turn.settings.band,
        turn.settings.record_band,
        station_milliwh=meter.reconciled.station_milliwh,
        own_milliwh=meter.reconciled.own_milliwh,
    )
    records = {**records, key: after}
    if len(records) > RECORDS_MAX:
        others = (other for other in records if other != key)
        del records[min(others, key=lambda k: (records[k].sessions, k))]
    turn.change(meter_records=records)
    if not complaint:
        return
    turn.keep_evidence(complaint, (meter.last_token,))
    turn.bar(sender, complaint, CHEATED)
    # What is kept in a channel there is closed as soon as a session begins: nothing is bought from it any more.
    channels = {
        name: replace(kept, kept_s=0) if kept.agreement.offer.sender == sender else kept
        for name, kept in turn.state.channels.items()
    }
    turn.change(channels=channels)
