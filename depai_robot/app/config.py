"""Configuration files of the wallet and the station: strict YAML into frozen values.

An unknown key is refused with the nearest known one named; every error is one line with the file, the key, what was
seen and what was expected. Paths are relative to the file that names them. Nothing here opens a key or a connection.
"""

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Meta, Struct

from depai_robot.app.resource import resource_path
from depai_robot.app.station_hardware import ModbusConnectorPart
from depai_robot.charging.reconciliation import MeterBand
from depai_robot.charging.setting import Network, RobotSettings, StationSettings
from depai_robot.payment.eip712 import DEPOSIT_COLLECTOR, SETTLEMENT
from depai_robot.values.error import ConfigError
from depai_robot.values.identity import Address, address_from_hex, address_to_hex

T = TypeVar("T", bound=Struct)

FILE_BYTES_MAX = 1 << 20
DEVELOPMENT_CHAINS = (31337, 1337)

AddressText = Annotated[str, Meta(pattern=r"^0x[0-9a-fA-F]{40}\Z")]
HashText = Annotated[str, Meta(pattern=r"^0x[0-9a-f]{64}\Z")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Metres = Annotated[float, Meta(ge=-100_000, le=100_000)]


class _Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


# --- parts of both files ------------------------------------------------------------------------------------


class NetworkFile(_Part, frozen=True, kw_only=True):
    """``config/network/<name>.yaml``: a chain, its contracts and token, pinned.

    Attributes:
        chain_id: EIP-155.
        rpc_urls: JSON-RPC endpoints, the preferred first.
        token: address of USDC there.
        token_name, token_version: of its EIP-712 domain.
        settlement, collector: addresses of the contracts.
        settlement_code_hash, collector_code_hash: keccak-256 of their code; the program refuses to sign without.
        agree: so many endpoints must say alike what decides about money (a channel, a balance, what became of a
            transaction); what they disagree about is unknown. With 1 the first good endpoint is believed.
        fee_max_wei: the most that the gas of one transaction may cost, replacements included.
        rpc_timeout_s: of one request to one endpoint.
    """

    chain_id: Annotated[int, Meta(ge=1, le=10**17)]
    rpc_urls: list[str] = []
    token: AddressText
    token_name: str
    token_version: str
    settlement: AddressText = address_to_hex(SETTLEMENT)
    collector: AddressText = address_to_hex(DEPOSIT_COLLECTOR)
    settlement_code_hash: HashText | None = None
    collector_code_hash: HashText | None = None
    agree: Annotated[int, Meta(ge=1, le=16)] = 1
    fee_max_wei: Annotated[int, Meta(ge=10**9, le=10**18)] = 10**16
    rpc_timeout_s: Annotated[float, Meta(ge=0.1, le=60.0)] = 10.0

    def network(self) -> Network:
        """As the machines know it."""
        return Network(
            chain_id=self.chain_id,
            token=address_from_hex(self.token),
            token_name=self.token_name,
            token_version=self.token_version,
            settlement=address_from_hex(self.settlement),
            collector=address_from_hex(self.collector),
        )


class ChainPart(_Part, frozen=True, kw_only=True):
    """Where money is.

    Attributes:
        network: name of a file in config/network, or a path.
        rpc_urls: instead of the network file's.
        agree: instead of the network file's; at most as many as there are endpoints.
    """

    network: str
    rpc_urls: list[str] = []
    agree: Annotated[int, Meta(ge=1, le=16)] | None = None


class TlsPart(_Part, frozen=True, kw_only=True):
    """Certificate files for the broker."""

    ca: str
    certificate: str | None = None
    key: str | None = None


class BrokerPart(_Part, frozen=True, kw_only=True):
    """The MQTT broker.

    Attributes:
        host, port: of it.
        username, password_file: when it wants them.
        tls: when it wants it.
        keepalive_s: until a silent connection is given up.
        mqtt5: speak 5.0.
    """

    host: str = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password_file: str | None = None
    tls: TlsPart | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=3600)] = 15
    mqtt5: bool = False


class PassphrasePart(_Part, frozen=True, kw_only=True):
    """Where a passphrase (or a token's PIN) is, in exactly one of these ways.

    Attributes:
        password_file: mode 0600; its first line.
        password_env_file: mode 0600, of ``NAME=value`` lines.
        password_name: which of them.
        password_fd: number of an inherited file descriptor, read to its end; each key has its own.
        password_credential: name of a systemd credential (LoadCredential= or LoadCredentialEncrypted=).
    """

    password_file: str | None = None
    password_env_file: str | None = None
    password_name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z")] | None = None
    password_fd: Annotated[int, Meta(ge=0, le=1023)] | None = None
    password_credential: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}\Z")] | None = None


class Pkcs11Part(_Part, frozen=True, kw_only=True):
    """A key that never leaves a token or HSM.

    Attributes:
        module: path of the vendor's PKCS#11 library.
        token: its label.
        key: label of the secp256k1 private key; its public key bears the same.
    """

    module: str
    token: Annotated[str, Meta(min_length=1, max_length=32)]
    key: Annotated[str, Meta(min_length=1, max_length=255)]


