"""Spoiled messages through the decoder: none may crash it, hang it, or get in by mistake.

``python -m bench.fuzz_wire --count 1000000 --seed 1`` spoils valid messages of every type with their structure in
mind. Every second one is spoiled before it is signed (by a valid key), so that it gets past the signature. Whatever is
let in must survive being sealed and let in again. Ends with 1 at the first crash, and prints the message.
"""

import argparse
import base64
import collections
import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench.wire_seed import CHAIN_ID, NOW_S, ROBOT, STATION, make_bodies, make_draft, seal
from depai_robot.charging import envelope
from depai_robot.charging.envelope import RefusedMessageError, open_token, verify_token
from depai_robot.values.identity import did_pkh, public_key_to_address

HANG_S = 2.0
"""A decode that takes longer (of wall time, on a busy machine) is a hang."""


@dataclass
class FuzzReport:
    """What came of a run.

    Attributes:
        count: messages fed in.
        signed_count: of them, signed after they were spoiled.
        let_in_count: accepted: what was spoiled was harmless, or one valid value was swapped for another.
        let_in_unsigned_count: accepted though spoiled after signing. More than 0 is a forgery: only bytes that
            were not changed at all may be counted here, and those are not fed in.
        refused: count per refusal code.
        refused_signed: of the signed ones.
        refused_by_check: count per code and first words of the detail, of the signed ones.
        slowest_us: the slowest decode, by processor time.
        decode_s: processor time in the decoder.
        wall_s: in all.
    """

    count: int = 0
    signed_count: int = 0
    let_in_count: int = 0
    let_in_unsigned_count: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    refused_signed: collections.Counter[str] = field(default_factory=collections.Counter)
    slowest_us: float = 0.0
    decode_s: float = 0.0
    wall_s: float = 0.0


class FuzzFailedError(Exception):
    """The decoder did what it must never do; the message holds the token."""


# --- JSON with every liberty that the text form has ---------------------------------------------------------


class Pairs(list):
    """An object as (name, value) pairs, so that a name can come twice."""


class Raw(str):
    """Text that is written as it is."""

    __slots__ = ()


