"""The second rail at the robot: energy in fixed blocks, each paid by one transfer (x402 scheme ``exact``).

Nothing is paid before the robot is in contact and both meters have begun. A block is paid only when the one before it
was delivered by both meters, so the most that can be lost is one block: it counts as a tranche under the policy.
"""

from msgspec.structs import replace

from depai_robot.charging.effect import ReadAuthorization
from depai_robot.charging.fact import AuthorizationObserved
from depai_robot.charging.message import BlockPayment, NeedVoucher, PaymentResult
from depai_robot.charging.robot_ending import stop
from depai_robot.charging.robot_settlement import has_lapsed, note_transaction, settle
from depai_robot.charging.robot_state import Block, Pending
from depai_robot.charging.robot_turn import CHEATED, FAILED, RobotTurn
from depai_robot.charging.terms import BlockOffer, QuoteError, build_transfer, token_domain
from depai_robot.charging.transition import RobotPhase
from depai_robot.payment.exact import TransferAuthorization, transfer_digest
from depai_robot.payment.policy import refuse_signature
from depai_robot.values.identity import Address, ChannelId, keccak256

SLACK_MIN_MILLIWH = 100
"""A block counts as delivered when no more than this, or a twentieth of it, is missing by the reconciled meters."""


def block_offer(turn: RobotTurn) -> BlockOffer:
    """What was agreed. Raises QuoteError when the quote sells no blocks."""
    block = turn.session.contract().agreed.block
    if block is None:
        raise QuoteError("this quote sells no blocks")
    return block


def refuse_first(turn: RobotTurn) -> str:
    """Why the robot should not even drive there, or empty."""
    price = block_offer(turn).price_atomic
    if turn.session.funds_atomic < price:
        return f"the payer has {turn.session.funds_atomic}, a block costs {price}"
    refused = refuse_signature(
        turn.policy, turn.exposure(), rise_atomic=price, ahead_atomic=price, now_s=turn.at.wall_s
    )
    return turn.head_disagrees() or refused or ""


