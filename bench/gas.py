"""Gas of a session by rail and pattern, beside one plain transfer a tranche: ``python -m bench.gas``.

Every transaction is mined by a real EVM (anvil, Cancun) with the development contracts of ``contracts/``, through the
adapter that robots and stations use, between accounts that have held the token before. The canonical contracts are
other code with the same storage layout of a channel and the same signature checks: expect the same order, not the
same digits.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depai_robot.adapters.anvil import DEVELOPMENT_USDC, find_anvil
from depai_robot.payment.exact import TransferAuthorization, transfer_digest
from depai_robot.ports import ChainCall, ClaimCall, TransactionStatus, TransferCall
from depai_robot.values.identity import address_to_hex, keccak256
from test.chain_world import FOR_EVER_S, TOKEN_DOMAIN, AnvilWorld, Party, settled, signer

TRANCHES = 50
"""Of a session: 200 Wh in tranches of 4 Wh."""
BATCH = 10
ESCROW = 100_000
EARNED = 80_000


class Till:
    """A receiver's account: sends calls and says what gas they took."""

    def __init__(self, world: AnvilWorld) -> None:
        self.world = world
        self.receiver = signer("receiver")
        world.fund(self.receiver.address, 1)
        self.chain = world.chain(self.receiver)
        self._payers = 0

    def party(self) -> Party:
        """A payer that holds tokens, with a channel of its own to this receiver."""
        self._payers += 1
        party = Party(receiver=self.receiver)
        self.world.fund(party.payer.address, 10 * ESCROW)
        return party

    def gas(self, call: ChainCall) -> int:
        """Gas used by that call, mined.

        Raises:
            RuntimeError: it reverted.
        """
        transaction = self.chain.prepare(call)
        self.chain.broadcast(transaction)
        outcome = settled(self.chain, transaction.tx_hash)
        if outcome.status is not TransactionStatus.CONFIRMED:
            raise RuntimeError(f"{type(call).__name__} is {outcome.status}")
        return outcome.gas_used


def measure_single(till: Till) -> dict[str, int]:
    """A channel for one session: opened, claimed, paid out, the rest sent back."""
    party = till.party()
    parts = {
        "deposit": till.gas(party.deposit(ESCROW)),
        "claim": till.gas(party.claim(EARNED)),
        "settle": till.gas(party.settle()),
        "refund": till.gas(party.refund(ESCROW - EARNED)),
    }
    return parts | {"session": sum(parts.values())}


def measure_reused(till: Till) -> dict[str, int]:
    """A later session on a channel that is open already, claimed by itself."""
    party = till.party()
    till.gas(party.deposit(ESCROW))
    till.gas(party.claim(EARNED // 4))
    till.gas(party.settle())
    parts = {"claim": till.gas(party.claim(EARNED // 2)), "settle": till.gas(party.settle())}
    top_up = till.gas(party.deposit(ESCROW, salt=2))
    return parts | {"session": sum(parts.values()), "top_up_when_it_is_empty": top_up}


def measure_batch(till: Till) -> dict[str, int]:
    """Ten robots' kept channels claimed in one transaction and paid out by another."""
    parties = [till.party() for _ in range(BATCH)]
    for party in parties:
        till.gas(party.deposit(ESCROW))
        till.gas(party.claim(EARNED // 4))
    till.gas(parties[0].settle())
    claim = till.gas(ClaimCall(tuple(party.row(EARNED // 2) for party in parties)))
    settle = till.gas(parties[0].settle())
    return {
        f"claim_of_{BATCH}": claim,
        "settle": settle,
        "session": (claim + settle) // BATCH,
    }


def measure_batch_of_single(till: Till) -> dict[str, int]:
    """Ten channels for one session each: their claims and pay-outs are shared, deposits and refunds are not."""
    parties = [till.party() for _ in range(BATCH)]
    deposit = sum(till.gas(party.deposit(ESCROW)) for party in parties)
    claim = till.gas(ClaimCall(tuple(party.row(EARNED) for party in parties)))
    settle = till.gas(parties[0].settle())
    refund = sum(till.gas(party.refund(ESCROW - EARNED)) for party in parties)
    return {"session": (deposit + claim + settle + refund) // BATCH}


def measure_exact(till: Till) -> dict[str, int]:
    """Blocks of energy, each paid by one transferWithAuthorization that the station sends."""
    payer = till.party().payer
    used = []
    for number in range(3):
        unsigned = TransferAuthorization(
            payer=payer.address,
            receiver=till.receiver.address,
            amount_atomic=EARNED // 2,
            valid_after_s=0,
            valid_before_s=FOR_EVER_S,
            nonce=keccak256(number.to_bytes(4, "big")),
        )
        signature = payer.sign(transfer_digest(TOKEN_DOMAIN, unsigned))
        signed = TransferAuthorization(
            payer=unsigned.payer,
            receiver=unsigned.receiver,
            amount_atomic=unsigned.amount_atomic,
            valid_after_s=unsigned.valid_after_s,
            valid_before_s=unsigned.valid_before_s,
            nonce=unsigned.nonce,
            signature=signature,
        )
        used.append(till.gas(TransferCall(signed)))
    return {"block": used[1], "session_of_one_block": used[1], "session_of_five_blocks": 5 * used[1]}


def measure_plain(till: Till) -> dict[str, int]:
    """What paying each tranche by a transfer of the robot's own would take."""
    payer = till.party().payer
    rpc = till.world.anvil.rpc
    rpc("anvil_impersonateAccount", address_to_hex(payer.address))
    data = keccak256(b"transfer(address,uint256)")[:4] + bytes(12) + till.receiver.address
    used = []
    for _ in range(2):
        request = {
            "from": address_to_hex(payer.address),
            "to": address_to_hex(DEVELOPMENT_USDC),
            "data": "0x" + (data + (EARNED // TRANCHES).to_bytes(32, "big")).hex(),
        }
        till.world.fund(payer.address)
        tx_hash = rpc("eth_sendTransaction", request)
        outcome = settled(till.chain, bytes.fromhex(tx_hash[2:]))
        if outcome.status is not TransactionStatus.CONFIRMED:
            raise RuntimeError(f"the transfer is {outcome.status}")
        used.append(outcome.gas_used)
    return {"transfer": used[1], f"session_of_{TRANCHES}_tranches": TRANCHES * used[1]}


PATTERNS: tuple[tuple[str, Callable[[Till], dict[str, int]]], ...] = (
    ("plain_transfers,_one_a_tranche", measure_plain),
    ("channel_for_one_session", measure_single),
    (f"channels_for_one_session,_claimed_{BATCH}_at_a_time", measure_batch_of_single),
    ("channel_used_again", measure_reused),
    (f"channels_used_again,_claimed_{BATCH}_at_a_time", measure_batch),
    ("exact,_a_transfer_a_block", measure_exact),
)


def measure() -> dict[str, Any]:
    """Gas by pattern, and how many times less than plain transfers; a few seconds."""
    if find_anvil() is None:
        return {"skipped": "no anvil: depai-robot setup chain"}
    with tempfile.TemporaryDirectory() as name:
        world = AnvilWorld(Path(name))
        try:
            out: dict[str, Any] = {"tranches_of_the_session": TRANCHES}
            plain = 0
            for pattern, work in PATTERNS:
                figures: dict[str, Any] = dict(work(Till(world)))
                session = next(value for key, value in figures.items() if key.startswith("session"))
                plain = plain or session
                if session != plain:
                    figures["times_less_than_plain_transfers"] = round(plain / session, 1)
                out[pattern] = figures
            return out
        finally:
            world.close()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
