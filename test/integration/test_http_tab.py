"""Metered energy over HTTP, paid by vouchers of the stock x402 client, on a real EVM."""

import base64
import json
import threading
import time

import msgspec
import pytest
import requests

pytest.importorskip("flask", reason="flask is absent: pip install 'depai_robot[http,test]'")
pytest.importorskip("waitress", reason="waitress is absent: pip install 'depai_robot[http,test]'")
pytest.importorskip("x402", reason="the x402 package is absent: pip install 'depai_robot[test]'")

from eth_account import Account  # noqa: E402
from x402 import x402ClientSync  # noqa: E402
from x402.http.clients.requests import x402_requests  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.config import (  # noqa: E402
    BatchSettlementEvmSchemeOptions,
)
from x402.mechanisms.evm.batch_settlement.client.refund import RefundOptions, _RefundResponse  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.scheme import BatchSettlementEvmScheme  # noqa: E402
from x402.mechanisms.evm.batch_settlement.client.storage import (  # noqa: E402
    InMemoryClientChannelStorage,
)

from depai_robot.adapters.sqlite_journal import SqliteJournal  # noqa: E402
from depai_robot.app import http_tab  # noqa: E402
from depai_robot.app.http_service import PAYMENT_REQUIRED, PAYMENT_RESPONSE, make_service  # noqa: E402
from depai_robot.app.http_tab import TabCounter  # noqa: E402
from depai_robot.payment import x402 as ours  # noqa: E402
from depai_robot.payment.signature import CURVE_ORDER  # noqa: E402
from depai_robot.payment.x402 import PaymentRequired, SettleResponse  # noqa: E402
from depai_robot.ports import InitiateWithdrawCall, MeterReading  # noqa: E402
from test.app_world import station_key, station_settings  # noqa: E402
from test.chain_world import AnvilWorld, send, signer  # noqa: E402
from test.http_serving import Served, development_network  # noqa: E402

TRANCHE = 3000
FEE = 2000
PRICE = FEE + 1200  # 3 Wh at 400 a Wh, and the start fee of a deposit


class Outlet:
    """A connector whose register rises as soon as it is energised, as far as the buyer takes it."""

    def __init__(self) -> None:
        self.occupied, self.register, self.takes = True, 7000, 10**9
        self.until: list[int] = []
        self.power_w = 0.0

    def present(self) -> bool:
        return self.occupied

    def read(self) -> MeterReading:
        return MeterReading(0, self.register, self.power_w)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self.until.append(until_energy_milliwh)
        self.register = min(until_energy_milliwh, self.register + self.takes)

    def deenergise(self) -> None:
        pass


