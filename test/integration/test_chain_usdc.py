"""What the issuer of the real token can do while money is under way: paused, blacklisted, named otherwise.

In each case the chain's own words reach the machines, nothing is lost, and what was signed works afterwards.
The contract suite (test_chain_contract) runs on the same token.
"""

from dataclasses import replace

import pytest
from web3 import Web3

from depai_robot.adapters.web3_chain import Web3Chain
from depai_robot.payment import eip712
from depai_robot.payment.exact import TransferAuthorization, transfer_digest
from depai_robot.ports import DepositCall, TransactionStatus, TransferCall
from depai_robot.values.error import FinalChainError, RetryableChainError
from depai_robot.values.identity import address_to_hex
from test.chain_world import CHAIN_ID, FOR_EVER_S, Party, network_of, parties_use, send, signer
from test.usdc_token import UsdcWorld, deploy_usdc

ESCROW = 10_000


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = UsdcWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture
def party(world):
    with parties_use(world.token.address):
        party = Party()
    world.fund(party.payer.address, 10 * ESCROW)
    for key in (party.receiver, party.voucher_key):
        world.fund(key.address)
    return party


@pytest.fixture
def chain(world, party):
    return world.chain(party.receiver)


@pytest.fixture
def paused(world):
    """Does and undoes it."""

    class Paused:
        def __enter__(self):
            world.token.do("pause")

        def __exit__(self, *_):
            world.token.do("unpause")

    return Paused


@pytest.fixture
def listed(world):
    class Listed:
        def __init__(self, holder):
            self.holder = address_to_hex(holder)

        def __enter__(self):
            world.token.do("blacklist", self.holder)

        def __exit__(self, *_):
            world.token.do("unBlacklist", self.holder)

    return Listed


def totals(chain, party):
    state = chain.channel(party.id, 1)
    return state.balance_atomic, state.total_claimed_atomic


def refused(chain, call, error):
    with pytest.raises(FinalChainError, match=error):
        chain.prepare(call)


# --- paused --------------------------------------------------------------------------------------------------


def test_a_paused_token_takes_no_deposit_and_the_authorization_stays_good(chain, party, paused):
    call = party.deposit(ESCROW)
    with paused():
        refused(chain, call, "DepositCall reverts: .*Pausable: paused")
        assert totals(chain, party) == (0, 0)
    assert send(chain, call) == [("ChannelCreated", 0), ("Deposited", ESCROW)]


def test_a_paused_token_lets_claims_be_recorded_and_pays_later(chain, party, paused):
    """Claims move no token, so what was earned is safe; settle, refund and withdrawal wait."""
    send(chain, party.deposit(ESCROW))
    with paused():
        assert send(chain, party.claim(3000)) == [("Claimed", 3000)]
        refused(chain, party.settle(), "SettleCall reverts: .*Pausable: paused")
        refused(chain, party.refund(1000), "RefundCall reverts: .*Pausable: paused")
        assert totals(chain, party) == (ESCROW, 3000)
    assert send(chain, party.settle()) == [("Settled", 3000)]
    assert chain.token_balance(party.receiver.address) == 3000


def test_a_withdrawal_waits_for_a_paused_token(world, chain, party, paused):
    send(chain, party.deposit(ESCROW))
    robot = world.chain(party.voucher_key)
    send(robot, party.initiate(ESCROW))
    world.advance(party.delay_s)
    with paused():
        refused(robot, party.finalize(), "FinalizeWithdrawCall reverts: .*Pausable: paused")
    assert ("WithdrawFinalized", ESCROW) in send(robot, party.finalize())
    assert chain.token_balance(party.payer.address) == 10 * ESCROW


def test_paused_between_signing_and_mining(world, chain, party, paused):
    """It is sent and reverts: told as reverted, and the same authorization is submitted again afterwards."""
    call = party.deposit(ESCROW)
    transaction = chain.prepare(call)
    with paused():
        chain.broadcast(transaction)
        assert chain.outcome(transaction.tx_hash, 1).status is TransactionStatus.REVERTED
    nonce = eip712.deposit_nonce(party.id, call.authorization.salt)
    assert not chain.authorization_used(party.payer.address, nonce)
    assert ("Deposited", ESCROW) in send(chain, call)


# --- blacklisted ---------------------------------------------------------------------------------------------


