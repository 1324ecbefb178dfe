"""Energy over HTTP with the stock x402 package at the other end, on a real EVM: it buys from us, and we buy from it."""

import base64
import json
import time
from dataclasses import dataclass, field

import msgspec
import pytest
import requests

flask = pytest.importorskip("flask", reason="flask is absent: pip install 'depai_robot[http,test]'")
waitress = pytest.importorskip("waitress", reason="waitress is absent: pip install 'depai_robot[http,test]'")
x402_stock = pytest.importorskip("x402", reason="the x402 package is absent: pip install 'depai_robot[test]'")

from eth_account import Account  # noqa: E402
from x402 import x402ClientSync, x402FacilitatorSync, x402ResourceServerSync  # noqa: E402
from x402.http.clients.requests import x402_requests  # noqa: E402
from x402.http.middleware.flask import payment_middleware  # noqa: E402
from x402.mechanisms.evm import FacilitatorWeb3Signer  # noqa: E402
from x402.mechanisms.evm.exact.register import (  # noqa: E402
    register_exact_evm_client,
    register_exact_evm_facilitator,
    register_exact_evm_server,
)

from depai_robot.adapters.sqlite_journal import SqliteJournal  # noqa: E402
from depai_robot.app.http_buyer import HttpBuyer  # noqa: E402
from depai_robot.app.http_service import PAYMENT_REQUIRED, PAYMENT_RESPONSE, make_service  # noqa: E402
from depai_robot.app.http_shop import BlockShop, decode_payment, encode_header  # noqa: E402
from depai_robot.payment.exact import ExactPaymentPayload, TransferRefusedError  # noqa: E402
from depai_robot.payment.x402 import PaymentRequired, SettleResponse  # noqa: E402
from depai_robot.ports import MeterReading  # noqa: E402
from depai_robot.values.error import ConfigError, RemoteError  # noqa: E402
from test.app_world import make_policy, station_key, station_settings  # noqa: E402
from test.chain_world import DEVELOPMENT_USDC, AnvilWorld, signer  # noqa: E402
from test.http_serving import Served, development_network  # noqa: E402

NETWORK = "eip155:31337"
PRICE = 500  # fee 100 and 1 Wh at 400 a Wh


@dataclass
class Outlet:
    """A connector's hardware that only writes down what it is told."""

    occupied: bool = True
    register: int = 7000
    energised: list[tuple[float, int]] = field(default_factory=list)

    def present(self) -> bool:
        return self.occupied

    def read(self) -> MeterReading:
        return MeterReading(0, self.register, 0.0)

    def energise(self, power_max_w: float, until_energy_milliwh: int) -> None:
        self.energised.append((power_max_w, until_energy_milliwh))


@pytest.fixture(scope="module")
def anvil(tmp_path_factory):
    world = AnvilWorld(tmp_path_factory.mktemp("anvil"))
    yield world
    world.close()


def make_settings(anvil, **changes):
    values = {"block_milliwh": 1000, "block_fee_atomic": 100} | changes
    return station_settings(development_network(), "a", **values)


class Shop:
    def __init__(self, anvil, folder) -> None:
        self.anvil, self.folder = anvil, folder
        self.outlet = Outlet()
        self.receiver = station_key("a", "receiver")
        anvil.fund(self.receiver.address)
        self.settings = make_settings(anvil)
        self.open()
        self.served = Served(lambda url: make_service(self.shop_at(url)))
        self.url = f"{self.served.url}/connectors/1/block"

    def open(self) -> None:
        self.journal = SqliteJournal(self.folder / "shop.sqlite", "shop")

    def shop_at(self, url: str) -> BlockShop:
        chain = self.anvil.chain(self.receiver)
        self.shop = BlockShop(self.settings, {1: self.outlet}, chain, self.journal, url)
        return self.shop

    def balance(self) -> int:
        return self.anvil.chain(self.receiver).token_balance(self.receiver.address)

    def close(self) -> None:
        self.served.close()
        self.journal.close()


@pytest.fixture
def shop(anvil, tmp_path):
    shop = Shop(anvil, tmp_path)
    yield shop
    shop.close()


def stock_buyer(anvil, usdc: int = 10_000):
    """A requests session of the stock client, and its address."""
    key = signer("http buyer")
    anvil.fund(key.address, usdc)
    client = register_exact_evm_client(
        x402ClientSync().set_spend_controls(False), Account.from_key(key.secret)
    )
    return x402_requests(client), key


def settle_of(response) -> SettleResponse:
    return msgspec.json.decode(base64.b64decode(response.headers[PAYMENT_RESPONSE]), type=SettleResponse)


# --- a stock client buys from our station -------------------------------------------------------------------


