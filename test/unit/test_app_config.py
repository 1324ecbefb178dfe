"""Configuration: what is shipped is valid, and every mistake is one line with file, key, seen and expected."""

from pathlib import Path

import pytest
import yaml

from depai_robot.app.config import (
    ChainPart,
    NetworkFile,
    nearest,
    read_network,
    read_station,
    read_wallet,
    read_yaml,
)
from depai_robot.app.resource import resource_path
from depai_robot.values.error import ConfigError

WALLET = resource_path("config", "wallet.yaml")
STATION = resource_path("config", "station.yaml")


def changed(source: Path, tmp_path: Path, change) -> Path:
    tree = yaml.safe_load(source.read_text())
    change(tree)
    path = tmp_path / source.name
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_shipped_files_are_valid() -> None:
    wallet = read_wallet(WALLET)
    assert wallet.settings["power_max_w"] == 300
    assert wallet.band.slack_milliwh == 60
    station = read_station(STATION)
    assert station.dishonest == "none"
    for name in ("development", "base", "base-sepolia"):
        assert read_network(ChainPart(network=name), WALLET).network().token_version == "2"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.pop("robot"), "object missing required field robot"),
        (lambda t: t.update(robbot="x"), "robbot: unknown key, did you mean 'robot'?"),
        (lambda t: t["broker"].update(prot=1), "broker.prot: unknown key, did you mean 'port'?"),
        (
            lambda t: t["keys"]["payer"].update(keystor="x"),
            "keys.payer.keystor: unknown key, did you mean 'keystore'?",
        ),
        (lambda t: t["broker"].update(port=70000), "broker.port: expected int <= 65535"),
        (lambda t: t["broker"].update(port="1883"), "broker.port: expected int, got str"),
        (lambda t: t.update(version=2), "version: invalid enum value 2"),
        (lambda t: t.update(owner=1), "owner: expected str, got int (put addresses"),
        (lambda t: t.update(owner="0x12"), "owner: expected str matching regex"),
        (
            lambda t: t["settings"].update(powermax_w=1),
            "settings.powermax_w: unknown key, did you mean 'power_max_w'?",
        ),
        (lambda t: t["settings"].update(power_max_w="much"), "settings.power_max_w: expected int, got str"),
        (lambda t: t["settings"].update(policy="x"), "settings.policy: unknown key"),
        (lambda t: t["band"].update(slack_milliwh=0), "slack_milliwh must be 1 to 100000, got 0"),
        (lambda t: t.update(stations=["0x1"]), "stations[0]: expected str matching regex"),
        (lambda t: t.update(charge=None), "charge: expected object, got null"),
    ],
)
def test_a_mistake_in_a_wallets_file_is_one_clear_line(tmp_path, change, line: str) -> None:
    path = changed(WALLET, tmp_path, change)
    with pytest.raises(ConfigError) as found:
        read_wallet(path)
    message = str(found.value)
    assert message.startswith(f"{path}: ")
    assert line in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.update(meters=[]), "meters: expected array of length >= 1"),
        (
            lambda t: t["meters"][0].update(seriall="x"),
            "meters[0].seriall: unknown key, did you mean 'serial'?",
        ),
        (lambda t: t.update(dishonest="greedy"), "dishonest: invalid enum value 'greedy'"),
        (
            lambda t: (t.pop("link"), t.update(dishonest="vanish")),
            "dishonest: vanish is for simulated stations",
        ),
        (lambda t: t["pose"].update(x_m=float("nan")), "pose.x_m: expected float >= -100000"),
        (lambda t: t["settings"].update(in_service=1), "settings.in_service: expected bool, got int"),
    ],
)
def test_a_mistake_in_a_stations_file_is_one_clear_line(tmp_path, change, line: str) -> None:
    path = changed(STATION, tmp_path, change)
    with pytest.raises(ConfigError) as found:
        read_station(path)
    assert line in str(found.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version: 1\nversion: 2\n", ":2: key 'version' twice"),
        ("a: [1, 2\n", "expected ',' or ']'"),
        ("- 1\n", "expected keys and values, got list"),
        ("", "expected keys and values, got NoneType"),
        ("1: x\n", "expected a name as key, got 1"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("a: \x00", "not YAML"),
        ("&a [*a, *a]", "expected keys and values"),
    ],
)
def test_what_is_not_plain_yaml_is_one_clear_line(tmp_path, text: str, line: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as found:
        read_yaml(path, NetworkFile)
    assert line in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_wallet(tmp_path / "none.yaml")


def test_a_network_that_is_not_there_has_a_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"no network 'base_sepolia', did you mean 'base-sepolia'\?"):
        read_network(ChainPart(network="base_sepolia"), WALLET)


def test_a_file_names_endpoints_and_how_many_must_agree() -> None:
    urls = ["https://a.example", "https://b.example"]
    network = read_network(ChainPart(network="base", rpc_urls=urls, agree=2), WALLET)
    assert (network.rpc_urls, network.agree) == (urls, 2)
    assert read_network(ChainPart(network="base"), WALLET).agree == 1


def test_no_neighbour_lists_what_there_is() -> None:
    assert nearest("zzz", ["b", "a"]) == ", expected one of a, b"