def write(value: Any) -> str:
    """JSON of a tree of Pairs, lists, Raw and plain values."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{write(n)}:{write(v)}" for n, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


STRANGE = [
    Raw("null"), Raw("true"), Raw("false"), Raw("0"), Raw("-1"), Raw("1.0"), Raw("1e3"), Raw("-0"), Raw("1e400"),
    Raw("1e-400"), Raw("9" * 20), Raw("9" * 400), Raw("9" * 5000), Raw("9223372036854775807"),
    Raw("9223372036854775808"), Raw("18446744073709551616"), Raw("340282366920938463463"), Raw("[]"), Raw("{}"),
    Raw('""'), Raw('"\\u0000"'), Raw('"\\u202e"'), Raw('"\\n"'), Raw('"' + "A" * 600 + '"'),
    Raw('"' + "é" * 9000 + '"'), Raw('"' + "\U0001f600" * 200 + '"'), Raw('"0x"'), Raw('"0x' + "f" * 40 + '\\n"'),
    Raw('"did:pkh:eip155:1:0x' + "0" * 40 + '"'), Raw('"*"'), Raw('"-"'), Raw('"../"'), Raw('"#"'), Raw('"1e3"'),
    Raw('"007"'), Raw('"' + "9" * 79 + '"'), Raw("[" * 30 + "]" * 30), Raw("[" * 3000 + "]" * 3000),
    Raw('{"a":' * 900 + "1" + "}" * 900), Raw('{"a":' * 2500 + "1" + "}" * 2500),
    Raw("{" + ",".join(f'"k{i}":{i}' for i in range(3000)) + "}"), Raw("[" + "0," * 12000 + "0]"),
    Raw("{" + '"a":0,' * 4000 + '"a":0}'),
]  # fmt: skip
"""JSON values of the wrong type, size or depth."""
BROKEN = [
    Raw("NaN"), Raw("Infinity"), Raw("-"), Raw("01"), Raw('"\\ud800"'), Raw('"\\ud800\\ud800"'), Raw('"\\udc00 "'),
    Raw('"\\x"'), Raw('"'), Raw("'a'"), Raw("//"), Raw("\ufeff"), Raw("\u2028"), Raw("[" * 20000), Raw('{"a":' * 8000),
    Raw('"\ud800"'), Raw(""), Raw("1,"), Raw('"a" "b"'),
]  # fmt: skip
"""What is no JSON at all."""
WORDS = [
    "v",
    "id",
    "session",
    "seq",
    "ts",
    "exp",
    "to",
    "type",
    "body",
    "payload",
    "accepted",
    "extra",
    "info",
]
TYPES = ["offer", "quote.request", "quote", "quote.counter", "quote.reject", "payment", "payment.result"]
TYPES += ["session.event", "need-voucher", "session.stop", "receipt", "offer2", "", "QUOTE", "__class__"]


def _places(tree: Any, found: list[tuple[Any, int]]) -> list[tuple[Any, int]]:
    # Every (container, index) of the tree; an object's index is that of the pair.
    if isinstance(tree, list):
        for index, item in enumerate(tree):
            found.append((tree, index))
            _places(item[1] if isinstance(tree, Pairs) else item, found)
    return found


def _put(place: tuple[Any, int], value: Any) -> None:
    container, index = place
    container[index] = (container[index][0], value) if isinstance(container, Pairs) else value


def _get(place: tuple[Any, int]) -> Any:
    item = place[0][place[1]]
    return item[1] if isinstance(place[0], Pairs) else item


def spoil_tree(tree: Any, rng: random.Random, donors: list[str]) -> None:
    """One change to a tree, in place."""
    inner = next((v for n, v in tree if n == "body"), None) if isinstance(tree, Pairs) else None
    # Mostly inside the body: what is around it has nine places, and a change there hides what the body would do.
    places = _places(inner if isinstance(inner, Pairs) and rng.random() < 0.75 else tree, [])
    if not places:
        return
    place = rng.choice(places)
    container, index = place
    choice = rng.randrange(11)
    if choice == 0:
        _put(place, rng.choice(STRANGE if rng.random() < 0.9 else BROKEN))
    elif choice == 1 and isinstance(container, Pairs):
        container.insert(rng.randrange(len(container) + 1), (rng.choice(WORDS), rng.choice(STRANGE)))
    elif choice == 2:
        container.insert(index, container[index])
    elif choice == 3:
        del container[index]
    elif choice == 4:
        # As text: a container put into itself would have no end.
        _put(place, Raw(write(_get(rng.choice(places)))))
    elif choice == 5 and isinstance(container, Pairs):
        name = container[index][0]
        name = rng.choice([name.upper(), name + "\0", name[:-1], "", Raw('"\\u0061"'), rng.choice(WORDS)])
        container[index] = (name, container[index][1])
    elif choice == 6:
        value = _get(place)
        if isinstance(value, int):
            _put(
                place,
                rng.choice(
                    [-value, value + 1, value - 1, value * 10**30, value ^ (1 << rng.randrange(64)), 0]
                ),
            )
        elif isinstance(value, str) and value:
            at = rng.randrange(len(value))
            _put(
                place,
                value[:at] + chr(rng.choice([0, 10, 48, 0x7F, 0xE9, 0x202E, 0x1F600])) + value[at + 1 :],
            )
    elif choice == 7:
        rng.shuffle(container)
    elif choice == 8:
        donor = json.loads(rng.choice(donors), object_pairs_hook=Pairs)
        _put(place, _get(rng.choice(_places(donor, []))))
    elif choice == 9 and isinstance(tree, Pairs):
        for at, (name, _) in enumerate(tree):
            if name == "type":
                tree[at] = (name, rng.choice(TYPES))
    else:
        value = _get(place)
        _put(place, rng.choice([[value], Pairs([("a", value)]), str(value), Raw(f" {write(value)}\t")]))


def spoil_bytes(data: bytes, rng: random.Random, donors: list[bytes]) -> bytes:
    """One to four changes to bytes."""
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(spoiled) + 1)
        choice = rng.randrange(7)
        if choice == 0 and at < len(spoiled):
            spoiled[at] ^= 1 << rng.randrange(8)
        elif choice == 1 and at < len(spoiled):
            spoiled[at] = rng.choice(b'\x00"\\{}[]:,.-_=+/ \n\xff\xc0\xedaA0')
        elif choice == 2:
            del spoiled[at : at + rng.randint(1, 40)]
        elif choice == 3:
            spoiled[at:at] = rng.randbytes(rng.randint(1, 20))
        elif choice == 4:
            donor = rng.choice(donors)
            start = rng.randrange(len(donor))
            spoiled[at : at + rng.randint(0, 60)] = donor[start : start + rng.randint(1, 200)]
        elif choice == 5:
            spoiled[at:at] = spoiled[at : at + rng.randint(1, 100)]
        elif rng.random() < 0.2:
            spoiled[at:at] = bytes([rng.choice(b"[{.a")]) * rng.choice([100, 5000, 50_000, 70_000])
        else:
            del spoiled[at:]
    return bytes(spoiled)


# --- tokens ---------------------------------------------------------------------------------------------------


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _unb64(data: bytes) -> bytes:
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))


class Spoiler:
    """Makes spoiled tokens from a seed; the same seed makes the same tokens."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        bodies = make_bodies()
        self.tokens = [seal(make_draft(body)).encode() for body in bodies]
        self.payloads = [_unb64(token.split(b".")[1]) for token in self.tokens]
        self.texts = [payload.decode() for payload in self.payloads]
        self.headers = [_unb64(self.tokens[0].split(b".")[0])]
        self.header = self.tokens[0].split(b".")[0]

    def _spoil_json(self, data: bytes, donors: list[str]) -> bytes:
        tree = json.loads(data, object_pairs_hook=Pairs)
        for _ in range(self.rng.choice([1, 1, 1, 2, 3])):
            spoil_tree(tree, self.rng, donors)
        text = write(tree).encode("utf-8", "surrogatepass")
        return spoil_bytes(text, self.rng, self.payloads) if self.rng.random() < 0.1 else text

    def _strangers_header(self) -> bytes:
        # A right kid for a point that may be off the curve, or x and y of a wrong length.
        rng = self.rng
        x, y = ROBOT.public_key[:32], bytearray(ROBOT.public_key[32:])
        y[rng.randrange(32)] ^= 1 << rng.randrange(8)
        kid = did_pkh(CHAIN_ID, public_key_to_address(x + y))
        jwk = {"crv": "secp256k1", "kty": "EC", "x": _b64(x).decode(), "y": _b64(bytes(y)).decode()}
        if rng.random() < 0.3:
            jwk["y"] = rng.choice(["A" * 43, "A" * 42 + "B", "é" * 43, "+" * 43, " " * 43, "=" * 43])
        return _b64(json.dumps({"alg": "ES256K", "kid": kid, "jwk": jwk}, separators=(",", ":")).encode())

    def unsigned(self) -> bytes:
        """A valid token that was changed after it was signed."""
        rng = self.rng
        token = rng.choice(self.tokens)
        if rng.random() < 0.5:
            return spoil_bytes(token, rng, self.tokens)
        parts = token.split(b".")
        choice = rng.randrange(4)
        if choice == 0:
            parts[1] = _b64(self._spoil_json(_unb64(parts[1]), self.texts))
        elif choice == 1:
            parts[0] = _b64(self._spoil_json(_unb64(parts[0]), self.texts))
        elif choice == 2:
            at = rng.randrange(3)
            parts[at] = _b64(spoil_bytes(_unb64(parts[at]), rng, self.payloads))
        else:
            at = rng.randrange(3)
            parts[at] = rng.choice(self.tokens).split(b".")[rng.randrange(3)]
        return b".".join(parts)

    def signed(self) -> bytes:
        """Spoiled first, then signed by a valid key."""
        rng = self.rng
        header, payload = self.header, rng.choice(self.payloads)
        choice = rng.random()
        if choice < 0.02:
            header = self._strangers_header()
        elif choice < 0.08:
            header = _b64(self._spoil_json(self.headers[0], self.texts))
        elif choice < 0.1:
            value = json.loads(payload)
            value["ts"] = NOW_S + rng.choice([-90_000, -3700, -1, 0, 119, 121, 2**40, 2**63])
            value["exp"] = value["ts"] + rng.choice([-1, 0, 60, 3600, 3601, 86_400, 86_401])
            payload = json.dumps(value).encode()
        elif choice < 0.23:
            payload = spoil_bytes(payload, rng, self.payloads)
        else:
            payload = self._spoil_json(payload, self.texts)
        signing_input = header + b"." + _b64(payload)
        return envelope.assemble(signing_input, ROBOT.sign(hashlib.sha256(signing_input).digest())).encode()


