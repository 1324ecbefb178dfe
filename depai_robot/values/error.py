"""The one tree of errors; adapters wrap a library's errors into it with ``from``.

Every message says what was seen and what was expected. Nothing here knows how an error is shown.
"""


class DepaiError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(DepaiError):
    """A configuration, file or argument is not what it must be; nothing was changed."""


class DeviceError(DepaiError):
    """A piece of hardware (or its simulation) does not serve."""


class DeviceAbsentError(DeviceError):
    """The device is not there."""


class DeviceFailedError(DeviceError):
    """The device answered, and the answer is a failure."""


class DeviceTimeoutError(DeviceError):
    """The device did not answer in its time."""


class RemoteError(DepaiError):
    """The other side broke the rules: end this session and keep the evidence."""


class BugError(DepaiError):
    """We broke our own rules: stop."""


class ChainError(DepaiError):
    """A chain or its RPC endpoint refused, or did not answer."""


class RetryableChainError(ChainError):
    """The outcome is unknown or may change: ask again. Unknown is not failed."""


class FinalChainError(ChainError):
    """The chain has decided, and it is a no."""


class JournalError(DepaiError):
    """The journal can't be read or written: stop, sign nothing."""
