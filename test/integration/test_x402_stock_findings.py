"""What the stock x402 package (2.25.0) does and its specification does not say: each line with its test.

When upstream changes, a test of this file fails: then look whether ours may be simpler. Theirs in this file; ours after
the arrow, here or by file. What the contract itself does is in test_chain_findings.py.

Client:
nothing is stored before an answer: test_the_client_stores_nothing_before_the_answer
-> test_fault_kill_wallet.py::test_a_kill_at_any_point_ends_settled_with_the_same_totals
no fsync: test_the_clients_files_are_never_synced -> test_journal_contract.py
caps one payment, no day nor payee: test_the_client_caps_one_payment_and_no_day
-> test_http_x402.py::test_the_policy_holds_over_http
one contract address for all chains: test_the_contracts_address_is_in_the_package
a forgotten channel restarts at 0 and is refused: test_a_client_that_forgot_its_channel_is_refused
-> test_payment_ledger.py::test_a_ceiling_never_falls
a lower ceiling later is as good: test_a_lower_ceiling_after_a_higher_is_accepted -> the same
signing again gives the same bytes, then a corrective answer:
test_after_a_lost_answer_the_same_bytes_and_then_a_corrective_answer
-> test_charging_ways.py::test_a_lost_answer_is_asked_for_again_and_costs_nothing
without an endpoint it can't use that answer: test_an_offline_client_can_not_use_a_corrective_answer -> the same
chargedAmount above amount raises, a wrong sum is ignored: test_answers_that_do_not_add_up
-> test_charging_loop.py::test_an_answer_that_does_not_add_up
withdrawDelay that is no integer is read as 900: test_a_delay_that_is_no_integer_names_another_channel -> the same
minDeposit is not bounded: test_any_minimum_is_deposited
-> test_adversary_gallery.py::test_no_more_is_lost_than_the_design_allows
Facilitator:
6 s left: test_a_deposit_needs_six_seconds -> test_payment_exact.py
payTo is compared as a string, and only by the matching: test_only_the_matching_compares_what_was_accepted -> the same
a wrong domain name passes the check of the signature: test_a_wrong_domain_name_is_found_by_the_simulation_only
-> test_chain_usdc.py::test_a_wrong_domain_name_is_found_before_anything_is_signed
high s, v of 0, 1 or + 10: test_payment_x402_package.py::test_we_are_stricter_where_the_contract_is
.. one row makes a batch of theirs fail: test_one_bad_row_fails_their_batch
-> test_chain_batch.py::test_the_bad_rows_are_found_and_the_others_claimed
gas limit of 500,000: test_their_gas_limit -> test_chain_findings.py::test_a_batch_is_made_as_small_as_the_gas_allows
vouchers during a withdrawal: test_vouchers_are_taken_during_a_withdrawal -> the same
Server:
state by the identity of the payload object: test_verify_and_settle_want_the_same_object
a lost store takes the client's word: test_a_server_without_its_store_takes_the_clients_word
-> test_fault_kill_station.py::test_a_kill_at_any_point_ends_settled_with_the_same_totals
payer checksummed or in lower case, empty strings: test_how_answers_are_written
"""

import copy
import importlib.metadata
import json
import os
import re
import time
from pathlib import Path

import msgspec
import pytest

from depai_robot.payment import eip712, x402
from depai_robot.payment.voucher import VoucherLimits, VoucherRefusedError, check_voucher
from depai_robot.values.identity import address_to_hex
from test.chain_world import (
    CHAIN_ID,
    DEVELOPMENT_USDC,
    DOMAIN,
    AnvilWorld,
    Party,
    send,
    signer,
    with_signature,
)

pytest.importorskip("x402", reason="the x402 package is absent: pip install 'depai_robot[test]'")

