"""What an owner of a robot or a station decides beforehand; frozen, checked here, read from files elsewhere."""

import re

from msgspec import Struct

from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.message import MeterIdentity
from depai_robot.charging.ocmf import require_meter_key
from depai_robot.charging.reconciliation import MeterBand, RecordBand
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT
from depai_robot.payment.policy import SpendPolicy
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import require_id

_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


def require_range(name: str, value: int, least: int, most: int) -> int:
    """An integer within its limits. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(f"{name} must be an integer from {least} to {most}, got {value!r}")
    return value


def _require_address(name: str, value: bytes) -> None:
    if not isinstance(value, bytes) or len(value) != 20 or not any(value):
        raise ConfigError(f"{name} must be 20 bytes, not all zero, got {value!r}")


class Network(Struct, frozen=True, kw_only=True):
    """Which chain, contracts and token; pinned by the chain adapter before the first signature.

    Attributes:
        chain_id: EIP-155.
        token: address, 20 bytes.
        token_name: EIP-712 domain name of the token ("USDC" on Base Sepolia, "USD Coin" on Base).
        token_version: EIP-712 domain version.
        settlement: contract address.
        collector: of deposits.
    """

    chain_id: int
    token: bytes
    token_name: str
    token_version: str
    settlement: bytes = SETTLEMENT
    collector: bytes = DEPOSIT_COLLECTOR

    def __post_init__(self) -> None:
        require_range("chain_id", self.chain_id, 1, 10**17)
        for name in ("token", "settlement", "collector"):
            _require_address(name, getattr(self, name))

    @property
    def caip2(self) -> str:
        """``eip155:<chain id>``."""
        return f"eip155:{self.chain_id}"


def robot_inbox(zone: str, robot: str) -> str:
    """Topic that stations write to."""
    return f"depai/v1/{zone}/robots/{robot}/inbox"


def station_inbox(zone: str, station: str) -> str:
    """Topic that robots write to."""
    return f"depai/v1/{zone}/stations/{station}/inbox"


def station_offer_topic(zone: str, station: str) -> str:
    """Topic of a station's retained offer."""
    return f"depai/v1/{zone}/stations/{station}/offer"


class PresignedDeposit(Struct, frozen=True, kw_only=True):
    """A deposit that the owner's treasury signed beforehand; the robot can only send it, to that one channel.

    Attributes:
        channel: that it goes into: one station's.
        amount_atomic: all of it or nothing.
        valid_after_s, valid_before_s: chain time.
        salt: of the authorisation's nonce.
        signature: 65 bytes, by the payer.
    """

    channel: ChannelJson
    amount_atomic: int
    valid_after_s: int
    valid_before_s: int
    salt: bytes
    signature: bytes

    def __post_init__(self) -> None:
        require_range("amount_atomic", self.amount_atomic, 1, 2**63 - 1)
        if len(self.salt) != 32 or len(self.signature) != 65:
            raise ConfigError(
                f"a pre-signed deposit has a salt of 32 and a signature of 65 bytes, got {len(self.salt)} and"
                f" {len(self.signature)}"
            )


_ROBOT_RANGES = {
    "power_max_w": (1, 1_000_000),
    "battery_capacity_milliwh": (1000, 10**9),
    "travel_milliwh_per_m": (0, 100_000),
    "reserve_permille": (0, 900),
    "shutdown_permille": (0, 500),
    "full_permille": (100, 1000),
    "time_price_atomic_per_min": (0, 10**12),
    "no_current_mw": (1, 100_000),
    "reading_age_max_ms": (10, 60_000),
    "clock_skew_max_s": (1, 600),
    "head_age_max_ms": (100, 600_000),
    "head_interval_ms": (100, 600_000),
    "message_ttl_s": (5, 3600),
    "retry_ms": (50, 60_000),
    "chain_retry_ms": (50, 600_000),
    "quote_window_ms": (10, 60_000),
    "funding_timeout_ms": (1000, 3_600_000),
    "docking_timeout_ms": (1000, 3_600_000),
    "presenting_timeout_ms": (1000, 600_000),
    "meter_slack_ms": (10, 600_000),
    "stall_timeout_ms": (1000, 3_600_000),
    "stall_milliwh": (1, 1_000_000),
    "stop_timeout_ms": (100, 600_000),
    "poll_ms": (20, 600_000),
    "settle_timeout_ms": (1000, 3_600_000),
    "withdraw_poll_ms": (100, 3_600_000),
    "back_off_ms": (100, 3_600_000),
    "back_off_tries": (0, 100),
    "help_retry_ms": (100, 86_400_000),
    "bar_s": (1, 10**9),
    "receipt_wait_ms": (0, 600_000),
    "undocking_tries": (1, 10),
    "offers_max": (1, 1024),
    "keep_max_atomic": (0, 10**12),
    "keep_max_s": (60, 31_536_000),
}


