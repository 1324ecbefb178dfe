"""What a robot could lose, and what is locked, at each moment of a session: ``python -m bench.money_at_risk``.

One session of the real programs on a real EVM (anvil), read afterwards from the robot's journal: signed ceiling less
the price of the energy that both meters confirm and the agreed fee, and escrow in the channel. Written to
docs/money-at-risk.svg.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depai_robot.adapters.anvil import DEVELOPMENT_USDC, find_anvil, fund
from depai_robot.app.auditor import COLLECTOR, SETTLEMENT
from depai_robot.app.auditor_evidence import Domains, Voucher, parse_meter, read_file, read_payment, read_rows
from depai_robot.app.config import ChainPart, read_network
from depai_robot.app.part import open_chain
from depai_robot.sim.memory_broker import MemoryExchange
from test.app_world import ROBOT, AppWorld, robot_key, station_key, until
from test.chain_world import start_chain

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "money-at-risk.svg"
ENERGY_MILLIWH = 20_000
TRANCHE_MILLIWH = 3000
MILLIWH_PER_KWH = 1_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """After one row.

    Attributes:
        at_s: session time since the request.
        ahead: signed and not yet owed, atomic units.
        locked: in the channel and not claimed.
    """

    at_s: float
    ahead: int
    locked: int


def run_session(folder: Path) -> Path:
    """One session; the robot's journal."""
    chain = start_chain(folder / "chain")
    exchange = MemoryExchange()
    network = read_network(ChainPart(network="development", rpc_urls=[chain.url]), folder / "none.yaml")
    fund(chain.url, robot_key(ROBOT, "payer").address, usdc_atomic=1_000_000)
    fund(chain.url, station_key("a", "receiver").address)
    world = AppWorld(
        folder,
        network.network(),
        lambda client_id, will: exchange.client(client_id, will=(will, b"", True) if will else None),
        lambda signer: open_chain(network, signer, folder),
        station_changes={"a": {"tranche_milliwh": TRANCHE_MILLIWH}},
    )
    try:
        wallet = world.start_wallet()
        wallet.request_charge(ENERGY_MILLIWH, "session-1")
        until(lambda: wallet.failure or wallet.state.finished, "the session", 120)
        if wallet.failure is not None:
            raise wallet.failure
    finally:
        world.close()
        exchange.close()
        chain.stop()
    return folder / "wallet.sqlite"


def follow(path: Path) -> tuple[list[Moment], int]:
    """(moments, price of a tranche) from a robot's journal."""
    owner, rows = read_file(path)
    evidence = read_rows(path.name, owner, rows)
    message_by_row = {item.row: item for item in evidence.messages}
    domains = Domains(31337, SETTLEMENT, COLLECTOR, bytes(DEVELOPMENT_USDC))
    begin_ns = ceiling = balance = claimed = 0
    terms: dict[str, Any] = {}
    stated: list[int] = []
    funded = False
    moments: list[Moment] = []
    for number, data in enumerate(rows, start=1):
        fact = json.loads(data)
        if fact["type"] == "ChargeRequested":
            begin_ns = fact["at"][0]
        message = message_by_row.get(number)
        if message is not None and message.kind == "quote":
            terms = next(iter(message.body["payment_required"]["extensions"].values()))["info"]
        elif message is not None and message.kind == "payment" and message.sealed:
            payment = read_payment(message, domains)
            if isinstance(payment, Voucher) and payment.kind in ("deposit", "voucher"):
                ceiling = max(ceiling, payment.ceiling)
        elif message is not None and message.body.get("statement"):
            stated.append(parse_meter(message.body["statement"])[2])
        elif fact["type"] == "ChannelObserved":
            balance, claimed = fact["balance_atomic"], fact["total_claimed_atomic"]
            funded = funded or balance > 0
        if begin_ns and terms:
            energy = stated[-1] - stated[0] if stated else 0
            owed = terms["start_fee_atomic"] + terms["price_atomic_per_kwh"] * energy // MILLIWH_PER_KWH
            # What can be taken is never more than what is in the channel.
            ahead = max(0, min(ceiling, balance) - owed) if funded else 0
            moments.append(Moment((fact["at"][0] - begin_ns) / 1e9, ahead, balance - claimed))
    return moments, terms["price_atomic_per_kwh"] * terms["tranche_milliwh"] // MILLIWH_PER_KWH


def _steps(moments: list[Moment], name: str, x: Any, y: Any) -> str:
    points = []
    last = 0
    for item in moments:
        value = getattr(item, name)
        points += [f"{x(item.at_s):.1f},{y(last):.1f}", f"{x(item.at_s):.1f},{y(value):.1f}"]
        last = value
    return " ".join(points)


def draw(moments: list[Moment], tranche: int) -> str:
    """Two panels above each other: at risk against one tranche, and locked."""
    left, width, height, gap, top = 84, 720, 150, 62, 34
    last_s = moments[-1].at_s or 1.0

    def x(at_s: float) -> float:
        return left + width * at_s / last_s

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {top + 2 * height + gap + 48}"'
            ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        )
    ]
    for panel, (name, title, colour) in enumerate(
        (
            (
                "ahead",
                "at risk: signed ceiling less the price of confirmed energy and the fee, atomic USDC",
                "#c0392b",
            ),
            ("locked", "locked: in the channel, not claimed, atomic USDC", "#2c5f8a"),
        )
    ):
        base = top + height + panel * (height + gap)
        most = (
            max([getattr(item, name) for item in moments] + ([tranche] if panel == 0 else [])) * 1.15 or 1.0
        )

        def y(value: float, base: int = base, most: float = most) -> float:
            return base - height * value / most

        parts.append(f'<text x="{left}" y="{base - height - 10}" font-weight="bold">{title}</text>')
        parts.append(f'<path d="M{left} {base - height}V{base}H{left + width}" fill="none" stroke="#444"/>')
        for share in (0.25, 0.5, 0.75, 1.0):
            value = round(most / 1.15 * share)
            parts.append(f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,}</text>')
            parts.append(f'<path d="M{left} {y(value):.1f}H{left + width}" stroke="#ddd"/>')
        if panel == 0:
            parts.append(
                f'<path d="M{left} {y(tranche):.1f}H{left + width}" stroke="#c0392b" stroke-dasharray="6 4"/>'
                f'<text x="{left + width}" y="{y(tranche) - 5:.1f}" text-anchor="end" fill="#c0392b">'
                f"one tranche: {tranche:,}</text>"
            )
        parts.append(
            f'<polyline points="{_steps(moments, name, x, y)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            at_s = last_s * share
            parts.append(f'<text x="{x(at_s):.1f}" y="{base + 16}" text-anchor="middle">{at_s:.0f} s</text>')
    parts.append("</svg>\n")
    return "".join(parts)


def measure() -> dict[str, Any]:
    """Runs, draws, and says the extremes; about half a minute."""
    if find_anvil() is None:
        return {"skipped": "no anvil: depai-robot setup chain"}
    with tempfile.TemporaryDirectory() as name:
        moments, tranche = follow(run_session(Path(name)))
    PICTURE.write_text(draw(moments, tranche), encoding="utf-8")
    return {
        "rows_of_the_journal": len(moments),
        "most_at_risk_atomic": max(item.ahead for item in moments),
        "one_tranche_atomic": tranche,
        "most_locked_atomic": max(item.locked for item in moments),
        "at_risk_at_the_end_atomic": moments[-1].ahead,
        "locked_at_the_end_atomic": moments[-1].locked,
        "picture": "[money-at-risk.svg](money-at-risk.svg)",
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