from eth_account import Account  # noqa: E402
from x402 import x402ClientSync, x402FacilitatorSync, x402ResourceServerSync  # noqa: E402
from x402.mechanisms.evm import FacilitatorWeb3Signer, signers  # noqa: E402
from x402.mechanisms.evm.batch_settlement import errors, types, utils  # noqa: E402
from x402.mechanisms.evm.batch_settlement.authorizer_signer import LocalAuthorizerSigner  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.channel import update_channel_from_settle  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.config import (  # noqa: E402
    BatchSettlementEvmSchemeOptions,
)
from x402.mechanisms.evm.batch_settlement.client.file_storage import (  # noqa: E402
    FileChannelStorageOptions,
    FileClientChannelStorage,
)
from x402.mechanisms.evm.batch_settlement.client.scheme import (  # noqa: E402
    BatchSettlementEvmScheme as ClientScheme,
)
from x402.mechanisms.evm.batch_settlement.client.storage import (  # noqa: E402
    BatchSettlementClientContext,
    InMemoryClientChannelStorage,
)
from x402.mechanisms.evm.batch_settlement.facilitator.deposit_eip3009 import (  # noqa: E402
    verify_eip3009_deposit_authorization,
)
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import (  # noqa: E402
    BatchSettlementEvmFacilitator,
)
from x402.mechanisms.evm.batch_settlement.server.scheme import (  # noqa: E402
    BatchSettlementEvmScheme as ServerScheme,
)
from x402.mechanisms.evm.batch_settlement.server.scheme import (  # noqa: E402
    BatchSettlementEvmSchemeServerConfig,
)
from x402.schemas import PaymentPayload, PaymentRequired, PaymentRequirements, ResourceInfo  # noqa: E402
from x402.schemas.errors import PaymentAbortedError  # noqa: E402

NETWORK = f"eip155:{CHAIN_ID}"
AMOUNT = 2000
TESTS = Path(__file__).resolve().parents[1]


def test_the_package_is_the_one_that_was_looked_at():
    assert importlib.metadata.version("x402") == "2.25.0"


def test_each_test_that_is_named_exists():
    missing = []
    for file, name in re.findall(r"(?:(test_\w+\.py)::)?\b(test_\w+)\b(?!\.py)", __doc__):
        text = next(TESTS.rglob(file)).read_text() if file else Path(__file__).read_text()
        if f"def {name}(" not in text:
            missing.append(f"{file}::{name}")
    assert not missing


# --- parts --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture
def party(world):
    party = Party()
    world.fund(party.payer.address, 100_000)
    return party


@pytest.fixture(scope="module")
def relay(world):
    key = signer("relay")
    world.fund(key.address)
    return FacilitatorWeb3Signer("0x" + key.secret.hex(), world.anvil.url, confirmation_timeout_seconds=20)


def authorizer(party):
    return LocalAuthorizerSigner("0x" + party.receiver.secret.hex())


@pytest.fixture
def facilitator(relay, party):
    return BatchSettlementEvmFacilitator(relay, authorizer(party))


def requirements_for(party, amount=AMOUNT, **extra) -> dict:
    return {
        "scheme": "batch-settlement",
        "network": NETWORK,
        "amount": str(amount),
        "asset": address_to_hex(DEVELOPMENT_USDC),
        "payTo": address_to_hex(party.receiver.address),
        "maxTimeoutSeconds": 60,
        "extra": {
            "receiverAuthorizer": address_to_hex(party.receiver.address),
            "withdrawDelay": party.delay_s,
            "name": "USDC",
            "version": "2",
        }
        | extra,
    }


def plain(value):
    return json.loads(msgspec.json.encode(value))


def payment(payload: dict, accepted: dict) -> tuple:
    """(payload, requirements) of their types."""
    whole = {"x402Version": 2, "payload": payload, "accepted": accepted}
    return PaymentPayload.model_validate(whole), PaymentRequirements.model_validate(accepted)


def our_voucher(party, ceiling) -> dict:
    return plain(
        x402.VoucherPayload(x402.config_to_json(party.config), x402.voucher_to_json(party.voucher(ceiling)))
    )