class KeyPart(PassphrasePart, frozen=True, kw_only=True):
    """A key: a keystore, a token's, or on a development chain a name that anybody can make the key from.

    Attributes:
        keystore: Keystore V3 file.
        pkcs11: a key in hardware; the passphrase is its user PIN.
        development: name of a worthless key.
    """

    keystore: str | None = None
    pkcs11: Pkcs11Part | None = None
    development: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


# --- the wallet ---------------------------------------------------------------------------------------------


class WalletKeys(_Part, frozen=True, kw_only=True):
    """Who the robot is, whose signature pays, and whose money it is.

    Attributes:
        identity: signs messages.
        voucher: signs vouchers.
        payer: signs deposits (self mode); left out in delegated mode, where the treasury signed them beforehand.
    """

    identity: KeyPart
    voucher: KeyPart
    payer: KeyPart | None = None


class ChargePart(_Part, frozen=True, kw_only=True):
    """When to buy.

    Attributes:
        below_permille: state of charge at which the robot asks for energy; 0 leaves that to whoever commands it.
        energy_milliwh: wanted at the pads.
        retry_s: between two requests of its own, session time.
    """

    below_permille: Annotated[int, Meta(ge=0, le=1000)] = 200
    energy_milliwh: Annotated[int, Meta(ge=1, le=10**9)] = 20_000
    retry_s: Annotated[int, Meta(ge=1, le=86_400)] = 30


class WalletFile(_Part, frozen=True, kw_only=True):
    """``wallet.yaml``.

    Attributes:
        version: of this form.
        robot: its id.
        zone: of the MQTT topics.
        folder: for journal, receipts, evidence and story.
        chain, broker, keys, charge: see there.
        owner: address whose signature makes a policy.
        policy: the owner's signed policy file.
        payer: address of the treasury, in delegated mode: its key is not on this robot.
        presigned: file of the deposits that it signed (``depai-robot policy presign``), in delegated mode.
        stations: identities that may be asked; empty for all.
        settings: timings and limits, see charging.setting.RobotSettings; what is left out has its default there.
        band: how far two honest meters may differ.
        link: socket of the simulation that stands for battery and pads.
        grants: the owner's grants to operators, one JWS a line; None: only the wallet's own interfaces order it.
    """

    version: Literal[1]
    robot: str
    zone: str
    folder: str
    chain: ChainPart
    broker: BrokerPart
    keys: WalletKeys
    owner: AddressText
    policy: str
    payer: AddressText | None = None
    presigned: str | None = None
    charge: ChargePart = ChargePart()
    stations: list[AddressText] = []
    settings: dict[str, int | str] = {}
    band: MeterBand = MeterBand()
    link: str | None = None
    grants: str | None = None


# --- the station --------------------------------------------------------------------------------------------


class StationKeys(_Part, frozen=True, kw_only=True):
    """Who the station is, and who is paid (and sends its transactions)."""

    identity: KeyPart
    receiver: KeyPart


class MeterPart(_Part, frozen=True, kw_only=True):
    """A connector's meter.

    Attributes:
        serial: on its plate.
        key: that it signs with.
        accuracy_permille: the most it may be off.
    """

    serial: str
    key: KeyPart
    accuracy_permille: Annotated[int, Meta(ge=0, le=100)] = 10


class PosePart(_Part, frozen=True, kw_only=True):
    """A dock in the map frame, x into the dock."""

    x_m: Metres
    y_m: Metres
    yaw_rad: Annotated[float, Meta(ge=-7, le=7)]


Dishonesty = Literal["none", "over-meter", "no-power", "over-claim", "bad-signature", "vanish"]


class StationFile(_Part, frozen=True, kw_only=True):
    """``station.yaml``.

    Attributes:
        version: of this form.
        station: its id.
        zone: of the MQTT topics.
        name: for people.
        folder: for journal and story.
        chain, broker, keys: see there.
        dock: id of its dock in the map.
        marker_id: of the tag on it.
        pose: of the dock.
        meters: of the connectors, the first is connector 1.
        served: voucher keys of its customers; left out: everybody.
        settings: prices, timings and limits, see charging.setting.StationSettings.
        link: socket of the simulation that stands for contactor, supply and meter.
        modbus: real ones, one for each of the meters; instead of the link.
        dishonest: how it cheats; with a simulated link on a development chain only.
    """

    version: Literal[1]
    station: str
    zone: str
    name: str
    folder: str
    chain: ChainPart
    broker: BrokerPart
    keys: StationKeys
    dock: str
    marker_id: Annotated[int, Meta(ge=0, le=586)] = 0
    pose: PosePart
    meters: Annotated[list[MeterPart], Meta(min_length=1, max_length=64)]
    served: list[AddressText] | None = None
    settings: dict[str, int | str | bool] = {}
    link: str | None = None
    modbus: list[ModbusConnectorPart] | None = None
    dishonest: Dishonesty = "none"


_MACHINE_FIELDS = {
    RobotSettings: {
        "robot", "zone", "identity", "payer", "voucher_key", "network", "policy", "delegated", "presigned", "band",
        "stations",
    },
    StationSettings: {
        "station", "zone", "name", "identity", "receiver", "receiver_authorizer", "network", "meters", "dock",
        "marker_id", "pose_mm_mrad", "served",
    },
}  # fmt: skip
"""Fields that other keys of the files give; all others may stand under ``settings``."""


