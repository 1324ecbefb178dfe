"""Metered energy over HTTP: x402's batch-settlement for buyers that speak no MQTT. One request buys up to a tranche.

A voucher is in before power flows, and what is charged is what the meter saw: the station risks nothing, the buyer a
tranche. What a request changes is in the journal before it happens, totals are never forgotten, and a payment that was
answered gets the same answer again. Judged by the station's own rules (``payment.voucher``, ``charging.terms``).

Channels of this counter have a withdraw delay of their own, a second off the station's: so the books of the two
programs never share a channel, and neither can be paid with what the other one has charged.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from depai_robot.app.http_shop import Answer, ShopConnector, decode_payment
from depai_robot.app.http_tab_chain import TabChain
from depai_robot.app.http_tab_judge import TabJudge, is_answered
from depai_robot.app.http_tab_row import (
    TAB_VERSION,
    Charged,
    DepositEnded,
    DepositTaken,
    Refunded,
    Sold,
    Tab,
    TabRow,
    decode_row,
    fold,
)
from depai_robot.charging.effect import ChannelJson
from depai_robot.charging.setting import StationSettings
from depai_robot.charging.terms import (
    REASON_PREFIX,
    build_channel_state,
    build_failure,
    build_requirements,
    build_success,
    channel_config,
    channel_key,
)
from depai_robot.payment.channel import WITHDRAW_DELAY_MAX_S, ChannelState
from depai_robot.payment.exact import TransferRefusedError
from depai_robot.payment.voucher import VoucherRefusedError
from depai_robot.payment.x402 import (
    X402_VERSION,
    ChannelStateJson,
    DepositPayload,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    RefundPayload,
    Resource,
    VoucherStateJson,
    bytes_to_text,
    json_to_deposit,
    json_to_voucher,
    parse_amount,
)
from depai_robot.ports import Chain, DepositCall, Journal, SignedTransaction
from depai_robot.values.error import (
    BugError,
    ChainError,
    DepaiError,
    DeviceError,
    FinalChainError,
    RemoteError,
)
from depai_robot.values.identity import ChannelId
from depai_robot.values.money import cost_atomic

LOG = logging.getLogger(__name__)

POLL_S = 0.05
IDLE_S = 5.0
"""No energy for so long: the buyer is full or gone."""
SERVE_S = 90.0
"""The longest that one request is served; what has flowed by then is charged."""
MISMATCH = REASON_PREFIX + "cumulative_amount_mismatch"


class BusyError(DepaiError):
    """Somebody else is served on the connector."""


class TabCounter:
    """Sells energy by tranches on a station's connectors.

    Args:
        settings: the station's.
        connectors: hardware by number.
        chain: with the receiver's account.
        journal: of the counter alone.
        base_url: where buyers see it.
        gates: one lock a connector, shared with whoever else sells on it.

    Raises:
        JournalError: the journal is damaged.
    """

    def __init__(
        self,
        settings: StationSettings,
        connectors: dict[int, ShopConnector],
        chain: Chain,
        journal: Journal,
        *,
        base_url: str,
        gates: dict[int, threading.Lock],
    ) -> None:
        step = -1 if settings.withdraw_delay_s >= WITHDRAW_DELAY_MAX_S else 1
        self._settings = replace(settings, withdraw_delay_s=settings.withdraw_delay_s + step)
        self._connectors, self._journal, self._gates = connectors, journal, gates
        self._chain = TabChain(chain, settings.network, settings.receiver, settings.confirmations)
        self._base_url = base_url.rstrip("/")
        self._price = settings.start_fee_atomic + cost_atomic(
            settings.price_atomic_per_kwh, settings.tranche_milliwh
        )
        self._asked = build_requirements(self._settings, self._price)
        self._judge = TabJudge(self._settings, self._asked, self._chain)
        self._lock = threading.RLock()
        self._busy: set[bytes] = set()
        self._seen: dict[bytes, ChannelState] = {}
        self._claimed: dict[bytes, int] = {}
        self._claimed_at_s = time.monotonic()
        self._watched_block = 0
        self._tabs: dict[bytes, Tab] = {}
        for row in journal.rows():
            fold(self._tabs, decode_row(row.data))

    # --- books ----------------------------------------------------------------------------------------------

    def _write(self, row: TabRow) -> None:
        with self._lock:
            self._journal.append([msgspec.json.encode(row)], TAB_VERSION)
            fold(self._tabs, row)

    @contextmanager
    def _on_channel(self, key: bytes) -> Iterator[None]:
        """One request at a time on a channel. Raises VoucherRefusedError for another."""
        with self._lock:
            if key in self._busy:
                raise VoucherRefusedError("channel_busy", "another request is served on this channel")
            self._busy.add(key)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(key)

    @contextmanager
    def _on_connector(self, number: int) -> Iterator[ShopConnector]:
        gate = self._gates[number]
        if not gate.acquire(blocking=False):
            raise BusyError(f"connector {number} serves somebody else: nothing was taken")
        try:
            yield self._connectors[number]
        finally:
            gate.release()

    def resume(self) -> int:
        """Ends what a stop interrupted: deposits under way, and sales by what the meter has seen. Returns how many."""
        self._chain.chain.check_pins()
        count = 0
        for key, tab in self._tabs.items():
            if tab.deposit_reason is None:
                self._relay(key, tab)
                count += 1
            if tab.open is not None:
                self._charge(key, tab, tab.open, self._register(tab.open.connector))
                count += 1
        return count

    # --- offering -------------------------------------------------------------------------------------------

    def url_of(self, connector: int) -> str:
        """Where energy on that connector is bought."""
        return f"{self._base_url}/connectors/{connector}/energy"

    def offer(self, connector: int, error: str = "", accepts: PaymentRequirements | None = None) -> Answer:
        """402: what a tranche costs at most, and how it is paid."""
        if connector not in self._connectors:
            return Answer(
                404, body={"error": f"no connector {connector}, there are {sorted(self._connectors)}"}
            )
        resource = Resource(
            url=self.url_of(connector),
            description=f"up to {self._settings.tranche_milliwh} mWh at connector {connector} of"
            f" {self._settings.name}, charged by its meter",
            mime_type="application/json",
        )
        required = PaymentRequired(
            x402_version=X402_VERSION,
            resource=resource,
            accepts=[accepts or self._asked],
            error=error or UNSET,
        )
        return Answer(402, required=required, body={"error": error or "payment required"})

    def _refuse(self, connector: int, reason: str) -> Answer:
        offer = self.offer(connector, reason)
        return Answer(offer.status, offer.required, build_failure(self._settings.network, reason), offer.body)

    def _correct(self, connector: int, key: bytes, tab: Tab, state: ChannelState) -> Answer:
        """402 with the channel's state: what the buyer's next voucher has to add to. No SettleResponse: none was."""
        extra = replace(
            self._asked.extra,
            channel_state=self._state_json(key, tab, state),
            voucher_state=VoucherStateJson(str(tab.ceiling_atomic), bytes_to_text(tab.signature))
            if tab.signature
            else UNSET,
        )
        return self.offer(connector, MISMATCH, replace(self._asked, extra=extra))

    def _state_json(self, key: bytes, tab: Tab, state: ChannelState) -> ChannelStateJson:
        text = build_channel_state(key, state.balance_atomic, state.total_claimed_atomic, tab.charged_atomic)
        return replace(
            text,
            withdraw_requested_at=state.withdraw_requested_at_s,
            refund_nonce=str(state.refund_nonce),
        )

    # --- selling --------------------------------------------------------------------------------------------

    def buy(self, connector: int, header: str, now_s: int | None = None) -> Answer:
        """A request with a payment.

        Args:
            connector: number.
            header: PAYMENT-SIGNATURE.
            now_s: wall clock; None for now.
        """
        if connector not in self._connectors:
            return self.offer(connector)
        now_s = int(time.time()) if now_s is None else now_s
        try:
            payment = decode_payment(header, PaymentPayload)
            self._judge.require_asked(payment.accepted)
            channel = self._judge.read_channel(payment)
            key = bytes(channel_key(self._settings.network, channel))
            with self._on_channel(key):
                if isinstance(payment.payload, RefundPayload):
                    return self._give_back(connector, key, payment.payload)
                return self._serve(connector, key, channel, payment, now_s)
        except (TransferRefusedError, VoucherRefusedError) as error:
            LOG.info("payment refused: %s", error)
            return self._refuse(connector, error.reason)
        except RemoteError as error:
            LOG.info("payment refused: %s", error)
            return self._refuse(connector, "invalid_payload")
        except BusyError as error:
            return Answer(409, body={"error": str(error)})
        except (ChainError, DeviceError) as error:
            LOG.warning("connector %d: %s", connector, error)
            return Answer(503, body={"error": f"ask again with the same payment: {error}"[:300]})

    def _serve(
        self, number: int, key: bytes, channel: ChannelJson, payment: PaymentPayload, now_s: int
    ) -> Answer:
        payload = payment.payload
        voucher = json_to_voucher(payload.voucher)
        deposit = payload if isinstance(payload, DepositPayload) else None
        with self._on_connector(number) as connector:
            self._close_open(key, number)
            tab = self._tabs.get(key)
            if tab is not None and is_answered(tab, number, voucher):
                return self._answer(number, tab)
            if tab is None and deposit is None:
                raise VoucherRefusedError("channel_not_found", "no deposit of this counter is known on it")
            if not connector.present():
                raise BusyError(f"nothing is on connector {number}: nothing was taken")
            if connector.read().power_w * 1000 > self._settings.no_power_mw:
                raise BusyError(f"power flows on connector {number}: nothing was taken")
            state = self._read_state(key)
            arriving = 0
            if deposit is not None:
                arriving = self._judge.deposit_arriving(key, channel, tab, deposit, now_s)
            elif tab is not None and tab.deposit_reason is None:
                self._relay(key, tab)
            if tab is None:
                self._judge.require_known(key, channel, deposit, state)
            charged = 0 if tab is None else tab.charged_atomic
            try:
                self._judge.check_voucher(
                    channel,
                    voucher,
                    state,
                    charged_atomic=charged,
                    amount_atomic=self._price,
                    arriving_atomic=arriving,
                )
                if deposit is not None:
                    self._take_deposit(key, channel, deposit)
                    state = self._read_state(key)
                    self._judge.check_voucher(
                        channel, voucher, state, charged_atomic=charged, amount_atomic=self._price
                    )
            except VoucherRefusedError as error:
                if error.reason == MISMATCH and tab is not None:
                    LOG.info("payment corrected: %s", error)
                    return self._correct(number, key, tab, state)
                raise
            tab = self._tabs[key]
            sold = Sold(
                key,
                voucher.ceiling_atomic,
                voucher.signature,
                number,
                connector.read().energy_milliwh,
                self._settings.tranche_milliwh,
                self._settings.start_fee_atomic if tab.fee_due else 0,
                self._price,
                deposited=deposit is not None,
            )
            self._write(sold)
            self._charge(key, tab, sold, self._deliver(connector, sold))
            return self._answer(number, tab)

    def _read_state(self, key: bytes) -> ChannelState:
        """The channel on chain. Raises VoucherRefusedError when somebody wants its escrow back, after claiming."""
        state = self._chain.state(key)
        self._seen[key] = state
        if state.withdraw_requested_at_s:
            self._claim_now()
            raise VoucherRefusedError("channel_busy", "a withdrawal is pending on the channel")
        return state

    def _take_deposit(self, key: bytes, channel: ChannelJson, payload: DepositPayload) -> None:
        """Journals the deposit's transaction, sends it, waits. Raises VoucherRefusedError when the chain says no."""
        deposit = json_to_deposit(payload.deposit)
        tab = self._tabs.get(key)
        known = None if tab is None else tab.deposit
        if known is None or known.salt != deposit.salt:
            try:
                signed = self._chain.chain.prepare(DepositCall(channel_config(channel), deposit))
            except FinalChainError as error:
                if not self._chain.is_used(key, channel, deposit.salt):
                    raise VoucherRefusedError("deposit_simulation_failed", str(error)) from error
                signed = SignedTransaction(b"", b"", 0)  # somebody else relayed it: anybody may
            self._write(
                DepositTaken(
                    key,
                    channel,
                    deposit.amount_atomic,
                    deposit.salt,
                    signed.raw,
                    signed.tx_hash,
                    signed.nonce,
                )
            )
        tab = self._tabs[key]
        if tab.deposit_reason is None:
            self._relay(key, tab)
        if tab.deposit_reason:
            raise VoucherRefusedError("deposit_transaction_failed", tab.deposit_reason)

    def _relay(self, key: bytes, tab: Tab) -> None:
        """Raises RetryableChainError while its fate is unknown. What is in is read from the channel afterwards."""
        deposit = tab.deposit
        if deposit is None:
            return
        reason = ""
        if deposit.raw:
            try:
                self._chain.follow(SignedTransaction(deposit.raw, deposit.tx_hash, deposit.tx_nonce))
            except FinalChainError as error:
                if not self._chain.is_used(key, tab.channel, deposit.salt):
                    reason = str(error)[:300] or "refused"
        self._write(DepositEnded(key, deposit.salt, reason))

    # --- power ----------------------------------------------------------------------------------------------

    def _register(self, number: int) -> int:
        self._connectors[number].deenergise()
        return self._connectors[number].read().energy_milliwh

    def _deliver(self, connector: ShopConnector, sold: Sold) -> int:
        """Lets power flow until the tranche is through or nobody takes it; returns the register afterwards."""
        until = sold.start_milliwh + sold.limit_milliwh
        try:
            connector.energise(float(self._settings.power_max_w), until)
            deadline = moved_s = time.monotonic()
            deadline += SERVE_S
            last = sold.start_milliwh
            while last < until and connector.present():
                now_s = time.monotonic()
                if now_s > deadline or now_s - moved_s > IDLE_S:
                    break
                time.sleep(POLL_S)
                reading = connector.read()
                if reading.energy_milliwh > last:
                    last, moved_s = reading.energy_milliwh, now_s
                still = reading.power_w * 1000 <= self._settings.no_power_mw
                if still and until - last <= sold.limit_milliwh // 50:
                    break  # supplies ramp down a little before their limit
        finally:
            connector.deenergise()
        # The supply ramps down; what flows meanwhile is sold too.
        time.sleep(self._settings.stop_time_ms / 1000)
        return connector.read().energy_milliwh

    def _charge(self, key: bytes, tab: Tab, sold: Sold, register_milliwh: int) -> None:
        """What the meter saw, at most the tranche; written before it is said."""
        energy = min(max(0, register_milliwh - sold.start_milliwh), sold.limit_milliwh)
        price = self._settings.price_atomic_per_kwh
        cost = cost_atomic(price, tab.energy_milliwh + energy) - cost_atomic(price, tab.energy_milliwh)
        charged = min(sold.fee_atomic + cost, sold.amount_atomic)
        state = self._seen.get(key) or self._chain.state(key)
        after = replace(tab, charged_atomic=tab.charged_atomic + charged)
        deposit = tab.deposit if sold.deposited else None
        answer = build_success(
            self._settings.network,
            tab.channel.payer,
            self._state_json(key, after, state),
            charged_atomic=charged,
            transaction=b"" if deposit is None else deposit.tx_hash,
            amount_atomic=None if deposit is None else deposit.amount_atomic,
        )
        self._write(Charged(key, energy, charged, answer))

    def _close_open(self, key: bytes, number: int) -> None:
        """Sales that a fault left open on this connector, or on this channel, are charged by what the meter says now.

        The connector is this request's. Raises BusyError when the channel's is another's.
        """
        with self._lock:
            tabs = [(k, tab, tab.open) for k, tab in self._tabs.items() if tab.open is not None]
        for other, tab, sold in tabs:
            if sold is None or (sold.connector != number and other != key):
                continue
            if sold.connector == number:
                self._charge(other, tab, sold, self._register(number))
            else:
                with self._on_connector(sold.connector):
                    self._charge(other, tab, sold, self._register(sold.connector))

    def _answer(self, number: int, tab: Tab) -> Answer:
        answer, sold = tab.answer, tab.answered
        if answer is None or sold is None or answer.extra is UNSET:
            raise BugError("a sale was charged without an answer")
        body: dict[str, object] = {
            "station": self._settings.station,
            "connector": number,
            "charged_atomic": answer.extra.charged_amount,
            "energy_milliwh_total": tab.energy_milliwh,
            "register_milliwh_start": sold.start_milliwh,
        }
        return Answer(200, settle=answer, body=body)

    # --- the end of the money ---------------------------------------------------------------------------------

    def _give_back(self, connector: int, key: bytes, payload: RefundPayload) -> Answer:
        """Claims what is charged and refunds the rest, or the part that is asked for."""
        tab = self._tabs.get(key)
        if tab is None:
            raise VoucherRefusedError("channel_not_found", "no deposit of this counter is known on it")
        if tab.open is not None:
            with self._on_connector(tab.open.connector):
                self._close_open(key, tab.open.connector)
        state = self._chain.state(key)
        voucher = json_to_voucher(payload.voucher)
        network = self._settings.network
        if tab.refund is not None and state.balance_atomic == tab.charged_atomic:
            return Answer(200, settle=tab.refund, body={"message": "refunded before"})
        try:
            self._judge.check_voucher(
                tab.channel, voucher, state, charged_atomic=tab.charged_atomic, amount_atomic=0
            )
        except VoucherRefusedError as error:
            if error.reason == MISMATCH:
                return self._correct(connector, key, tab, state)
            raise
        rest = state.balance_atomic - tab.charged_atomic
        amount = rest if payload.amount is UNSET else parse_amount(payload.amount)
        if not 0 < amount <= rest:
            raise VoucherRefusedError("refund_no_balance", f"{amount} is asked for, {rest} is left")
        if tab.charged_atomic > state.total_claimed_atomic:
            self._chain.claim([tab])
        tx_hash = self._chain.refund(tab, amount)
        answer = build_success(
            network,
            tab.channel.payer,
            self._state_json(key, tab, self._chain.state(key)),
            charged_atomic=0,
            transaction=tx_hash,
            amount_atomic=amount,
        )
        self._write(Refunded(key, answer))
        return Answer(200, settle=answer, body={"message": "refunded", "amount_atomic": str(amount)})

    def _due(self) -> list[Tab]:
        """Tabs with something to claim, by the chain."""
        with self._lock:
            tabs = [(key, tab) for key, tab in self._tabs.items() if tab.charged_atomic]
        due = []
        for key, tab in tabs:
            if self._claimed.get(key, -1) >= tab.charged_atomic:
                continue
            claimed = self._chain.state(key).total_claimed_atomic
            self._claimed[key] = claimed
            if claimed < tab.charged_atomic:
                due.append(tab)
        return due

    def _claim_now(self) -> None:
        due = self._due()
        if due:
            self._chain.claim(due)
        self._claimed_at_s = time.monotonic()

    def tend(self) -> None:
        """To be called every few seconds: claims what is due, at once when somebody withdraws.

        Raises:
            ChainError: not now.
        """
        with self._lock:
            keys = list(self._tabs)
        if not keys:
            return
        self._chain.chain.tend()
        seen = self._chain.chain.withdrawals([ChannelId(key) for key in keys], self._watched_block)
        due = self._due()
        total = sum(tab.charged_atomic for tab in due) - sum(
            self._claimed[key] for key, tab in self._tabs.items() if tab in due
        )
        waited_s = time.monotonic() - self._claimed_at_s
        late = waited_s * 1000 >= self._settings.claim_interval_ms
        if due and (seen.channel_ids or late or total >= self._settings.claim_at_atomic):
            self._claim_now()
        self._watched_block = seen.until_block