def our_deposit(party, escrow, ceiling, before_s=None) -> dict:
    deposit = party.authorization(escrow, before_s=before_s or int(time.time()) + 3600)
    return plain(
        x402.DepositPayload(
            x402.config_to_json(party.config),
            x402.voucher_to_json(party.voucher(ceiling)),
            x402.deposit_to_json(deposit),
        )
    )


def make_client(party, **options) -> ClientScheme:
    """Their client with the party's keys: payer, and another for vouchers."""
    voucher_key = signers.EthAccountSigner(Account.from_key(party.voucher_key.secret))
    return ClientScheme(
        Account.from_key(party.payer.secret),
        BatchSettlementEvmSchemeOptions(voucher_signer=voucher_key, **options),
    )


def make_server(relay, party, storage=None):
    """(their resource server, its scheme)."""
    facilitator = x402FacilitatorSync()
    facilitator.register([NETWORK], BatchSettlementEvmFacilitator(relay, authorizer(party)))
    config = BatchSettlementEvmSchemeServerConfig(
        storage=storage, receiver_authorizer_signer=authorizer(party), withdraw_delay=party.delay_s
    )
    scheme = ServerScheme(address_to_hex(party.receiver.address), config)
    server = x402ResourceServerSync(facilitator).register(NETWORK, scheme)
    server.initialize()
    return server, scheme


def open_channel(world, party, escrow=9000):
    world.fund(party.receiver.address)
    send(world.chain(party.receiver), party.deposit(escrow))


def opened_server(relay, party):
    server, scheme = make_server(relay, party)
    pair = payment(our_deposit(party, 9000, AMOUNT), requirements_for(party))
    assert server.verify_payment(*pair).is_valid
    assert server.settle_payment(*pair).success
    return server, scheme


# --- client -------------------------------------------------------------------------------------------------


def test_the_client_stores_nothing_before_the_answer(party):
    storage = InMemoryClientChannelStorage()
    make_client(party, storage=storage).create_payment_payload(
        PaymentRequirements.model_validate(requirements_for(party))
    )
    assert not storage._channels, "a deposit and a voucher are signed, and a crash now forgets both"


def test_the_clients_files_are_never_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr(os, "fdatasync", synced.append)
    storage = FileClientChannelStorage(FileChannelStorageOptions(directory=str(tmp_path)))
    storage.set("0x" + "11" * 32, BatchSettlementClientContext(charged_cumulative_amount="5"))
    assert list(tmp_path.rglob("*.json"))
    assert not synced


def test_the_client_caps_one_payment_and_no_day(party):
    asset = {"asset": address_to_hex(DEVELOPMENT_USDC), "network": NETWORK}
    client = x402ClientSync().set_spend_controls(
        {"allowed_assets": [asset | {"max_amount_per_payment": str(AMOUNT)}]}
    )
    client.register(NETWORK, make_client(party))

    def pay(amount, payee):
        required = PaymentRequired(
            resource=ResourceInfo(url="http://127.0.0.1/energy"),
            accepts=[PaymentRequirements.model_validate(requirements_for(payee, amount))],
        )
        return client.create_payment_payload(required)

    for _ in range(20):
        pay(AMOUNT, Party())
    with pytest.raises(Exception, match="max_amount_per_payment"):
        pay(AMOUNT + 1, party)


def test_the_contracts_address_is_in_the_package():
    for chain in (1, 84532, CHAIN_ID):
        contract = utils.get_batch_settlement_eip712_domain(chain)["verifyingContract"]
        assert contract == address_to_hex(eip712.SETTLEMENT)


