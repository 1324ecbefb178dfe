"""Ten thousand accelerated sessions with random faults: ``python -m bench.long_run --sessions 10000 --seed 1``.

Real machines, keys, signatures and SQLite journals; time, wire, chain and bodies are pretended
(:mod:`depai_robot.sim.adversary.arena`). Messages are lost, doubled and late, programs die between any two effects and
fold their journals, the chain forks, and in each world one station counts too much and two robots do not pay. After
each world of some hundred sessions the independent auditor reads every journal and the chain. A run is a function of
its seed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from depai_robot.adapters.sqlite_journal import SqliteJournal
from depai_robot.app.auditor import COLLECTOR, SETTLEMENT, Limits, audit
from depai_robot.app.auditor_chain import ChainRecord, Event
from depai_robot.app.auditor_evidence import Domains, read_rows
from depai_robot.app.program import state_codec
from depai_robot.charging import fact as ft
from depai_robot.charging.message import MeterIdentity
from depai_robot.charging.robot_state import RobotState
from depai_robot.charging.station_state import StationState
from depai_robot.ports import SettleCall
from depai_robot.sim.adversary.arena import SECOND, Agent, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, STATION, Behaviour
from depai_robot.sim.adversary.cast import CHAIN_ID, TOKEN, policy, robot_settings, signer, station_settings
from depai_robot.values.error import BugError
from depai_robot.values.identity import Address, address_to_hex, did_pkh
from depai_robot.values.money import cost_atomic

ROBOTS, STATIONS, CONNECTORS = 20, 5, 4
SESSIONS_A_WORLD = 250
SESSION_MAX, DAY_MAX, ESCROW_MAX = 100_000, 5_000_000, 200_000
SLICE_S = 20.0
QUIET_S = 4000.0
"""After the last session: time for every withdrawal delay to pass."""
CONFIRMATIONS = 4
FORK_BLOCKS_MAX = 3
"""Fewer than the stations wait for: a deeper fork costs whoever did not wait, by the station's own choice."""


@dataclass(frozen=True, slots=True)
class Chances:
    """How often something goes wrong.

    Attributes:
        lost_permille, doubled_permille, late_permille: of messages.
        crash_permyriad: of facts: the program dies after the row, before or amid its effects.
        fork_permille: of slices of virtual time.
    """

    lost_permille: int = 15
    doubled_permille: int = 30
    late_permille: int = 30
    crash_permyriad: int = 20
    fork_permille: int = 150


class OverMeter(Behaviour):
    """Counts a fifth too much."""

    side = STATION

    def register(self, arena: Arena, true_milliwh: int) -> int:
        """See Behaviour."""
        del arena
        return true_milliwh * 6 // 5

    def meter_key(self, arena: Arena) -> str:
        """See Behaviour."""
        del arena
        return self.key

    def __init__(self, name: str) -> None:
        self.key = f"meter-{name}"


class NeverPays(Behaviour):
    """Deposits, charges, and sends no voucher but the first."""

    side = ROBOT

    def draft(self, arena: Arena, draft: Any) -> Any:
        """See Behaviour."""
        del arena
        payload = getattr(getattr(draft.body, "payload", None), "payload", None)
        voucher = type(payload).__name__ == "VoucherPayload"
        return None if voucher and int(draft.body.payload.accepted.amount) else draft


class Rows:
    """An agent's journal: the real one, and a snapshot now and then as the programs write them."""

    def __init__(self, path: Path, owner: bytes, agent: Agent) -> None:
        self.journal = SqliteJournal(path, address_to_hex(Address(owner)))
        self._version = agent.module.STEP_VERSION
        form: Any = RobotState if agent.role == ROBOT else StationState
        self._encode, self._decode = state_codec(form)
        self._at = 0
        self.keep(agent.state)

    def append(self, data: bytes) -> None:
        """One row, on disk."""
        self.journal.append([data], self._version)

    def keep(self, state: Any) -> None:
        """A snapshot of a state at rest."""
        self.journal.write_snapshot(self._encode(state), self._version)
        self._at = self.journal.length

    @property
    def behind(self) -> int:
        """Rows since the snapshot."""
        return self.journal.length - self._at

    def fold(self, step: Callable[[Any, Any], Any]) -> Any:
        """The state that a program would come up with."""
        found = self.journal.read_snapshot(self._version)
        if found is None:
            raise BugError("a journal without its first snapshot")
        after, data = found
        state = self._decode(data)
        for row in self.journal.rows(after):
            state, _ = step(state, ft.decode_fact(row.data))
        return state


