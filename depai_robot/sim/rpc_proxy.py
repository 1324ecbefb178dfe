"""A JSON-RPC endpoint on loopback that forwards to a real chain, except where it was told to fail or to lie.

What a robot meets between itself and a chain: endpoints that are gone, that accept and never answer, that are hours
behind, that drop what they took, that answer for another chain or make receipts up. Nothing of the chain is simulated.
Not modelled: TLS, WebSocket subscriptions, batches of several calls in one request.
"""

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import requests

from depai_robot.values.error import BugError
from depai_robot.values.identity import keccak256

HOST = "127.0.0.1"
FORWARD_TIMEOUT_S = 10.0
QUESTION_BYTES_MAX = 4 * 1024 * 1024
STALL_S_MAX = 600.0

Reply = Mapping[str, Any] | bytes
"""``{"result": ...}`` or ``{"error": {...}}``, or the raw body of the HTTP answer."""
Lie = Reply | Callable[[dict[str, Any]], "Reply | None"]
"""A reply, or a function of the question (the decoded request) that gives one; None tells the truth."""

_BLOCK_ARGUMENT = {
    "eth_call": 1,
    "eth_estimateGas": 1,
    "eth_getBalance": 1,
    "eth_getCode": 1,
    "eth_getTransactionCount": 1,
    "eth_getBlockByNumber": 0,
}
"""Which parameter of a method names the block."""
_HEADS = ("latest", "pending", "safe", "finalized")