def test_a_client_that_forgot_its_channel_is_refused(world, party, facilitator):
    open_channel(world, party)
    chain = world.chain(party.receiver)
    send(chain, party.claim(3500))
    send(chain, party.refund(5500))
    assert world.chain().channel(party.id, 1).total_claimed_atomic == 3500, "a full refund resets nothing"
    accepted = requirements_for(party)
    forgetful = make_client(party).create_payment_payload(PaymentRequirements.model_validate(accepted))
    assert forgetful["type"] == "deposit"
    assert forgetful["voucher"]["channelId"] == x402.bytes_to_text(party.id)
    assert forgetful["voucher"]["maxClaimableAmount"] == str(AMOUNT), "at 0 again"
    verdict = facilitator.verify(*payment(forgetful, accepted))
    assert (verdict.is_valid, verdict.invalid_reason) == (False, errors.ERR_CUMULATIVE_AMOUNT_BELOW_CLAIMED)


def test_a_lower_ceiling_after_a_higher_is_accepted(world, party, facilitator):
    open_channel(world, party)
    for ceiling in (5000, 4000):
        assert facilitator.verify(*payment(our_voucher(party, ceiling), requirements_for(party))).is_valid
    limits = VoucherLimits(9000, 0, charged_atomic=5000, amount_atomic=AMOUNT)
    with pytest.raises(VoucherRefusedError, match="cumulative_amount_mismatch"):
        check_voucher(party.config, party.voucher(4000), DOMAIN, limits)


def test_after_a_lost_answer_the_same_bytes_and_then_a_corrective_answer(relay, party):
    server, _ = opened_server(relay, party)
    accepted = requirements_for(party)
    storage = InMemoryClientChannelStorage()
    storage.set(
        x402.bytes_to_text(party.id),
        BatchSettlementClientContext(charged_cumulative_amount="2000", balance="9000"),
    )
    client = make_client(party, storage=storage)
    theirs = PaymentRequirements.model_validate(accepted)
    first = payment(client.create_payment_payload(theirs), accepted)
    assert server.verify_payment(*first).is_valid
    assert server.settle_payment(*first).success  # and the answer is lost
    second = payment(client.create_payment_payload(theirs), accepted)
    assert second[0] == first[0], "RFC 6979"
    with pytest.raises(PaymentAbortedError, match=errors.ERR_CUMULATIVE_AMOUNT_MISMATCH):
        server.verify_payment(*second)
    answer = server.create_payment_required_response(
        [theirs.model_copy(deep=True)],
        ResourceInfo(url="http://127.0.0.1/energy"),
        error=errors.ERR_CUMULATIVE_AMOUNT_MISMATCH,
        payment_payload=second[0],
    )
    extra = answer.accepts[0].extra
    assert extra["channelState"]["chargedCumulativeAmount"] == "4000"
    # An offline robot checks it against its own journal: its own signature, and charged at most what it signed.
    assert extra["voucherState"] == {
        "signedMaxClaimable": "4000",
        "signature": x402.bytes_to_text(party.voucher(4000).signature),
    }
    assert msgspec.convert(answer.model_dump(by_alias=True, exclude_none=True), x402.PaymentRequired)


def test_an_offline_client_can_not_use_a_corrective_answer(party):
    state = {
        "channelId": x402.bytes_to_text(party.id),
        "chargedCumulativeAmount": "4000",
        "balance": "9000",
        "totalClaimed": "0",
        "withdrawRequestedAt": 0,
        "refundNonce": "0",
    }
    voucher = {
        "signedMaxClaimable": "4000",
        "signature": x402.bytes_to_text(party.voucher(4000).signature),
    }
    answer = PaymentRequired(
        error=errors.ERR_CUMULATIVE_AMOUNT_MISMATCH,
        resource=ResourceInfo(url="http://127.0.0.1/energy"),
        accepts=[
            PaymentRequirements.model_validate(
                requirements_for(party, channelState=state, voucherState=voucher)
            )
        ],
    )
    assert make_client(party).process_corrective_payment_required(answer) is False


