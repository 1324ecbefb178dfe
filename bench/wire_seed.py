"""One valid message of every type: what the wire's benchmark measures and its fuzzer spoils."""

import msgspec

from depai_robot.charging import envelope
from depai_robot.charging.message import (
    BODY_BY_TYPE,
    CHARGING_EXTENSION,
    Body,
    ChargingTerms,
    Draft,
    EventType,
    MeterIdentity,
    NeedVoucher,
    Offer,
    Payment,
    PaymentResult,
    Quote,
    QuoteCounter,
    QuoteReject,
    QuoteRequest,
    ReceiptMessage,
    SessionEvent,
    SessionStop,
)
from depai_robot.payment import x402
from depai_robot.ports import Signer
from depai_robot.sim.key import DevelopmentSigner
from depai_robot.values.identity import address_to_hex, did_pkh

CHAIN_ID = 31337
NOW_S = 1_800_000_000
"""The wall clock of every seed."""
ROBOT = DevelopmentSigner("wire robot")
STATION = DevelopmentSigner("wire station")
TOKEN = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
NETWORK = f"eip155:{CHAIN_ID}"
STATEMENT = (
    'OCMF|{"FV":"1.4","GI":"depai","GS":"M-1","GV":"1","PG":"T12","MV":"depai","MM":"sim","MS":"M-1","MF":"1",'
    '"IS":true,"IL":"VERIFIED","IF":[],"IT":"LOCAL","ID":"s-1","TT":"","RD":[{"TM":"2027-01-15T08:00:00,000+0000 S",'
    '"TX":"B","RV":10.234,"RI":"01-0B:01.08.00*FF","RU":"kWh","RT":"DC","EF":"","ST":"G"}]}|'
    '{"SA":"ECDSA-secp256k1-SHA256","SD":"' + "3044" + "0220" + "11" * 32 + "0220" + "22" * 32 + '"}'
)
_SIGNATURE = "0x" + "11" * 32 + "22" * 32 + "1b"
_HASH = "0x" + "ab" * 32


def make_draft(body: Body, **changes: object) -> Draft:
    """A draft of a body to the station (an offer: to everybody), fresh at NOW_S, with some fields changed."""
    draft = Draft(
        id="s-1.r.1",
        session="s-1",
        seq=1,
        ts=NOW_S,
        exp=NOW_S + 60,
        to="*" if isinstance(body, Offer) else did_pkh(CHAIN_ID, STATION.address),
        body=body,
    )
    return msgspec.structs.replace(draft, **changes)


def seal(draft: Draft, signer: Signer = ROBOT, chain_id: int = CHAIN_ID) -> str:
    """A draft, signed by a development key."""
    signing_input = envelope.encode_signing_input(draft, envelope.encode_header(signer.public_key, chain_id))
    return envelope.assemble(signing_input, signer.sign(envelope.signing_digest(signing_input)))


