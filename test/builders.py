"""Valid values with one thing changed: ``make_offer(price_atomic_per_kwh=1)``. Keys are seeded and worthless."""

import hashlib
from functools import lru_cache
from typing import Any

import coincurve

from depai_robot.charging import envelope
from depai_robot.charging.fact import BatteryRead, ChargeRequested, Instant
from depai_robot.charging.message import Draft, MeterIdentity, Offer
from depai_robot.charging.setting import Network, RobotSettings, StationSettings
from depai_robot.payment.policy import SpendPolicy
from depai_robot.values.identity import address_to_hex, did_pkh, public_key_to_address

CHAIN_ID = 31337
WALL_S = 1_800_000_000
TOKEN = bytes.fromhex("036cbd53842c5426634e7929541ec2318f3dcf7e")


class Key:
    """A signer in memory: ports.Signer."""

    def __init__(self, name: str) -> None:
        self._key = coincurve.PrivateKey(hashlib.sha256(f"test key {name}".encode()).digest())
        self.public_key = self._key.public_key.format(compressed=False)[1:]
        self.address = public_key_to_address(self.public_key)
        self.header = envelope.encode_header(self.public_key, CHAIN_ID)

    def sign(self, digest: bytes) -> bytes:
        raw = self._key.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes([27 + raw[64]])

    def seal(self, draft: Draft) -> str:
        text = envelope.encode_signing_input(draft, self.header)
        return envelope.assemble(text, self.sign(envelope.signing_digest(text)))


@lru_cache(maxsize=256)
def make_key(name: str) -> Key:
    return Key(name)


def make_network(**changes: Any) -> Network:
    return Network(
        **({"chain_id": CHAIN_ID, "token": TOKEN, "token_name": "USDC", "token_version": "2"} | changes)
    )


def make_policy(**changes: Any) -> SpendPolicy:
    values = {
        "robot": make_key("voucher").address,
        "epoch": 1,
        "valid_after_s": 0,
        "valid_before_s": WALL_S + 10**8,
        "tranche_max_atomic": 5_000,
        "session_max_atomic": 100_000,
        "day_max_atomic": 1_000_000,
        "escrow_channel_max_atomic": 100_000,
        "escrow_unknown_max_atomic": 50_000,
        "escrow_total_max_atomic": 200_000,
        "withdraw_delay_max_s": 3600,
        "price_max_atomic_per_kwh": 800_000,
        "start_fee_max_atomic": 10_000,
        "payees": (make_key("receiver-a").address,),
    }
    return SpendPolicy(**(values | changes))


def make_robot_settings(**changes: Any) -> RobotSettings:
    values = {
        "robot": "robot-1",
        "zone": "lab",
        "identity": make_key("robot").address,
        "payer": make_key("payer").address,
        "voucher_key": make_key("voucher").address,
        "network": make_network(),
        "policy": make_policy(),
    }
    return RobotSettings(**(values | changes))


def make_meter(name: str = "a", **changes: Any) -> MeterIdentity:
    key = did_pkh(CHAIN_ID, make_key(f"meter-{name}").address)
    return MeterIdentity(**({"serial": f"M-{name}", "key": key, "accuracy_permille": 5} | changes))


def make_station_settings(name: str = "a", **changes: Any) -> StationSettings:
    receiver = make_key(f"receiver-{name}").address
    values = {
        "station": f"station-{name}",
        "zone": "lab",
        "name": f"Station {name}",
        "identity": make_key(f"station-{name}").address,
        "receiver": receiver,
        "receiver_authorizer": receiver,
        "network": make_network(),
        "meters": (make_meter(name),),
        "dock": f"dock-{name}",
        "pose_mm_mrad": (3000, 0, 0),
    }
    return StationSettings(**(values | changes))


def make_offer(name: str = "a", **changes: Any) -> Offer:
    receiver = address_to_hex(make_key(f"receiver-{name}").address)
    values = {
        "station": f"station-{name}",
        "name": f"Station {name}",
        "dock": f"dock-{name}",
        "marker_id": 0,
        "pose_mm_mrad": (3000, 0, 0),
        "power_max_w": 300,
        "price_atomic_per_kwh": 400_000,
        "start_fee_atomic": 2000,
        "available": True,
        "network": f"eip155:{CHAIN_ID}",
        "asset": address_to_hex(TOKEN),
        "receiver": receiver,
        "receiver_authorizer": receiver,
        "meter": make_meter(name),
    }
    return Offer(**(values | changes))


def make_reading(**changes: Any) -> BatteryRead:
    values = {
        "stamp_ns": 0,
        "voltage_mv": 25_600,
        "current_ma": 0,
        "state_of_charge_permille": 180,
        "pads_energy_milliwh": 0,
        "pads_power_mw": 0,
    }
    return BatteryRead(**(values | changes))


def make_instant(session_s: float = 0, wall_s: int | None = None) -> Instant:
    return Instant(int(session_s * 1e9), WALL_S + int(session_s) if wall_s is None else wall_s)


def make_request(session: str = "s-1", **changes: Any) -> ChargeRequested:
    values = {
        "at": make_instant(),
        "session": session,
        "salt": hashlib.sha256(session.encode()).digest(),
        "energy_milliwh": 10_000,
        "x_mm": 0,
        "y_mm": 0,
        "reading": make_reading(),
    }
    return ChargeRequested(**(values | changes))