def test_a_blacklisted_payer(world, chain, party, listed):
    send(chain, party.deposit(ESCROW))
    with listed(party.payer.address):
        refused(
            chain, party.deposit(1, salt=2), "DepositCall reverts: .*Blacklistable: account is blacklisted"
        )
        # What is in the channel can still be earned and paid out; only the payer gets nothing back meanwhile.
        assert send(chain, party.claim(3000)) == [("Claimed", 3000)]
        assert send(chain, party.settle()) == [("Settled", 3000)]
        refused(chain, party.refund(7000), "RefundCall reverts: .*blacklisted")
        assert totals(chain, party) == (ESCROW, 3000)
    assert send(chain, party.refund(7000)) == [("Refunded", 7000)]


def test_a_blacklisted_receiver_is_not_paid_and_its_money_stays(world, chain, party, listed):
    send(chain, party.deposit(ESCROW))
    with listed(party.receiver.address):
        assert send(chain, party.claim(3000)) == [("Claimed", 3000)]
        refused(chain, party.settle(), "SettleCall reverts: .*Blacklistable: account is blacklisted")
        # The payer's rest goes back all the same.
        assert send(chain, party.refund(7000)) == [("Refunded", 7000)]
    assert send(chain, party.settle()) == [("Settled", 3000)]


def test_a_blacklisted_collector_or_contract_takes_no_deposit(world, chain, party, listed):
    for address in (eip712.DEPOSIT_COLLECTOR, eip712.SETTLEMENT):
        with listed(address):
            refused(chain, party.deposit(ESCROW), "DepositCall reverts: .*blacklisted")
    assert totals(chain, party) == (0, 0)


# --- the name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_chain", "configured"), [("USD Coin", "USDC"), ("USDC", "USD Coin")])
def test_a_wrong_domain_name_is_found_before_anything_is_signed(world, on_chain, configured):
    token = deploy_usdc(world.anvil, on_chain)
    right, wrong = (
        Web3Chain(network_of(world.anvil.url, token=token.address, token_name=name))
        for name in (on_chain, configured)
    )
    right.check_pins()
    with pytest.raises(FinalChainError, match=f"name '{configured}' version '2' give"):
        wrong.check_pins()
    with pytest.raises(RetryableChainError, match="no RPC endpoint answers"):
        wrong.head()


def test_a_deposit_signed_in_the_wrong_domain_is_refused_by_the_simulation(world, chain, party):
    """Off the chain its signature looks good; so a station simulates before it believes."""
    misnamed = replace(party, token_name="USD Coin")
    refused(chain, misnamed.deposit(ESCROW), "DepositCall reverts: .*FiatTokenV2: invalid signature")
    assert chain.token_balance(party.payer.address) == 10 * ESCROW


# --- the overload --------------------------------------------------------------------------------------------


def test_the_overload_with_a_signature_as_bytes_is_the_one_that_is_called(world, chain, party):
    """FiatToken v2.2 has two; the collector and scheme exact use the one with bytes."""
    names = [
        (item["name"], item["inputs"][-1]["type"])
        for item in world.token.contract.abi
        if item.get("name") in ("receiveWithAuthorization", "transferWithAuthorization")
    ]
    assert ("receiveWithAuthorization", "bytes") in names
    assert ("transferWithAuthorization", "bytes") in names
    receiver = signer("exact receiver")
    unsigned = TransferAuthorization(
        party.payer.address, receiver.address, 700, 0, FOR_EVER_S, b"\5" * 32, bytes(65)
    )
    domain = eip712.domain_separator("USDC", "2", CHAIN_ID, world.token.address)
    transfer = replace(unsigned, signature=party.payer.sign(transfer_digest(domain, unsigned)))
    assert [name for name, _ in send(chain, TransferCall(transfer))] == ["AuthorizationUsed"]
    assert chain.token_balance(receiver.address) == 700


def test_the_pins_of_the_real_token_hold(world, chain):
    chain.check_pins()
    contract = world.token.contract
    assert contract.functions.DOMAIN_SEPARATOR().call() == eip712.domain_separator(
        "USDC", "2", CHAIN_ID, world.token.address
    )
    assert Web3.to_checksum_address(world.token.address) == contract.address


def test_a_deposit_of_another_token_is_another_channel(world, chain, party):
    other = replace(party, token=deploy_usdc(world.anvil).address)
    assert other.id != party.id
    refused(chain, DepositCall(party.config, other.authorization(ESCROW)), "invalid signature")
