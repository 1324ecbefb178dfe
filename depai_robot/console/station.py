"""What the console knows of stations: their signed offers, and their record with the robots that were watched."""

import re
from dataclasses import dataclass, field

from depai_robot.charging.envelope import RefusedMessageError, open_token, verify_token
from depai_robot.charging.message import Offer
from depai_robot.console.vda import clean

STATIONS_MAX = 5_000
METER_FAULTS = ("meter", "energy", "band", "ocmf", "statement", "cusum")
"""A fault with one of these words counts against the meter's honesty."""
_NETWORK = re.compile(r"^eip155:([0-9]{1,18})\Z")


@dataclass(slots=True)
class Station:
    """One station's row.

    Attributes:
        station: id.
        zone: of its topic.
        offer: newest, its signature checked; None when only robots have named it.
        signer_hex: address of the identity that signed it.
        offer_s: when it came, Unix seconds; 0 when it is gone.
        charging: keys of robots that charge there now.
        sessions, faults, meter_faults: finished sessions; those that went wrong; those about its meter.
        energy_milliwh, cost_atomic: of finished sessions.
        last_fault: in words.
    """

    station: str
    zone: str = ""
    offer: Offer | None = None
    signer_hex: str = ""
    offer_s: float = 0.0
    charging: set[str] = field(default_factory=set)
    sessions: int = 0
    faults: int = 0
    meter_faults: int = 0
    energy_milliwh: int = 0
    cost_atomic: int = 0
    last_fault: str = ""

    @property
    def meter_honesty_percent(self) -> float | None:
        """Finished sessions without a fault of the meter; None before the first."""
        return 100.0 * (self.sessions - self.meter_faults) / self.sessions if self.sessions else None

    @property
    def price_paid_atomic_per_kwh(self) -> int | None:
        """What the robots have paid there, fees included."""
        return self.cost_atomic * 1_000_000 // self.energy_milliwh if self.energy_milliwh else None


class StationBook:
    """Stations by id; bounded."""

    def __init__(self, stations_max: int = STATIONS_MAX) -> None:
        self.rows: dict[str, Station] = {}
        self.version = 0
        self.refused_count = 0
        self._max = stations_max
        self._station_by_robot: dict[str, str] = {}

    def take_offer(self, topic: str, payload: bytes, now_s: float) -> str:
        """Takes in a retained offer, or its end (empty payload). Returns the station's id.

        Raises:
            RefusedMessageError: it is not signed by whom it says, has expired, or stands on another's topic.
        """
        parts = topic.split("/")
        if len(parts) != 6 or parts[:2] != ["depai", "v1"] or parts[3] != "stations":
            raise RefusedMessageError("form", f"{clean(topic)!r} is no topic of an offer")
        zone, name = clean(parts[2]), clean(parts[4], 96)
        if not payload:
            row = self.rows.get(name)
            if row is not None:
                row.offer_s = 0.0
                self.version += 1
            return name
        # The offer says which network its identity lives on; the signature is checked against that.
        body = open_token(payload.decode("ascii", "replace")).body
        if not isinstance(body, Offer):
            raise RefusedMessageError("form", f"{type(body).__name__} on the topic of an offer")
        match = _NETWORK.match(body.network)
        chain_id = int(match.group(1)) if match else 0
        verified = verify_token(payload, now_s=int(now_s), chain_id=chain_id, recipient=None)
        if body.station != name:
            raise RefusedMessageError("form", f"offer of {clean(body.station)!r} on the topic of {name!r}")
        row = self._row(name)
        if row is not None:
            row.zone, row.offer, row.offer_s = zone, body, now_s
            row.signer_hex = "0x" + bytes(verified.sender).hex()
            self.version += 1
        return name

    def set_load(self, robot: str, station: str) -> None:
        """A robot charges there now; an empty station: nowhere."""
        before = self._station_by_robot.pop(robot, "")
        if before and before in self.rows:
            self.rows[before].charging.discard(robot)
        row = self._row(station) if station else None
        if row is not None:
            row.charging.add(robot)
            self._station_by_robot[robot] = station
        self.version += 1

    def add_session(self, station: str, energy_milliwh: int, cost_atomic: int, fault: str) -> None:
        """Counts a finished session."""
        row = self._row(station) if station else None
        if row is None:
            return
        row.sessions += 1
        row.energy_milliwh += energy_milliwh
        row.cost_atomic += cost_atomic
        if fault:
            row.faults += 1
            row.last_fault = fault
            row.meter_faults += any(word in fault.lower() for word in METER_FAULTS)
        self.version += 1

    def _row(self, station: str) -> Station | None:
        row = self.rows.get(station)
        if row is None:
            if len(self.rows) >= self._max:
                self.refused_count += 1
                return None
            row = self.rows[station] = Station(station)
        return row
