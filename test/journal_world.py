"""Journals of sessions that really happened, in the pretended world: real facts, real signatures, real files."""

from pathlib import Path
from typing import Any

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.program import state_codec
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.ports import JournalRow
from depai_robot.values.identity import address_to_hex
from test.pretend import Agent, World


def owner_of(agent: Agent) -> str:
    """Address of the key that the journal is for."""
    key = agent.keys["voucher"] if agent.name == "robot" else agent.keys["identity"]
    return address_to_hex(key.address)


def rows_of(agent: Agent) -> list[JournalRow]:
    version = agent.module.STEP_VERSION
    return [JournalRow(n, version, data) for n, data in enumerate(agent.journal, 1)]


def encode_state(agent: Agent, state: Any) -> bytes:
    encode, _ = state_codec(RobotState if agent.name == "robot" else StationState)
    return encode(state)


def write_journal(path: Path, agent: Agent, rows: list[bytes] | None = None) -> Path:
    """The agent's journal as a program would have written it: settings first, then every row."""
    journal = SqliteJournal(path, owner_of(agent))
    journal.write_snapshot(
        encode_state(agent, agent.module.initial_state(agent.settings)), agent.module.STEP_VERSION
    )
    journal.append(agent.journal if rows is None else rows, agent.module.STEP_VERSION)
    journal.close()
    return path


def run_world(sessions: int = 1, **how: Any) -> World:
    """A world after so many sessions."""
    world = World(**how)
    for number in range(1, sessions + 1):
        world.run_session(f"s-{number}", 1000)
        world.run(seconds=120)
    return world
