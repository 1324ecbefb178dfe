"""The second rail at the station: energy in fixed blocks, each paid by one transfer that the station sends itself.

A block's power flows only when its transfer is confirmed; the next is asked for when the last was delivered.
"""

from msgspec.structs import replace

from depai_robot.charging.effect import ChannelJson, PrepareTransaction, TransferWish
from depai_robot.charging.fact import ChainFailed, TransactionConfirmed
from depai_robot.charging.message import BlockPayment, NeedVoucher, PaymentResult
from depai_robot.charging.ocmf import BEGIN
from depai_robot.charging.station_state import Channel, Need, SoldBlock
from depai_robot.charging.station_turn import StationTurn
from depai_robot.charging.terms import (
    build_block_need,
    build_block_requirements,
    build_transfer_success,
    token_domain,
)
from depai_robot.charging.transition import StationPhase
from depai_robot.payment.exact import (
    TransferAuthorization,
    TransferRefusedError,
    check_transfer,
    json_to_transfer,
)
from depai_robot.values.error import DepaiError
from depai_robot.values.identity import Address

REFUSED = "invalid_transaction_state"


def on_probe(turn: StationTurn, probe: bytes) -> None:
    """A robot that was quoted is here without a deposit: it wants blocks."""
    turn.update(probe=probe)
    bind(turn)


def bind(turn: StationTurn) -> None:
    """Payer and connector belong together once the robot returned the nonce that is on the connector."""
    session = turn.session
    connector = turn.state.connectors[session.connector]
    if not turn.at_phase(StationPhase.QUOTED) or session.terms.block_milliwh is None or not session.probe:
        return
    if not connector.present or connector.nonce != session.probe:
        turn.ignore("probe does not match the connector")
        return
    nobody = bytes(20)
    config = ChannelJson(
        nobody, nobody, turn.settings.receiver, nobody, turn.settings.network.token, 0, bytes(32)
    )
    turn.update(blocks_only=True, channel=Channel(config=config, id=bytes(32), escrow=0))
    turn.clear_timer("hold")
    turn.move(StationPhase.BINDING)
    turn.set_timer("binding", turn.settings.binding_timeout_ms)
    turn.read_meter(BEGIN)


def ask(turn: StationTurn, statement: str) -> bool:
    """Asks for the next block; False when all that was asked for is sold."""
    session = turn.session
    if session.limit_milliwh() >= session.request.energy_milliwh:
        return False
    price = session.block_price_atomic
    required = build_block_need(turn.settings, session.connector, price)
    letter = turn.tell(NeedVoucher(required, statement), keep=True)
    turn.update(need=Need(letter, price))
    turn.set_timer("voucher", turn.settings.voucher_timeout_ms)
    return True


def on_payment(turn: StationTurn, body: BlockPayment, message_id: str) -> None:
    """A signed transfer: judged strictly, then sent."""
    if turn.reply_again(message_id) or any(block.message == message_id for block in turn.session.blocks):
        return
    session = turn.session
    if session.need is None or not turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING):
        turn.refuse_payment(message_id, REFUSED)
        return
    price = session.need.amount
    try:
        transfer = _judge(turn, body, price)
    except TransferRefusedError as error:
        turn.ignore(error.reason)
        turn.refuse_payment(message_id, error.reason)
        return
    except DepaiError as error:
        turn.ignore(type(error).__name__)
        turn.refuse_payment(message_id, "invalid_payload")
        return
    _send(turn, transfer, message_id)


def _judge(turn: StationTurn, body: BlockPayment, price: int) -> TransferAuthorization:
    if body.payload.accepted != build_block_requirements(turn.settings, price):
        raise TransferRefusedError("invalid_payment_requirements", "not those that were asked for")
    transfer = json_to_transfer(body.payload.payload)
    check_transfer(
        transfer,
        token_domain(turn.settings.network),
        receiver=Address(turn.settings.receiver),
        amount_atomic=price,
        now_s=turn.at.wall_s,
    )
    if any(block.nonce == transfer.nonce for block in turn.session.blocks):
        raise TransferRefusedError(REFUSED, "this nonce paid for another block")
    return transfer


def _send(turn: StationTurn, transfer: TransferAuthorization, message_id: str) -> None:
    session = turn.session
    if session.need is not None:
        turn.answer(session.need.letter)
    block = SoldBlock(transfer.nonce, bytes(transfer.payer), transfer.amount_atomic, message_id)
    turn.update(need=None, blocks=(*session.blocks, block))
    turn.clear_timer("voucher", "binding")
    turn.set_patient_timer("block", 1000 * turn.settings.payment_timeout_s)
    wish = TransferWish(
        payer=bytes(transfer.payer),
        receiver=bytes(transfer.receiver),
        amount_atomic=transfer.amount_atomic,
        valid_after_s=transfer.valid_after_s,
        valid_before_s=transfer.valid_before_s,
        nonce=transfer.nonce,
        signature=transfer.signature,
    )
    turn.start(PrepareTransaction(turn.purpose(f"block{len(session.blocks) + 1}"), wish))


def on_confirmed(turn: StationTurn, fact: TransactionConfirmed) -> bool:
    """A block is paid. True when power may flow for it."""
    if not turn.confirmed(fact):
        return False
    if not any(name == "AuthorizationUsed" for name, _, _ in fact.events):
        # Judged by the event, not by the success flag.
        on_failed(turn, ChainFailed(fact.at, fact.purpose, True, "confirmed without its event"))
        return False
    number = int(fact.purpose.rpartition(":block")[2])
    block = turn.session.blocks[number - 1]
    blocks = list(turn.session.blocks)
    blocks[number - 1] = replace(block, paid=True)
    tx_hash = "0x" + fact.tx_hash.hex()
    turn.update(
        blocks=tuple(blocks),
        vouchers=turn.session.vouchers + 1,
        transactions={**turn.session.transactions, "settle": tx_hash},
    )
    total = sum(item.amount for item in blocks if item.paid)
    turn.channel(ceiling=total, charged=total, balance=total, claimed=total, escrow=total)
    turn.clear_timer("block")
    settle = build_transfer_success(turn.settings.network, block.payer, block.amount, fact.tx_hash)
    turn.tell(PaymentResult(block.message, settle), answers=block.message)
    return turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING)


def on_failed(turn: StationTurn, fact: ChainFailed) -> bool:
    """The chain refuses a transfer. True when charging has to end for it."""
    number = int(fact.purpose.rpartition(":block")[2])
    block = turn.session.blocks[number - 1]
    turn.ignore("transfer failed")
    turn.refuse_payment(block.message, "insufficient_funds" if "balance" in fact.message else REFUSED)
    turn.clear_timer("block")
    return turn.at_phase(StationPhase.BINDING, StationPhase.CHARGING)


def is_waiting(turn: StationTurn) -> bool:
    """Whether a transfer is under way."""
    return any(":block" in purpose for purpose in turn.session.jobs)
