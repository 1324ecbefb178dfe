"""A serial line that comes back: opened by what the device is, held alone, given up at the first doubt.

A USB adapter that is unplugged and put back has another name; so a port is named by a path below ``/dev/serial/by-id``,
or as ``usb:VID:PID:SERIAL`` (SERIAL may be empty). The line is locked (TIOCEXCL and flock), so that a second master is
refused and not mixed in.

A read waits for bytes with its own lock; a write never waits for a read, since a stop must not wait for a silent board.
"""

import contextlib
import fcntl
import termios
import threading
import time
from typing import Protocol

import serial
from serial.tools import list_ports

from depai_robot.values.error import ConfigError, DeviceAbsentError, DeviceFailedError, DeviceTimeoutError

BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 5.0
USB_PARTS = 4
_GONE = (serial.SerialException, OSError, termios.error)
"""What pyserial raises when the device goes; termios.error is no OSError."""


def find_port(name: str) -> str:
    """The device path behind a name.

    Raises:
        ConfigError: the name is no name.
        DeviceAbsentError: nothing of that kind is plugged in; the message lists what is.
    """
    if not name.startswith("usb:"):
        return name
    parts = name.split(":")
    if len(parts) != USB_PARTS:
        raise ConfigError(f"port {name!r}: expected usb:VID:PID:SERIAL, hexadecimal ids, SERIAL may be empty")
    try:
        wanted = (int(parts[1], 16), int(parts[2], 16))
    except ValueError as error:
        raise ConfigError(f"port {name!r}: VID and PID are hexadecimal: {error}") from error
    there = list_ports.comports()
    for port in there:
        if (port.vid, port.pid) == wanted and parts[3] in ("", port.serial_number):
            return str(port.device)
    seen = ", ".join(f"{port.device} {port.vid or 0:04x}:{port.pid or 0:04x}" for port in there) or "none"
    raise DeviceAbsentError(f"{name}: no such device; serial ports here: {seen}")


class LineWatcher(Protocol):
    """Who wants to know of a line's descriptor, as adapters.wheel_guard."""

    def opened(self, descriptor: int) -> None:
        """It is open."""

    def closed(self) -> None:
        """It is about to be closed."""


class SerialLine:
    """One port, for one reader and any number of writers.

    Args:
        name: path, or ``usb:VID:PID:SERIAL``.
        baud: bits a second, 8N1.
        timeout_s: for an answer.
        watcher: is told when it opens and closes.
    """

    def __init__(self, name: str, baud: int, timeout_s: float, watcher: LineWatcher | None = None) -> None:
        self.name, self._baud, self.timeout_s = name, baud, timeout_s
        self._watcher = watcher
        self._lock = threading.RLock()
        self._write_lock = threading.Lock()
        self._port: serial.Serial | None = None
        self._broken: serial.Serial | None = None
        self._back_off_s = BACK_OFF_FIRST_S
        self._not_before_s = 0.0

    def open(self) -> None:
        """Opens it now, unless it is open, or failed a moment ago.

        Raises:
            DeviceAbsentError: not there, or not to be tried again yet.
            DeviceFailedError: somebody else has it, or it may not be opened.
        """
        with self._lock:
            if self._port is not None:
                self._give_up_broken()
                return
            wait_s = self._not_before_s - time.monotonic()
            if wait_s > 0:
                raise DeviceAbsentError(f"{self.name}: tried a moment ago, again in {wait_s:.1f} s")
            try:
                self._port = self._open()
            except (DeviceAbsentError, DeviceFailedError):
                self._rest()
                raise
            self._back_off_s = BACK_OFF_FIRST_S
            if self._watcher is not None:
                self._watcher.opened(self._port.fileno())

    def _open(self) -> serial.Serial:
        path = find_port(self.name)
        try:
            port = serial.Serial(
                path, self._baud, timeout=self.timeout_s, write_timeout=self.timeout_s, exclusive=True
            )
            fcntl.flock(port.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            port.reset_input_buffer()
        except (*_GONE, ValueError) as error:
            text = str(error)
            if "No such file" in text or ("could not open port" in text and "No such" in text):
                raise DeviceAbsentError(f"{self.name}: not there") from error
            if "Permission denied" in text:
                raise DeviceFailedError(
                    f"{path}: permission denied: add the user to group dialout"
                ) from error
            raise DeviceFailedError(f"{path} can't be opened, or another program has it: {text}") from error
        return port

    def _rest(self) -> None:
        self._not_before_s = time.monotonic() + self._back_off_s
        self._back_off_s = min(BACK_OFF_MAX_S, 2 * self._back_off_s)

    def close(self) -> None:
        """Lets go of the port."""
        with self._lock:
            port, self._port = self._port, None
            if port is not None:
                if self._watcher is not None:
                    self._watcher.closed()
                with contextlib.suppress(*_GONE):
                    port.close()

    def _lost(self, error: Exception) -> DeviceAbsentError:
        self.close()
        self._rest()
        return DeviceAbsentError(f"{self.name}: gone: {error}")

    def write(self, data: bytes) -> None:
        """Sends, also while another thread waits in :meth:`read`. Raises DeviceError."""
        with self._write_lock:
            port = self._port
            if port is None or port is self._broken:
                self.open()
                port = self._need()
            try:
                port.write(data)
            except serial.SerialTimeoutException as error:
                raise DeviceTimeoutError(f"{self.name}: can't be written to") from error
            except _GONE as error:
                # A reader may be inside this port: it is closed by whoever holds the reading lock next.
                self._broken = port
                port.cancel_read()
                raise DeviceAbsentError(f"{self.name}: gone: {error}") from error

    def _give_up_broken(self) -> None:
        broken, self._broken = self._broken, None
        if broken is not None and broken is self._port:
            raise self._lost(OSError("a write failed"))

    def read(self, most: int, timeout_s: float) -> bytes:
        """What has come, at least a byte, or nothing within the time. Raises DeviceError."""
        with self._lock:
            self.open()
            port = self._need()
            try:
                port.timeout = timeout_s
                first: bytes = port.read(1)
                self._give_up_broken()
                rest: bytes = port.read(min(most - 1, port.in_waiting)) if first else b""
            except _GONE as error:
                raise self._lost(error) from error
            return first + rest

    def drop_input(self) -> None:
        """Forgets what came before a question: an old answer is no answer."""
        with self._lock:
            if self._port is not None:
                try:
                    self._port.reset_input_buffer()
                except _GONE as error:
                    raise self._lost(error) from error

    def _need(self) -> serial.Serial:
        if self._port is None:
            raise DeviceAbsentError(f"{self.name}: not open")
        return self._port
