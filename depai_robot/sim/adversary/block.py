"""Cheats of both sides with energy that is sold in blocks, each paid by one transfer (scheme ``exact``)."""
# ruff: noqa: D102  (the seams that are overridden here are documented in ``behaviour``)
# ruff: noqa: ARG002  (and have the parameters that they have there)

from typing import Any, ClassVar

from msgspec.structs import replace

from depai_robot.charging import effect as fx
from depai_robot.charging.message import BlockPayment, NeedVoucher, PaymentResult, Quote
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.terms import build_failure
from depai_robot.sim.adversary.agent import Agent
from depai_robot.sim.adversary.arena import SECOND, Arena
from depai_robot.sim.adversary.behaviour import ROBOT, STATION, Behaviour
from depai_robot.sim.adversary.cast import signer
from depai_robot.sim.adversary.robot_deposit import spend
from depai_robot.values.identity import Address, address_to_hex


class _Blocks(Behaviour):
    """A station whose blocks of 1 Wh are cheaper than a channel."""

    def station_settings(self, settings: StationSettings) -> StationSettings:
        return replace(settings, block_milliwh=1000, block_fee_atomic=10, start_fee_atomic=9000)


# --- stations -------------------------------------------------------------------------------------------------


class HonestBlocks(_Blocks):
    """Nothing: the control run; the robot pays whole blocks and leaves the rest of the last."""

    side = STATION
    name = "honest-blocks"


class BlockNotDelivered(_Blocks):
    """Is paid a block and gives nothing for it."""

    side = STATION
    name = "block-not-delivered"

    def delivers(self, arena: Arena) -> bool:
        arena.misdeed()
        return False


class NextBlockEarly(_Blocks):
    """Asks for the next block as soon as the last is paid."""

    side = STATION
    name = "next-block-early"

    def __init__(self) -> None:
        self._need: Any = None

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, NeedVoucher):
            self._need = self._need or draft.body
        if isinstance(draft.body, PaymentResult) and draft.body.settle.success and self._need is not None:
            arena.misdeed()
            arena.later(SECOND, lambda: self._ask(arena, draft.session))
        return draft

    def _ask(self, arena: Arena, session: str) -> None:
        arena.say(arena.cheat.name, arena.victim, self._need, session=session)


class DearBlock(_Blocks):
    """Asks ten times the quoted price for the second block."""

    side = STATION
    name = "dear-second-block"

    def __init__(self) -> None:
        self._asked = 0

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, NeedVoucher):
            return draft
        self._asked += 1
        if self._asked < 2:
            return draft
        arena.misdeed()
        required = draft.body.payment_required
        item = required.accepts[0]
        required = replace(required, accepts=[replace(item, amount=str(10 * int(item.amount)))])
        return replace(draft, body=replace(draft.body, payment_required=required))


class BlockDenied(_Blocks):
    """Is paid a block and says that it was not."""

    side = STATION
    name = "block-denied"

    def draft(self, arena: Arena, draft: Any) -> Any:
        body = draft.body
        if isinstance(body, PaymentResult) and body.settle.success and body.settle.transaction:
            arena.misdeed()
            settle = build_failure(arena.cheat.settings.network, "insufficient_funds")
            return replace(draft, body=PaymentResult(body.answers, settle))
        return draft


class BlockKept(_Blocks):
    """Keeps the signed transfer and sends it minutes later, when the robot has left."""

    side = STATION
    name = "block-sent-late"

    def effect(self, arena: Arena, agent: Agent, effect: Any) -> tuple[Any, ...]:
        if isinstance(effect, fx.PrepareTransaction) and isinstance(effect.call, fx.TransferWish):
            arena.misdeed()
            arena.later(120 * SECOND, lambda: arena.perform(agent, effect))
            return ()
        return (effect,)


class LastingBlock(_Blocks):
    """Its quote wants transfers that hold for 68 years."""

    side = STATION
    name = "lasting-block"
    changes: ClassVar[dict[str, Any]] = {"max_timeout_seconds": 2**31}

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, Quote):
            return draft
        arena.misdeed()
        required = draft.body.payment_required
        accepts = [required.accepts[0], replace(required.accepts[1], **self.changes)]
        return replace(draft, body=Quote(replace(required, accepts=accepts)))


class BlockToAnother(LastingBlock):
    """Its quote lets blocks be paid to somebody else."""

    name = "block-to-another"
    changes: ClassVar[dict[str, Any]] = {"pay_to": address_to_hex(signer("somebody else").address)}


class HugeBlock(LastingBlock):
    """Its quote wants a dollar for a block."""

    name = "huge-block-price"
    changes: ClassVar[dict[str, Any]] = {"amount": "1000000"}


class FreeBlock(LastingBlock):
    """Its quote gives blocks away, so that nothing would be owed for a signature."""

    name = "free-block"
    changes: ClassVar[dict[str, Any]] = {"amount": "0"}


# --- robots ---------------------------------------------------------------------------------------------------


class HonestRobotBlocks(_Blocks):
    """Nothing: the control run of an honest purchase by blocks."""

    side = ROBOT
    name = "honest-blocks"


class _Transfer(_Blocks):
    """Changes the transfer that pays a block."""

    side = ROBOT
    changes: ClassVar[dict[str, Any]] = {}

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return replace(payload, authorization=replace(payload.authorization, **self.changes))

    def draft(self, arena: Arena, draft: Any) -> Any:
        if not isinstance(draft.body, BlockPayment):
            return draft
        payload = self.spoil(arena, draft.body.payload.payload)
        if payload == draft.body.payload.payload:
            return draft
        arena.misdeed()
        return replace(draft, body=BlockPayment(replace(draft.body.payload, payload=payload)))


class CheapTransfer(_Transfer):
    """Pays one atomic unit for a block."""

    name = "transfer-too-small"
    changes: ClassVar[dict[str, Any]] = {"value": "1"}


class TransferToItself(_Transfer):
    """Pays itself."""

    name = "transfer-to-itself"
    changes: ClassVar[dict[str, Any]] = {"to": address_to_hex(signer("payer-a").address)}


class TransferOfAnother(_Transfer):
    """Pays with another robot's money."""

    name = "transfer-of-another"
    changes: ClassVar[dict[str, Any]] = {"from_": address_to_hex(signer("payer-b").address)}


class ForgedTransfer(_Transfer):
    """Its transfer's signature is nobody's."""

    name = "transfer-forged"

    def spoil(self, arena: Arena, payload: Any) -> Any:
        return replace(payload, signature="0x" + "11" * 65)


class SameTransfer(_Transfer):
    """Pays every block with the first transfer."""

    name = "same-transfer-again"

    def __init__(self) -> None:
        self._first: Any = None

    def spoil(self, arena: Arena, payload: Any) -> Any:
        self._first = self._first or payload
        return self._first


class MoneyGone(_Blocks):
    """Signs a transfer and moves the money away before it is sent."""

    side = ROBOT
    name = "transfer-without-money"

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, BlockPayment):
            arena.misdeed()
            arena.later(25_000_000, lambda: spend(arena, Address(arena.robots[0].settings.payer)))
        return draft


class NeverPaysBlock(_Blocks):
    """Does not pay the second block, and goes on drawing."""

    side = ROBOT
    name = "draws-beyond-its-block"

    def __init__(self) -> None:
        self._paid = 0

    def draft(self, arena: Arena, draft: Any) -> Any:
        if isinstance(draft.body, BlockPayment):
            self._paid += 1
            if self._paid > 1:
                arena.misdeed()
                return None
        return draft
