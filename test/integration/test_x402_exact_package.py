"""Scheme exact with the package x402 as referee, on a real EVM: same bytes, same verdicts, both directions."""

import json
import time
from dataclasses import replace

import msgspec
import pytest

from depai_robot.charging.setting import Network
from depai_robot.charging.terms import token_domain
from depai_robot.payment.eip712 import domain_separator
from depai_robot.payment.exact import (
    ExactPaymentPayload,
    TransferAuthorization,
    TransferRefusedError,
    check_transfer,
    json_to_transfer,
    transfer_digest,
    transfer_to_json,
)
from depai_robot.payment.signature import CURVE_ORDER
from depai_robot.payment.x402 import PaymentRequirements, RequirementsExtra
from depai_robot.values.identity import address_to_hex
from test.chain_world import CHAIN_ID, DEVELOPMENT_USDC, TOKEN_DOMAIN, AnvilWorld, signer

pytest.importorskip("x402", reason="the x402 package is absent: pip install 'depai_robot[test]'")

from eth_account import Account  # noqa: E402
from x402 import x402ClientSync, x402FacilitatorSync  # noqa: E402
from x402.mechanisms.evm import FacilitatorWeb3Signer  # noqa: E402
from x402.mechanisms.evm.eip712 import hash_eip3009_authorization  # noqa: E402
from x402.mechanisms.evm.exact.eip3009_utils import classify_eip3009_signature  # noqa: E402
from x402.mechanisms.evm.exact.register import (  # noqa: E402
    register_exact_evm_client,
    register_exact_evm_facilitator,
)
from x402.mechanisms.evm.types import ExactEIP3009Payload  # noqa: E402
from x402.schemas import PaymentPayload, PaymentRequired  # noqa: E402
from x402.schemas import PaymentRequirements as TheirRequirements  # noqa: E402

NETWORK = f"eip155:{CHAIN_ID}"
AMOUNT = 801


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(scope="module")
def relay(world):
    key = signer("relay")
    world.fund(key.address)
    web3_signer = FacilitatorWeb3Signer(
        "0x" + key.secret.hex(), world.anvil.url, confirmation_timeout_seconds=20
    )
    return web3_signer, register_exact_evm_facilitator(x402FacilitatorSync(), web3_signer, NETWORK)


@pytest.fixture(scope="module")
def facilitator(relay):
    return relay[1]


@pytest.fixture
def payer(world):
    key = signer("payer")
    world.fund(key.address, 1000)
    return key


@pytest.fixture
def receiver():
    return signer("receiver")


def requirements_for(receiver, **extra) -> PaymentRequirements:
    return PaymentRequirements(
        scheme="exact",
        network=NETWORK,
        amount=str(AMOUNT),
        asset=address_to_hex(DEVELOPMENT_USDC),
        pay_to=address_to_hex(receiver.address),
        max_timeout_seconds=60,
        extra=RequirementsExtra(
            **({"name": "USDC", "version": "2", "asset_transfer_method": "eip3009"} | extra)
        ),
    )


def our_transfer(payer, receiver, domain=TOKEN_DOMAIN, **changes) -> TransferAuthorization:
    values = {
        "payer": payer.address,
        "receiver": receiver.address,
        "amount_atomic": AMOUNT,
        "valid_after_s": 0,
        "valid_before_s": int(time.time()) + 60,
        "nonce": bytes(31) + b"\x07",
    }
    unsigned = TransferAuthorization(**(values | changes))
    return replace(unsigned, signature=payer.sign(transfer_digest(domain, unsigned)))


def plain(value):
    return json.loads(msgspec.json.encode(value))


def their_view(transfer, requirements):
    """(payload, requirements) as the package decodes our bytes."""
    ours = ExactPaymentPayload(2, requirements, transfer_to_json(transfer))
    return PaymentPayload.model_validate(plain(ours)), TheirRequirements.model_validate(plain(requirements))


def our_reason(transfer, receiver) -> str | None:
    try:
        check_transfer(
            transfer,
            TOKEN_DOMAIN,
            receiver=receiver.address,
            amount_atomic=AMOUNT,
            now_s=int(time.time()),
        )
    except TransferRefusedError as error:
        return error.reason
    return None


def test_the_domain_is_the_networks():
    network = Network(
        chain_id=CHAIN_ID,
        token=DEVELOPMENT_USDC,
        token_name="USDC",
        token_version="2",
    )
    assert token_domain(network) == TOKEN_DOMAIN


@pytest.mark.parametrize("name", ["USDC", "USD Coin"])
def test_our_digest_is_theirs(payer, receiver, name):
    transfer = our_transfer(payer, receiver)
    theirs = ExactEIP3009Payload.from_dict(plain(transfer_to_json(transfer)))
    digest = hash_eip3009_authorization(
        theirs.authorization, CHAIN_ID, address_to_hex(DEVELOPMENT_USDC), name, "2"
    )
    domain = domain_separator(name, "2", CHAIN_ID, DEVELOPMENT_USDC)
    assert transfer_digest(domain, transfer) == bytes(digest)