class RobotSettings(Struct, frozen=True, kw_only=True):
    """Decisions of a robot's owner.

    Attributes:
        robot: its id; names its inbox.
        zone: of the topics.
        identity: address of the key that signs messages.
        payer: address that funds channels and gets the rest back.
        voucher_key: address whose signature makes a voucher (``payerAuthorizer``).
        network: chain, contracts and token.
        policy: the owner's limits, signature already checked.
        delegated: the payer's key is not on the robot: only pre-signed deposits fund channels.
        presigned: deposits that the payer signed beforehand.
        band: how far two honest meters may differ.
        record_band: how far they may differ over many sessions with one station.
        stations: identities that may be asked; empty: all whose receiver the policy allows.
        current_type: AC or DC that the robot takes.
        power_max_w: it takes at the pads.
        battery_capacity_milliwh: of the pack.
        travel_milliwh_per_m: what driving costs.
        reserve_permille: state of charge that must be left on arrival at a dock.
        shutdown_permille: below it the robot shuts down safely when nobody sells.
        full_permille: no charging beyond.
        time_price_atomic_per_min: what a minute of the robot's time is worth in the choice.
        no_current_mw: at or below this at the pads, no current flows.
        reading_age_max_ms: an older own reading authorises nothing.
        clock_skew_max_s: between wall clock and head of the chain.
        head_age_max_ms: session time since the head was seen; older: ask first.
        head_interval_ms: between looks at the head while charging.
        message_ttl_s: validity of messages.
        retry_ms: until an unanswered message is sent again.
        chain_retry_ms: until an unanswered chain effect is tried again.
        quote_window_ms: for answers to quote requests.
        funding_timeout_ms: until the deposit must be seen on chain.
        docking_timeout_ms: until contact.
        presenting_timeout_ms: from contact to the begin of charging.
        meter_slack_ms: a statement may be late by this and a voucher time-out.
        stall_timeout_ms: while charging, at least ``stall_milliwh`` must come in during each such time: a dock that
            gives nothing drains a robot that stays on it.
        stall_milliwh: less than the on-board load alone takes; 100 mWh a minute are 6 W.
        stop_timeout_ms: until the end of charging must be confirmed; then help is called.
        poll_ms: between looks at battery and channel.
        settle_timeout_ms: until the station must have settled; then the robot withdraws by itself.
        withdraw_poll_ms: between looks at a channel that is being withdrawn.
        back_off_ms: before asking again, doubled each time.
        back_off_tries: rounds before calling for help.
        help_retry_ms: between rounds after that.
        bar_s: how long a station that failed is not asked; one that cheated is never asked again.
        receipt_wait_ms: for the station's signed receipt once the channel is settled.
        undocking_tries: before help is called and settlement goes on.
        offers_max: remembered at once.
        keep_max_atomic: the most that may stay in a channel after a session, for the next one; 0 asks for it back
            every time.
        keep_max_s: after so long without a session the rest of a kept channel is asked back.
    """

    robot: str
    zone: str
    identity: bytes
    payer: bytes
    voucher_key: bytes
    network: Network
    policy: SpendPolicy
    delegated: bool = False
    presigned: tuple[PresignedDeposit, ...] = ()
    band: MeterBand = MeterBand()
    record_band: RecordBand = RecordBand()
    stations: tuple[bytes, ...] = ()
    current_type: str = "DC"
    power_max_w: int = 300
    battery_capacity_milliwh: int = 200_000
    travel_milliwh_per_m: int = 40
    reserve_permille: int = 50
    shutdown_permille: int = 30
    full_permille: int = 980
    time_price_atomic_per_min: int = 0
    no_current_mw: int = 1000
    reading_age_max_ms: int = 1000
    clock_skew_max_s: int = 120
    head_age_max_ms: int = 30_000
    head_interval_ms: int = 10_000
    message_ttl_s: int = 300
    retry_ms: int = 1000
    chain_retry_ms: int = 2000
    quote_window_ms: int = 3000
    funding_timeout_ms: int = 120_000
    docking_timeout_ms: int = 600_000
    presenting_timeout_ms: int = 30_000
    meter_slack_ms: int = 2000
    stall_timeout_ms: int = 60_000
    stall_milliwh: int = 100
    stop_timeout_ms: int = 15_000
    poll_ms: int = 500
    settle_timeout_ms: int = 120_000
    withdraw_poll_ms: int = 30_000
    back_off_ms: int = 10_000
    back_off_tries: int = 3
    help_retry_ms: int = 300_000
    bar_s: int = 3600
    receipt_wait_ms: int = 5000
    undocking_tries: int = 3
    offers_max: int = 256
    keep_max_atomic: int = 0
    keep_max_s: int = 2_592_000

    def __post_init__(self) -> None:
        require_id("robot", self.robot)
        if _ZONE.match(self.zone) is None:
            raise ConfigError(f"zone must be 1 to 64 of A-Z a-z 0-9 _ . -, got {self.zone!r}")
        for name in ("identity", "payer", "voucher_key"):
            _require_address(name, getattr(self, name))
        if self.current_type not in ("AC", "DC"):
            raise ConfigError(f"current_type must be AC or DC, got {self.current_type!r}")
        for name, (least, most) in _ROBOT_RANGES.items():
            require_range(name, getattr(self, name), least, most)
        if self.shutdown_permille > self.reserve_permille:
            raise ConfigError(
                f"shutdown_permille {self.shutdown_permille} must not be above reserve_permille {self.reserve_permille}"
            )

    @property
    def inbox(self) -> str:
        """Its own topic."""
        return robot_inbox(self.zone, self.robot)


