"""The channels of a wallet, for its owner: which there are, what is in them, and taking the rest out without anybody.

Everything needed is in the wallet's journal (each channel's config travels with its payments) and on chain; nothing
here writes the journal, so a running wallet goes on and sees a withdrawal on chain.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from depai_robot.adapters.journal_reader import JournalReader
from depai_robot.app.chain_worker import wish_to_call
from depai_robot.charging.effect import ChannelJson, FinalizeWithdrawWish, InitiateWithdrawWish
from depai_robot.charging.envelope import RefusedMessageError, open_token
from depai_robot.charging.fact import MessageSealed, decode_fact
from depai_robot.charging.message import Payment
from depai_robot.charging.setting import Network
from depai_robot.charging.terms import channel_key, read_channel
from depai_robot.payment.channel import ChannelState
from depai_robot.payment.eip712 import settlement_domain
from depai_robot.payment.x402 import DepositPayload, RefundPayload, VoucherPayload, json_to_voucher
from depai_robot.ports import Chain, TransactionStatus
from depai_robot.values.error import ChainError, ConfigError, DepaiError, RetryableChainError
from depai_robot.values.identity import ChannelId, address_to_hex

POLL_S = 0.5
CONFIRM_S = 300.0
INTENT_FOLDER = "intents"
CLOSE_PREFIX = "close-"


@dataclass(frozen=True, slots=True)
class KnownChannel:
    """A channel as the journal has it.

    Attributes:
        channel_id: 32 bytes.
        config: of it.
        ceiling_atomic: the highest signed.
        vouchers: signed.
    """

    channel_id: ChannelId
    config: ChannelJson
    ceiling_atomic: int
    vouchers: int


def channels_in_journal(path: Path, network: Network) -> dict[ChannelId, KnownChannel]:
    """Every channel that the wallet has signed for, oldest first.

    Raises:
        JournalError: the file can't be read.
    """
    known: dict[ChannelId, KnownChannel] = {}
    reader = JournalReader(path)
    try:
        for row in reader.rows():
            fact = decode_fact(row.data)
            if not isinstance(fact, MessageSealed):
                continue
            try:
                body = open_token(fact.token).body
            except RefusedMessageError:
                continue
            inner = body.payload.payload if isinstance(body, Payment) else None
            if not isinstance(inner, DepositPayload | VoucherPayload | RefundPayload):
                continue
            config = read_channel(inner)
            key = channel_key(network, config)
            before = known.get(key, KnownChannel(key, config, 0, 0))
            ceiling = json_to_voucher(inner.voucher).ceiling_atomic
            known[key] = KnownChannel(key, config, max(before.ceiling_atomic, ceiling), before.vouchers + 1)
    finally:
        reader.close()
    return known


def pick_channel(known: dict[ChannelId, KnownChannel], wanted: str) -> KnownChannel:
    """The channel whose id begins so.

    Raises:
        ConfigError: none does, or several do.
    """
    digits = wanted.lower().removeprefix("0x")
    found = [item for key, item in known.items() if key.hex().startswith(digits)]
    if len(found) != 1 or not digits:
        names = ", ".join("0x" + key.hex()[:12] for key in known) or "none"
        raise ConfigError(f"channel {wanted!r} is {len(found)} of the journal's channels; it has {names}")
    return found[0]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """How a withdrawal stands.

    Attributes:
        state: of the channel on chain.
        rest_atomic: not claimed and still there.
        ready_at_s: chain time when it can be finalised, 0 when none is pending.
        head_s: chain time now.
    """

    state: ChannelState
    rest_atomic: int
    ready_at_s: int
    head_s: int


def look(chain: Chain, channel: KnownChannel) -> Withdrawal:
    """The channel on chain now."""
    state = chain.channel(channel.channel_id, 1)
    requested_s = state.withdraw_requested_at_s
    ready_s = requested_s + channel.config.withdraw_delay_s if requested_s else 0
    rest = state.balance_atomic - state.total_claimed_atomic
    return Withdrawal(state, rest, ready_s, chain.head().timestamp_s)


def initiate(chain: Chain, network: Network, channel: KnownChannel, say: Callable[[str], None]) -> Withdrawal:
    """Asks the contract for all the rest; what was signed can still be claimed until the delay is over.

    Raises:
        ChainError: the chain refuses; the message says why.
    """
    seen = look(chain, channel)
    if seen.ready_at_s or not seen.rest_atomic:
        return seen
    say(f"asking for {seen.rest_atomic} atomic units back")
    _do(chain, network, InitiateWithdrawWish(channel.config, seen.rest_atomic))
    return look(chain, channel)


def finalize(chain: Chain, network: Network, channel: KnownChannel, say: Callable[[str], None]) -> Withdrawal:
    """Takes out what was asked for, less what was claimed meanwhile.

    Raises:
        ConfigError: nothing is pending, or the delay is not over.
        ChainError: the chain refuses.
    """
    seen = look(chain, channel)
    if not seen.ready_at_s:
        raise ConfigError(f"no withdrawal is pending on 0x{channel.channel_id.hex()}")
    if seen.head_s <= seen.ready_at_s:
        raise ConfigError(
            f"the withdrawal can be finalised at chain time {seen.ready_at_s}, now is {seen.head_s}:"
            f" {seen.ready_at_s - seen.head_s + 1} s to go"
        )
    say(f"taking out {seen.rest_atomic} atomic units for {address_to_hex(channel.config.payer)}")
    _do(chain, network, FinalizeWithdrawWish(channel.config))
    return look(chain, channel)


def _do(chain: Chain, network: Network, wish: InitiateWithdrawWish | FinalizeWithdrawWish) -> None:
    domain = settlement_domain(network.chain_id, network.settlement)
    signed = chain.prepare(wish_to_call(wish, domain))
    chain.broadcast(signed)
    deadline = time.monotonic() + CONFIRM_S
    while time.monotonic() < deadline:
        try:
            outcome = chain.outcome(signed.tx_hash, 1)
        except RetryableChainError:
            outcome = None
        if outcome is not None and outcome.status is TransactionStatus.CONFIRMED:
            return
        if outcome is not None and outcome.status is TransactionStatus.REVERTED:
            raise ChainError(f"transaction 0x{signed.tx_hash.hex()} reverted")
        time.sleep(POLL_S)
    raise ChainError(f"transaction 0x{signed.tx_hash.hex()} was not seen in a block within {CONFIRM_S:.0f} s")


# --- intents for a running wallet ---------------------------------------------------------------------------


def leave_close_intent(folder: Path, channel_id: ChannelId) -> Path:
    """Asks the wallet that runs in that folder to close a kept channel; it names a channel, never an amount."""
    intents = folder / INTENT_FOLDER
    try:
        intents.mkdir(mode=0o700, exist_ok=True)
        path = intents / f"{CLOSE_PREFIX}{channel_id.hex()}"
        path.touch(mode=0o600)
    except OSError as error:
        raise ConfigError(f"{intents}: {error.strerror}") from error
    return path


def take_close_intents(folder: Path) -> list[ChannelId]:
    """Channels that the owner wants closed; each intent is taken once. What is no intent stays where it is."""
    intents = folder / INTENT_FOLDER
    taken = []
    try:
        for path in sorted(intents.glob(CLOSE_PREFIX + "*")):
            digits = path.name.removeprefix(CLOSE_PREFIX)
            if len(digits) == 64 and all(letter in "0123456789abcdef" for letter in digits):
                path.unlink()
                taken.append(ChannelId(bytes.fromhex(digits)))
    except OSError as error:
        raise DepaiError(f"{intents}: {error.strerror}") from error
    return taken