def on_need(turn: RobotTurn, body: NeedVoucher, need_id: str, token: str) -> None:
    """The station asks for the next block: every rule that its payment must pass, then the wish to sign it."""
    session = turn.session
    offer = block_offer(turn)
    if session.payment is not None or need_id == session.last_need:
        turn.ignore("need-voucher repeated")
        if session.payment is not None:
            turn.resend(session.payment.letter)
        return
    if body.payment_required.accepts != [offer.requirements]:
        seen = body.payment_required.accepts
        detail = f"requirements changed within the session: agreed {offer.requirements}, got {seen}"
        stop(turn, "Other", detail[:500], fault=CHEATED, tokens=(token,))
        return
    paid_milliwh = len(session.blocks) * offer.block_milliwh
    slack = max(SLACK_MIN_MILLIWH, offer.block_milliwh // 20)
    delivered = session.meter.reconciled.station_milliwh
    if delivered + slack < paid_milliwh:
        detail = f"asked for the next block, delivered are {delivered} of {paid_milliwh} mWh paid"
        stop(turn, "Other", detail, fault=FAILED, tokens=(token,))
        return
    disagrees = turn.head_disagrees() or refuse_signature(
        turn.policy,
        turn.exposure(),
        rise_atomic=offer.price_atomic,
        ahead_atomic=offer.price_atomic,
        now_s=turn.at.wall_s,
    )
    if disagrees:
        stop(turn, "DeAuthorized", disagrees, tokens=(token,))
        return
    _sign(turn, offer, need_id)


def waits_for_transfer(turn: RobotTurn) -> bool:
    """Whether a signed transfer may still be confirmed: no power flows meanwhile, and to leave now would lose it."""
    session = turn.session
    if session.payment is None or not session.blocks:
        return False
    return turn.at.wall_s < session.blocks[-1].valid_before_s


def _sign(turn: RobotTurn, offer: BlockOffer, need_id: str) -> None:
    session = turn.session
    agreement = session.contract()
    number = len(session.blocks) + 1
    transfer = TransferAuthorization(
        payer=Address(turn.settings.payer),
        receiver=Address(agreement.agreed.receiver),
        amount_atomic=offer.price_atomic,
        valid_after_s=0,
        valid_before_s=turn.at.wall_s + offer.requirements.max_timeout_seconds,
        nonce=keccak256(session.salt + b"block" + number.to_bytes(4, "big")),
    )
    # In the books before the wish to sign leaves: a channel of its own that holds exactly this transfer.
    account = ChannelId(transfer.nonce)
    ledger = turn.state.ledger.promise(account, transfer.receiver, transfer.amount_atomic)
    turn.change(ledger=ledger.sign(account, transfer.amount_atomic, turn.at.wall_s))
    money = session.money
    turn.money(signed=money.signed + transfer.amount_atomic, vouchers=money.vouchers + 1)
    letter = turn.tell(
        BlockPayment(build_transfer(agreement.agreed, transfer)),
        keep=True,
        transfer_digest=transfer_digest(token_domain(turn.settings.network), transfer),
    )
    block = Block(transfer.nonce, transfer.amount_atomic, transfer.valid_before_s)
    turn.update(
        blocks=(*session.blocks, block),
        payment=Pending(letter, need_id, transfer.amount_atomic, 0),
        last_need=need_id,
        deferred=None,
        agreement=replace(agreement, valid_before_s=max(agreement.valid_before_s, transfer.valid_before_s)),
    )


def on_answer(turn: RobotTurn, body: PaymentResult, token: str) -> None:
    """The station says what became of the transfer; the chain is asked at the end."""
    pending = turn.session.payment
    if pending is None or body.answers != pending.letter:
        turn.ignore("late payment result")
        return
    if not body.settle.success:
        reason = str(body.settle.error_reason)
        stop(turn, "DeAuthorized", f"payment of a block refused: {reason}", fault=FAILED, tokens=(token,))
        return
    turn.answer(pending.letter)
    turn.update(payment=None)
    note_transaction(turn, "settle", body.settle.transaction)


# --- the end ------------------------------------------------------------------------------------------------


def poll(turn: RobotTurn) -> None:
    """Which transfers were used? What is unused and has lapsed was never paid."""
    session = turn.session
    open_blocks = [(n, block) for n, block in enumerate(session.blocks, 1) if not block.fate]
    if not open_blocks:
        settle(turn)
        return
    for number, block in open_blocks:
        purpose = turn.purpose(f"block{number}")
        if purpose not in session.jobs:
            turn.start(ReadAuthorization(purpose, turn.settings.payer, block.nonce))


def on_authorization(turn: RobotTurn, fact: AuthorizationObserved) -> None:
    """A transfer as the chain has it."""
    if not turn.end(fact.purpose):
        turn.ignore("authorisation read late")
        return
    session = turn.session
    number = int(fact.purpose.rpartition(":block")[2])
    block = session.blocks[number - 1]
    account = ChannelId(block.nonce)
    if fact.used and not block.fate:
        ledger = turn.state.ledger.observe(
            account, balance_atomic=block.amount_atomic, total_claimed_atomic=block.amount_atomic
        )
        turn.change(ledger=ledger)
        _set_fate(turn, number, "used")
    elif not block.fate and has_lapsed(turn, fact.block_number):
        turn.change(ledger=turn.state.ledger.release_promise(account))
        _set_fate(turn, number, "lapsed")
    if turn.at_phase(RobotPhase.SETTLING) and all(item.fate for item in turn.session.blocks):
        settle(turn)


def _set_fate(turn: RobotTurn, number: int, fate: str) -> None:
    blocks = list(turn.session.blocks)
    blocks[number - 1] = replace(blocks[number - 1], fate=fate)
    paid = sum(block.amount_atomic for block in blocks if block.fate == "used")
    turn.update(blocks=tuple(blocks))
    _keep_undelivered(turn, number)
    turn.money(claimed=paid, balance=paid, escrow=paid, owed=paid)


def _keep_undelivered(turn: RobotTurn, number: int) -> None:
    """A block that is paid on chain and did not come, from a station that failed: evidence for its owner."""
    session = turn.session
    stopped = session.stop
    if session.blocks[number - 1].fate != "used" or stopped is None or stopped.fault != FAILED:
        return
    paid_milliwh = number * block_offer(turn).block_milliwh
    delivered = session.meter.reconciled.station_milliwh
    if delivered + max(SLACK_MIN_MILLIWH, block_offer(turn).block_milliwh // 20) < paid_milliwh:
        reason = f"block {number} is paid, delivered are {delivered} of {paid_milliwh} mWh: {stopped.detail}"
        turn.keep_evidence(reason, (session.meter.last_token,))