_STATION_RANGES = {
    "marker_id": (0, 586),
    "price_atomic_per_kwh": (1, 10**12),
    "price_floor_atomic_per_kwh": (1, 10**12),
    "start_fee_atomic": (1, 10**12),
    "idle_fee_atomic_per_min": (0, 10**12),
    "tranche_milliwh": (1, 10**9),
    "power_max_w": (1, 1_000_000),
    "stop_time_ms": (1, 60_000),
    "report_interval_ms": (20, 600_000),
    "voucher_timeout_ms": (50, 600_000),
    "confirmations": (1, 1000),
    "withdraw_delay_s": (900, 2_592_000),
    "payment_timeout_s": (30, 3600),
    "hold_ms": (1000, 3_600_000),
    "arrival_timeout_ms": (1000, 3_600_000),
    "binding_timeout_ms": (100, 600_000),
    "refund_wait_ms": (100, 3_600_000),
    "channel_watch_ms": (100, 3_600_000),
    "chain_retry_ms": (50, 600_000),
    "chain_tries": (1, 1000),
    "message_ttl_s": (5, 3600),
    "retry_ms": (50, 60_000),
    "offer_ttl_s": (30, 86_400),
    "offer_interval_ms": (1000, 43_200_000),
    "finished_keep_s": (60, 86_400),
    "sessions_max": (1, 1024),
    "no_power_mw": (1, 100_000),
    "reuse_fee_atomic": (0, 10**12),
    "block_milliwh": (0, 10**9),
    "block_fee_atomic": (0, 10**12),
    "claim_interval_ms": (1000, 86_400_000),
    "claim_at_atomic": (1, 10**12),
    "claim_rows_max": (1, 100),
    "channels_max": (1, 100_000),
}


