"""The shop behind HTTP: routes and headers, nothing else. Flask and waitress are the extra ``http``."""

from typing import TYPE_CHECKING, Any

from depai_robot.app.http_shop import Answer, BlockShop, encode_header
from depai_robot.values.error import ConfigError

if TYPE_CHECKING:
    from flask import Flask

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"


def make_service(shop: BlockShop) -> "Flask":
    """A WSGI application: ``POST`` (or GET) ``/connectors/<n>/block``.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from flask import Flask, jsonify, request
    except ImportError as error:
        raise ConfigError("energy over HTTP needs the extra: pip install 'depai_robot[http]'") from error
    service = Flask("depai_robot")
    service.config["MAX_CONTENT_LENGTH"] = 1024

    @service.route("/connectors/<int:connector>/block", methods=["GET", "POST"])
    def block(connector: int) -> Any:
        header = request.headers.get(PAYMENT_SIGNATURE)
        answer = shop.offer(connector) if header is None else shop.buy(connector, header)
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