class RpcProxy:
    """See the module. Thread-safe; every fault can be put on and taken off while it runs.

    Args:
        url: of the chain behind it.
        port: a free one when 0.

    Attributes:
        asked: the methods that were asked, in order.
    """

    def __init__(self, url: str, port: int = 0) -> None:
        self._behind = url
        self.asked: list[str] = []
        self._lies: dict[str, Lie] = {}
        self._frozen: int | None = None
        self._mode = "honest"
        self._resumed = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._open(port)

    @property
    def url(self) -> str:
        """Where it listens; the same after :meth:`stop` and :meth:`start`."""
        return f"http://{HOST}:{self._port}"

    # --- faults ------------------------------------------------------------------------------------------------

    def lie(self, method: str, answer: Lie) -> None:
        """Answers a method so, from now on; ``everything`` is each method without a lie of its own."""
        self._lies[method] = answer

    def forge_receipt(self, tx_hash: bytes, *, to: str, status: int = 1, logs: tuple[Any, ...] = ()) -> None:
        """Says of a transaction that it was mined in the newest block, whatever became of it.

        Args:
            tx_hash: 32 bytes.
            to: the contract that it claims to have called, 0x-hex.
            status: 1 succeeded, 0 reverted.
            logs: as in JSON-RPC; none by default, so a success without its event.
        """
        wanted = "0x" + tx_hash.hex()

        def answer(question: dict[str, Any]) -> "Reply | None":
            if str(question["params"][0]).lower() != wanted:
                return None
            block = self._forward_call("eth_getBlockByNumber", ["latest", False])
            return {
                "result": {
                    "transactionHash": wanted,
                    "transactionIndex": "0x0",
                    "blockHash": block["hash"],
                    "blockNumber": block["number"],
                    "from": "0x" + "11" * 20,
                    "to": to,
                    "cumulativeGasUsed": "0x5208",
                    "gasUsed": "0x5208",
                    "effectiveGasPrice": "0x1",
                    "contractAddress": None,
                    "logs": list(logs),
                    "logsBloom": "0x" + "00" * 256,
                    "type": "0x2",
                    "status": hex(status),
                }
            }

        self.lie("eth_getTransactionReceipt", answer)

    def swallow(self) -> None:
        """Takes transactions, gives their hash, and tells nobody."""

        def answer(question: dict[str, Any]) -> Reply:
            raw = bytes.fromhex(str(question["params"][0])[2:])
            return {"result": "0x" + keccak256(raw).hex()}

        self.lie("eth_sendRawTransaction", answer)

    def freeze(self) -> None:
        """Stays at the block that is the newest now: what comes later it does not know."""
        self._frozen = int(self._forward_call("eth_blockNumber", []), 16)

    def stall(self) -> None:
        """Accepts questions and answers none, until :meth:`heal`."""
        self._resumed.clear()
        self._mode = "stalled"

    def cut(self) -> None:
        """Resets each connection at its first question."""
        self._mode = "cut"

    def heal(self) -> None:
        """Takes every fault off."""
        self._lies.clear()
        self._frozen = None
        self._mode = "honest"
        self._resumed.set()

    def stop(self) -> None:
        """Refuses connections; what stalls is let go."""
        self._resumed.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def start(self) -> None:
        """Listens again, at the same address."""
        if self._server is None:
            self._open(self._port)

    # --- work --------------------------------------------------------------------------------------------------

    def _open(self, port: int) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet: two would wait 40 ms for each other.
            disable_nagle_algorithm = True
            wbufsize = 65536

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                if not 0 < size <= QUESTION_BYTES_MAX:
                    self.send_error(413)
                    return
                data = proxy._answer(self.rfile.read(size))
                if data is None:
                    # Zero seconds of lingering makes the kernel send a reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                with contextlib.suppress(OSError):  # who asked may be gone
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is no news."""

        self._server = Server((HOST, port), Handler)
        self._port = int(self._server.server_port)
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="rpc-proxy", daemon=True
        ).start()

    def _answer(self, body: bytes) -> bytes | None:
        """The body of the answer, or None to break the connection."""
        try:
            question = json.loads(body)
            method = str(question["method"])
        except (ValueError, KeyError, TypeError):
            return b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"parse error"}}'
        self.asked.append(method)
        if self._mode == "stalled":
            self._resumed.wait(STALL_S_MAX)
        if self._mode == "cut":
            return None
        lie = self._lies.get(method, self._lies.get("everything"))
        reply = lie(question) if callable(lie) else lie
        if reply is None:
            return self._forward(question)
        if isinstance(reply, bytes):
            return reply
        return json.dumps({"jsonrpc": "2.0", "id": question.get("id"), **reply}).encode()

    def _forward(self, question: dict[str, Any]) -> bytes | None:
        if self._frozen is not None:
            question = self._in_the_past(question)
        try:
            answer = requests.post(self._behind, json=question, timeout=FORWARD_TIMEOUT_S).content
        except requests.RequestException:
            return None
        return answer if self._frozen is None else self._forget_later(question, answer)

    def _forward_call(self, method: str, params: list[Any]) -> Any:
        body: Any = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = requests.post(self._behind, json=body, timeout=FORWARD_TIMEOUT_S).json()
        if "result" not in answer:
            raise BugError(f"{method} at the chain behind the proxy: {answer}")
        return answer["result"]

    def _in_the_past(self, question: dict[str, Any]) -> dict[str, Any]:
        """The newest block is the one that it froze at."""
        place = _BLOCK_ARGUMENT.get(question["method"])
        if place is None:
            return question
        params = list(question.get("params") or [])
        while len(params) <= place:
            params.append("latest")
        if params[place] in _HEADS:
            params[place] = hex(cast("int", self._frozen))
        return {**question, "params": params}

    def _forget_later(self, question: dict[str, Any], data: bytes) -> bytes:
        """Takes out of an answer what lies above the block that it froze at."""
        frozen = cast("int", self._frozen)
        answer = json.loads(data)
        result = answer.get("result")
        if question["method"] == "eth_blockNumber":
            answer["result"] = hex(frozen)
        elif isinstance(result, dict):
            number = result.get("blockNumber", result.get("number"))
            if number is not None and int(number, 16) > frozen:
                answer["result"] = None
        elif isinstance(result, list):
            answer["result"] = [
                item
                for item in result
                if not (isinstance(item, dict) and int(item.get("blockNumber") or "0x0", 16) > frozen)
            ]
        return json.dumps(answer).encode()
