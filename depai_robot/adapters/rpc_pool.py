"""Several JSON-RPC endpoints of one chain: which to ask, whom to believe, when to ask one again.

An endpoint that failed rests, twice as long each time, and is asked meanwhile only when no other answers; then the
order of preference counts again. One that is behind the others is asked last. Before its first answer, and again from
time to time, an endpoint must pass the check of its owner (chain id, code, token). With ``agree`` above one, what
decides about money must be said alike by so many endpoints, at one block of one fork; else it is unknown.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import requests
from web3 import Web3
from web3.exceptions import ContractLogicError, TransactionNotFound, Web3RPCError

from depai_robot.values.error import FinalChainError, RetryableChainError

LOG = logging.getLogger(__name__)

T = TypeVar("T")

REST_S = 1.0
"""After a first failure; doubled after each further one."""
REST_S_MAX = 60.0
CHECK_S = 600.0
"""An endpoint's chain, code and token are looked at again so often: behind one address may be many machines."""
LOOK_S = 5.0
"""The heads of all endpoints are compared so often."""
LAG_BLOCKS_MAX = 5
"""Further behind than this is stale at once; less, when it lasts for LAG_S_MAX."""
LAG_S_MAX = 10.0


@dataclass(slots=True)
class Endpoint:
    """One RPC endpoint; its address may hold an access key, so only its host is ever named.

    Attributes:
        web: the client.
        url: its address.
        checked_s: when it passed the check, monotonic; None when it must pass first.
        failures: in a row.
        rests_until_s: monotonic.
        behind_since_s: monotonic, None when its head is as new as the others'.
        stale: it is behind the others.
    """

    web: Web3
    url: str
    checked_s: float | None = None
    failures: int = 0
    rests_until_s: float = 0.0
    behind_since_s: float | None = None
    stale: bool = False

    @property
    def host(self) -> str:
        """For messages."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    def describe(self, error: Exception) -> str:
        """The error in words, without what is secret in the address."""
        parts = urlsplit(self.url)
        secret = self.url.partition(parts.netloc)[2].strip("/")
        text = f"{type(error).__name__}: {error}"
        if parts.username or parts.password:
            text = text.replace(parts.netloc, parts.hostname or "")
        return f"{self.host}: {text.replace(secret, '...') if secret else text}"[:200]


@dataclass(frozen=True, slots=True)
class Said(Generic[T]):
    """What one endpoint said."""

    endpoint: Endpoint
    answer: T


class RpcPool:
    """See the module. Thread-safe; a call blocks for ``timeout_s`` per endpoint and request at most.

    Args:
        urls: the preferred first.
        check: raises FinalChainError for an endpoint that must not be believed, given its client and name.
        agree: how many endpoints must say alike what decides about money.
        timeout_s: of one request.
    """

    def __init__(
        self, urls: Sequence[str], check: Callable[[Web3, str], None], *, agree: int, timeout_s: float
    ) -> None:
        self._check = check
        self.agree = agree
        self._lock = threading.Lock()
        self._looked_s: float | None = None
        self.endpoints = tuple(Endpoint(Web3(_provider(url, timeout_s)), url) for url in urls)

    # --- asking ------------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Web3], T]) -> T:
        """The first good endpoint's answer.

        Raises:
            ContractLogicError, TransactionNotFound: these are answers.
            RetryableChainError: no endpoint answers.
        """
        failures = []
        for endpoint in self.ordered():
            try:
                return self.ask_one(endpoint, question)
            except (RetryableChainError, FinalChainError) as error:
                failures.append(str(error))
        raise _silence(failures)

    def ask_each(self, question: Callable[[Web3], T]) -> tuple[list[Said[T]], list[str]]:
        """What every endpoint says that is well, and why others say nothing; those that rest while too few answer.

        Args:
            question: may raise ContractLogicError or TransactionNotFound: then that is passed on.
        """
        said: list[Said[T]] = []
        failures = []
        now_s = time.monotonic()
        for endpoint in self.ordered():
            if len(said) >= self.agree and endpoint.rests_until_s > now_s:
                failures.append(f"{endpoint.host} rests")
                continue
            try:
                said.append(Said(endpoint, self.ask_one(endpoint, question)))
            except (RetryableChainError, FinalChainError) as error:
                failures.append(str(error))
        return said, failures

    def ask_agreeing(
        self, question: Callable[[Web3], T], what: str, key: Callable[[T], Hashable] = lambda answer: answer
    ) -> T:
        """What ``agree`` endpoints say alike, and more of them than say anything else.

        Args:
            question: must name the block that it is about.
            what: for messages.
            key: of two answers that count as the same.

        Raises:
            RetryableChainError: too few answer, or they disagree: it is unknown.
        """
        if self.agree == 1:
            return self.ask(question)
        said: list[Said[T]] = []
        failures = []
        for endpoint in self.ordered():
            try:
                said.append(Said(endpoint, self.ask_one(endpoint, question)))
            except (RetryableChainError, FinalChainError) as error:
                failures.append(str(error))
            votes = Counter(key(item.answer) for item in said)
            if len(votes) == 1 and len(said) == self.agree:
                return said[0].answer
        ranks = votes.most_common(2)
        if ranks and ranks[0][1] >= self.agree and (len(ranks) == 1 or ranks[1][1] < ranks[0][1]):
            for item in said:
                if key(item.answer) != ranks[0][0]:
                    LOG.warning(
                        "%s: %s says something else than %d others", what, item.endpoint.host, ranks[0][1]
                    )
                    self._rest(item.endpoint)
            return next(item.answer for item in said if key(item.answer) == ranks[0][0])
        if len(votes) > 1:
            hosts = ", ".join(item.endpoint.host for item in said)
            raise RetryableChainError(f"{what}: RPC endpoints disagree, so it is unknown ({hosts})")
        raise RetryableChainError(
            f"{what}: {len(said)} RPC endpoints answer, {self.agree} must agree: " + "; ".join(failures)
        )

    def common_block(self) -> int:
        """The highest block that ``agree`` endpoints have."""
        if self.agree == 1:
            return self.ask(_read_number)
        said, failures = self.ask_each(_read_number)
        if len(said) < self.agree:
            raise RetryableChainError(
                f"{len(said)} RPC endpoints tell their head, {self.agree} must: " + "; ".join(failures)
            )
        return sorted((item.answer for item in said), reverse=True)[self.agree - 1]

    def check_all(self) -> None:
        """Every endpoint that answers must pass the check.

        Raises:
            FinalChainError: one does not.
            RetryableChainError: none answers.
        """
        failures = []
        for endpoint in self.endpoints:
            endpoint.checked_s = None
            try:
                self.ask_one(endpoint, lambda _: None)
            except RetryableChainError as error:
                failures.append(str(error))
        if len(failures) == len(self.endpoints):
            raise _silence(failures)

    # --- health ------------------------------------------------------------------------------------------------

    def ordered(self) -> list[Endpoint]:
        """Well, then stale, then resting, each in the order of preference."""
        self._look()
        now_s = time.monotonic()
        return sorted(self.endpoints, key=lambda item: (item.rests_until_s > now_s, item.stale))

    def _look(self) -> None:
        """Compares the heads of those that are well."""
        now_s = time.monotonic()
        with self._lock:
            if len(self.endpoints) < 2 or (self._looked_s is not None and now_s - self._looked_s < LOOK_S):
                return
            self._looked_s = now_s
        heads: list[Said[int]] = []
        for endpoint in self.endpoints:
            if endpoint.rests_until_s <= now_s:
                try:
                    heads.append(Said(endpoint, self.ask_one(endpoint, _read_number)))
                except (RetryableChainError, FinalChainError) as error:
                    LOG.info("%s", error)
        numbers = sorted((item.answer for item in heads), reverse=True)
        # A single one that claims to be far ahead makes nobody else stale when there are three to compare.
        best = numbers[min(1, len(numbers) - 2)] if len(numbers) > 2 else max(numbers, default=0)
        for item in heads:
            _judge_head(item.endpoint, best - item.answer, now_s)

    def ask_one(self, endpoint: Endpoint, question: Callable[[Web3], T], *, refusal: bool = False) -> T:
        """One endpoint's answer, checked before.

        Args:
            endpoint: of this pool.
            question: as in :meth:`ask`.
            refusal: an error that the endpoint words is an answer (to a transaction); it need not rest for it.

        Raises:
            ContractLogicError, TransactionNotFound: these are answers.
            FinalChainError: it did not pass the check.
            RetryableChainError: no answer, or nonsense.
        """
        now_s = time.monotonic()
        try:
            if endpoint.checked_s is None or now_s - endpoint.checked_s > CHECK_S:
                self._question(endpoint, lambda web: self._check(web, endpoint.host))
                endpoint.checked_s = now_s
            answer = self._question(endpoint, question)
        except (ContractLogicError, TransactionNotFound):
            raise
        except FinalChainError:
            endpoint.checked_s = None
            self._rest(endpoint, REST_S_MAX)
            raise
        except RetryableChainError as error:
            if refusal and isinstance(error.__cause__, Web3RPCError):
                raise
            endpoint.checked_s = None
            self._rest(endpoint)
            raise
        endpoint.failures = 0
        endpoint.rests_until_s = 0.0
        return answer

    def _question(self, endpoint: Endpoint, question: Callable[[Web3], T]) -> T:
        for last in (False, True):
            try:
                return question(endpoint.web)
            except (ContractLogicError, TransactionNotFound, FinalChainError, RetryableChainError):
                raise
            except requests.Timeout as error:
                raise RetryableChainError(endpoint.describe(error)) from error
            except requests.ConnectionError as error:
                # A kept connection that the other end has closed meanwhile: once more. What is sent may be sent twice.
                if last:
                    raise RetryableChainError(endpoint.describe(error)) from error
            except Exception as error:
                # Whatever an endpoint sends, in whatever form, is at worst no answer.
                raise RetryableChainError(endpoint.describe(error)) from error
        raise RetryableChainError(f"{endpoint.host} does not answer")

    def _rest(self, endpoint: Endpoint, rest_s: float = 0.0) -> None:
        endpoint.failures += 1
        rest_s = max(rest_s, min(REST_S_MAX, REST_S * 2.0 ** min(endpoint.failures - 1, 10)))
        endpoint.rests_until_s = time.monotonic() + rest_s


def _judge_head(endpoint: Endpoint, behind: int, now_s: float) -> None:
    if behind <= 0:
        endpoint.behind_since_s = None
    elif endpoint.behind_since_s is None:
        endpoint.behind_since_s = now_s
    lasted_s = 0.0 if endpoint.behind_since_s is None else now_s - endpoint.behind_since_s
    stale = behind > LAG_BLOCKS_MAX or lasted_s > LAG_S_MAX
    if stale and not endpoint.stale:
        LOG.warning("%s is %d blocks behind: it is asked last", endpoint.host, behind)
    endpoint.stale = stale


def _silence(failures: list[str]) -> RetryableChainError:
    return RetryableChainError("no RPC endpoint answers: " + "; ".join(failures))


def _read_number(web: Web3) -> int:
    return int(web.eth.block_number)


def _provider(url: str, timeout_s: float) -> Any:
    # The library's own retries are off: they wait, and they retry a time-out too. An answer must not make this
    # process fetch addresses (CCIP read).
    provider = Web3.HTTPProvider(
        url, request_kwargs={"timeout": timeout_s}, exception_retry_configuration=None
    )
    provider.global_ccip_read_enabled = False
    return provider