def test_our_objects_are_theirs(payer, receiver):
    requirements = requirements_for(receiver)
    transfer = our_transfer(payer, receiver)
    payload, theirs = their_view(transfer, requirements)
    ours = plain(ExactPaymentPayload(2, requirements, transfer_to_json(transfer)))
    assert payload.model_dump(by_alias=True, exclude_none=True, mode="json") == ours
    assert theirs.model_dump(by_alias=True, exclude_none=True, mode="json") == ours["accepted"]
    assert ExactEIP3009Payload.from_dict(payload.payload).to_dict() == ours["payload"]


def test_their_facilitator_verifies_and_settles_ours(world, facilitator, payer, receiver):
    transfer = our_transfer(payer, receiver)
    view = their_view(transfer, requirements_for(receiver))
    verdict = facilitator.verify(*view)
    assert verdict.is_valid, verdict.invalid_reason
    answer = facilitator.settle(*view)
    assert answer.success, (answer.error_reason, answer.error_message)
    assert world.chain().token_balance(receiver.address) == AMOUNT
    assert world.chain().authorization_used(payer.address, transfer.nonce)
    again = facilitator.verify(*view)
    assert not again.is_valid, "a nonce is used once"


def test_their_clients_payment_is_accepted_by_ours(payer, receiver):
    client = register_exact_evm_client(
        x402ClientSync().set_spend_controls(False), Account.from_key(payer.secret)
    )
    requirements = requirements_for(receiver)
    required = {
        "x402Version": 2,
        "resource": {"url": "http://127.0.0.1/block"},
        "accepts": [plain(requirements)],
    }
    theirs = client.create_payment_payload(PaymentRequired.model_validate(required))
    text = theirs.model_dump_json(by_alias=True, exclude_none=True)
    ours = msgspec.json.decode(text, type=ExactPaymentPayload)
    assert ours.accepted == requirements
    transfer = json_to_transfer(ours.payload)
    assert our_reason(transfer, receiver) is None
    assert transfer.payer == payer.address
    assert transfer.valid_before_s <= int(time.time()) + requirements.max_timeout_seconds


def high_s(signature: bytes) -> bytes:
    s = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


REFUSED = {
    "value too small": lambda p, r: our_transfer(p, r, amount_atomic=AMOUNT - 1),
    "value too large": lambda p, r: our_transfer(p, r, amount_atomic=AMOUNT + 1),
    "to another": lambda p, _: our_transfer(p, p),
    "not yet valid": lambda p, r: our_transfer(p, r, valid_after_s=int(time.time()) + 30),
    "five seconds left": lambda p, r: our_transfer(p, r, valid_before_s=int(time.time()) + 5),
    "expired": lambda p, r: our_transfer(p, r, valid_before_s=1),
    "by another": lambda p, r: replace(our_transfer(r, r), payer=p.address),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_both_refuse_for_the_same_reason(facilitator, payer, receiver, name):
    transfer = REFUSED[name](payer, receiver)
    verdict = facilitator.verify(*their_view(transfer, requirements_for(receiver)))
    assert not verdict.is_valid
    ours = our_reason(transfer, receiver)
    assert ours == verdict.invalid_reason or name == "by another", verdict.invalid_reason
    assert ours is not None


@pytest.mark.parametrize(
    ("spoil", "theirs"),
    [
        (high_s, False),
        # The stock facilitator mends v and sends another signature than it was given.
        (lambda s: s[:64] + bytes([s[64] - 27]), True),
        (lambda s: s[:64] + bytes([s[64] + 10]), False),
    ],
    ids=["high s", "v of 0 or 1", "v + 10"],
)
def test_signatures_that_the_token_reverts_end_at_ours_without_asking_the_chain(
    facilitator, payer, receiver, spoil, theirs
):
    good = our_transfer(payer, receiver)
    spoiled = replace(good, signature=spoil(good.signature))
    assert our_reason(spoiled, receiver) == "invalid_exact_evm_payload_signature"
    assert facilitator.verify(*their_view(spoiled, requirements_for(receiver))).is_valid is theirs


def test_the_wrong_name_of_the_token_ends_at_ours_without_asking_the_chain(relay, payer, receiver):
    """USDC's domain is named otherwise on another network: signed in that name, a transfer can't be sent here."""
    other = domain_separator("USD Coin", "2", CHAIN_ID, DEVELOPMENT_USDC)
    transfer = our_transfer(payer, receiver, domain=other)
    assert our_reason(transfer, receiver) == "invalid_exact_evm_payload_signature"
    their_signer, facilitator = relay
    verdict = facilitator.verify(*their_view(transfer, requirements_for(receiver, name="USD Coin")))
    # The name that the payer accepted fits the signature: only the token, asked on the chain, finds it.
    assert verdict.invalid_reason == "invalid_exact_evm_payload_signature"
    theirs = ExactEIP3009Payload.from_dict(plain(transfer_to_json(transfer)))
    offline = classify_eip3009_signature(
        their_signer,
        theirs.authorization,
        transfer.signature,
        CHAIN_ID,
        address_to_hex(DEVELOPMENT_USDC),
        "USD Coin",
        "2",
    )
    assert offline.valid
