"""``depai-robot journal``: what a robot or station has signed, for people, auditors and book-keeping."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from depai_robot.values.error import ConfigError

_PATH = click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
_SESSIONS_SHOWN = 20


@click.group(
    epilog=(
        "\b\n"
        "What happened:     depai-robot journal show wallet.sqlite\n"
        "Is it whole:       depai-robot journal verify wallet.sqlite\n"
        "For the books:     depai-robot journal export wallet.sqlite --out books\n"
        "Note its head:     depai-robot journal head wallet.sqlite > head.json   (keep it on another machine)\n"
        "Was it shortened:  depai-robot journal verify wallet.sqlite --head head.json\n"
        "Exit codes: 0 all is well, 1 something is wrong with the journal, 2 it could not be done."
    )
)
def journal() -> None:
    """Look at a journal: the one record of what a robot or station has seen and signed.

    Each row is on disk before anything is signed on it, and carries a hash that covers every row before it. show,
    verify, export and head change nothing, and work while the program runs. accept is a person's decision about a
    damaged journal.
    """


@journal.command()
@_PATH
@click.option("--session", help="Only this session, with each signature in it.")
@click.option(
    "--last", default=_SESSIONS_SHOWN, show_default=True, type=click.IntRange(1), help="So many sessions."
)
def show(path: Path, *, session: str | None, last: int) -> None:
    """Tell what happened: sessions, energy, money, and what became of it.

    Amounts are in USDC, energies by the station's meter and, in brackets, by the robot's own. Times are UTC.
    """
    from depai_robot.app.book_story import tell_book, tell_session

    book, owner, rows = _read_book(path)
    if session is None:
        lines = tell_book(book, last)
        click.echo(f"{path}: {book.role or 'nobody'} {book.identity or owner}, {rows} rows")
    elif session in book.sessions:
        lines = tell_session(book, session)
    else:
        raise ConfigError(
            f"journal {path} has no session {session!r}; it has {', '.join(list(book.sessions)[-5:])}"
        )
    for line in lines:
        click.echo(line)


@journal.command()
@_PATH
@click.option(
    "--head",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A head that 'journal head' printed before: the journal must still hold it.",
)
def verify(path: Path, *, head: Path | None) -> None:
    """Check everything that can be known from the journal and the receipts beside it.

    Its file and chain; each signature in it, recovered again; that no signed ceiling ever fell; that its rows fold to
    a state that knows every voucher; that each signed receipt beside it agrees. Exit code 1 when anything does not
    hold.

    A chain shows an edit, a gap and another order, and the head file beside it a missing end. Against somebody who
    rewrites both only a head helps that was noted elsewhere before: see 'journal head'.
    """
    from depai_robot.app.journal_check import check_journal

    verdict = check_journal(path, head=None if head is None else _read_noted(head))
    for check in verdict.checks:
        click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.detail}")
    if not verdict.ok:
        click.echo(
            f"{path} is not what was written. A program that opens it signs nothing. To go on from what is sound:"
            " depai-robot journal accept --help",
            err=True,
        )
        sys.exit(1)


@journal.command()
@_PATH
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the CSV files, or name of the JSON file (standard output when left out).",
)
def export(path: Path, *, form: str, out: Path | None) -> None:
    """Write the books: each signed thing and its outcome, sessions, channels, day totals.

    \b
    sessions.csv  energy, price, fees, what was billed, claimed and returned, transaction hashes
    signed.csv    every message, payment, statement and transaction in the journal, and what became of it
    channels.csv  deposited = claimed + returned + left, for each payment channel
    days.csv      totals by day (UTC), and by how much signed ceilings rose

    Each amount comes twice: in atomic units (_atomic, integers, 10^-6 USDC) and in USDC (_usdc, exact decimals). The
    JSON document holds the same tables. docs/journal.md explains each column.
    """  # noqa: D301 (click wants the character itself)
    from depai_robot.app.book_table import TABLES, format_csv, format_json, iterate_table

    book, owner, _ = _read_book(path)
    if form == "json":
        text = format_json(book, owner)
        if out is None:
            click.echo(text, nl=False)
        else:
            _write(out, text)
            click.echo(out)
        return
    if out is None:
        raise ConfigError("CSV is several files: give --out FOLDER, or --format json")
    for name in TABLES:
        text = format_csv(name, iterate_table(book, name))
        _write(out / f"{name}.csv", text)
        click.echo(f"{out / f'{name}.csv'}: {text.count(chr(10)) - 1} rows")


@journal.command()
@_PATH
def head(path: Path) -> None:
    """Print where the journal ends now: number and hash of its last row, as JSON.

    Kept where nobody who can write the journal can write, it proves later that nothing before it was changed or cut
    off: depai-robot journal verify PATH --head FILE.
    """
    from depai_robot.adapters.journal_form import SCHEMA_VERSION
    from depai_robot.adapters.journal_reader import JournalReader

    with contextlib.closing(JournalReader(path)) as reader:
        if reader.form.schema != SCHEMA_VERSION:
            raise ConfigError(
                f"journal {path} has schema {reader.form.schema}: its hashes change when its program opens it the next"
                f" time and makes it one of schema {SCHEMA_VERSION}; note its head then"
            )
        last = reader.head()
        document = {
            "owner": reader.form.owner,
            "schema": reader.form.schema,
            "rows": last.number,
            "hash": "0x" + last.hash.hex(),
            "noted": int(time.time()),
        }
    click.echo(json.dumps(document))


@journal.command()
@_PATH
@click.option("--i-know-rows-are-lost", "knows", is_flag=True, help="Say that you have read this.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A robot's: the policy file that it uses now; a later one will be needed.",
)
@click.option("--owner", help="Address of the journal's key, when the file does not say it any more.")
@click.option(
    "--role", type=click.Choice(["robot", "station"]), help="When the file does not say it any more."
)
def accept(path: Path, *, knows: bool, policy: Path | None, owner: str | None, role: str | None) -> None:
    """Go on from what is sound of a damaged journal. First look at it: depai-robot journal verify PATH.

    The damaged files are put aside, into PATH.damaged-<time>, and never deleted. A new journal is made of the sound
    rows from the first on, and of a row that says that the rest was lost.

    Nobody knows what was signed in the lost rows. So a station ends its open sessions and settles them, and a robot
    does the same and then buys nothing: the lost rows count as all that the policy allows, until the owner signs a
    policy with a later epoch. Money in channels that only the lost rows knew comes back by the owner's withdrawal.

    The same is done with a whole journal whose rows another version of the program wrote, and this one can't fold.

    A copy of the journal from elsewhere, whole and up to its last row, is always better: put it back with its .head
    file instead.
    """
    from depai_robot.app.salvage import accept_damage

    if not knows:
        raise ConfigError("nothing was changed: say --i-know-rows-are-lost, and read --help before")
    done = accept_damage(
        path,
        now_s=int(time.time()),
        owner=owner,
        role=role,
        policy_epoch=None if policy is None else _read_epoch(policy),
    )
    for finding in done.findings:
        click.echo(f"found: {finding}")
    lost = "nobody knows how many" if done.rows_lost < 0 else str(done.rows_lost)
    click.echo(f"kept {done.rows_kept} rows, lost {lost}; the damaged files are in {done.kept_in}")
    if done.role == "robot":
        click.echo(
            f"the robot only settles what is open, until its owner signs a policy of epoch {done.policy_epoch + 1} or"
            " later: depai-robot policy --help"
        )
    else:
        click.echo("the station ends and settles what was open, and sells again")


def _read_book(path: Path) -> tuple[Any, str, int]:
    """(books, owner, number of rows)."""
    from depai_robot.adapters.journal_reader import JournalReader
    from depai_robot.app.bookkeeping import make_book

    with contextlib.closing(JournalReader(path)) as reader:
        return make_book(reader.rows()), reader.form.owner, reader.length


def _read_noted(path: Path) -> Any:
    from depai_robot.adapters.journal_head import Head

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Head(int(values["rows"]), bytes.fromhex(values["hash"].removeprefix("0x")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not what 'journal head' prints: {error}") from error


def _read_epoch(path: Path) -> int:
    try:
        epoch = json.loads(path.read_text(encoding="utf-8"))["epoch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a policy file: {error}") from error
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ConfigError(f"{path}: epoch must be a whole number, got {epoch!r}")
    return epoch


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_bytes(text.encode())
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
