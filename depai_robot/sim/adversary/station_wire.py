"""Stations that cheat on the wire: silence, floods, replays, forged envelopes, false times and receipts."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

import base64
import json
from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import (
    EventType,
    NeedVoucher,
    Offer,
    PaymentResult,
    Quote,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import STATION, Behaviour
from depai_robot.sim.adversary.cast import NAMES, seal, signer
from depai_robot.values.identity import address_to_hex

FLOOD = 200


# --- answers that do not come ---------------------------------------------------------------------------------


class SilentAfterDeposit(Behaviour):
    """Relays the deposit and never answers it."""

    side = STATION
    name = "silent-after-deposit"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, PaymentResult) and draft.body.settle.transaction:
            arena.misdeed()
            return None
        return draft


class NeverAnswersVouchers(Behaviour):
    """Takes vouchers, gives the energy and never answers them."""

    side = STATION
    name = "never-answers-vouchers"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if isinstance(body, PaymentResult) and not body.settle.transaction:
            arena.misdeed()
            return None
        return draft


class NeverEnds(Behaviour):
    """Never confirms the end of charging."""

    side = STATION
    name = "never-confirms-the-end"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, SessionEvent) and draft.body.event_type is EventType.ENDED:
            arena.misdeed()
            return None
        return draft


class FalseReceipt(Behaviour):
    """Its receipt says that ten times as much was owed and claimed."""

    side = STATION
    name = "false-receipt"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, ReceiptMessage):
            return draft
        arena.misdeed()
        receipt = json.loads(draft.body.receipt)
        receipt |= {key: value * 10 for key, value in receipt.items() if key.endswith("_atomic")}
        return replace(draft, body=ReceiptMessage(json.dumps(receipt, separators=(",", ":"))))


class NoReceipt(Behaviour):
    """Settles and sends no receipt."""

    side = STATION
    name = "no-receipt"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, ReceiptMessage):
            arena.misdeed()
            return None
        return draft


class WithdrawsQuote(Behaviour):
    """Stops the session as soon as the deposit is on chain."""

    side = STATION
    name = "stops-after-deposit"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, PaymentResult) and draft.body.settle.transaction:
            arena.misdeed()
            return replace(draft, body=SessionStop("Other", "changed its mind"))
        return draft


# --- times ----------------------------------------------------------------------------------------------------


class ClockAhead(Behaviour):
    """Its clock is an hour fast."""

    side = STATION
    name = "clock-fast"
    offset_s: ClassVar[int] = 3600

    def draft(self, arena: Arena, draft: Any) -> Any:
        arena.misdeed()
        return replace(draft, ts=draft.ts + self.offset_s, exp=draft.exp + self.offset_s)


class ClockBehind(ClockAhead):
    """Its clock is an hour slow."""

    name = "clock-slow"
    offset_s = -3600


class Immortal(Behaviour):
    """Its messages are valid for a year."""

    side = STATION
    name = "messages-valid-for-a-year"

    def draft(self, arena: Arena, draft: Any) -> Any:
        arena.misdeed()
        return replace(draft, exp=draft.ts + 31_536_000)


# --- forged bytes ---------------------------------------------------------------------------------------------


def _decode(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Forged(Behaviour):
    """Spoils the bytes of every request for a voucher and every quote."""

    side = STATION

    def forge(self, token: str) -> str:
        return token

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        if isinstance(draft.body, Quote | NeedVoucher):
            arena.misdeed()
            return (self.forge(token),)
        return (token,)


class Truncated(Forged):
    """Sends half of each message."""

    name = "truncated-messages"

    def forge(self, token: str) -> str:
        return token[: len(token) // 2]


class Oversized(Forged):
    """Sends messages of 100 KiB."""

    name = "oversized-messages"

    def forge(self, token: str) -> str:
        return token + "A" * 100_000


class Nested(Forged):
    """Sends payloads of ten thousand nested brackets."""

    name = "nested-messages"

    def forge(self, token: str) -> str:
        header, _, signature = token.split(".")
        return f"{header}.{_encode(b'[' * 10_000)}.{signature}"


class AlgNone(Forged):
    """Says ``alg: none`` and signs nothing."""

    name = "alg-none"

    def forge(self, token: str) -> str:
        header, payload, _ = token.split(".")
        changed = json.loads(_decode(header)) | {"alg": "none"}
        return f"{_encode(json.dumps(changed, separators=(',', ':')).encode())}.{payload}."


class AlgOther(Forged):
    """Says ``alg: ES256``."""

    name = "alg-es256"

    def forge(self, token: str) -> str:
        header, payload, signature = token.split(".")
        changed = json.loads(_decode(header)) | {"alg": "ES256"}
        return f"{_encode(json.dumps(changed, separators=(',', ':')).encode())}.{payload}.{signature}"


class KidOfAnother(Forged):
    """Puts another station's address over its own key."""

    name = "kid-of-another"

    def forge(self, token: str) -> str:
        header, payload, signature = token.split(".")
        changed = json.loads(_decode(header))
        changed["kid"] = changed["kid"][:-40] + address_to_hex(signer("station-b").address)[2:]
        return f"{_encode(json.dumps(changed, separators=(',', ':')).encode())}.{payload}.{signature}"