# --- reading ------------------------------------------------------------------------------------------------


class _UniqueLoader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice: the second would silently win."""


def _construct_mapping(loader: _UniqueLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"expected a name as key, got {key!r}", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def read_yaml(path: Path, form: type[T]) -> T:
    """A file as a frozen value.

    Raises:
        ConfigError: one line with the file, the key, what was seen and what was expected.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: {len(data)} bytes, expected at most {FILE_BYTES_MAX}")
    try:
        tree = yaml.load(data, Loader=_UniqueLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(tree).__name__}")
    _refuse_unknown_keys(path, tree, form, "")
    try:
        return msgspec.convert(tree, form)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_place(str(error))}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _place(message: str) -> str:
    """The words of msgspec, "Expected `int`, got `str` - at `$.broker.port`" with the key first."""
    found = re.match(r"(.*?) - at `\$\.?(.*)`\Z", message)
    words = (message if found is None else found[1]).replace("`", "")
    words = words[0].lower() + words[1:]
    if found is None:
        return words
    if "expected str, got int" in words:
        words += " (put addresses and numbers that are names in quotes)"
    return f"{found[2]}: {words}" if found[2] else words


def _refuse_unknown_keys(path: Path, tree: Any, form: Any, prefix: str) -> None:
    """Walks the tree beside the types, so that a misspelt key gets a better word than "unknown"."""
    for option in _struct_options(form):
        if isinstance(tree, dict):
            known = {item.encode_name: item.type for item in msgspec.structs.fields(option)}
            for key, value in tree.items():
                if key not in known:
                    raise ConfigError(f"{path}: {prefix}{key}: unknown key{nearest(key, known)}")
                _refuse_unknown_keys(path, value, known[key], f"{prefix}{key}.")
    while typing.get_origin(form) is Annotated:
        form = typing.get_args(form)[0]
    if typing.get_origin(form) is list and isinstance(tree, list):
        for number, item in enumerate(tree):
            _refuse_unknown_keys(path, item, typing.get_args(form)[0], f"{prefix[:-1]}[{number}].")


def _struct_options(form: Any) -> list[Any]:
    origin = typing.get_origin(form)
    if origin is Annotated:
        return _struct_options(typing.get_args(form)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for part in typing.get_args(form) for option in _struct_options(part)]
    return [form] if isinstance(form, type) and issubclass(form, Struct) else []


def nearest(key: str, known: typing.Iterable[str]) -> str:
    """``, did you mean 'x'?`` or the list of what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, 1, 0.6)
    return f", did you mean {close[0]!r}?" if close else f", expected one of {', '.join(names)}"


def read_wallet(path: Path) -> WalletFile:
    """A wallet's configuration. Raises ConfigError."""
    file = read_yaml(path, WalletFile)
    _check_settings(path, file.settings, RobotSettings)
    return file


def read_station(path: Path) -> StationFile:
    """A station's configuration. Raises ConfigError."""
    file = read_yaml(path, StationFile)
    _check_settings(path, file.settings, StationSettings)
    if file.dishonest != "none" and file.link is None:
        raise ConfigError(
            f"{path}: dishonest: {file.dishonest} is for simulated stations; there is no link to one"
        )
    return file


def _check_settings(path: Path, given: dict[str, Any], form: type[Struct]) -> None:
    known = {item.name: item.type for item in msgspec.structs.fields(form)}
    for name in _MACHINE_FIELDS[form]:
        del known[name]
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{path}: settings.{name}: unknown key{nearest(name, known)}")
        try:
            msgspec.convert(value, known[name])
        except msgspec.ValidationError as error:
            raise ConfigError(f"{path}: settings.{name}: {_place(str(error))}") from error


def read_network(chain: ChainPart, beside: Path) -> NetworkFile:
    """The network that a file names.

    Args:
        chain: of the file.
        beside: the file, for relative paths.

    Raises:
        ConfigError: no such network, or not one.
    """
    named = chain.network
    if "/" in named or named.endswith(".yaml"):
        path = resolve(beside, named)
    else:
        folder = resource_path("config", "network")
        path = folder / f"{named}.yaml"
        if not path.is_file():
            names = [item.stem for item in folder.glob("*.yaml")]
            raise ConfigError(f"{beside}: chain.network: no network {named!r}{nearest(named, names)}")
    network = read_yaml(path, NetworkFile)
    if chain.rpc_urls:
        network = msgspec.structs.replace(network, rpc_urls=chain.rpc_urls)
    if chain.agree is not None:
        network = msgspec.structs.replace(network, agree=chain.agree)
    return network


def resolve(beside: Path, name: str) -> Path:
    """A path in a file is relative to the file."""
    return (beside.parent / Path(name).expanduser()).resolve()


def addresses(texts: typing.Iterable[str]) -> tuple[Address, ...]:
    """From hexadecimal text. Raises ConfigError."""
    return tuple(address_from_hex(text) for text in texts)
