"""A fleet that only talks: VDA 5050 2.1.0 messages of many robots that drive, run low, buy energy and go on. Seeded.

It does not model roads, queues at stations, or money on a chain: prices and sums are plausible, no more. For consoles
and brokers; the charging session itself is simulated elsewhere, by the real programs.
"""

import math
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import msgspec

from depai_robot.charging import envelope
from depai_robot.charging.message import Draft, MeterIdentity, Offer
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.money import cost_atomic

MANUFACTURER = "depai"
DRAIN_PERCENT_PER_S = 0.012
CHARGE_PERCENT_PER_S = 0.08
BATTERY_WH = 480
LOW_PERCENT = 22.0
FULL_PERCENT = 92.0
SPEED_MPS = 0.8
STRAIGHT_S = 15.0
"""The longest that a robot goes straight on; of a longer time the rest is spent on the way back."""
PRICE_ATOMIC_PER_KWH = (310_000, 345_000, 380_000, 405_000)
BUDGET_ATOMIC = 5_000_000
CHAIN_ID = 31337
OFFER_VALID_S = 3600
FAULT_ODDS = 0.01
"""Sessions that end with a fault of the station's meter."""


@dataclass(slots=True)
class _Robot:
    serial: str
    percent: float
    x: float
    y: float
    heading: float
    station: int
    order: int = 1
    header: int = 0
    session: int = 0
    charging: bool = False
    energy_milliwh: int = 0
    spent_atomic: int = 0
    updated_s: float = 0.0
    fault: bool = False


