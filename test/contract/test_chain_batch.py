"""Claims of many channels in one transaction: simulated, and a bad row found, in memory and on a real EVM alike."""

from dataclasses import replace

import pytest

from depai_robot.app.chain_worker import find_bad_rows
from depai_robot.ports import ClaimCall
from depai_robot.values.error import FinalChainError
from test.chain_world import AnvilWorld, MemoryWorld, Party, send, signer

ESCROW = 10_000
ROWS = 10


@pytest.fixture(scope="module")
def anvil_world(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(params=["memory", "anvil"])
def world(request):
    return MemoryWorld() if request.param == "memory" else request.getfixturevalue("anvil_world")


@pytest.fixture
def batch(world):
    """A receiver's adapter and a row of each of ten payers."""
    receiver = signer("receiver")
    world.fund(receiver.address)
    chain = world.chain(receiver)
    rows = []
    for number in range(ROWS):
        party = Party(receiver=receiver)
        world.fund(party.payer.address, ESCROW)
        send(chain, party.deposit(ESCROW))
        rows.append(party.row(1000 + number))
    return chain, tuple(rows)


def spoil_high_s(row):
    """What the stock verification lets through and the contract does not."""
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    signature = row.voucher.signature
    s = order - int.from_bytes(signature[32:64], "big")
    high = signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])
    return replace(row, voucher=replace(row.voucher, signature=high))


def spoil_v(row):
    signature = row.voucher.signature
    return replace(row, voucher=replace(row.voucher, signature=signature[:64] + bytes([signature[64] - 27])))


def spoil_ceiling(row):
    return replace(row, total_claimed_atomic=row.voucher.ceiling_atomic + 1)


def test_ten_channels_in_one_transaction(batch):
    chain, rows = batch
    gas = chain.simulate(ClaimCall(rows))
    assert chain.simulate(ClaimCall(rows[:1])) < gas < 10 * chain.simulate(ClaimCall(rows[:1]))
    assert send(chain, ClaimCall(rows)) == [("Claimed", 1000 + number) for number in range(ROWS)]
    assert not find_bad_rows(chain, rows), "a row that is claimed already is no bad row"


@pytest.mark.parametrize("spoil", [spoil_high_s, spoil_v, spoil_ceiling])
@pytest.mark.parametrize("places", [(0,), (4,), (9,), (2, 3), (0, 5, 9), tuple(range(ROWS))])
def test_the_bad_rows_are_found_and_the_others_claimed(batch, spoil, places):
    chain, rows = batch
    spoiled = tuple(spoil(row) if number in places else row for number, row in enumerate(rows))
    with pytest.raises(FinalChainError):
        chain.simulate(ClaimCall(spoiled))
    bad = find_bad_rows(chain, spoiled)
    assert set(bad) == {rows[number].voucher.channel_id for number in places}
    assert all(reason for reason in bad.values())
    good = tuple(row for row in spoiled if row.voucher.channel_id not in bad)
    if good:
        assert len(send(chain, ClaimCall(good))) == ROWS - len(places)
