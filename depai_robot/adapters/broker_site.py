"""A mosquitto for a real site: its own certificate authority, client certificates, access list and configuration.

The common name of a certificate is the user: a robot's or a station's id. The access list gives each its own topics by
that name. Signatures alone carry authority over money; this keeps strangers out and everybody at their own topics.
"""

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from depai_robot.values.error import ConfigError
from depai_robot.values.identity import require_id

Role = Literal["robot", "station", "viewer", "operator"]
ROLES: tuple[Role, ...] = ("robot", "station", "viewer", "operator")
PORT = 8883
"""MQTT over TLS. Source: IANA, secure-mqtt."""
CA_DAYS = 3650
LEAF_DAYS = 825
_BACKDATE_MIN = 5
_EMPTY_KEY = "ca.key"
REVOKED = "crl.pem"

# %u is the user, which is the common name of its certificate.
ACL_HEAD = """\
# Made by `depai-robot broker init`; `depai-robot broker add` appends people. Reload: systemctl reload mosquitto

# Robots and stations: each its own, by the name in its certificate.
pattern read depai/v1/+/stations/+/offer
pattern write depai/v1/+/stations/+/inbox
pattern write depai/v1/+/robots/+/inbox
pattern readwrite depai/v1/+/stations/%u/offer
pattern read depai/v1/+/stations/%u/inbox
pattern read depai/v1/+/robots/%u/inbox

# VDA 5050
{vda}
# Operators' signed commands
pattern read depai/v1/fleet/%u/command
pattern write depai/v1/fleet/%u/answer
pattern write depai/v1/fleet/%u/journal
"""
_VDA_ROOTS = ("uagv/v2", "vda5050/v3")


def acl_head(manufacturer: str) -> str:
    """The access list before anybody is named."""
    lines = []
    for root in _VDA_ROOTS:
        place = f"{root}/{manufacturer}/%u"
        lines += [
            f"pattern write {place}/{name}" for name in ("connection", "state", "factsheet", "visualization")
        ]
        lines += [f"pattern read {place}/{name}" for name in ("order", "instantActions")]
    return ACL_HEAD.format(vda="\n".join(lines) + "\n")


def acl_person(name: str, role: Role, manufacturer: str) -> str:
    """Lines for a viewer or an operator; empty for robots and stations, whom the patterns serve."""
    if role in ("robot", "station"):
        return ""
    lines = [
        "",
        f"user {name}",
        "topic read depai/v1/+/stations/+/offer",
        "topic read depai/v1/fleet/+/answer",
    ]
    for root in _VDA_ROOTS:
        place = f"{root}/{manufacturer}/+"
        lines += [
            f"topic read {place}/{kind}" for kind in ("connection", "state", "factsheet", "visualization")
        ]
        if role == "operator":
            lines += [f"topic write {place}/order", f"topic write {place}/instantActions"]
    if role == "operator":
        lines += ["topic write depai/v1/fleet/+/command", "topic read depai/v1/fleet/+/journal"]
    return "\n".join(lines) + "\n"


def mosquitto_config(folder: str, port: int = PORT) -> str:
    """``mosquitto.conf`` for files in a folder."""
    return f"""\
# Made by `depai-robot broker init`. Nobody without a certificate of this site gets in.
listener {port}
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
# Whom `depai-robot broker revoke` shut out; read when mosquitto starts.
crlfile {folder}/crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {folder}/acl

# Without it small messages wait for delayed ACKs: 88 ms a round trip instead of 0.3 ms.
set_tcp_nodelay true

# What waits for a robot that is away survives a restart.
persistence true
persistence_location {folder}/store/
autosave_interval 1
persistent_client_expiration 7d
max_packet_size 131072
max_queued_messages 10000
max_inflight_messages 0
log_type error
log_type warning
log_type notice
"""


def init_site(folder: Path, hosts: Sequence[str], manufacturer: str, *, port: int = PORT) -> None:
    """Makes authority, server certificate, access list and configuration in a new or empty folder.

    Args:
        folder: absolute paths of it go into the configuration.
        hosts: names and addresses by which clients reach the broker.
        manufacturer: second to last level but one of VDA 5050's topics.
        port: to listen on.

    Raises:
        ConfigError: the folder has an authority, or a name is not one.
    """
    require_id("manufacturer", manufacturer)
    if not hosts:
        raise ConfigError("expected at least one host name or address by which clients reach the broker")
    if (folder / _EMPTY_KEY).exists():
        raise ConfigError(f"{folder} has a certificate authority; a new one would shut everybody out")
    folder = folder.resolve()
    (folder / "store").mkdir(parents=True, exist_ok=True)
    (folder / "clients").mkdir(exist_ok=True)
    key, certificate = _make_authority(f"{manufacturer} fleet broker")
    _write_pair(folder / "ca", key, certificate)
    server_key, server = _issue(key, certificate, hosts[0], hosts)
    _write_pair(folder / "server", server_key, server)
    _write_revoked(folder, key, certificate, ())
    (folder / "acl").write_text(acl_head(manufacturer), encoding="utf-8")
    (folder / "acl").chmod(0o600)
    (folder / "manufacturer").write_text(manufacturer + "\n", encoding="utf-8")
    (folder / "mosquitto.conf").write_text(mosquitto_config(str(folder), port), encoding="utf-8")