class HighS(Forged):
    """Signs with the high s, which has the same meaning and other bytes."""

    name = "high-s-envelopes"

    def forge(self, token: str) -> str:
        header, payload, signature = token.split(".")
        raw = _decode(signature)
        high = (CURVE_ORDER - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
        return f"{header}.{payload}.{_encode(raw[:32] + high)}"


class ChangedPayload(Forged):
    """Changes an amount after it signed."""

    name = "edited-messages"

    def forge(self, token: str) -> str:
        header, payload, signature = token.split(".")
        return f"{header}.{_encode(_decode(payload).replace(b'400', b'100'))}.{signature}"


class ToAnother(Behaviour):
    """Sends what is addressed to another robot."""

    side = STATION
    name = "addressed-to-another"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, Quote | NeedVoucher):
            arena.misdeed()
            return replace(draft, to=draft.to[:-40] + address_to_hex(signer("robot-b").address)[2:])
        return draft


# --- floods and replays ---------------------------------------------------------------------------------------


class Flood(Behaviour):
    """Asks for the same voucher two hundred times, each under a new id."""

    side = STATION
    name = "need-voucher-flood"

    def __init__(self) -> None:
        self._flooded = False

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        if not isinstance(draft.body, NeedVoucher) or self._flooded:
            return (token,)
        self._flooded = True
        arena.misdeed()
        more = (seal(arena.cheat.name, replace(draft, id=f"flood.{n}", seq=2000 + n)) for n in range(FLOOD))
        return (token, *more)


class Repeats(Behaviour):
    """Sends each message ten times."""

    side = STATION
    name = "repeats-everything"

    def token(self, arena: Arena, draft: Any, token: str) -> tuple[str, ...]:
        arena.misdeed()
        return (token,) * 10


class ReplaysOldSession(Behaviour):
    """In a second session it replays every message of the first."""

    side = STATION
    name = "replays-the-last-session"
    least_s: ClassVar[float] = 120.0

    def begin(self, arena: Arena) -> None:
        robot = arena.robots[0]
        arena.later(70 * SECOND, lambda: arena.request(robot, "s-2"))
        arena.later(78 * SECOND, lambda: self._replay(arena))

    def _replay(self, arena: Arena) -> None:
        arena.misdeed()
        inbox = arena.robots[0].settings.inbox
        for _, topic, token in list(arena.published):
            if topic == inbox:
                arena.deliver(topic, token)


class Mirror(Behaviour):
    """Sends the robot's own messages back to it."""

    side = STATION
    name = "mirrors-messages"

    def heard(self, arena: Arena, agent: Agent, draft: Any) -> None:
        arena.misdeed()
        own = [token for name, _, token in arena.published if name == "robot-a"]
        if own and draft.id:
            arena.deliver(arena.robots[0].settings.inbox, own[-1])


class StrangersOffers(Behaviour):
    """Signs offers of three hundred stations that are not there."""

    side = STATION
    name = "offer-flood"

    def begin(self, arena: Arena) -> None:
        arena.later(100_000_000, lambda: self._flood(arena))

    def _flood(self, arena: Arena) -> None:
        arena.misdeed()
        topic, (_, token) = next(iter(arena.retained.items()))
        draft = open_token(token)
        other = address_to_hex(signer("somebody else").address)
        body = replace(draft.body, receiver=other, receiver_authorizer=other, station="station-x")
        for number in range(300):
            name = f"stranger-{number}"
            arena.deliver(topic, seal(name, replace(draft, id=f"o.{number}", body=body)))


class Impersonates(Behaviour):
    """Its offer carries another station's name, dock and receiver under its own key."""

    side = STATION
    name = "impersonates"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, Offer):
            arena.misdeed()
            other = address_to_hex(signer(f"receiver-{NAMES[1]}").address)
            body = replace(draft.body, station="station-b", receiver=other, receiver_authorizer=other)
            return replace(draft, body=body)
        return draft


class ManyStops(Behaviour):
    """Says in mid-session that it stops, and goes on charging."""

    side = STATION
    name = "stops-and-goes-on"

    def __init__(self) -> None:
        self._said = 0

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, SessionEvent) and draft.body.charging_state == "Charging":
            self._said += 1
            if self._said == 4:
                arena.misdeed()
                return replace(draft, body=SessionStop("PowerLoss", "not really"))
        return draft


class FastReports(Behaviour):
    """Quotes one statement an hour and vouchers that may take an hour."""

    side = STATION
    name = "hourly-reports"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, Quote):
            return draft
        arena.misdeed()
        required = draft.body.payment_required
        extensions: Any = required.extensions
        key, extension = next(iter(extensions.items()))
        info = {**extension.info, "report_interval_ms": 3_600_000, "voucher_timeout_ms": 3_600_000}
        extensions = {key: replace(extension, info=info)}
        return replace(draft, body=Quote(replace(required, extensions=extensions)))