def feed(token: bytes, *, signed: bool, valid: set[bytes], report: FuzzReport) -> None:
    """One token through the decoder.

    Raises:
        FuzzFailedError: it raised something else, took too long, or let in what nobody signed.
    """
    started_s, started_cpu_s = time.perf_counter(), time.thread_time()
    verified = refusal = None
    try:
        verified = verify_token(token, now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address)
    except RefusedMessageError as error:
        refusal = error
    except BaseException as error:
        raise FuzzFailedError(f"{type(error).__name__} {error} on {token!r}") from error
    took_cpu_s, took_s = time.thread_time() - started_cpu_s, time.perf_counter() - started_s
    report.count += 1
    report.signed_count += signed
    report.decode_s += took_cpu_s
    report.slowest_us = max(report.slowest_us, took_cpu_s * 1e6)
    if took_s > HANG_S:
        raise FuzzFailedError(f"{took_s:.1f} s for {token!r}")
    if refusal is not None:
        if refusal.code not in envelope.REFUSAL_CODES or not str(refusal).isprintable():
            raise FuzzFailedError(f"refused with {refusal!r}: {token!r}")
        report.refused[refusal.code] += 1
        report.refused_signed[refusal.code] += signed
        return
    if verified is None or verified.sender != ROBOT.address:
        raise FuzzFailedError(f"let in for {verified}: {token!r}")
    report.let_in_count += 1
    if not signed and token not in valid:
        report.let_in_unsigned_count += 1
        raise FuzzFailedError(f"let in what nobody signed: {token!r}")
    if open_token(token.decode()) != verified.draft:
        raise FuzzFailedError(f"opens to something else: {token!r}")
    try:
        again = verify_token(seal(verified.draft), now_s=NOW_S, chain_id=CHAIN_ID, recipient=STATION.address)
    except Exception as error:
        if "must fit" in str(error):  # another layout may be shorter than ours
            return
        raise FuzzFailedError(f"let in, but can't be sealed: {error}: {token!r}") from error
    if again != verified:
        raise FuzzFailedError(f"sealed again it says something else: {token!r}")


