"""Vouchers signed and verified per second: ours beside the stock ``x402`` package, in the same run.

Both do the same work from the same inputs, with coincurve and without reading a chain: a cumulative ceiling becomes a
signed x402 voucher object, and such an object is judged against its channel config and requirements. The two are
timed in alternating turns by the processor time of their one thread, so that other work on the machine counts as
little as can be; the median turn counts.
"""

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

from depai_robot.payment import eip712, x402
from depai_robot.payment.channel import ChannelConfig
from depai_robot.payment.channel import Voucher as OurVoucher
from depai_robot.payment.voucher import VoucherLimits, check_voucher
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import Address, address_to_hex

CHAIN = 84532
NETWORK = f"eip155:{CHAIN}"
TURN_S = 0.15
TURNS = 9
TARGET = 3.0
"""Times as many as the stock package, for each of the two."""

_KEY, _OWNER, _STATION = (
    DevelopmentSigner("voucher key"),
    DevelopmentSigner("owner"),
    DevelopmentSigner("station"),
)
_CONFIG = ChannelConfig(
    payer=_OWNER.address,
    payer_authorizer=_KEY.address,
    receiver=_STATION.address,
    receiver_authorizer=_STATION.address,
    token=Address(bytes.fromhex("036CbD53842c5426634e7929541eC2318f3dCF7e")),
    withdraw_delay_s=3600,
    salt=bytes(32),
)
_DOMAIN = eip712.settlement_domain(CHAIN)
_CHANNEL = eip712.channel_id(_CONFIG, _DOMAIN)
_REQUIREMENTS = x402.PaymentRequirements(
    scheme="batch-settlement",
    network=NETWORK,
    amount="100",
    asset=address_to_hex(_CONFIG.token),
    pay_to=address_to_hex(_CONFIG.receiver),
    max_timeout_seconds=60,
    extra=x402.RequirementsExtra(
        receiver_authorizer=address_to_hex(_CONFIG.receiver_authorizer),
        withdraw_delay=3600,
        name="USDC",
        version="2",
    ),
)


def _sign_ours(ceiling_atomic: int) -> bytes:
    """A voucher's JSON."""
    digest = eip712.voucher_digest(_CHANNEL, ceiling_atomic, _DOMAIN)
    return msgspec.json.encode(x402.voucher_to_json(OurVoucher(_CHANNEL, ceiling_atomic, _KEY.sign(digest))))


def _payload(ceiling_atomic: int) -> bytes:
    voucher = msgspec.json.decode(_sign_ours(ceiling_atomic), type=x402.VoucherJson)
    return msgspec.json.encode(
        x402.PaymentPayload(
            x402_version=2,
            accepted=_REQUIREMENTS,
            payload=x402.VoucherPayload(x402.config_to_json(_CONFIG), voucher),
        )
    )


_DECODER = msgspec.json.Decoder(x402.PaymentPayload)


def _verify_ours(payload: bytes) -> None:
    """From the bytes of a payment to a verdict: strict decoding, channel, requirements, signature, rules."""
    seen = _DECODER.decode(payload)
    if seen.accepted != _REQUIREMENTS or not isinstance(seen.payload, x402.VoucherPayload):
        raise ValueError("the payload is not the one that was made")
    voucher = x402.json_to_voucher(seen.payload.voucher)
    config = x402.json_to_config(seen.payload.channel_config)
    limits = VoucherLimits(
        balance_atomic=2**64,
        total_claimed_atomic=0,
        charged_atomic=voucher.ceiling_atomic - 100,
        amount_atomic=100,
    )
    check_voucher(config, voucher, _DOMAIN, limits)


def _make_theirs() -> tuple[Callable[[int], Any], Callable[[bytes], None]]:
    """(sign, verify) of the stock package, as its client and facilitator do it, less the reading of the chain."""
    import eth_account
    from x402.mechanisms.evm.batch_settlement.client.voucher import sign_voucher
    from x402.mechanisms.evm.batch_settlement.facilitator.utils import (
        validate_channel_config,
        verify_batch_settlement_voucher_typed_data,
    )
    from x402.mechanisms.evm.batch_settlement.types import VoucherPayload
    from x402.mechanisms.evm.signers import EthAccountSigner
    from x402.schemas import PaymentPayload, PaymentRequirements

    signer = EthAccountSigner(eth_account.Account.from_key(_KEY.secret))
    channel = x402.bytes_to_text(_CHANNEL)
    requirements = PaymentRequirements.model_validate(json.loads(msgspec.json.encode(_REQUIREMENTS)))

    def sign(ceiling_atomic: int) -> str:
        return json.dumps(sign_voucher(signer, channel, ceiling_atomic, NETWORK).to_dict())

    def verify(payload: bytes) -> None:
        seen = PaymentPayload.model_validate_json(payload)
        inner = VoucherPayload.from_dict(seen.payload)
        config, voucher = inner.channel_config, inner.voucher
        wrong = validate_channel_config(config, voucher.channel_id, requirements)
        if wrong is not None or not verify_batch_settlement_voucher_typed_data(
            None,
            channel_id=voucher.channel_id,
            max_claimable_amount=voucher.max_claimable_amount,
            payer_authorizer=config.payer_authorizer,
            payer=config.payer,
            signature=voucher.signature,
            chain_id=CHAIN,
        ):
            raise ValueError(f"the stock package refuses our voucher: {wrong}")

    return sign, verify


def _rate(work: Callable[[Any], Any], inputs: list[Any], turn_s: float) -> float:
    """Calls per second of processor time in one turn."""
    count, start = 0, time.process_time()
    while True:
        work(inputs[count % len(inputs)])
        count += 1
        # The clock is read rarely: it is not what is measured.
        if count % 16 == 0 and (passed_s := time.process_time() - start) >= turn_s:
            return count / passed_s


def measure(turns: int = TURNS, turn_s: float = TURN_S) -> dict[str, float]:
    """Vouchers per second of one core, medians of alternating turns, and ratios; ``turns * turn_s * 4`` seconds."""
    sign_theirs, verify_theirs = _make_theirs()
    ceilings = list(range(100, 50_100, 50))
    payloads = [_payload(ceiling) for ceiling in ceilings]
    work: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "sign_ours": (_sign_ours, ceilings),
        "sign_stock": (sign_theirs, ceilings),
        "verify_ours": (_verify_ours, payloads),
        "verify_stock": (verify_theirs, payloads),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    for function, inputs in work.values():
        _rate(function, inputs, 0.02)  # warm
    for _ in range(turns):
        for name, (function, inputs) in work.items():
            rates[name].append(_rate(function, inputs, turn_s))
    out = {f"{name}_per_s": round(statistics.median(seen), 1) for name, seen in rates.items()}
    out["sign_ratio"] = round(out["sign_ours_per_s"] / out["sign_stock_per_s"], 2)
    out["verify_ratio"] = round(out["verify_ours_per_s"] / out["verify_stock_per_s"], 2)
    both = {
        who: 1 / (1 / out[f"sign_{who}_per_s"] + 1 / out[f"verify_{who}_per_s"]) for who in ("ours", "stock")
    }
    out["sign_and_verify_ours_per_s"] = round(both["ours"], 1)
    out["sign_and_verify_stock_per_s"] = round(both["stock"], 1)
    out["sign_and_verify_ratio"] = round(both["ours"] / both["stock"], 2)
    out["target_ratio"] = TARGET
    return out


def main() -> None:
    """Prints the figures, one a line."""
    for name, value in measure().items():
        print(f"{name:30} {value:>12,}")


if __name__ == "__main__":
    main()