class StationSettings(Struct, frozen=True, kw_only=True):
    """Decisions of a station's owner.

    Attributes:
        station: its id; names its topics.
        zone: of the topics.
        name: for people.
        identity: address of the key that signs messages.
        receiver: address that is paid, and sends claims and refunds.
        receiver_authorizer: address that may sign them for it.
        network: chain, contracts and token.
        meters: of the connectors, by number, 1 first.
        dock: id of its dock in the map.
        marker_id: of the tag on the dock.
        pose_mm_mrad: dock in the map frame: x mm, y mm, yaw mrad.
        current_type: AC or DC.
        price_atomic_per_kwh: asked.
        price_floor_atomic_per_kwh: least accepted in a counter-offer.
        start_fee_atomic: pays the gas of deposit, claim, refund and settle.
        idle_fee_atomic_per_min: per full minute after the end of charging.
        tranche_milliwh: sold ahead of what is stated.
        power_max_w: of the supply.
        stop_time_ms: from ceiling reached to no current.
        report_interval_ms: between statements.
        voucher_timeout_ms: for a voucher; then charging ends.
        confirmations: of a deposit.
        withdraw_delay_s: of channels.
        payment_timeout_s: how long a deposit's authorisation must hold (``maxTimeoutSeconds``).
        hold_ms: a quote holds its connector.
        arrival_timeout_ms: from deposit to contact.
        binding_timeout_ms: from contact to the first voucher for energy.
        refund_wait_ms: from the end of charging until it is claimed without a refund request.
        channel_watch_ms: between looks at an open channel.
        chain_retry_ms: until an unanswered chain effect is tried again.
        chain_tries: of a transaction that the chain refuses.
        message_ttl_s: validity of messages.
        retry_ms: until an unanswered message is sent again.
        offer_ttl_s: validity of offers.
        offer_interval_ms: between offers.
        finished_keep_s: a finished session is remembered, longer than any message can be replayed.
        sessions_max: at once.
        no_power_mw: at or below this, no power flows.
        reuse_fee_atomic: start fee for a robot that pays from the channel of an earlier session, without deposit or
            refund; 0 keeps no channels.
        block_milliwh: sells blocks of so much energy too, each paid by one transfer; 0 does not.
        block_fee_atomic: on top of a block's energy, for the gas of its transfer.
        claim_interval_ms: until what was earned on kept channels is claimed, all of them in batches.
        claim_at_atomic: earned and not claimed on kept channels: claim at once.
        claim_rows_max: channels in one claim; the chain adapter's gas limit may make it fewer.
        channels_max: kept at once.
        in_service: whether it sells at all.
        served: voucher keys of its customers; None serves everybody.
    """

    station: str
    zone: str
    name: str
    identity: bytes
    receiver: bytes
    receiver_authorizer: bytes
    network: Network
    meters: tuple[MeterIdentity, ...]
    dock: str
    marker_id: int = 0
    pose_mm_mrad: tuple[int, int, int] = (0, 0, 0)
    current_type: str = "DC"
    price_atomic_per_kwh: int = 400_000
    price_floor_atomic_per_kwh: int = 400_000
    start_fee_atomic: int = 2000
    idle_fee_atomic_per_min: int = 0
    tranche_milliwh: int = 1000
    power_max_w: int = 300
    stop_time_ms: int = 300
    report_interval_ms: int = 1000
    voucher_timeout_ms: int = 5000
    confirmations: int = 1
    withdraw_delay_s: int = 900
    payment_timeout_s: int = 300
    hold_ms: int = 120_000
    arrival_timeout_ms: int = 900_000
    binding_timeout_ms: int = 30_000
    refund_wait_ms: int = 60_000
    channel_watch_ms: int = 15_000
    chain_retry_ms: int = 2000
    chain_tries: int = 5
    message_ttl_s: int = 300
    retry_ms: int = 1000
    offer_ttl_s: int = 600
    offer_interval_ms: int = 120_000
    finished_keep_s: int = 3900
    sessions_max: int = 64
    no_power_mw: int = 1000
    reuse_fee_atomic: int = 0
    block_milliwh: int = 0
    block_fee_atomic: int = 1000
    claim_interval_ms: int = 3_600_000
    claim_at_atomic: int = 1_000_000
    claim_rows_max: int = 16
    channels_max: int = 10_000
    in_service: bool = True
    served: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        require_id("station", self.station)
        require_id("dock", self.dock)
        if _ZONE.match(self.zone) is None:
            raise ConfigError(f"zone must be 1 to 64 of A-Z a-z 0-9 _ . -, got {self.zone!r}")
        for name in ("identity", "receiver", "receiver_authorizer"):
            _require_address(name, getattr(self, name))
        if self.current_type not in ("AC", "DC"):
            raise ConfigError(f"current_type must be AC or DC, got {self.current_type!r}")
        if not 1 <= len(self.meters) <= 64:
            raise ConfigError(f"expected 1 to 64 connectors with a meter each, got {len(self.meters)}")
        for meter in self.meters:
            require_meter_key(meter.key)
        for name, (least, most) in _STATION_RANGES.items():
            require_range(name, getattr(self, name), least, most)
        if self.price_floor_atomic_per_kwh > self.price_atomic_per_kwh:
            raise ConfigError(
                f"price_floor_atomic_per_kwh {self.price_floor_atomic_per_kwh} must not be above"
                f" price_atomic_per_kwh {self.price_atomic_per_kwh}"
            )
        need = tranche_need_milliwh(self.power_max_w, self.report_interval_ms, self.voucher_timeout_ms)
        if self.tranche_milliwh < need:
            raise ConfigError(
                f"tranche_milliwh {self.tranche_milliwh} must hold power_max_w x (report_interval_ms +"
                f" voucher_timeout_ms) = {need} mWh"
            )

    @property
    def inbox(self) -> str:
        """Its own topic."""
        return station_inbox(self.zone, self.station)

    @property
    def offer_topic(self) -> str:
        """Where its offer lies, retained."""
        return station_offer_topic(self.zone, self.station)


def tranche_need_milliwh(power_max_w: int, report_interval_ms: int, voucher_timeout_ms: int) -> int:
    """What a tranche must hold: all that can flow until a missing voucher stops the current, rounded up.

    1 W for 3600 ms is 1 mWh.
    """
    return -(-power_max_w * (report_interval_ms + voucher_timeout_ms) // 3600)