def test_without_payment_the_offer_is_in_the_header(shop):
    response = requests.get(shop.url, timeout=10)
    assert response.status_code == 402
    required = msgspec.json.decode(base64.b64decode(response.headers[PAYMENT_REQUIRED]), type=PaymentRequired)
    (accepted,) = required.accepts
    assert (accepted.scheme, accepted.amount, accepted.network) == ("exact", str(PRICE), NETWORK)
    assert required.resource.url == shop.url
    assert not shop.outlet.energised


def test_a_stock_client_buys_a_block(anvil, shop):
    session, key = stock_buyer(anvil)
    before = shop.balance()
    response = session.get(shop.url, timeout=60)
    assert response.status_code == 200, response.text
    body = response.json()
    assert (body["energy_milliwh"], body["price_atomic"], body["until_milliwh"]) == (1000, PRICE, 8000)
    assert shop.outlet.energised == [(300.0, 8000)]
    assert shop.balance() - before == PRICE
    assert anvil.chain().token_balance(key.address) == 10_000 - PRICE
    settle = settle_of(response)
    assert settle.success
    assert settle.payer.lower() == "0x" + key.address.hex()
    again = session.get(shop.url, timeout=60)
    assert again.json()["until_milliwh"] == 9000, "a second block comes on top of the first"


def test_the_same_payment_again_gets_the_same_answer(anvil, shop):
    session, _ = stock_buyer(anvil)
    seen = []
    session.hooks["response"].append(lambda r, **_: seen.append(r.request.headers.get("PAYMENT-SIGNATURE")))
    first = session.get(shop.url, timeout=60)
    header = next(h for h in seen if h)
    before = shop.balance()
    second = requests.get(shop.url, headers={"PAYMENT-SIGNATURE": header}, timeout=60)
    assert second.status_code == 200
    assert second.headers[PAYMENT_RESPONSE] == first.headers[PAYMENT_RESPONSE]
    assert len(shop.outlet.energised) == 1
    assert shop.balance() == before


def test_nothing_on_the_connector_and_nothing_is_taken(anvil, shop):
    shop.outlet.occupied = False
    session, key = stock_buyer(anvil)
    response = session.get(shop.url, timeout=60)
    assert response.status_code == 409
    assert "nothing was taken" in response.json()["error"]
    assert anvil.chain().token_balance(key.address) == 10_000


def test_a_buyer_without_funds_is_told_so(anvil, shop):
    session, _ = stock_buyer(anvil, usdc=PRICE - 1)
    response = session.get(shop.url, timeout=60)
    assert response.status_code == 402
    assert settle_of(response).error_reason == "insufficient_funds"
    assert not shop.outlet.energised


def test_there_is_no_such_connector(shop):
    assert requests.get(shop.url.replace("/1/", "/2/"), timeout=10).status_code == 404


@pytest.mark.parametrize("header", ["", "%%%", base64.b64encode(b"{}").decode(), "A" * 100_000])
def test_no_payment_at_all(header):
    with pytest.raises(TransferRefusedError, match="invalid_payload"):
        decode_payment(header, ExactPaymentPayload)


def test_a_stop_between_payment_and_power_is_made_good(anvil, tmp_path):
    shop = Shop(anvil, tmp_path)
    try:
        session, _ = stock_buyer(anvil)

        def gone(_row: object) -> None:
            raise RuntimeError("the process ends here")

        shop.shop._deliver = gone
        assert session.get(shop.url, timeout=60).status_code == 500
        assert not shop.outlet.energised
    finally:
        shop.close()
    shop.outlet.energised.clear()
    shop.open()
    again = shop.shop_at("http://127.0.0.1")
    assert again.resume() == 1
    assert shop.outlet.energised == [(300.0, 8000)]
    assert again.resume() == 0
    shop.journal.close()


# --- our robot buys from a stock server ---------------------------------------------------------------------


class StockServer:
    """The package's own Flask middleware and facilitator; every block it sells is counted."""

    def __init__(self, anvil, price: int = PRICE) -> None:
        self.receiver = signer("stock receiver")
        self.sold = 0
        relay = signer("relay")
        anvil.fund(relay.address)
        web3_signer = FacilitatorWeb3Signer(
            "0x" + relay.secret.hex(), anvil.anvil.url, confirmation_timeout_seconds=20
        )
        facilitator = register_exact_evm_facilitator(x402FacilitatorSync(), web3_signer, NETWORK)
        self.price = price
        self.served = Served(lambda _url: self._make(facilitator))
        self.url = f"{self.served.url}/energy"

    def _make(self, facilitator):
        from x402.schemas import AssetAmount

        app = flask.Flask("stock")

        @app.route("/energy")
        def energy():
            self.sold += 1
            return flask.jsonify({"energy": "a block"})

        server = register_exact_evm_server(x402ResourceServerSync(facilitator), NETWORK)
        price = AssetAmount(
            amount=str(self.price),
            asset="0x" + DEVELOPMENT_USDC.hex(),
            extra={"name": "USDC", "version": "2"},
        )
        option = {
            "scheme": "exact",
            "network": NETWORK,
            "payTo": "0x" + self.receiver.address.hex(),
            "price": price,
        }
        payment_middleware(app, {"GET /energy": {"accepts": option, "description": "a block"}}, server)
        return app

    def close(self) -> None:
        self.served.close()