@pytest.fixture(scope="module")
def anvil(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(http_tab, "IDLE_S", 0.2)


class Counter:
    """The counter behind HTTP."""

    def __init__(self, anvil, folder) -> None:
        self.anvil, self.folder = anvil, folder
        self.outlet = Outlet()
        self.receiver = station_key("a", "receiver")
        anvil.fund(self.receiver.address)
        self.settings = station_settings(
            development_network(), "a", tranche_milliwh=TRANCHE, start_fee_atomic=FEE, stop_time_ms=1
        )
        self.open()

    def open(self) -> None:
        self.journal = SqliteJournal(self.folder / "tab.sqlite", "tab")
        self.served = Served(lambda url: make_service(None, self.make(url)))
        self.url = f"{self.served.url}/connectors/1/energy"

    def make(self, url: str) -> TabCounter:
        self.counter = TabCounter(
            self.settings,
            {1: self.outlet},
            self.anvil.chain(self.receiver),
            self.journal,
            base_url=url,
            gates={1: threading.Lock()},
        )
        return self.counter

    def close(self) -> None:
        self.served.close()
        self.journal.close()

    def restart(self) -> int:
        self.close()
        self.open()
        return self.counter.resume()

    def earned(self) -> int:
        return self.anvil.chain().token_balance(self.receiver.address)


@pytest.fixture
def counter(anvil, tmp_path):
    counter = Counter(anvil, tmp_path)
    yield counter
    counter.close()


class Buyer:
    """The stock client; what it sent is kept."""

    def __init__(self, anvil, usdc=100_000) -> None:
        self.key, self.voucher_key = signer("http payer"), signer("http voucher")
        anvil.fund(self.key.address, usdc)
        self.storage = InMemoryClientChannelStorage()
        options = BatchSettlementEvmSchemeOptions(storage=self.storage, voucher_signer=self._voucher_signer())
        self.scheme = BatchSettlementEvmScheme(Account.from_key(self.key.secret), options)
        client = x402ClientSync().set_spend_controls(False).register("eip155:31337", self.scheme)
        self.session = x402_requests(client)
        self.sent: list[str] = []
        self.session.hooks["response"].append(self._keep)

    def _voucher_signer(self):
        from x402.mechanisms.evm.signers import EthAccountSigner

        return EthAccountSigner(Account.from_key(self.voucher_key.secret))

    def _keep(self, response, **_options) -> None:
        header = response.request.headers.get("PAYMENT-SIGNATURE")
        if header:
            self.sent.append(header)

    def get(self, url):
        return self.session.get(url, timeout=60)

    def refund(self, url, amount=None):
        def fetch(url, headers):
            response = requests.get(url, headers=headers, timeout=60)
            return _RefundResponse(response.status_code, {k.upper(): v for k, v in response.headers.items()})

        return self.scheme.refund(url, RefundOptions(amount=amount, fetch=fetch))


@pytest.fixture
def buyer(anvil):
    return Buyer(anvil)


def settle_of(response) -> SettleResponse:
    return msgspec.json.decode(base64.b64decode(response.headers[PAYMENT_RESPONSE]), type=SettleResponse)


def required_of(response) -> PaymentRequired:
    return msgspec.json.decode(base64.b64decode(response.headers[PAYMENT_REQUIRED]), type=PaymentRequired)


def charged_of(response) -> int:
    assert response.status_code == 200, response.text
    return int(settle_of(response).extra.charged_amount)


def send_raw(url, header):
    return requests.get(url, headers={"PAYMENT-SIGNATURE": header}, timeout=60)


def unpack(header: str) -> dict:
    return json.loads(base64.b64decode(header))


def pack(payment: dict) -> str:
    return base64.b64encode(json.dumps(payment).encode()).decode()


def test_the_offer_names_a_tranche_and_a_delay_of_its_own(counter):
    response = requests.get(counter.url, timeout=10)
    (accepted,) = required_of(response).accepts
    assert response.status_code == 402
    assert (accepted.scheme, accepted.amount) == ("batch-settlement", str(PRICE))
    assert accepted.extra.withdraw_delay == station_settings(development_network(), "a").withdraw_delay_s + 1


def test_a_stock_client_buys_by_the_meter_and_gets_the_rest_back(anvil, counter, buyer):
    before = counter.earned()
    first = buyer.get(counter.url)
    assert charged_of(first) == PRICE, "the fee of the deposit, and three Wh"
    assert settle_of(first).transaction
    assert charged_of(buyer.get(counter.url)) == 1200
    counter.outlet.takes = 500  # its battery is nearly full
    third = buyer.get(counter.url)
    assert charged_of(third) == 200, "what the meter saw, not what was signed"
    assert settle_of(third).extra.channel_state.charged_cumulative_amount == str(PRICE + 1400)
    assert counter.outlet.until == [10_000, 13_000, 16_000]
    refund = buyer.refund(counter.url)
    assert refund.success
    charged = PRICE + 1400
    assert counter.earned() - before == charged
    assert anvil.chain().token_balance(buyer.key.address) == 100_000 - charged
    # 5 times the amount was put in, all that was not charged came back.
    assert refund.amount == str(5 * PRICE - charged)


def test_it_tops_up_by_itself_and_pays_that_deposits_fee(counter, buyer):
    charges = [charged_of(buyer.get(counter.url)) for _ in range(14)]
    assert charges[0] == PRICE
    assert sorted(set(charges)) == [1200, PRICE]
    assert charges.count(PRICE) == 2, "one deposit more"


def test_part_of_the_rest(anvil, counter, buyer):
    buyer.get(counter.url)
    refund = buyer.refund(counter.url, "5000")
    assert (refund.success, refund.amount) == (True, "5000")
    assert charged_of(buyer.get(counter.url)) == 1200
    with pytest.raises(RuntimeError, match="refund_no_balance"):
        buyer.refund(counter.url, "99999")


def test_the_same_payment_again_gets_the_same_answer_also_after_a_restart(counter, buyer):
    first = buyer.get(counter.url)
    again = send_raw(counter.url, buyer.sent[-1])
    assert again.headers[PAYMENT_RESPONSE] == first.headers[PAYMENT_RESPONSE]
    assert counter.restart() == 0
    once_more = send_raw(counter.url, buyer.sent[-1])
    assert once_more.headers[PAYMENT_RESPONSE] == first.headers[PAYMENT_RESPONSE]
    assert counter.outlet.until == [10_000]
    assert charged_of(buyer.get(counter.url)) == 1200, "the books are as they were"


def test_a_request_that_gave_nothing_may_be_made_again(counter, buyer):
    buyer.get(counter.url)
    counter.outlet.takes = 0
    assert charged_of(buyer.get(counter.url)) == 0
    counter.outlet.takes = 10**9
    assert charged_of(buyer.get(counter.url)) == 1200


def test_a_client_that_lost_its_sum_is_corrected(counter, buyer):
    buyer.get(counter.url)
    buyer.get(counter.url)
    key = next(iter(buyer.storage._channels))
    lost = buyer.storage.get(key)
    lost.charged_cumulative_amount = str(PRICE)
    buyer.storage.set(key, lost)
    counter.outlet.takes = 100  # so that the last answer is another one
    buyer.get(counter.url)
    lost.charged_cumulative_amount = "0"
    buyer.storage.set(key, lost)
    response = buyer.get(counter.url)
    assert response.status_code == 402
    assert PAYMENT_RESPONSE not in response.headers, "then the stock client would not read the correction"
    required = required_of(response)
    assert required.error == "invalid_batch_settlement_evm_cumulative_amount_mismatch"
    extra = required.accepts[0].extra
    assert extra.channel_state.charged_cumulative_amount == str(PRICE + 1200 + 40) or extra.voucher_state
    assert int(extra.channel_state.charged_cumulative_amount) <= int(extra.voucher_state.signed_max_claimable)


def test_it_claims_what_it_charged(counter, buyer):
    before = counter.earned()
    buyer.get(counter.url)
    counter.counter.tend()
    assert counter.earned() == before, "not worth the gas yet"
    counter.counter._claimed_at_s -= 10**6
    counter.counter.tend()
    assert counter.earned() - before == PRICE
    counter.counter._claimed_at_s -= 10**6
    counter.counter.tend()
    assert counter.earned() - before == PRICE


def test_who_withdraws_is_served_no_more_and_all_is_claimed(anvil, counter, buyer):
    buyer.get(counter.url)
    before = counter.earned()
    payload = unpack(buyer.sent[0])["payload"]
    config = ours.json_to_config(msgspec.convert(payload["channelConfig"], ours.ChannelConfigJson))
    anvil.fund(buyer.key.address)
    send(anvil.chain(buyer.key), InitiateWithdrawCall(config, 5 * PRICE))
    response = buyer.get(counter.url)
    assert response.status_code == 402
    assert settle_of(response).error_reason == "invalid_batch_settlement_evm_channel_busy"
    assert counter.earned() - before == PRICE


def test_a_withdrawal_is_seen_without_a_request(anvil, counter, buyer):
    buyer.get(counter.url)
    before = counter.earned()
    counter.counter.tend()
    payload = unpack(buyer.sent[0])["payload"]
    config = ours.json_to_config(msgspec.convert(payload["channelConfig"], ours.ChannelConfigJson))
    anvil.fund(buyer.key.address)
    send(anvil.chain(buyer.key), InitiateWithdrawCall(config, 5 * PRICE))
    counter.counter.tend()
    assert counter.earned() - before == PRICE


# --- refused ------------------------------------------------------------------------------------------------


def high_s(signature: str) -> str:
    raw = bytes.fromhex(signature[2:])
    s = CURVE_ORDER - int.from_bytes(raw[32:64], "big")
    return "0x" + (raw[:32] + s.to_bytes(32, "big") + bytes([55 - raw[64]])).hex()


def change(payment: dict, path: str, value) -> dict:
    changed = json.loads(json.dumps(payment))
    inner = changed
    *parents, last = path.split(".")
    for name in parents:
        inner = inner[name]
    inner[last] = value(inner[last]) if callable(value) else value
    return changed


PREFIX = "invalid_batch_settlement_evm_"
ANOTHER = "0x" + "11" * 20


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("accepted.amount", "1", "invalid_payment_requirements"),
        ("accepted.payTo", ANOTHER, "invalid_payment_requirements"),
        ("payload.channelConfig.receiver", ANOTHER, PREFIX + "receiver_mismatch"),
        ("payload.channelConfig.receiverAuthorizer", ANOTHER, PREFIX + "receiver_authorizer_mismatch"),
        ("payload.channelConfig.token", ANOTHER, PREFIX + "token_mismatch"),
        ("payload.channelConfig.withdrawDelay", 900, PREFIX + "withdraw_delay_mismatch"),
        (
            "payload.channelConfig.payerAuthorizer",
            "0x" + "00" * 20,
            PREFIX + "receive_authorization_signature",
        ),
        ("payload.channelConfig.salt", "0x" + "11" * 32, PREFIX + "receive_authorization_signature"),
        ("payload.voucher.signature", high_s, PREFIX + "voucher_signature"),
        ("payload.voucher.signature", lambda s: s[:-2] + "00", PREFIX + "voucher_signature"),
        ("payload.voucher.maxClaimableAmount", str(PRICE + 1), PREFIX + "voucher_signature"),
        ("payload.voucher.maxClaimableAmount", str(2**128), "invalid_payload"),
        ("payload.deposit.amount", "17000", PREFIX + "receive_authorization_signature"),
        (
            "payload.deposit.authorization.erc3009Authorization.validBefore",
            "1",
            PREFIX + "payload_authorization_valid_before",
        ),
        (
            "payload.deposit.authorization.erc3009Authorization.validAfter",
            str(2**40),
            PREFIX + "payload_authorization_valid_after",
        ),
        ("payload.type", "claim", "invalid_payload"),
        ("x402Version", 1, "invalid_payload"),
    ],
)
def test_a_spoiled_deposit_is_refused_and_nothing_happens(anvil, counter, buyer, path, value, reason):
    counter.outlet.occupied = False
    assert buyer.get(counter.url).status_code == 409
    counter.outlet.occupied = True
    good = unpack(buyer.sent[-1])
    response = send_raw(counter.url, pack(change(good, path, value)))
    assert response.status_code == 402, response.text
    assert settle_of(response).error_reason == reason
    assert not counter.outlet.until
    assert not list(counter.journal.rows())
    assert anvil.chain().token_balance(buyer.key.address) == 100_000
    assert charged_of(send_raw(counter.url, buyer.sent[-1])) == PRICE, "and the good one is taken afterwards"