def timestamp(now_s: float) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as VDA 5050 wants."""
    moment = datetime.fromtimestamp(now_s, tz=timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class FleetSim:
    """N robots and a few stations. Messages are made on demand, so the caller sets the rate.

    Args:
        robots: how many.
        seed: of everything random.
        stations: how many share the robots.
        interface: first level of the topics.
    """

    def __init__(self, robots: int, seed: int = 1, stations: int = 0, interface: str = "uagv") -> None:
        self._random = random.Random(seed)  # noqa: S311 - a simulation
        self.count = robots
        self.stations = stations or max(1, min(200, robots // 25))
        self._interface = interface
        self._size_m = 10.0 + 3.0 * math.sqrt(robots)
        dice = self._random
        self._robots = [
            _Robot(
                serial=f"R{number:05d}",
                percent=dice.uniform(15, 95),
                x=dice.uniform(0, self._size_m),
                y=dice.uniform(0, self._size_m),
                heading=dice.uniform(-math.pi, math.pi),
                station=dice.randrange(self.stations),
            )
            for number in range(robots)
        ]

    def serial(self, number: int) -> str:
        """Of a robot."""
        return self._robots[number].serial

    def topic(self, number: int, name: str) -> str:
        """Of a robot's message."""
        return f"{self._interface}/v2/{MANUFACTURER}/{self._robots[number].serial}/{name}"

    def connection(self, number: int, now_s: float, word: str = "ONLINE") -> tuple[str, bytes]:
        """Topic and payload of a connection message; to be published retained."""
        robot = self._robots[number]
        body = self._head(robot, now_s, 0) | {"connectionState": word}
        return self.topic(number, "connection"), msgspec.json.encode(body)

    def factsheet(self, number: int, now_s: float) -> tuple[str, bytes]:
        """Topic and payload of a factsheet with the standard's required keys; to be published retained."""
        body = self._head(self._robots[number], now_s, 0) | {
            "typeSpecification": {
                "seriesName": "simulated",
                "agvKinematic": "DIFF",
                "agvClass": "CARRIER",
                "maxLoadMass": 50,
                "localizationTypes": ["NATURAL"],
                "navigationTypes": ["AUTONOMOUS"],
            },
            "physicalParameters": {
                "speedMin": 0.0,
                "speedMax": SPEED_MPS,
                "accelerationMax": 0.5,
                "decelerationMax": 0.8,
                "heightMin": 0.4,
                "heightMax": 0.4,
                "width": 0.5,
                "length": 0.7,
            },
            "protocolLimits": {
                "maxStringLens": {},
                "maxArrayLens": {},
                "timing": {"minOrderInterval": 1, "minStateInterval": 1},
            },
            "protocolFeatures": {"optionalParameters": [], "agvActions": []},
            "agvGeometry": {},
            "loadSpecification": {},
        }
        return self.topic(number, "factsheet"), msgspec.json.encode(body)

    def offer(self, station: int, now_s: float) -> tuple[str, bytes]:
        """Topic and payload of a station's signed offer; to be published retained. Keys are development keys."""
        name = f"dock-{station:03d}"
        signer = DevelopmentSigner(name)
        address = "0x" + bytes(signer.address).hex()
        side = math.ceil(math.sqrt(self.stations))
        row, column = divmod(station, side)
        body = Offer(
            station=name,
            name=f"Dock {station}",
            dock=name,
            marker_id=station % 587,
            pose_mm_mrad=(
                int(1000 * self._size_m * (column + 0.5) / side),
                int(1000 * self._size_m * (row + 0.5) / side),
                0,
            ),
            power_max_w=600,
            price_atomic_per_kwh=PRICE_ATOMIC_PER_KWH[station % len(PRICE_ATOMIC_PER_KWH)],
            start_fee_atomic=0,
            available=not any(robot.charging and robot.station == station for robot in self._robots),
            network=f"eip155:{CHAIN_ID}",
            asset="0x" + "00" * 19 + "01",
            receiver=address,
            receiver_authorizer=address,
            meter=MeterIdentity(
                serial=f"M{station:03d}", key=f"did:pkh:eip155:{CHAIN_ID}:{address}", accuracy_permille=10
            ),
        )
        moment = int(now_s)
        draft = Draft(f"offer-{station}-{moment}", "-", 0, moment, moment + OFFER_VALID_S, "*", body)
        text = envelope.encode_signing_input(draft, envelope.encode_header(signer.public_key, CHAIN_ID))
        token = envelope.assemble(text, signer.sign(envelope.signing_digest(text)))
        return f"depai/v1/sim/stations/{name}/offer", token.encode()

    def state(self, number: int, now_s: float, **changes: Any) -> tuple[str, bytes]:
        """Moves a robot on to now and returns topic and payload of its state.

        Args:
            number: of the robot.
            now_s: Unix seconds.
            changes: keys of the state to be replaced, for tests.
        """
        robot = self._robots[number]
        self._advance(robot, now_s)
        robot.header += 1
        price = PRICE_ATOMIC_PER_KWH[robot.station % len(PRICE_ATOMIC_PER_KWH)]
        cost = cost_atomic(price, robot.energy_milliwh)
        references = {"phase": "CHARGING" if robot.charging else "IDLE"}
        if robot.session:
            references |= {
                "station": f"dock-{robot.station:03d}",
                "session": f"{robot.serial}-{robot.session}",
                "energy_milliwh": str(robot.energy_milliwh),
                "cost_atomic": str(cost),
                "price_atomic_per_kwh": str(price),
            }
            if not robot.charging:
                references["phase"] = "SETTLED"
                references["receipt"] = f"receipt-{robot.serial}-{robot.session}"
            if robot.fault:
                references["fault"] = "meter: the station's statement left the band"
        references |= {
            "spent_today_atomic": str(robot.spent_atomic + (cost if robot.charging else 0)),
            "budget_today_atomic": str(BUDGET_ATOMIC),
        }
        body = self._head(robot, now_s, robot.header) | {
            "orderId": f"T{robot.order:03d}-{robot.serial}",
            "orderUpdateId": 0,
            "lastNodeId": f"n{robot.order % 40}",
            "lastNodeSequenceId": 0,
            "nodeStates": [],
            "edgeStates": [],
            "driving": not robot.charging,
            "actionStates": [],
            "batteryState": {
                "batteryCharge": round(robot.percent, 2),
                "batteryVoltage": round(22.5 + robot.percent * 0.04, 2),
                "charging": robot.charging,
            },
            "operatingMode": "AUTOMATIC",
            "errors": [],
            "information": [
                {
                    "infoType": "depai.charging",
                    "infoLevel": "INFO",
                    "infoReferences": [
                        {"referenceKey": key, "referenceValue": value} for key, value in references.items()
                    ],
                }
            ],
            "safetyState": {"eStop": "NONE", "fieldViolation": False},
            "agvPosition": {
                "x": round(robot.x, 3),
                "y": round(robot.y, 3),
                "theta": round(robot.heading, 4),
                "mapId": "hall",
                "positionInitialized": True,
            },
        }
        return self.topic(number, "state"), msgspec.json.encode(body | changes)

    def _head(self, robot: _Robot, now_s: float, header: int) -> dict[str, Any]:
        return {
            "headerId": header,
            "timestamp": timestamp(now_s),
            "version": "2.1.0",
            "manufacturer": MANUFACTURER,
            "serialNumber": robot.serial,
        }

    def _advance(self, robot: _Robot, now_s: float) -> None:
        passed_s = min(600.0, now_s - robot.updated_s) if robot.updated_s else 0.0
        robot.updated_s = now_s
        if robot.charging:
            gained = min(FULL_PERCENT - robot.percent, CHARGE_PERCENT_PER_S * passed_s)
            robot.percent += max(0.0, gained)
            robot.energy_milliwh += int(max(0.0, gained) * 10 * BATTERY_WH)
            if robot.percent >= FULL_PERCENT - 0.01:
                price = PRICE_ATOMIC_PER_KWH[robot.station % len(PRICE_ATOMIC_PER_KWH)]
                robot.spent_atomic += cost_atomic(price, robot.energy_milliwh)
                robot.charging = False
                robot.fault = self._random.random() < FAULT_ODDS
            return
        robot.percent = max(2.0, robot.percent - DRAIN_PERCENT_PER_S * passed_s)
        robot.heading += self._random.uniform(-0.6, 0.6)
        if not (0 < robot.x < self._size_m and 0 < robot.y < self._size_m):
            middle = self._size_m / 2
            robot.heading = math.atan2(middle - robot.y, middle - robot.x) + self._random.uniform(-0.5, 0.5)
        robot.heading = math.remainder(robot.heading, 2 * math.pi)
        step_m = SPEED_MPS * min(passed_s, STRAIGHT_S)
        robot.x = min(self._size_m, max(0.0, robot.x + step_m * math.cos(robot.heading)))
        robot.y = min(self._size_m, max(0.0, robot.y + step_m * math.sin(robot.heading)))
        if robot.percent < LOW_PERCENT:
            robot.charging, robot.fault = True, False
            robot.session += 1
            robot.order += 1
            robot.energy_milliwh = 0
            robot.station = self._random.randrange(self.stations)
