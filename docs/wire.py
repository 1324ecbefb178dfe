"""Puts real messages into ``x402-over-mqtt.md``: of sessions in memory with fixed keys and clock.

``python -m docs.wire`` writes the page's examples; ``--check`` fails when they are not what the code says.
"""

import base64
import json
import re
import sys
from pathlib import Path

from depai_robot.charging.envelope import open_token
from depai_robot.charging.message import TYPE_BY_BODY
from test.builders import make_policy, make_robot_settings, make_station_settings
from test.pretend import World

PAGE = Path(__file__).with_name("x402-over-mqtt.md")
_BLOCK = re.compile(r"(<!-- example: ([a-z.-]+) -->\n```json\n).*?(\n```)", re.DOTALL)


def tokens() -> dict[str, str]:
    """A real message of each kind, by the name that the page uses."""
    world = World(make_robot_settings(keep_max_atomic=0))
    world.run_session("s-1", 3000)
    blocks = World(
        make_robot_settings(policy=make_policy(tranche_max_atomic=5000)),
        [make_station_settings("a", block_milliwh=2000, block_fee_atomic=100)],
    )
    blocks.run_session("s-2", 1000)
    seen: dict[str, str] = {}
    for world_of, prefix in ((world, ""), (blocks, "block.")):
        for _, token in world_of.published:
            if not token:
                continue
            body = open_token(token).body
            kind = TYPE_BY_BODY[type(body)]
            if kind == "payment":
                payload = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["body"]["payload"]
                kind += "." + payload["payload"].get("type", "exact")
            seen.setdefault(prefix + kind, token)
    return seen


def decode(token: str) -> tuple[dict[str, object], dict[str, object]]:
    """(protected header, payload) of a token."""
    header, payload, _ = token.split(".")
    return tuple(json.loads(base64.urlsafe_b64decode(part + "==")) for part in (header, payload))  # type: ignore[return-value]


def render(text: str) -> str:
    """The page with its examples as the code says them now."""
    examples = tokens()

    def fill(match: "re.Match[str]") -> str:
        name = match.group(2)
        if name == "jws":
            header, payload = decode(examples["quote.request"])
            shown: object = {"protected": header, "payload": payload}
        else:
            shown = decode(examples[name])[1]["body"]
        return match.group(1) + json.dumps(shown, indent=2, ensure_ascii=False) + match.group(3)

    return _BLOCK.sub(fill, text)


def main() -> None:
    """Writes the page, or checks it."""
    before = PAGE.read_text(encoding="utf-8")
    after = render(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            sys.exit(f"docs/{PAGE.name} does not show what the code says: run make docs")
        return
    PAGE.write_text(after, encoding="utf-8")
    print(f"docs/{PAGE.name}")


if __name__ == "__main__":
    main()
