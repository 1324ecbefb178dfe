"""Scheme exact on a chain: one signed transfer, in memory and on a real EVM alike."""

from dataclasses import replace

import pytest

from depai_robot.payment.exact import TransferAuthorization, transfer_digest
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.ports import TransferCall
from depai_robot.values.error import FinalChainError
from test.chain_world import FOR_EVER_S, TOKEN_DOMAIN, AnvilWorld, MemoryWorld, send, signer

AMOUNT = 801


@pytest.fixture(scope="module")
def anvil_world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(params=["memory", "anvil"])
def world(request):
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("anvil_world")


def transfer(payer, receiver, number: int = 1, **changes) -> TransferAuthorization:
    values = {
        "payer": payer.address,
        "receiver": receiver.address,
        "amount_atomic": AMOUNT,
        "valid_after_s": 0,
        "valid_before_s": FOR_EVER_S,
        "nonce": number.to_bytes(32, "big"),
    }
    unsigned = TransferAuthorization(**(values | changes))
    return replace(unsigned, signature=payer.sign(transfer_digest(TOKEN_DOMAIN, unsigned)))


@pytest.fixture
def parties(world):
    payer, receiver = signer("payer"), signer("receiver")
    world.fund(payer.address, 1000)
    world.fund(receiver.address)
    return payer, receiver, world.chain(receiver)


def test_the_receiver_sends_it_and_is_paid(parties):
    payer, receiver, chain = parties
    paid = transfer(payer, receiver)
    assert not chain.authorization_used(payer.address, paid.nonce)
    assert send(chain, TransferCall(paid)) == [("AuthorizationUsed", 0)]
    assert chain.authorization_used(payer.address, paid.nonce)
    assert (chain.token_balance(payer.address), chain.token_balance(receiver.address)) == (
        1000 - AMOUNT,
        AMOUNT,
    )


def test_once_only(parties):
    payer, receiver, chain = parties
    send(chain, TransferCall(transfer(payer, receiver, amount_atomic=1)))
    with pytest.raises(FinalChainError, match="used or canceled"):
        chain.prepare(TransferCall(transfer(payer, receiver, amount_atomic=1)))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda t, _: replace(t, amount_atomic=t.amount_atomic + 1), "invalid signature"),
        (lambda t, _: replace(t, receiver=bytes([7] * 20)), "invalid signature"),
        (lambda t, _: replace(t, signature=t.signature[:64] + bytes([t.signature[64] - 27])), "'v' value"),
        (
            lambda t, _: replace(
                t,
                signature=t.signature[:32]
                + (CURVE_ORDER - int.from_bytes(t.signature[32:64], "big")).to_bytes(32, "big")
                + bytes([55 - t.signature[64]]),
            ),
            "'s' value",
        ),
        (lambda t, s: transfer(s[0], s[1], valid_before_s=1), "expired"),
        (lambda t, s: transfer(s[0], s[1], valid_after_s=FOR_EVER_S - 1), "not yet valid"),
        (lambda t, s: transfer(s[0], s[1], amount_atomic=1001), "exceeds balance"),
    ],
)
def test_what_the_token_refuses(parties, spoil, reason):
    payer, receiver, chain = parties
    with pytest.raises(FinalChainError, match=reason):
        chain.prepare(TransferCall(spoil(transfer(payer, receiver), (payer, receiver))))
    assert chain.token_balance(receiver.address) == 0
