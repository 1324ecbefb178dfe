"""What is sold over HTTP: routes and headers, nothing else. Flask and waitress are the extra ``http``."""

from typing import TYPE_CHECKING, Any, Protocol

from depai_robot.app.http_shop import Answer, BlockShop, encode_header
from depai_robot.app.http_tab import TabCounter
from depai_robot.values.error import ConfigError

if TYPE_CHECKING:
    from flask import Flask

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"


class Seller(Protocol):
    """Of one product on the connectors."""

    def offer(self, connector: int) -> Answer:
        """What it costs, and how it is paid."""

    def buy(self, connector: int, header: str) -> Answer:
        """A request with a PAYMENT-SIGNATURE."""


def make_service(shop: BlockShop | None, counter: TabCounter | None = None) -> "Flask":
    """A WSGI application: GET or POST ``/connectors/<n>/block`` and ``/connectors/<n>/energy``.

    Args:
        shop: sells blocks (scheme exact); None does not.
        counter: sells by the meter (scheme batch-settlement); None does not.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from flask import Flask, jsonify, request
    except ImportError as error:
        raise ConfigError("energy over HTTP needs the extra: pip install 'depai_robot[http]'") from error
    service = Flask("depai_robot")
    service.config["MAX_CONTENT_LENGTH"] = 1024
    seller_by_product: dict[str, Seller] = {}
    if shop is not None:
        seller_by_product["block"] = shop
    if counter is not None:
        seller_by_product["energy"] = counter

    @service.route("/connectors/<int:connector>/<product>", methods=["GET", "POST"])
    def sell(connector: int, product: str) -> Any:
        seller = seller_by_product.get(product)
        if seller is None:
            sold = ", ".join(sorted(seller_by_product))
            return _respond(Answer(404, body={"error": f"sold here: {sold}"}))
        header = request.headers.get(PAYMENT_SIGNATURE)
        answer = seller.offer(connector) if header is None else seller.buy(connector, header)
        return _respond(answer)

    def _respond(answer: Answer) -> Any:
        response = jsonify(answer.body)
        response.status_code = answer.status
        response.headers["Cache-Control"] = "no-store"
        if answer.required is not None:
            response.headers[PAYMENT_REQUIRED] = encode_header(answer.required)
        if answer.settle is not None:
            response.headers[PAYMENT_RESPONSE] = encode_header(answer.settle)
        return response

    return service
