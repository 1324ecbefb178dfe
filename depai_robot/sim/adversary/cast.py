"""Who is in the arena: settings and keys of robots and stations, all made from names. They must never hold money."""

import functools
from typing import Any

from depai_robot.charging import envelope
from depai_robot.charging.message import Draft, MeterIdentity
from depai_robot.charging.setting import Network, RobotSettings, StationSettings
from depai_robot.payment.policy import SpendPolicy
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import Address, did_pkh

CHAIN_ID = 31337
WALL_S = 1_800_000_000
TOKEN = Address(bytes.fromhex("036cbd53842c5426634e7929541ec2318f3dcf7e"))
NAMES = ("a", "b", "c")
FUNDS_ATOMIC = 10_000_000


@functools.lru_cache(maxsize=512)
def signer(name: str) -> DevelopmentSigner:
    """The key of that name."""
    return DevelopmentSigner(f"arena {name}")


@functools.lru_cache(maxsize=512)
def _header(name: str) -> str:
    return envelope.encode_header(signer(name).public_key, CHAIN_ID)


def seal(name: str, draft: Draft) -> str:
    """A message signed with the key of that name."""
    text = envelope.encode_signing_input(draft, _header(name))
    return envelope.assemble(text, signer(name).sign(envelope.signing_digest(text)))


def network() -> Network:
    """The chain of the arena."""
    return Network(chain_id=CHAIN_ID, token=bytes(TOKEN), token_name="USDC", token_version="2")  # noqa: S106


def policy(voucher_key: Address, **changes: Any) -> SpendPolicy:
    """An owner's limits: known receivers a and b."""
    values: dict[str, Any] = {
        "robot": voucher_key,
        "epoch": 1,
        "valid_after_s": 0,
        "valid_before_s": WALL_S + 10**8,
        "tranche_max_atomic": 5_000,
        "session_max_atomic": 100_000,
        "day_max_atomic": 1_000_000,
        "escrow_channel_max_atomic": 100_000,
        "escrow_unknown_max_atomic": 0,
        "escrow_total_max_atomic": 200_000,
        "withdraw_delay_max_s": 3600,
        "price_max_atomic_per_kwh": 800_000,
        "start_fee_max_atomic": 10_000,
        "payees": tuple(signer(f"receiver-{name}").address for name in NAMES),
    }
    return SpendPolicy(**(values | changes))


def robot_settings(name: str) -> RobotSettings:
    """A robot by the defaults."""
    voucher = signer(f"voucher-{name}").address
    return RobotSettings(
        robot=f"robot-{name}",
        zone="arena",
        identity=bytes(signer(f"robot-{name}").address),
        payer=bytes(signer(f"payer-{name}").address),
        voucher_key=bytes(voucher),
        network=network(),
        policy=policy(voucher),
    )


def station_settings(name: str) -> StationSettings:
    """A station by the defaults, with one connector."""
    receiver = bytes(signer(f"receiver-{name}").address)
    meter = MeterIdentity(f"M-{name}", did_pkh(CHAIN_ID, signer(f"meter-{name}").address), 5)
    return StationSettings(
        station=f"station-{name}",
        zone="arena",
        name=f"Station {name}",
        identity=bytes(signer(f"station-{name}").address),
        receiver=receiver,
        receiver_authorizer=receiver,
        network=network(),
        meters=(meter,),
        dock=f"dock-{name}",
        pose_mm_mrad=(3000, 0, 0),
    )
