"""A pre-signed deposit that its payer takes back before it was sent: in memory and on a real EVM alike."""

from dataclasses import replace

import pytest

from depai_robot.payment.eip712 import cancellation_digest, deposit_nonce
from depai_robot.payment.presigned import DepositPlace, Presigned
from depai_robot.ports import CancelCall
from depai_robot.values.error import FinalChainError
from test.chain_world import (
    CHAIN_ID,
    DEVELOPMENT_USDC,
    TOKEN_DOMAIN,
    AnvilWorld,
    MemoryWorld,
    Party,
    send,
    signer,
)

PLACE = DepositPlace(CHAIN_ID, DEVELOPMENT_USDC, "USDC", "2")


@pytest.fixture(scope="module")
def anvil_world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(params=["memory", "anvil"])
def world(request):
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("anvil_world")


@pytest.fixture
def scene(world):
    """A party whose payer has signed a deposit, and a stranger who has gas."""
    party = Party()
    stranger = signer("stranger")
    world.fund(party.payer.address, 1000)
    world.fund(stranger.address)
    return party, world.chain(stranger)


def cancel(party, salt: int = 1) -> CancelCall:
    item = Presigned("s", party.config, party.authorization(700, salt))
    nonce = item.nonce(PLACE)
    assert nonce == deposit_nonce(party.id, salt.to_bytes(32, "big"))
    digest = cancellation_digest(TOKEN_DOMAIN, party.payer.address, nonce)
    return CancelCall(party.payer.address, nonce, party.payer.sign(digest))


def test_what_was_cancelled_can_not_be_deposited(scene):
    party, chain = scene
    call = cancel(party)
    assert send(chain, call) == [("AuthorizationCanceled", 0)]
    assert chain.authorization_used(party.payer.address, call.nonce)
    with pytest.raises(FinalChainError, match="used or canceled"):
        chain.prepare(party.deposit(700))
    with pytest.raises(FinalChainError, match="used or canceled"):
        chain.prepare(call)
    assert chain.token_balance(party.payer.address) == 1000


def test_the_next_one_still_can(scene):
    party, chain = scene
    send(chain, cancel(party))
    assert ("Deposited", 700) in send(chain, party.deposit(700, salt=2))


def test_what_was_deposited_can_not_be_cancelled(scene):
    party, chain = scene
    send(chain, party.deposit(700))
    with pytest.raises(FinalChainError, match="used or canceled"):
        chain.prepare(cancel(party))


def test_only_the_payer_cancels(scene):
    party, chain = scene
    call = cancel(party)
    thief = signer("thief")
    forged = replace(call, signature=thief.sign(cancellation_digest(TOKEN_DOMAIN, call.payer, call.nonce)))
    for bad in (forged, replace(call, nonce=bytes(32)), replace(call, signature=call.signature[:64] + b"\0")):
        with pytest.raises(FinalChainError, match=r"invalid signature|'v' value"):
            chain.prepare(bad)
    assert not chain.authorization_used(party.payer.address, call.nonce)