def fuzz(count: int, seed: int, progress: Callable[[FuzzReport], None] | None = None) -> FuzzReport:
    """``count`` spoiled messages, every second one signed after it was spoiled. Raises FuzzFailedError."""
    spoiler = Spoiler(seed)
    valid = set(spoiler.tokens)
    report = FuzzReport()
    started_s = time.perf_counter()
    for number in range(count):
        signed = number % 2 == 1
        feed(spoiler.signed() if signed else spoiler.unsigned(), signed=signed, valid=valid, report=report)
        if progress is not None and report.count % 50_000 == 0:
            progress(report)
    report.wall_s = time.perf_counter() - started_s
    return report


def measure_coverage(count: int, seed: int) -> str:
    """Branch coverage of the decoder's two files under fuzzing, as the coverage tool prints it."""
    import importlib
    import io

    import coverage

    from depai_robot.charging import message

    files = [envelope.__file__, message.__file__]
    meter = coverage.Coverage(branch=True, include=files, data_file=None, config_file=False)
    meter.start()
    # Loaded again, so that the lines of import time count; the classes of this module are then the new ones.
    importlib.reload(message)
    importlib.reload(envelope)
    import bench.wire_seed as seeds

    importlib.reload(seeds)
    this = importlib.reload(importlib.import_module("bench.fuzz_wire"))
    this.fuzz(count, seed)
    meter.stop()
    text = io.StringIO()
    meter.report(file=text, show_missing=True)
    return text.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fuzz_wire", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--coverage", action="store_true", help="print branch coverage (some five times slower)"
    )
    options = parser.parse_args(arguments)
    if options.coverage:
        print(measure_coverage(options.count, options.seed))
        return 0
    try:
        report = fuzz(
            options.count,
            options.seed,
            lambda r: print(f"{r.count} done, {r.let_in_count} let in", file=sys.stderr, flush=True),
        )
    except FuzzFailedError as error:
        print(f"FAILED: {error}")
        return 1
    print(
        f"{report.count} messages with seed {options.seed} in {report.wall_s:.0f} s; no crash, no hang, no forgery"
    )
    mean_us = report.decode_s / max(1, report.count) * 1e6
    print(f"signed after spoiling: {report.signed_count}; let in (harmless changes): {report.let_in_count}")
    print(
        f"decoder: {mean_us:.0f} us of processor time on average, slowest {report.slowest_us / 1000:.1f} ms"
    )
    for code in envelope.REFUSAL_CODES:
        print(f"refused for {code:9}: {report.refused[code]:8} (signed: {report.refused_signed[code]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