def test_nobody_there_and_nothing_is_taken(anvil, counter, buyer):
    counter.outlet.occupied = False
    assert "nothing was taken" in buyer.get(counter.url).json()["error"]
    counter.outlet.occupied, counter.outlet.power_w = True, 50.0
    assert "power flows" in buyer.get(counter.url).json()["error"]
    assert anvil.chain().token_balance(buyer.key.address) == 100_000


def test_a_payer_without_funds(counter, anvil):
    poor = Buyer(anvil, usdc=5 * PRICE - 1)
    response = poor.get(counter.url)
    assert response.status_code == 402
    assert settle_of(response).error_reason == PREFIX + "deposit_simulation_failed"
    assert not counter.outlet.until


def test_a_voucher_on_an_unknown_channel_is_not_believed(anvil, counter, buyer, tmp_path):
    """The stock server takes the client's word for what was charged; a lost store serves nobody on old channels."""
    buyer.get(counter.url)
    counter.close()
    for path in counter.folder.glob("tab.sqlite*"):
        path.unlink()
    counter.open()
    response = buyer.get(counter.url)
    assert settle_of(response).error_reason == PREFIX + "channel_not_found"
    counter.outlet.until.clear()


def test_two_at_once_on_one_connector(counter, buyer, anvil):
    other = Buyer(anvil)
    counter.outlet.takes = 0  # takes its time
    answers = []
    threads = [
        threading.Thread(target=lambda b=b: answers.append(b.get(counter.url))) for b in (buyer, other)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.15)
    for thread in threads:
        thread.join(30)
    assert sorted(answer.status_code for answer in answers) == [200, 409]


