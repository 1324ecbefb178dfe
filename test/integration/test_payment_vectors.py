"""Golden vectors through the command line, and spoiled copies of them."""

import copy
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from depai_robot.cli.vectors import vectors

FILE = Path(__file__).parents[1] / "data" / "x402.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(FILE.read_bytes())


@pytest.fixture
def short(golden):
    """Two cases and all shapes: as telling, and quicker."""
    return copy.deepcopy(golden | {"cases": [golden["cases"][0], golden["cases"][15]]})


def invoke(path):
    return CliRunner().invoke(vectors, [str(path)])


def run(tmp_path, data):
    path = tmp_path / "x402.json"
    path.write_text(json.dumps(data))
    return invoke(path)


def test_every_golden_value_is_recomputed(golden):
    assert (len(golden["cases"]), len(golden["voucherAcceptance"])) == (40, 17)
    result = invoke(FILE)
    assert (result.exit_code, result.output) == (0, "1389 passed, 0 failed\n"), result.output[:2000]


def test_verbose_prints_every_value(tmp_path, short):
    (tmp_path / "x402.json").write_text(json.dumps(short))
    result = CliRunner().invoke(vectors, ["-v", str(tmp_path / "x402.json")])
    assert result.output.count("ok    ") == int(result.output.split("\n")[-2].split()[0])


def leaves(node, path=()):
    """Every path to a value that is neither list nor object."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(child, (*path, key))
    else:
        yield path


def spoil(text):
    """Another value of the same form: the last digit differs."""
    return text[:-1] + ("1" if text[-1] != "1" else "2")


def test_any_single_spoiled_expectation_is_found(tmp_path, short):
    """Every leaf of a case's expected values, one at a time."""
    short["voucherAcceptance"] = []
    expected = short["cases"][0]["expected"]
    whole = json.dumps(short)
    missed = []
    # These three are stated by no input: the file's own word is taken, and compared between its objects.
    free = {"url", "description", "mimeType", "maxTimeoutSeconds", "minDeposit"}
    for path in leaves(expected):
        data = json.loads(whole)
        node = data["cases"][0]["expected"]
        for step in path[:-1]:
            node = node[step]
        old = node[path[-1]]
        node[path[-1]] = old + 1 if isinstance(old, int) else spoil(old)
        if path[0] == "paymentRequired" and path[-1] in free:
            # The payloads still carry the right one, so it is found there.
            assert run(tmp_path, data).exit_code == 1, path
            continue
        result = run(tmp_path, data)
        if result.exit_code == 0 or "Traceback" in result.output:
            missed.append(path)
    assert missed == []


def test_a_failure_names_case_value_and_both_sides(tmp_path, short):
    right = short["cases"][0]["expected"]["voucherDigest"]
    wrong = short["cases"][0]["expected"]["voucherDigest"] = spoil(right)
    result = run(tmp_path, short)
    assert result.exit_code == 1
    assert f"FAIL  open-1-000, voucherDigest: expected {wrong}, got {right}\n" in result.output
    assert result.output.endswith(", 1 failed\n")


@pytest.mark.parametrize("number", range(17))
def test_a_more_lenient_verdict_is_a_failure(tmp_path, short, number):
    shape = short["voucherAcceptance"][number]
    shape["contractClaim"] = "InvalidSignature" if shape["contractClaim"] == "ok" else "ok"
    result = run(tmp_path, short)
    assert result.exit_code == 1
    assert "verdict" in result.output


def drop(*path):
    def change(data):
        node = data
        for step in path[:-1]:
            node = node[step]
        del node[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("settlement"), "'settlement' is missing"),
        (drop("cases"), "'cases' is missing"),
        (drop("cases", 0, "inputs", "amount"), "open-1-000: 'amount' is missing"),
        (drop("cases", 0, "expected", "claims"), "open-1-000: 'claims' is missing"),
        (drop("voucherAcceptance", 0, "channelId"), "voucher 1: good: 'channelId' is missing"),
        (lambda d: d.update(cases=[]), "no cases"),
        (lambda d: d.update(cases=5), "file: "),
        (lambda d: d["cases"][0]["inputs"].update(amount="x"), "open-1-000: "),
        (lambda d: d["cases"][0]["inputs"].update(amount="9" * 60), "open-1-000: "),
        (
            lambda d: d["cases"][0]["inputs"].update(withdrawDelay="900"),
            "withdraw_delay_s must be an integer",
        ),
        (lambda d: d["cases"][0]["inputs"].update(payerAuthorizerMode="other"), "payerAuthorizerMode"),
        (lambda d: d["cases"][0]["inputs"]["keys"].update(payer="0x00"), "open-1-000: "),
        (lambda d: d["cases"][0]["inputs"].update(channelSalt="0xzz"), "open-1-000: "),
    ],
)
def test_a_file_of_another_form_is_one_line_and_exit_2(tmp_path, short, change, words):
    change(short)
    result = run(tmp_path, short)
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert words in result.output


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"5", b"[" * 5_000])
def test_what_is_no_such_file_is_one_line_and_exit_2(tmp_path, data):
    (tmp_path / "bad.json").write_bytes(data)
    result = invoke(tmp_path / "bad.json")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert "not a file of x402 golden vectors" in result.output


def test_an_absent_file_is_one_line_and_exit_2(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        result = invoke(path)
        assert (result.exit_code, result.output.count("\n")) == (2, 1)
        assert str(path) in result.output