def make_bodies() -> list[Body]:
    """One of every type, optional fields filled."""
    meter = MeterIdentity(serial="M-1", key=did_pkh(CHAIN_ID, STATION.address), accuracy_permille=10)
    terms = ChargingTerms(
        station="st-1",
        connector=1,
        session="s-1",
        price_atomic_per_kwh=400_000,
        start_fee_atomic=2_000,
        idle_fee_atomic_per_min=100,
        tranche_milliwh=500,
        power_max_w=600,
        stop_time_ms=200,
        current_type="DC",
        meter=meter,
        report_interval_ms=500,
        voucher_timeout_ms=1000,
        confirmations=1,
        hold_until_s=NOW_S + 60,
    )
    state = x402.ChannelStateJson(
        channel_id=_HASH,
        balance="1000000",
        total_claimed="0",
        withdraw_requested_at=0,
        refund_nonce="0",
        charged_cumulative_amount="2400",
    )
    requirements = x402.PaymentRequirements(
        scheme="batch-settlement",
        network=NETWORK,
        amount="200",
        asset=TOKEN,
        pay_to=address_to_hex(STATION.address),
        max_timeout_seconds=60,
        extra=x402.RequirementsExtra(
            receiver_authorizer=address_to_hex(STATION.address),
            withdraw_delay=3600,
            name="USDC",
            version="2",
            min_deposit="100000",
            channel_state=state,
            voucher_state=x402.VoucherStateJson(signed_max_claimable="2400", signature=_SIGNATURE),
        ),
    )
    required = x402.PaymentRequired(
        x402_version=2,
        resource=x402.Resource(url="mqtt:depai/v1/z/stations/st-1/inbox", description="energy"),
        accepts=[requirements],
        extensions={
            CHARGING_EXTENSION: x402.Extension(info=msgspec.to_builtins(terms), schema={"type": "object"})
        },
    )
    payment = x402.PaymentPayload(
        x402_version=2,
        accepted=requirements,
        payload=x402.DepositPayload(
            channel_config=x402.ChannelConfigJson(
                payer=address_to_hex(ROBOT.address),
                payer_authorizer=address_to_hex(ROBOT.address),
                receiver=address_to_hex(STATION.address),
                receiver_authorizer=address_to_hex(STATION.address),
                token=TOKEN,
                withdraw_delay=3600,
                salt=_HASH,
            ),
            voucher=x402.VoucherJson(channel_id=_HASH, max_claimable_amount="2600", signature=_SIGNATURE),
            deposit=x402.DepositJson(
                amount="1000000",
                authorization=x402.AuthorizationJson(
                    erc3009_authorization=x402.Erc3009AuthorizationJson(
                        valid_after="0", valid_before=str(NOW_S + 60), salt=_HASH, signature=_SIGNATURE
                    )
                ),
            ),
        ),
        resource=required.resource,
    )
    voucher = msgspec.structs.replace(
        payment,
        payload=x402.VoucherPayload(
            channel_config=payment.payload.channel_config, voucher=payment.payload.voucher
        ),
    )
    settle = x402.SettleResponse(
        success=True,
        transaction="",
        network=NETWORK,
        payer=address_to_hex(ROBOT.address).lower(),
        amount="",
        extra=x402.SettleExtra(charged_amount="200", channel_state=state),
    )
    offer = Offer(
        station="st-1",
        name="Dock by the door",
        dock="dock-1",
        marker_id=3,
        pose_mm_mrad=(2500, -1200, 1571),
        power_max_w=600,
        price_atomic_per_kwh=400_000,
        start_fee_atomic=2_000,
        available=True,
        network=NETWORK,
        asset=TOKEN,
        receiver=address_to_hex(STATION.address),
        receiver_authorizer=address_to_hex(STATION.address),
        meter=meter,
    )
    bodies: list[Body] = [
        offer,
        QuoteRequest(
            robot="r-1",
            energy_milliwh=12_000,
            power_max_w=500,
            current_type="DC",
            payer_authorizer=address_to_hex(ROBOT.address),
        ),
        Quote(payment_required=required),
        QuoteCounter(price_atomic_per_kwh=350_000, round=1),
        QuoteReject(reason="occupied", detail="until noon"),
        Payment(payload=payment),
        Payment(payload=voucher),
        PaymentResult(answers="s-1.r.4", settle=settle, required=required),
        SessionEvent(
            event_type=EventType.UPDATED,
            seq_no=4,
            trigger_reason="MeterValuePeriodic",
            charging_state="Charging",
            statement=STATEMENT,
            probe=_HASH,
            stopped_reason="Other",
        ),
        NeedVoucher(payment_required=required, statement=STATEMENT),
        SessionStop(reason="Local", detail="full"),
        ReceiptMessage(receipt='{"session":"s-1","total":"2600"}'),
    ]
    missing = set(BODY_BY_TYPE.values()) - {type(body) for body in bodies}
    if missing:
        raise LookupError(f"no seed for {', '.join(kind.__name__ for kind in missing)}")
    return bodies


def make_tokens() -> list[str]:
    """Every body, sealed by the robot to the station at NOW_S."""
    return [seal(make_draft(body)) for body in make_bodies()]