def add_client(folder: Path, name: str, role: Role) -> tuple[Path, Path]:
    """Issues a client certificate; returns certificate and key. People's lines are appended to the access list.

    Raises:
        ConfigError: no authority there, the name is taken, or is none.
    """
    require_id("name", name)
    if role not in ROLES:
        raise ConfigError(f"role {role!r}, expected one of {', '.join(ROLES)}")
    place = folder / "clients" / name
    if place.with_name(f"{name}.pem").exists():
        raise ConfigError(f"{name} has a certificate; two clients of one name would get each other's topics")
    key, certificate = _read_authority(folder)
    manufacturer = (folder / "manufacturer").read_text(encoding="utf-8").strip()
    client_key, client = _issue(key, certificate, name, ())
    with (folder / "acl").open("a", encoding="utf-8") as file:
        file.write(acl_person(name, role, manufacturer))
    return _write_pair(place, client_key, client)


def revoke_client(folder: Path, name: str) -> Path:
    """Shuts a client's certificate out from mosquitto's next start on; returns the list of the revoked.

    The name is free for a new certificate after that.

    Raises:
        ConfigError: no authority there, or nobody of that name has a certificate.
    """
    x509 = _crypto()
    require_id("name", name)
    place = folder / "clients" / f"{name}.pem"
    key, certificate = _read_authority(folder)
    try:
        serial = x509.load_pem_x509_certificate(place.read_bytes()).serial_number
        before = [entry.serial_number for entry in x509.load_pem_x509_crl((folder / REVOKED).read_bytes())]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name} can't be revoked: {error}") from error
    _write_revoked(folder, key, certificate, (*before, serial))
    place.rename(place.with_name(f"{name}.{serial:x}.revoked"))
    place.with_name(f"{name}.key").unlink(missing_ok=True)
    return folder / REVOKED


def _write_revoked(folder: Path, key: Any, certificate: Any, serials: Sequence[int]) -> None:
    x509 = _crypto()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    now = dt.datetime.now(dt.timezone.utc)
    # Once it has run out OpenSSL lets nobody in: it lives as long as the authority.
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now - dt.timedelta(minutes=_BACKDATE_MIN))
        .next_update(certificate.not_valid_after_utc)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        builder = builder.add_revoked_certificate(revoked)
    part = folder / f"{REVOKED}.part"
    part.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    part.replace(folder / REVOKED)


def _crypto() -> Any:
    try:
        from cryptography import x509
    except ImportError as error:
        raise ConfigError(
            "certificates need the package cryptography: pip install 'depai_robot[broker]'"
        ) from error
    return x509


def _name(x509: Any, text: str) -> Any:
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _make_authority(name: str) -> tuple[Any, Any]:
    x509 = _crypto()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(x509, _name(x509, name), _name(x509, name), key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(x509, authority=True), critical=True)
    return key, builder.sign(key, hashes.SHA256())


def _issue(ca_key: Any, ca: Any, name: str, hosts: Sequence[str]) -> tuple[Any, Any]:
    """A certificate for a server (with hosts) or a client (without)."""
    x509 = _crypto()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(x509, _name(x509, name), ca.subject, key.public_key(), LEAF_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(x509, authority=False), critical=True)
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([_host(x509, host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return key, builder.sign(ca_key, hashes.SHA256())


def _builder(x509: Any, subject: Any, issuer: Any, public_key: Any, days: int) -> Any:
    now = dt.datetime.now(dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=_BACKDATE_MIN))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(x509: Any, *, authority: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host(x509: Any, host: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _read_authority(folder: Path) -> tuple[Any, Any]:
    x509 = _crypto()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        return key, x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: no certificate authority ({error}): make one with `broker init`"
        ) from error


def _write_pair(place: Path, key: Any, certificate: Any) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem, secret = place.with_name(f"{place.name}.pem"), place.with_name(f"{place.name}.key")
    # Never readable by others, not for a moment.
    descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    return pem, secret