def test_answers_that_do_not_add_up(party):
    storage = InMemoryClientChannelStorage()
    key = x402.bytes_to_text(party.id)
    storage.set(key, BatchSettlementClientContext(charged_cumulative_amount="2000", balance="9000"))
    local = {"channel_id": key, "request_amount": str(AMOUNT)}
    with pytest.raises(ValueError, match="exceeds"):
        update_channel_from_settle(storage, {"server": {"charged_amount": "2001"}, "local": local})
    lie = {"charged_amount": "1500", "charged_cumulative_amount": "3900"}
    update_channel_from_settle(storage, {"server": lie, "local": local})
    assert storage.get(key).charged_cumulative_amount == "2000", "ignored, and the client pays on"


@pytest.mark.parametrize("delay", ["3600", 3600.0, None, True])
def test_a_delay_that_is_no_integer_names_another_channel(party, delay):
    accepted = requirements_for(party, withdrawDelay=delay)
    config = make_client(party).build_channel_config(PaymentRequirements.model_validate(accepted))
    assert config.withdraw_delay == 900
    with pytest.raises(msgspec.ValidationError, match="withdrawDelay"):
        msgspec.convert(accepted, x402.PaymentRequirements, strict=True)


def test_any_minimum_is_deposited(party):
    accepted = requirements_for(party, minDeposit=str(10**15))
    payload = make_client(party).create_payment_payload(PaymentRequirements.model_validate(accepted))
    assert payload["deposit"]["amount"] == str(10**15)


# --- facilitator --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left_s", "valid"), [(4, False), (30, True)])
def test_a_deposit_needs_six_seconds(party, facilitator, left_s, valid):
    payload = our_deposit(party, 9000, AMOUNT, before_s=int(time.time()) + left_s)
    verdict = facilitator.verify(*payment(payload, requirements_for(party)))
    assert verdict.is_valid is valid, verdict.invalid_reason
    assert valid or verdict.invalid_reason == errors.ERR_VALID_BEFORE_EXPIRED


@pytest.mark.parametrize("field", ["payTo", "asset"])
def test_only_the_matching_compares_what_was_accepted(world, relay, party, facilitator, field):
    open_channel(world, party)
    asked = requirements_for(party)
    echoed = asked | {field: asked[field].lower()}
    payload, _ = payment(our_voucher(party, AMOUNT), echoed)
    server, _ = make_server(relay, party)
    asked_theirs = PaymentRequirements.model_validate(asked)
    assert server.find_matching_requirements([asked_theirs], payload) is None, "as strings"
    assert facilitator.verify(payload, asked_theirs).is_valid, "without the matching nothing is compared"
    ours = [msgspec.convert(value, x402.PaymentRequirements) for value in (asked, echoed)]
    assert ours[0] != ours[1], "ours compares whole values, as they came"


def test_a_wrong_domain_name_is_found_by_the_simulation_only(relay, party, facilitator):
    party.token_name = "USD Coin"
    accepted = requirements_for(party, name="USD Coin")
    pair = payment(our_deposit(party, 9000, AMOUNT), accepted)
    offline = verify_eip3009_deposit_authorization(
        relay, types.DepositPayload.from_dict(pair[0].payload), pair[1], CHAIN_ID
    )
    assert offline == (None, None), "no objection"
    verdict = facilitator.verify(*pair)
    assert (verdict.is_valid, verdict.invalid_reason) == (False, errors.ERR_DEPOSIT_SIMULATION_FAILED)


def claim_row(party, total, signature=None) -> types.VoucherClaim:
    return types.VoucherClaim.from_dict(
        {
            "voucher": {
                "channel": plain(x402.config_to_json(party.config)),
                "maxClaimableAmount": str(total),
            },
            "signature": x402.bytes_to_text(signature or party.voucher(total).signature),
            "totalClaimed": str(total),
        }
    )


