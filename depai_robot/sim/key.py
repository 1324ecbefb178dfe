"""Keys for simulations and tests: made from a name, so anybody can make them. They must never hold money."""

from coincurve import PrivateKey

from depai_robot.values.identity import Address, keccak256, public_key_to_address


class DevelopmentSigner:
    """ports.Signer whose secret is keccak-256 of a name."""

    def __init__(self, name: str) -> None:
        self.secret = keccak256(b"depai development key: " + name.encode())
        self._key = PrivateKey(self.secret)
        self._public_key = bytes(self._key.public_key.format(compressed=False)[1:])
        self._address = public_key_to_address(self._public_key)

    @property
    def address(self) -> Address:
        """See ports.Signer."""
        return self._address

    @property
    def public_key(self) -> bytes:
        """See ports.Signer."""
        return self._public_key

    def sign(self, digest: bytes) -> bytes:
        """See ports.Signer."""
        signature = bytes(self._key.sign_recoverable(digest, hasher=None))
        return signature[:64] + bytes([signature[64] + 27])
