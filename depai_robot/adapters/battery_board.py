"""What every battery board says, whatever its protocol."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PackInfo:
    """A pack, as its board or shunt sees it.

    Attributes:
        voltage_v: at the terminals.
        current_a: into it; negative when it discharges.
        state_of_charge: 0..1, by the board's own count.
        protection: bits of what has tripped, by the maker's table; 0 for nothing.
    """

    voltage_v: float
    current_a: float
    state_of_charge: float
    protection: int = 0


class PackReader(Protocol):
    """A board on a line."""

    def read(self) -> PackInfo:
        """Now. Raises DeviceTimeoutError, DeviceAbsentError or DeviceFailedError."""

    def close(self) -> None:
        """Lets go of the line."""
