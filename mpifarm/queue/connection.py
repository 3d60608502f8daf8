"""One connection to the queue's database: opened when needed, verified, its errors in words for users.

Everything in `queue/` that talks to the database comes through here; importing this imports psycopg.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from time import monotonic
from typing import Any, TypeVar

from mpifarm.errors import QueueError, QueueUnreachable, SiteError, UsageError
from mpifarm.server.dsn import Dsn, cut_is_doubtful

try:
    import psycopg
    from psycopg import conninfo
except ImportError as error:  # psycopg is there but finds no libpq
    raise SiteError(
        f"psycopg cannot be used: {str(error).splitlines()[0]}\n"
        "  load the site's PostgreSQL module, or: pip install 'psycopg[binary]'"
    ) from None

from mpifarm.queue import arrays, schema, text_encoding
from mpifarm.queue.libpq_variables import none_of_them, those_that_count
from mpifarm.queue.statements import queries
from mpifarm.server import embedded

Connection = psycopg.Connection[tuple[Any, ...]]
_T = TypeVar("_T")

# Of a connection that breaks psycopg warns on stderr, beside raising the error that is told in our words.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

_DEFAULTS = {
    "application_name": "mpifarm",
    "connect_timeout": "10",
    # A database host that vanished must be noticed well before a lease runs out.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}

OLDEST = 130000

_TEMPORARY = ("08", "25", "40", "53", "57", "58")
"""Classes of SQLSTATE that say "not now": connection, transaction state (a standby that is not promoted yet, a session
timeout of the site), rollback, resources, operator, system."""

CAUSES = """\
  the usual causes: the name or port is wrong or the server is down (try: psql "DSN"); the server or a firewall
  does not let this host in (pg_hba.conf; compute nodes often reach less than login nodes); the user, password
  (~/.pgpass) or database is wrong"""


TLS_CAUSES = {
    "certificate verify failed": "the server's certificate is not signed by the authority in sslrootcert: ask for the"
    " right file (mpifarm db start: gate/ca.crt), or somebody sits between here and there",
    "root certificate file": "name the file of the authority that signed the server's certificate: sslrootcert=FILE"
    " (mpifarm db start: gate/ca.crt)",
    "does not match host name": "in the DSN call the host by a name that is in its certificate (hostaddr=IP beside it"
    " if that name does not resolve here)",
    "server does not support SSL": "it speaks no TLS, so its certificate cannot be checked: is host and port right?"
    " ask for TLS there; a lower sslmode shows your tasks and password to the network",
}
"""What libpq says of TLS, and what to do about it."""

GRANTS = """\
  the first user of a database needs: GRANT CREATE ON DATABASE its_name TO its_first_user
  everybody else needs a role from whoever owns the queue's tables: mpifarm db init --roles, then in psql
  GRANT mpifarm_submitter (or mpifarm_runner, mpifarm_reader) TO the_user
  only the owner may upgrade the tables or drop a job"""


class _Impatient(psycopg.Connection[tuple[Any, ...]]):
    """Gives a connection up on which nothing has come for `answer_s` seconds while an answer is due.

    A host that vanished is noticed by TCP, which misses its acknowledgements. A frozen server, or something between
    here and there that acknowledges and forwards nothing, is not.
    """

    answer_s: float | None = None

    def wait(  # type: ignore[override]  # psycopg 3.2 has no `timeout`, 3.3 has
        self, gen: Generator[Any, Any, _T], interval: float = 0.1, **more: Any
    ) -> _T:
        if self.answer_s is None:
            return super().wait(gen, interval, **more)
        try:
            return super().wait(_with_deadline(gen, self.answer_s), min(interval, self.answer_s), **more)
        except _NoAnswer:
            self.pgconn.finish()  # what still comes answers a question that nobody asks any more
            raise


class _NoAnswer(psycopg.OperationalError):
    pass


def _with_deadline(gen: Generator[Any, Any, _T], answer_s: float) -> Generator[Any, Any, _T]:
    """The same dialogue with the socket, ended with _NoAnswer when the socket stays silent. What is sent in: which
    directions are ready, 0 when a while passed and none was."""
    try:
        wanted = next(gen)
        heard = monotonic()
        while True:
            ready = yield wanted
            if ready:
                heard = monotonic()
            elif monotonic() - heard > answer_s:
                raise _NoAnswer(f"silent for {answer_s:g} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        result: _T = stop.value
        return result


class Database:
    """Holds the connection, and the embedded server while it is used. Opened again by itself when it broke."""

    def __init__(
        self,
        dsn: Dsn,
        verify: Callable[[Connection], object] = schema.verify,
        answer_s: float | None = None,
        *,
        ours: bool = False,
    ) -> None:
        """`verify`: what is done with every new connection first. `answer_s`: a server that is silent for longer, in
        seconds, is unreachable; None: some statements may take any time. `ours`: the server is one that we started.
        Raises QueueUnreachable, SchemaError, SiteError."""
        self._dsn = dsn
        self._opened = dsn.source.endswith("gate/connection.toml")
        self._ours = ours or dsn.embedded or self._opened
        self._answer_s = answer_s
        self._verify = verify
        self._stack = ExitStack()
        self._connection: Connection | None = None
        self._text = self._stack.enter_context(embedded.server()) if dsn.embedded else dsn.text
        try:
            self._options = self._read_options()
            with self.using():
                pass
        except BaseException:
            self.close()
            raise

    def another(self) -> Database:
        """A second connection to the same server, for another thread; this one must outlive it."""
        return Database(Dsn(self._text, self._dsn.source), self._verify, self._answer_s, ours=self._ours)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._stack.close()

    @contextmanager
    def using(self) -> Iterator[Connection]:
        """The connection, in autocommit. Inside, the database's errors become QueueUnreachable or QueueError."""
        try:
            if self._connection is None:
                self._connection = self._open()
            yield self._connection
        except psycopg.Error as error:
            told = _translated(error)
            if told is None:
                raise
            raise told from error
        finally:
            if self._connection is not None and self._connection.closed:
                self._connection = None

    def _read_options(self) -> dict[str, Any]:
        try:
            if "\0" in self._text:  # libpq would stop reading there
                raise psycopg.ProgrammingError
            given = conninfo.conninfo_to_dict(self._text)
        except (psycopg.ProgrammingError, UnicodeEncodeError):
            # libpq's message quotes the piece it stumbled over, which may be the password.
            raise UsageError(
                f"the DSN from {self._dsn.source} is not one that libpq understands; it looks like"
                " host=db.site.org dbname=farm user=me or postgresql://me@db.site.org/farm"
            ) from None
        if cut_is_doubtful(self._text, str(given.get("port") or "")):
            raise UsageError(
                f"the DSN from {self._dsn.source} can be read in several ways: in postgresql://me:PASSWORD@host:5432/farm"
                " write %40 for @, %3A for :, %2F for / and %3F for ? within user and password, or leave the password"
                " to ~/.pgpass; a port is a number"
            )
        return {**_DEFAULTS, **given, "client_encoding": "UTF8"}

    def _open(self) -> Connection:
        try:
            with none_of_them() if self._ours else nullcontext():
                connection = _Impatient.connect(**self._options, autocommit=True)
        except psycopg.OperationalError as error:
            raise QueueUnreachable(self._unreachable(error)) from None
        except psycopg.ProgrammingError as error:
            raise UsageError(f"the DSN from {self._dsn.source}: {error}") from None
        connection.answer_s = self._answer_s
        try:
            number = connection.info.server_version
            if number < OLDEST:
                wanted, found = OLDEST // 10000, f"{number // 10000}.{number % 10000}"
                raise QueueError(f"the queue needs PostgreSQL {wanted} or newer, {connection.info.host} has {found}")
            encoding = connection.info.parameter_status("server_encoding")
            if encoding != "UTF8":  # names and paths of any language must come back as they went in
                raise QueueError(
                    f"the queue needs a database in UTF8, {connection.info.dbname} is in {encoding}; make another:"
                    " CREATE DATABASE a_name TEMPLATE template0 ENCODING 'UTF8'"
                )
            alone = connection.execute(queries()["no_jit"], {"opened": connection.info.backend_pid}).fetchone()
            if not (alone and alone[0]):
                # The next transaction may be in another session, which knows nothing of what this one has prepared.
                connection.prepare_threshold = None
            self._verify(connection)
            arrays.register(connection)
            text_encoding.register(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _unreachable(self, error: Exception) -> str:
        wanted = self._options
        count = [] if self._ours else those_that_count(wanted)
        environ = {name: os.environ[name] for name in count}
        host = wanted.get("host") or wanted.get("hostaddr") or environ.get("PGHOST") or "the local socket"
        port = wanted.get("port") or environ.get("PGPORT") or "5432"
        sslmode = wanted.get("sslmode") or environ.get("PGSSLMODE") or "prefer"
        reasons = " ".join(str(error).split())
        causes = CAUSES
        for said, advice in TLS_CAUSES.items():
            if said in reasons:
                causes = f"  {advice}"
        if self._opened:
            causes = (
                f"  mpifarm db start has opened it there: is that still so? (on {host}: mpifarm db status)\n{CAUSES}"
            )
        variables = f"  set in the environment and used: {', '.join(count)}\n" if count else ""
        return (
            f"no connection to the queue at {host}, port {port}, sslmode {sslmode} (DSN from {self._dsn.source}):"
            f" {reasons}\n{variables}{causes}"
        )


def _translated(error: psycopg.Error) -> QueueError | None:
    """In words for users. None: not the database's doing but a bug, which must stay what it is."""
    reason = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    if error.sqlstate is None:
        lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return QueueUnreachable(f"the database does not answer now: {reason}") if lost else None
    if error.sqlstate.startswith(_TEMPORARY):
        return QueueUnreachable(f"the database does not answer now: {reason}")
    if error.sqlstate == "42501":
        return QueueError(f"the database refuses: {reason}\n{GRANTS}")
    return QueueError(f"the database refuses: {reason} (SQLSTATE {error.sqlstate})")
