"""The whole loop on one machine: world, robot, wallet, stations, broker and chain, each a process of its own.

Makes the files of a run in its folder, starts everything on loopback, waits for the receipt and audits it.
"""

import time
from dataclasses import dataclass, field

from depai_robot.app.audit import Check, audit, read_facts, write_checks, write_statements
from depai_robot.app.site import TRANCHE_MILLIWH, Site
from depai_robot.app.story import StoryTail
from depai_robot.payment.receipt import Receipt, parse_receipt
from depai_robot.values.error import DeviceTimeoutError
from depai_robot.values.identity import address_to_hex
from depai_robot.values.money import cost_atomic

TIMEOUT_S = 170.0
METER_BAND_MILLIWH = 400
"""Between the two journals' totals: cable losses of 1.5 % of 10 Wh, both meters' errors, one report interval."""


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        receipt: of the session, None when there was none.
        checks: of the audit.
        loop_s: wall time from everything up to the receipt.
    """

    receipt: Receipt | None = None
    checks: list[Check] = field(default_factory=list)
    loop_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return bool(self.checks) and all(check.ok for check in self.checks)


class Demo(Site):
    """One run; use as a context, so that every process ends with it."""

    def start(self) -> None:
        """Chain, broker, world, robot, stations, recorder; the wallet comes last, since it acts by itself."""
        self.open()
        self._step("simulated world")
        self.start_node("simulation", "simulation")
        self._wait_for_line("sim", "camera")
        self._step("stations, robot and recorder")
        self.start_stations()
        self.start_node("robot", "robot", "use_sim_time:=true")
        self.start_node(
            "recorder", "recorder", "use_sim_time:=true", f"path:={self.plan.folder / 'run.mcap'}"
        )
        self._wait_for_offers()
        self._step("wallet")
        start = self._world["start"]
        pose = f"initial_pose:=[{start['x_m']}, {start['y_m']}, {start['yaw_rad']}]"
        self.start_node("wallet", "wallet", "use_sim_time:=true", pose)
        self._step("everything runs", done=True)

    def receipt(self) -> Receipt | None:
        """The session's receipt, once it is there."""
        for path in sorted(self.plan.folder.glob("receipt-*.json")):
            return parse_receipt(path.read_bytes())
        return None

    # --- the end -------------------------------------------------------------------------------------------

    def judge(self, receipt: Receipt) -> Outcome:
        """Stops the robot's and stations' processes in an orderly way, then audits what they left."""
        if self._supervisor is not None:
            for name, status in self._supervisor.stop_all().items():
                if status not in (0, -15):
                    self._story.tell(
                        "check", name=f"{name} ends in order", ok=False, detail=f"status {status}"
                    )
        chain = self._open_chain()
        folder = self.plan.folder
        seller = next((s for s in self.stations if s.id == receipt.station), self.stations[0])
        wallet = read_facts(folder / "wallet.sqlite", address_to_hex(self.keys["voucher"].address))
        station = read_facts(
            folder / f"station-{seller.id}.sqlite",
            address_to_hex(self.station_key(seller.id, "identity").address),
        )
        (folder / "receipt.json").write_text(
            (folder / f"receipt-{receipt.session}.json").read_text(encoding="utf-8"), encoding="utf-8"
        )
        count = write_statements(folder / "statements.ocmf", station, receipt.session)
        checks = audit(receipt, wallet, station, chain, METER_BAND_MILLIWH)
        payer = chain.token_balance(self.keys["payer"].address)
        spent = self._before["payer"] - payer
        left = receipt.deposited_atomic - receipt.claimed_atomic - receipt.returned_atomic
        checks.append(
            Check(
                "the payer's tokens are what is left after claim and rest",
                spent == receipt.claimed_atomic + left,
                f"{spent} spent, {receipt.claimed_atomic} claimed, {left} still in the channel",
            )
        )
        if self.plan.dishonest == "none":
            checks += self._honest_checks(receipt, count)
        else:
            checks = self._dishonest_checks(receipt, checks)
        write_checks(folder / "checks.json", checks)
        for check in checks:
            self._story.tell("check", name=check.name, ok=check.ok, detail=check.detail)
        return Outcome(receipt, checks)

    def _honest_checks(self, receipt: Receipt, statements: int) -> list[Check]:
        return [
            Check(
                "at least 10 Wh were bought",
                receipt.robot_energy_milliwh >= 10_000,
                f"{receipt.robot_energy_milliwh} mWh",
            ),
            Check("in at least 20 tranches", receipt.vouchers >= 20, f"{receipt.vouchers} vouchers"),
            Check(
                "claimed is what is owed",
                receipt.claimed_atomic == receipt.owed_atomic,
                f"{receipt.claimed_atomic}",
            ),
            Check("signed statements were kept", statements >= 2, f"{statements} statements"),
            Check("no fault was found", not receipt.fault, receipt.fault or "none"),
        ]

    def _dishonest_checks(self, receipt: Receipt, checks: list[Check]) -> list[Check]:
        """Against a cheat: what it took, that it was noticed, that the robot left and kept the evidence."""
        fair = (
            cost_atomic(receipt.price_atomic_per_kwh, receipt.robot_energy_milliwh) + receipt.start_fee_atomic
        )
        band = cost_atomic(receipt.price_atomic_per_kwh, METER_BAND_MILLIWH)
        tranche = cost_atomic(receipt.price_atomic_per_kwh, TRANCHE_MILLIWH)
        lost = receipt.claimed_atomic - fair
        evidence = sorted(path.name for path in self.plan.folder.glob("evidence-*.json"))
        silent = self.plan.dishonest == "vanish"
        # Where charging ends exactly at the last ceiling, an over-claim has nothing to claim.
        nothing_to_take = (
            self.plan.dishonest == "over-claim" and receipt.ceiling_atomic == receipt.owed_atomic
        )
        # What can't hold against this cheat is what it cheats about; everything else must.
        excused = {"claimed is not above what is owed"}
        if self.plan.dishonest in ("over-meter", "no-power"):
            excused |= {"both meters agree within the band", "the receipt's energies are the meters'"}
        return [
            *(check for check in checks if check.name not in excused),
            Check(
                "the cheat took at most one tranche and the meter band",
                lost <= tranche + band,
                f"{lost} atomic units above what was fair, at most {tranche} + {band}",
            ),
            Check(
                "the cheat was noticed",
                bool(receipt.fault) or nothing_to_take,
                receipt.fault or "nothing to take",
            ),
            Check(
                "the evidence is kept",
                bool(evidence) or silent or nothing_to_take,
                ", ".join(evidence) or "silence leaves none",
            ),
        ]

    # --- parts ------------------------------------------------------------------------------------------

    def _wait_for_line(self, source: str, kind: str, timeout_s: float = 40.0) -> None:
        tail = StoryTail(self.plan.folder)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if any(line.source == source and line.kind == kind for line in tail.new_lines()):
                return
            self.check_processes()
            time.sleep(0.05)
        raise DeviceTimeoutError(
            f"{source} told no {kind!r} in {timeout_s:.0f} s; see {self.plan.folder / 'logs'}"
        )

    def _wait_for_offers(self, timeout_s: float = 40.0) -> None:
        """Stations are up when their journals are there and their stories opened."""
        deadline = time.monotonic() + timeout_s
        wanted = [self.plan.folder / f"story-station-{s.id}.jsonl" for s in self.stations]
        while time.monotonic() < deadline:
            if all(path.exists() for path in wanted):
                return
            self.check_processes()
            time.sleep(0.05)
        missing = [path.name for path in wanted if not path.exists()]
        raise DeviceTimeoutError(
            f"no {', '.join(missing)} in {timeout_s:.0f} s; see {self.plan.folder / 'logs'}"
        )
