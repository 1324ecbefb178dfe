"""The stock x402 facilitator on the development contracts: it takes our payload, and settles, claims and refunds."""

import json
import time

import msgspec
import pytest

from depai_robot.payment import x402
from depai_robot.values.identity import address_to_hex
from test.chain_world import DEVELOPMENT_USDC, AnvilWorld, Party, signer

batch = pytest.importorskip(
    "x402.mechanisms.evm.batch_settlement.facilitator.scheme",
    reason="the x402 package is absent: pip install 'depai_robot[test]'",
)

from x402.mechanisms.evm import FacilitatorWeb3Signer  # noqa: E402
from x402.mechanisms.evm.batch_settlement import types  # noqa: E402
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner  # noqa: E402
from x402.schemas import PaymentPayload, PaymentRequirements  # noqa: E402

NETWORK = "eip155:31337"
RELAY = signer("relay")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    world.fund(RELAY.address)
    yield world
    world.close()


@pytest.fixture
def party(world):
    party = Party()
    world.fund(party.payer.address, 10_000)
    return party


@pytest.fixture
def facilitator(world, party):
    relay = FacilitatorWeb3Signer("0x" + RELAY.secret.hex(), world.anvil.url, confirmation_timeout_seconds=10)
    authorizer = LocalAuthorizerSigner("0x" + party.receiver.secret.hex())
    return batch.BatchSettlementEvmFacilitator(relay, authorizer)


def requirements_for(party, amount):
    return x402.PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount=str(amount),
        asset=address_to_hex(DEVELOPMENT_USDC),
        pay_to=address_to_hex(party.receiver.address),
        max_timeout_seconds=60,
        extra=x402.RequirementsExtra(
            receiver_authorizer=address_to_hex(party.receiver.address),
            withdraw_delay=party.delay_s,
            name="USDC",
            version="2",
        ),
    )


def plain(value):
    return json.loads(msgspec.json.encode(value))


def theirs(party, payload, amount):
    """(payload, requirements) of their types from the bytes of ours."""
    accepted = plain(requirements_for(party, amount))
    envelope = {"x402Version": 2, "payload": payload, "accepted": accepted}
    return PaymentPayload.model_validate(envelope), PaymentRequirements.model_validate(accepted)


def deposit_payload(party, escrow, ceiling):
    deposit = party.authorization(escrow, before_s=int(time.time()) + 3600)
    return plain(
        x402.DepositPayload(
            x402.config_to_json(party.config),
            x402.voucher_to_json(party.voucher(ceiling)),
            x402.deposit_to_json(deposit),
        )
    )


def claim_of(party, total):
    return types.VoucherClaim.from_dict(
        {
            "voucher": {
                "channel": plain(x402.config_to_json(party.config)),
                "maxClaimableAmount": str(total),
            },
            "signature": "0x" + party.voucher(total).signature.hex(),
            "totalClaimed": str(total),
        }
    )


def state_of(world, party):
    state = world.chain().channel(party.id, 1)
    return state.balance_atomic, state.total_claimed_atomic


def test_our_deposit_is_verified_and_settled(world, party, facilitator):
    payment = theirs(party, deposit_payload(party, 9000, 2000), 2000)
    verdict = facilitator.verify(*payment)
    assert verdict.is_valid, verdict.invalid_reason
    answer = facilitator.settle(*payment)
    assert answer.success, (answer.error_reason, answer.error_message)
    assert state_of(world, party) == (9000, 0)
    outcome = world.chain().outcome(bytes.fromhex(answer.transaction[2:]), 1)
    assert [event.name for event in outcome.events] == ["ChannelCreated", "Deposited"]


def open_channel(world, party, facilitator, escrow=9000):
    answer = facilitator.settle(*theirs(party, deposit_payload(party, escrow, 2000), 2000))
    assert answer.success, answer.error_reason


def test_our_voucher_is_verified_and_one_above_the_escrow_is_not(world, party, facilitator):
    open_channel(world, party, facilitator)
    config = x402.config_to_json(party.config)
    for ceiling, valid in ((4000, True), (9000, True), (9001, False)):
        payload = plain(x402.VoucherPayload(config, x402.voucher_to_json(party.voucher(ceiling))))
        assert facilitator.verify(*theirs(party, payload, 2000)).is_valid is valid


def test_claims_and_settlement_through_the_facilitator(world, party, facilitator):
    open_channel(world, party, facilitator)
    claim = types.ClaimPayload()
    claim.claims = [claim_of(party, 3500)]
    answer = facilitator.settle(*theirs(party, claim.to_dict(), 0))
    assert answer.success, (answer.error_reason, answer.error_message)
    assert state_of(world, party) == (9000, 3500)
    settle = types.SettlePayload(
        receiver=address_to_hex(party.receiver.address), token=address_to_hex(DEVELOPMENT_USDC)
    )
    answer = facilitator.settle(*theirs(party, settle.to_dict(), 0))
    # The stock signer hides its web3 from the stock code that would read the amount: it stays empty.
    assert answer.success, (answer.error_reason, answer.error_message)
    assert world.chain().token_balance(party.receiver.address) == 3500


@pytest.mark.parametrize("claimed", [0, 2500])
def test_a_refund_with_and_without_a_claim_in_the_same_transaction(world, party, facilitator, claimed):
    open_channel(world, party, facilitator)
    refund = types.EnrichedRefundPayload()
    refund.channel_config = types.ChannelConfig.from_dict(plain(x402.config_to_json(party.config)))
    refund.voucher = types.VoucherFields.from_dict(plain(x402.voucher_to_json(party.voucher(2500))))
    refund.amount, refund.refund_nonce = str(9000 - claimed), "0"
    refund.claims = [claim_of(party, claimed)] if claimed else []
    answer = facilitator.settle(*theirs(party, refund.to_dict(), 0))
    assert answer.success, (answer.error_reason, answer.error_message)
    assert answer.amount == str(9000 - claimed)
    assert state_of(world, party) == (claimed, claimed)
    assert world.chain().channel(party.id, 1).refund_nonce == 1
    assert world.chain().token_balance(party.payer.address) == 10_000 - claimed