# --- stops --------------------------------------------------------------------------------------------------


class StopError(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("when", ["DepositTaken", "DepositEnded", "Sold"])
def test_a_stop_after_any_row_costs_nobody_anything(anvil, counter, buyer, when, monkeypatch):
    before = counter.earned()
    whole = TabCounter._write

    def write(self, row):
        whole(self, row)
        if type(row).__name__ == when:
            counter.outlet.register += 1000 if when == "Sold" else 0
            raise RuntimeError("the process ends here")

    monkeypatch.setattr(TabCounter, "_write", write)
    assert buyer.get(counter.url).status_code == 500
    monkeypatch.setattr(TabCounter, "_write", whole)
    resumed = counter.restart()
    assert resumed == (0 if when == "DepositEnded" else 1)
    response = send_raw(counter.url, buyer.sent[-1])
    # What flowed before the stop is what the interrupted request is charged; else it is served now.
    assert charged_of(response) == (FEE + 400 if when == "Sold" else PRICE)
    counter.counter._claimed_at_s -= 10**6
    counter.counter.tend()
    charged = FEE + 400 if when == "Sold" else PRICE
    assert counter.earned() - before == charged
    assert anvil.chain().token_balance(buyer.key.address) == 100_000 - 5 * PRICE


def test_a_deposit_that_somebody_else_relayed_is_as_good(anvil, counter, buyer):
    from depai_robot.ports import DepositCall

    counter.outlet.occupied = False
    buyer.get(counter.url)
    payment = msgspec.json.decode(base64.b64decode(buyer.sent[-1]), type=ours.PaymentPayload)
    stranger = signer("stranger")
    anvil.fund(stranger.address)
    send(
        anvil.chain(stranger),
        DepositCall(
            ours.json_to_config(payment.payload.channel_config), ours.json_to_deposit(payment.payload.deposit)
        ),
    )
    counter.outlet.occupied = True
    assert charged_of(send_raw(counter.url, buyer.sent[-1])) == PRICE