@pytest.fixture
def stock_server(anvil):
    server = StockServer(anvil)
    yield server
    server.close()


def make_buyer(anvil, folder, server, **policy_changes):
    payer = signer("robot payer")
    anvil.fund(payer.address, 10_000)
    policy = make_policy("robot-1", ("a",), payees=(server.receiver.address,), **policy_changes)
    journal = SqliteJournal(folder / "purchases.sqlite", "buyer")
    return HttpBuyer(make_settings(anvil).network, policy, payer, journal), payer, journal


def test_our_robot_buys_from_a_stock_server(anvil, stock_server, tmp_path):
    buyer, payer, journal = make_buyer(anvil, tmp_path, stock_server)
    purchase = buyer.buy(stock_server.url, "first")
    assert purchase.status == 200, purchase.body
    assert json.loads(purchase.body) == {"energy": "a block"}
    assert purchase.settle is not None
    assert purchase.settle.success
    assert anvil.chain().token_balance(stock_server.receiver.address) == PRICE
    assert anvil.chain().token_balance(payer.address) == 10_000 - PRICE
    assert buyer.day_atomic(int(time.time())) == PRICE
    journal.close()


def test_the_same_purchase_is_never_paid_twice_even_after_a_restart(anvil, stock_server, tmp_path):
    buyer, payer, journal = make_buyer(anvil, tmp_path, stock_server)
    assert buyer.buy(stock_server.url, "first").status == 200
    journal.close()
    journal = SqliteJournal(tmp_path / "purchases.sqlite", "buyer")
    again = HttpBuyer(buyer._network, buyer._policy, payer, journal)
    again.buy(stock_server.url, "first")
    assert anvil.chain().token_balance(payer.address) == 10_000 - PRICE
    with pytest.raises(ConfigError, match="was one of"):
        again.buy(stock_server.url + "?other", "first")
    journal.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tranche_max_atomic": PRICE - 1}, "tranche 500 is above the policy's 499"),
        ({"day_max_atomic": PRICE - 1}, "above the policy's 499"),
        ({"payees": (), "escrow_unknown_max_atomic": 0}, "not among the policy's payees"),
        ({"valid_before_s": 1_700_000_000}, "policy is valid from"),
    ],
)
def test_the_policy_holds_over_http(anvil, stock_server, tmp_path, changes, reason):
    payer = signer("robot payer")
    values = {"payees": (stock_server.receiver.address,)} | changes
    policy = make_policy("robot-1", ("a",), **values)
    journal = SqliteJournal(tmp_path / "purchases.sqlite", "buyer")
    buyer = HttpBuyer(make_settings(anvil).network, policy, payer, journal)
    with pytest.raises(ConfigError, match=reason):
        buyer.buy(stock_server.url, "first")
    assert stock_server.sold == 0
    assert not list(journal.rows())
    journal.close()


def test_our_robot_buys_from_our_own_shop(anvil, shop, tmp_path):
    payer = signer("robot payer")
    anvil.fund(payer.address, 10_000)
    journal = SqliteJournal(tmp_path / "purchases.sqlite", "buyer")
    buyer = HttpBuyer(make_settings(anvil).network, make_policy("robot-1", ("a",)), payer, journal)
    purchase = buyer.buy(shop.url, "p-1")
    assert purchase.status == 200, purchase.body
    assert shop.outlet.energised == [(300.0, 8000)]
    journal.close()


def test_a_server_that_speaks_no_x402(anvil, tmp_path):
    app = flask.Flask("strange")
    app.add_url_rule("/energy", "energy", lambda: ("pay me", 402))
    served = Served(lambda _url: app)
    journal = SqliteJournal(tmp_path / "purchases.sqlite", "buyer")
    try:
        buyer = HttpBuyer(make_settings(anvil).network, make_policy("r", ()), signer("p"), journal)
        with pytest.raises(RemoteError, match="PAYMENT-REQUIRED is none"):
            buyer.buy(served.url + "/energy", "k")
        with pytest.raises(RemoteError):
            buyer.buy("http://127.0.0.1:9/energy", "k")
    finally:
        served.close()
        journal.close()


def test_headers_carry_base64_of_the_json(shop):
    offer = shop.shop.offer(1)
    text = base64.b64decode(encode_header(offer.required))
    assert json.loads(text)["x402Version"] == 2