def test_one_bad_row_fails_their_batch(world, party, facilitator):
    other = Party(receiver=party.receiver)
    world.fund(other.payer.address, 10_000)
    for each in (party, other):
        open_channel(world, each)
    good = other.voucher(3000).signature
    compact_v = good[:64] + bytes([good[64] - 27])
    spoiled = our_voucher(other, 3000)
    spoiled["voucher"]["signature"] = x402.bytes_to_text(compact_v)
    assert facilitator.verify(*payment(spoiled, requirements_for(party))).is_valid, (
        "and it is taken for money"
    )
    batch = types.ClaimPayload()
    batch.claims = [claim_row(party, 2500), claim_row(other, 3000, compact_v)]
    answer = facilitator.settle(*payment(batch.to_dict(), requirements_for(party, 0)))
    assert not answer.success
    assert world.chain().channel(party.id, 1).total_claimed_atomic == 0, "the honest row is lost with it"
    voucher = with_signature(other.claim(3000), compact_v).rows[0].voucher
    with pytest.raises(VoucherRefusedError, match="v must be 27 or 28"):
        check_voucher(other.config, voucher, DOMAIN, VoucherLimits(9000, 0))


def test_their_gas_limit():
    assert signers._DEFAULT_TX_GAS_LIMIT == 500_000


def test_vouchers_are_taken_during_a_withdrawal(world, party, facilitator):
    open_channel(world, party)
    world.fund(party.payer.address)
    send(world.chain(party.payer), party.initiate(9000))
    verdict = facilitator.verify(*payment(our_voucher(party, 5000), requirements_for(party)))
    assert verdict.is_valid
    assert verdict.extra["withdrawRequestedAt"] > 0, "it is known, and not minded"
    with pytest.raises(VoucherRefusedError, match="channel_busy"):
        check_voucher(
            party.config, party.voucher(5000), DOMAIN, VoucherLimits(9000, 0, withdraw_pending=True)
        )


# --- server -------------------------------------------------------------------------------------------------


def test_verify_and_settle_want_the_same_object(relay, party):
    server, _ = opened_server(relay, party)
    payload, requirements = payment(our_voucher(party, 4000), requirements_for(party))
    assert server.verify_payment(payload, requirements).is_valid
    with pytest.raises(PaymentAbortedError, match=errors.ERR_CHANNEL_BUSY):
        server.settle_payment(copy.deepcopy(payload), requirements)
    assert server.settle_payment(payload, requirements).success


def test_a_server_without_its_store_takes_the_clients_word(relay, party):
    opened_server(relay, party)
    fresh, scheme = make_server(relay, party)
    # 2000 were charged; a voucher for 7000 says that 5000 were.
    pair = payment(our_voucher(party, 7000), requirements_for(party))
    assert fresh.verify_payment(*pair).is_valid
    assert scheme.get_storage().get(x402.bytes_to_text(party.id)).charged_cumulative_amount == "5000"


def test_how_answers_are_written(relay, party):
    server, _ = make_server(relay, party)
    checksummed = address_to_hex(party.payer.address)
    pair = payment(our_deposit(party, 9000, AMOUNT), requirements_for(party))
    server.verify_payment(*pair)
    deposit = server.settle_payment(*pair)
    assert (deposit.payer, deposit.amount) == (checksummed, "9000")
    assert deposit.transaction.startswith("0x")
    pair = payment(our_voucher(party, 4000), requirements_for(party))
    server.verify_payment(*pair)
    voucher = server.settle_payment(*pair)
    assert (voucher.payer, voucher.transaction, voucher.amount) == (checksummed.lower(), "", "")
    assert voucher.extra["chargedAmount"] == str(AMOUNT)
    refund = plain(
        x402.RefundPayload(x402.config_to_json(party.config), x402.voucher_to_json(party.voucher(4000)))
    )
    pair = payment(refund, requirements_for(party))
    assert server.verify_payment(*pair).is_valid
    refunded = server.settle_payment(*pair)
    assert (refunded.success, refunded.payer, refunded.amount) == (True, checksummed, "5000")
    for answer in (deposit, voucher, refunded):
        ours = msgspec.convert(
            answer.model_dump(by_alias=True, exclude_none=True, mode="json"), x402.SettleResponse
        )
        assert bytes.fromhex(ours.payer[2:]) == party.payer.address