@dataclass(slots=True)
class Tally:
    """What happened in a world."""

    sessions: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    rows: int = 0
    messages: int = 0
    virtual_s: int = 0
    paid_atomic: int = 0
    worth_atomic: int = 0
    fees_atomic: int = 0
    locked_atomic: int = 0
    barred: int = 0

    def add(self, other: "Tally") -> None:
        """Both together."""
        self.ended.update(other.ended)
        self.faults.update(other.faults)
        self.findings += other.findings
        for name in (
            "sessions", "rows", "messages", "virtual_s", "paid_atomic", "worth_atomic", "fees_atomic",
            "locked_atomic", "barred",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))


class LongWorld(Arena):
    """Many robots and stations, for long, with things going wrong.

    Args:
        folder: for the journals.
        seed: of everything.
        robots, stations: how many.
        chances: how often what goes wrong.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        robots: int = ROBOTS,
        stations: int = STATIONS,
        chances: Chances | None = None,
    ) -> None:
        nobody = Behaviour()
        nobody.robots = nobody.stations = 0  # type: ignore[misc] - they come below
        super().__init__(nobody, seed)
        self.chances = chances or Chances()
        self.tally = Tally()
        self.alive: dict[str, bool] = {}
        self.epoch: Counter[str] = Counter()
        self.wants_ns: dict[str, int] = {}
        self._journals: dict[str, Rows] = {}
        self._undone: list[bytes] = []
        self._events_seen: list[Event] = []
        names = [f"x{number}" for number in range(max(robots, stations))]
        payees = tuple(signer(f"receiver-{name}").address for name in names[:stations])
        for number, name in enumerate(names[:stations]):
            settings = self._station(name, number)
            self._add_station(name, settings)
        for name in names[:robots]:
            plain = robot_settings(name)
            limits = policy(
                signer(f"voucher-{name}").address,
                payees=payees,
                session_max_atomic=SESSION_MAX,
                day_max_atomic=DAY_MAX,
                escrow_total_max_atomic=ESCROW_MAX,
            )
            self._add_robot(name, replace(plain, policy=limits))
        if stations > 1:
            self.agents[f"station-{names[stations - 1]}"].cheat = OverMeter(names[stations - 1])
        for name in names[: robots // 10]:
            self.agents[f"robot-{name}"].cheat = NeverPays()
        for agent in self.agents.values():
            self.alive[agent.name] = True
            owner = agent.settings.voucher_key if agent.role == ROBOT else agent.settings.identity
            self._journals[agent.name] = Rows(folder / f"{agent.name}.sqlite", owner, agent)
            agent.journal = self._journals[agent.name]  # type: ignore[assignment] - has append, all that is used
            self.wants_ns[agent.name] = self.random.randint(5, 60) * SECOND

    def _station(self, name: str, number: int) -> Any:
        meter = MeterIdentity(f"M-{name}", did_pkh(CHAIN_ID, signer(f"meter-{name}").address), 5)
        return replace(
            station_settings(name),
            meters=(meter,) * CONNECTORS,
            confirmations=CONFIRMATIONS,
            pose_mm_mrad=(3000 + 2000 * number, 1000 * (number % 2), 0),
        )

    def close(self) -> None:
        """Closes the journals."""
        for rows in self._journals.values():
            rows.journal.close()

    # --- faults --------------------------------------------------------------------------------------------

    def _chance(self, permille: int, of: int = 1000) -> bool:
        return self.random.randrange(of) < permille

    def deliver(self, topic: str, token: str, delay_ns: int = 0) -> None:
        """Lost, doubled, late, or as it should be."""
        copies = 1
        if self._chance(self.chances.lost_permille):
            self.tally.faults["messages lost"] += 1
            copies = 0
        elif self._chance(self.chances.doubled_permille):
            self.tally.faults["messages doubled"] += 1
            copies = 2
        for _ in range(copies):
            latency = delay_ns or self.random.randint(2_000_000, 12_000_000)
            if self._chance(self.chances.late_permille):
                self.tally.faults["messages late"] += 1
                latency += self.random.randrange(3 * SECOND)
            super().deliver(topic, token, latency)
        self.published.clear()

    def put(self, agent: Agent, make: Callable[[], Any], delay_ns: int = 0) -> None:
        """As the arena's; an outcome that a program waited for dies with it."""
        epoch = self.epoch[agent.name] if hasattr(self, "epoch") else 0

        def bring() -> None:
            if self.alive[agent.name] and self.epoch[agent.name] == epoch:
                self.give(agent, make())

        self.later(delay_ns, bring)

    def give(self, agent: Agent, fact: Any) -> None:
        """Journal, step, effects, and sometimes death in between."""
        if not self.alive[agent.name] or fact is None:
            return
        dies = self._chance(self.chances.crash_permyriad, 10_000)
        agent.journal.append(ft.encode_fact(fact))
        self.tally.rows += 1
        before = agent.state
        agent.state, effects = agent.module.step(agent.state, fact)
        self._count(agent, before)
        done = self.random.randint(0, len(effects)) if dies else len(effects)
        for number, wish in enumerate(effects):
            if number >= done:
                break
            shown = (wish,) if agent.cheat is None else agent.cheat.effect(self, agent, wish)
            for item in shown:
                self.perform(agent, item)
        if dies:
            self._die(agent)
            return
        rows = self._journals[agent.name]
        if rows.behind > 400 and agent.module.is_at_rest(agent.state):
            rows.keep(agent.state)

    def _count(self, agent: Agent, before: Any) -> None:
        if (
            agent.role == ROBOT
            and agent.state.phase == "SETTLED" != before.phase
            and agent.state.session is not None
        ):
            self.tally.sessions += 1
            stop = agent.state.session.stop
            fault = stop.fault.rpartition("_")[2] if stop is not None and stop.fault else ""
            reason = stop.reason if stop is not None else "none"
            self.tally.ended[f"{reason}{': ' + fault if fault else ''}"] += 1
            agent.sealed.clear()

    def _die(self, agent: Agent) -> None:
        self.tally.faults["programs killed"] += 1
        self.alive[agent.name] = False
        self.epoch[agent.name] += 1
        agent.timers.clear()
        if agent.role == STATION:
            for (name, _), item in self.connectors.items():
                if name == agent.name:
                    item.power_w = 0  # the hardware's own watchdog
        self.later(self.random.randint(SECOND // 5, 20 * SECOND), lambda: self._rise(agent))

    def _rise(self, agent: Agent) -> None:
        folded = self._journals[agent.name].fold(agent.module.step)
        if folded != agent.state:
            self.tally.findings.append(f"{agent.name}: a fold of the journal gives another state")
        agent.state = folded
        self.alive[agent.name] = True
        self.put(agent, lambda: ft.Restarted(self.at, self.entropy(agent.name)))
        if agent.role == ROBOT:
            for topic, (_, token) in self.retained.items():
                super().deliver(topic, token, 5_000_000)
        else:
            for (name, number), item in self.connectors.items():
                if name == agent.name:
                    present = bool(item.robot)
                    self.put(
                        agent,
                        lambda n=number, p=present: self._presence(agent, n, present=p),  # type: ignore[misc]
                        20_000_000,
                    )

    def _fork(self) -> None:
        """The newest blocks are undone; whoever sent a transaction sends the same bytes again."""
        before = dict(self.chain.mined)
        self.chain.fork(self.random.randint(1, FORK_BLOCKS_MAX))
        self.tally.faults["forks"] += 1
        for tx_hash in before:
            if tx_hash not in self.chain.mined:
                self.tally.faults["transactions undone"] += 1
                self.later(self.random.randint(SECOND, 3 * SECOND), lambda h=tx_hash: self.chain.send(h))  # type: ignore[misc]

    # --- life ----------------------------------------------------------------------------------------------

    def live(self, sessions: int, progress: Callable[[int], None] = lambda _count: None) -> None:
        """Until so many sessions are over; then everybody comes to rest."""
        tries = 0
        while self.tally.sessions < sessions:
            for agent in self.robots:
                self._ask(agent)
            self.run(seconds=SLICE_S)
            if self._chance(self.chances.fork_permille):
                self._fork()
            self._prune()
            progress(self.tally.sessions)
            tries += 1
            if tries > 200 * sessions:
                raise BugError(f"{self.tally.sessions} of {sessions} sessions after {tries} slices")
        self.chances = Chances(0, 0, 0, 0, 0)
        for _ in range(int(QUIET_S / SLICE_S)):
            self.run(seconds=SLICE_S)
            if all(self.alive.values()) and all(
                agent.module.is_at_rest(agent.state) for agent in self.agents.values()
            ):
                break
            self._prune()
        self.tally.virtual_s = self.now_ns // SECOND

    def _ask(self, agent: Agent) -> None:
        state = agent.state
        if not self.alive[agent.name] or self.now_ns < self.wants_ns[agent.name]:
            return
        if state.session is not None and state.phase != "SETTLED":
            return
        self.wants_ns[agent.name] = self.now_ns + self.random.randint(20, 120) * SECOND
        number = self._journals[agent.name].journal.length
        self.request(agent, f"{agent.name}-{number}", self.random.randint(300, 2500))

    def _prune(self) -> None:
        """What a fork can't reach any more need not be kept in memory."""
        history = self.chain._history
        oldest = self.chain.number - 50
        while len(history) > 2 and history[1][0] < oldest:
            del history[0]

    # --- audit ---------------------------------------------------------------------------------------------

    def record(self) -> ChainRecord:
        """The chain as an auditor reads it."""
        events: list[Event] = []
        for done in sorted(self.chain.mined.values(), key=lambda item: item.block):
            for event in done.events:
                subject = done.call.receiver if isinstance(done.call, SettleCall) else event.channel_id
                events.append(Event(event.name, bytes(subject or b""), event.amount_atomic))
        state = self.chain.state
        return ChainRecord(
            tuple(events),
            {bytes(key): (row.balance, row.claimed) for key, row in state.channels.items()},
            {bytes(key): pair for key, pair in state.receivers.items()},
            state.balances.get(Address(SETTLEMENT), 0),
            tuple(nonce for _, nonce in state.used),
        )

    def audit(self) -> None:
        """Every journal and the chain, by the independent auditor."""
        chain = self.record()
        domains = Domains(CHAIN_ID, SETTLEMENT, COLLECTOR, bytes(TOKEN))
        journals = []
        for agent in self.agents.values():
            rows = [row.data for row in self._journals[agent.name].journal.rows()]
            journals.append(read_rows(agent.name, "", rows))
        self.tally.messages = sum(len(item.messages) for item in journals)
        payees = tuple(bytes(agent.settings.receiver) for agent in self.stations)
        limits = Limits(SESSION_MAX, DAY_MAX, ESCROW_MAX, payees)
        self.tally.findings += [str(item) for item in audit(journals, chain, domains, limits)]
        self.tally.locked_atomic = sum(balance - claimed for balance, claimed in chain.channels.values())
        for agent in self.agents.values():
            if agent.role == STATION:
                self.tally.paid_atomic += chain.receivers.get(bytes(agent.settings.receiver), (0, 0))[0]
                self.tally.fees_atomic += agent.state.count * agent.settings.start_fee_atomic
        for item in self.connectors.values():
            self.tally.worth_atomic += cost_atomic(400_000, item.true_uwh // 1000 - 7000)
        self.tally.barred = sum(len(agent.state.bars) for agent in self.robots)


def run_world(sessions: int, seed: int, robots: int = ROBOTS, stations: int = STATIONS) -> Tally:
    """One world from its first session to its audit."""
    memory = Path("/dev/shm")  # where there is one: thousands of small fsyncs
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        world = LongWorld(Path(name), seed, robots, stations)
        try:
            world.live(sessions)
            world.audit()
        except Exception as error:  # noqa: BLE001 - a broken world is a finding, the others go on
            world.tally.findings.append(f"seed {seed}: {type(error).__name__}: {error}")
        finally:
            world.close()
        return world.tally


def measure(sessions: int = 500, seed: int = 1, processes: int = 2, *, show: bool = False) -> dict[str, Any]:
    """Worlds side by side; figures of all of them."""
    begin = time.monotonic()
    total = Tally()
    sizes = [SESSIONS_A_WORLD] * (sessions // SESSIONS_A_WORLD)
    if sessions % SESSIONS_A_WORLD:
        sizes.append(sessions % SESSIONS_A_WORLD)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for tally in pool.map(run_world, sizes, range(seed, seed + len(sizes))):
            total.add(tally)
            if show:
                rate = total.sessions / (time.monotonic() - begin)
                print(
                    f"[{time.monotonic() - begin:6.0f} s] {total.sessions} of {sessions} sessions, {rate:.1f} a second,"
                    f" {total.rows} rows, {len(total.findings)} findings",
                    flush=True,
                )
                for finding in tally.findings[:3]:
                    print(f"           {finding[:300]}", flush=True)
    took_s = time.monotonic() - begin
    return {
        "sessions": total.sessions,
        "worlds": len(sizes),
        "robots_and_stations_in_each": f"{ROBOTS} and {STATIONS}; one station over-counts, two robots do not pay",
        "seed": seed,
        "findings_of_the_auditor": len(total.findings),
        "journal_rows": total.rows,
        "signed_messages_audited": total.messages,
        "sessions_a_second": round(total.sessions / took_s, 1),
        "virtual_hours": round(total.virtual_s / 3600, 1),
        "faults": dict(sorted(total.faults.items())),
        "sessions_by_how_they_ended": dict(total.ended.most_common(12)),
        "paid_atomic": total.paid_atomic,
        "worth_of_the_energy_that_flowed_atomic": total.worth_atomic,
        "start_fees_of_settled_sessions_atomic": total.fees_atomic,
        "locked_at_the_end_atomic": total.locked_atomic,
    } | ({"first_findings": [text[:200] for text in total.findings[:5]]} if total.findings else {})


def main() -> int:
    """Runs and prints; 1 when the auditor found something."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--robots", type=int, default=ROBOTS)
    parser.add_argument("--stations", type=int, default=STATIONS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    figures = measure(given.sessions, given.seed, given.processes, show=True)
    print(json.dumps(figures, indent=2))
    return 1 if figures["findings_of_the_auditor"] else 0


if __name__ == "__main__":
    sys.exit(main())
