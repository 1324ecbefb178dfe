# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Development stand-in of x402BatchSettlement
@license Apache-2.0
@notice DEVELOPMENT CHAINS ONLY (chain id 31337 or 1337): everything that moves a token refuses elsewhere.
    It has the interface, the digests and the rules of the canonical contract, so that the same robot and
    station run against either; it was not audited and must never hold money.
    Left out: ERC-1271 (a signer with code), the EIP-712 domain view, limits on length beyond those below.
    Source: x402 v2, scheme batch-settlement on EVM (functions, events, errors, EIP-712 types and limits).
"""

interface ERC20:
    def transfer(to: address, amount: uint256) -> bool: nonpayable
    def balanceOf(account: address) -> uint256: view

interface DepositCollector:
    def collect(payer: address, token: address, amount: uint256, channelId: bytes32, data: Bytes[1024]): nonpayable

struct ChannelConfig:
    payer: address
    payerAuthorizer: address
    receiver: address
    receiverAuthorizer: address
    token: address
    withdrawDelay: uint40
    salt: bytes32

struct Voucher:
    channel: ChannelConfig
    maxClaimableAmount: uint128

struct VoucherClaim:
    voucher: Voucher
    signature: Bytes[128]
    totalClaimed: uint128

struct ChannelState:
    balance: uint128
    totalClaimed: uint128

struct WithdrawalState:
    amount: uint128
    initiatedAt: uint40

struct ReceiverState:
    totalClaimed: uint128
    totalSettled: uint128

event ChannelCreated:
    channelId: indexed(bytes32)
    config: ChannelConfig

event ChannelClosed:
    channelId: indexed(bytes32)
    config: ChannelConfig

event Deposited:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128
    newBalance: uint128

event Claimed:
    channelId: indexed(bytes32)
    sender: indexed(address)
    claimAmount: uint128
    newTotalClaimed: uint128

event Settled:
    receiver: indexed(address)
    token: indexed(address)
    sender: indexed(address)
    amount: uint128

event Refunded:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

event WithdrawInitiated:
    channelId: indexed(bytes32)
    amount: uint128
    finalizeAfter: uint40

event WithdrawFinalized:
    channelId: indexed(bytes32)
    sender: indexed(address)
    amount: uint128

CLAIMS_MAX: constant(uint256) = 100
CALLS_MAX: constant(uint256) = 4
CALL_BYTES_MAX: constant(uint256) = 16384
MIN_WITHDRAW_DELAY: public(constant(uint40)) = 15 * 60
MAX_WITHDRAW_DELAY: public(constant(uint40)) = 30 * 24 * 3600
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

DOMAIN_TYPE: constant(bytes32) = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
NAME_HASH: constant(bytes32) = keccak256("x402 Batch Settlement")
VERSION_HASH: constant(bytes32) = keccak256("1")
CHANNEL_TYPE: constant(bytes32) = keccak256("ChannelConfig(address payer,address payerAuthorizer,address receiver,address receiverAuthorizer,address token,uint40 withdrawDelay,bytes32 salt)")
VOUCHER_TYPE: constant(bytes32) = keccak256("Voucher(bytes32 channelId,uint128 maxClaimableAmount)")
REFUND_TYPE: constant(bytes32) = keccak256("Refund(bytes32 channelId,uint256 nonce,uint128 amount)")
ENTRY_TYPE: constant(bytes32) = keccak256("ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)")
BATCH_TYPE: constant(bytes32) = keccak256("ClaimBatch(ClaimEntry[] claims)ClaimEntry(bytes32 channelId,uint128 maxClaimableAmount,uint128 totalClaimed)")

channels: public(HashMap[bytes32, ChannelState])
pendingWithdrawals: public(HashMap[bytes32, WithdrawalState])
receivers: public(HashMap[address, HashMap[address, ReceiverState]])
refundNonce: public(HashMap[bytes32, uint256])


# --- digests --------------------------------------------------------------------------------------------------

@internal
@view
def _typed(struct_hash: bytes32) -> bytes32:
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPE, NAME_HASH, VERSION_HASH, chain.id, self))
    return keccak256(concat(x"1901", domain, struct_hash))


@internal
@view
def _channel_id(config: ChannelConfig) -> bytes32:
    return self._typed(keccak256(abi_encode(CHANNEL_TYPE, config)))


@internal
@view
def _voucher_digest(channel_id: bytes32, ceiling: uint128) -> bytes32:
    return self._typed(keccak256(abi_encode(VOUCHER_TYPE, channel_id, ceiling)))


@internal
@view
def _refund_digest(channel_id: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    return self._typed(keccak256(abi_encode(REFUND_TYPE, channel_id, nonce, amount)))


@internal
@view
def _batch_digest(claims: DynArray[VoucherClaim, CLAIMS_MAX]) -> bytes32:
    entries: DynArray[bytes32, CLAIMS_MAX] = []
    for row: VoucherClaim in claims:
        entry: bytes32 = keccak256(
            abi_encode(
                ENTRY_TYPE,
                self._channel_id(row.voucher.channel),
                row.voucher.maxClaimableAmount,
                row.totalClaimed,
            )
        )
        entries.append(entry)
    # EIP-712 hashes an array as its encoded elements in a row: the ABI encoding without offset and length.
    packed: Bytes[64 + 32 * CLAIMS_MAX] = abi_encode(entries)
    return self._typed(keccak256(abi_encode(BATCH_TYPE, keccak256(slice(packed, 64, 32 * len(entries))))))


@external
@view
def getChannelId(config: ChannelConfig) -> bytes32:
    return self._channel_id(config)


@external
@view
def getVoucherDigest(channelId: bytes32, maxClaimableAmount: uint128) -> bytes32:
    return self._voucher_digest(channelId, maxClaimableAmount)


@external
@view
def getRefundDigest(channelId: bytes32, nonce: uint256, amount: uint128) -> bytes32:
    return self._refund_digest(channelId, nonce, amount)


@external
@view
def getClaimBatchDigest(voucherClaims: DynArray[VoucherClaim, CLAIMS_MAX]) -> bytes32:
    return self._batch_digest(voucherClaims)


# --- checks ---------------------------------------------------------------------------------------------------

@internal
@view
def _require_development():
    assert chain.id == 31337 or chain.id == 1337, "development stand-in: refuses this chain"


@internal
@pure
def _recover(digest: bytes32, signature: Bytes[128]) -> address:
    """Zero for what no key can have signed; s and v as strict as the canonical contract's library."""
    if len(signature) != 65:
        return empty(address)
    s: uint256 = convert(extract32(signature, 32), uint256)
    v: uint8 = convert(slice(signature, 64, 1), uint8)
    if s > HALF_ORDER or (v != 27 and v != 28):
        return empty(address)
    return ecrecover(digest, v, convert(extract32(signature, 0), uint256), s)


@internal
@pure
def _require_signature(digest: bytes32, signature: Bytes[128], signer: address):
    recovered: address = self._recover(digest, signature)
    if recovered == empty(address) or recovered != signer:
        raw_revert(method_id("InvalidSignature()"))


@internal
@pure
def _require_voucher_signature(digest: bytes32, signature: Bytes[128], signer: address):
    # A voucher key is checked by plain recovery, whose errors say what is wrong with the form.
    if len(signature) != 65:
        raw_revert(abi_encode(len(signature), method_id=method_id("ECDSAInvalidSignatureLength(uint256)")))
    s: bytes32 = extract32(signature, 32)
    if convert(s, uint256) > HALF_ORDER:
        raw_revert(abi_encode(s, method_id=method_id("ECDSAInvalidSignatureS(bytes32)")))
    recovered: address = self._recover(digest, signature)
    if recovered == empty(address):
        raw_revert(method_id("ECDSAInvalidSignature()"))
    if recovered != signer:
        raw_revert(method_id("InvalidSignature()"))


@internal
@pure
def _require_config(config: ChannelConfig):
    if (
        config.payer == empty(address)
        or config.receiver == empty(address)
        or config.receiverAuthorizer == empty(address)
        or config.token == empty(address)
    ):
        raw_revert(method_id("InvalidChannel()"))
    if config.withdrawDelay < MIN_WITHDRAW_DELAY or config.withdrawDelay > MAX_WITHDRAW_DELAY:
        raw_revert(method_id("WithdrawDelayOutOfRange()"))


# --- deposit --------------------------------------------------------------------------------------------------

@external
@nonreentrant
def deposit(config: ChannelConfig, amount: uint128, collector: address, collectorData: Bytes[1024]):
    self._require_development()
    self._require_config(config)
    if amount == 0:
        raw_revert(method_id("ZeroDeposit()"))
    if collector == empty(address):
        raw_revert(method_id("InvalidCollector()"))
    channel_id: bytes32 = self._channel_id(config)
    state: ChannelState = self.channels[channel_id]
    if convert(state.balance, uint256) + convert(amount, uint256) > convert(max_value(uint128), uint256):
        raw_revert(method_id("DepositOverflow()"))
    before: uint256 = staticcall ERC20(config.token).balanceOf(self)
    extcall DepositCollector(collector).collect(
        config.payer, config.token, convert(amount, uint256), channel_id, collectorData
    )
    if (staticcall ERC20(config.token).balanceOf(self)) - before != convert(amount, uint256):
        raw_revert(method_id("DepositCollectionFailed()"))
    if state.balance == 0:
        log ChannelCreated(channelId=channel_id, config=config)
    self.channels[channel_id].balance = state.balance + amount
    log Deposited(channelId=channel_id, sender=msg.sender, amount=amount, newBalance=state.balance + amount)


# --- claim and settle -----------------------------------------------------------------------------------------

@internal
def _claim_row(row: VoucherClaim):
    config: ChannelConfig = row.voucher.channel
    channel_id: bytes32 = self._channel_id(config)
    state: ChannelState = self.channels[channel_id]
    # A row at or below what is recorded changes nothing, and its signature is not looked at.
    if row.totalClaimed <= state.totalClaimed:
        return
    if row.totalClaimed > row.voucher.maxClaimableAmount:
        raw_revert(method_id("ClaimExceedsCeiling()"))
    if row.totalClaimed > state.balance:
        raw_revert(method_id("ClaimExceedsBalance()"))
    digest: bytes32 = self._voucher_digest(channel_id, row.voucher.maxClaimableAmount)
    if config.payerAuthorizer != empty(address):
        self._require_voucher_signature(digest, row.signature, config.payerAuthorizer)
    else:
        self._require_signature(digest, row.signature, config.payer)
    delta: uint128 = row.totalClaimed - state.totalClaimed
    self.channels[channel_id].totalClaimed = row.totalClaimed
    self.receivers[config.receiver][config.token].totalClaimed += delta
    log Claimed(channelId=channel_id, sender=msg.sender, claimAmount=delta, newTotalClaimed=row.totalClaimed)


@external
@nonreentrant
def claim(voucherClaims: DynArray[VoucherClaim, CLAIMS_MAX]):
    self._require_development()
    if len(voucherClaims) == 0:
        raw_revert(method_id("EmptyBatch()"))
    for row: VoucherClaim in voucherClaims:
        config: ChannelConfig = row.voucher.channel
        if msg.sender != config.receiver and msg.sender != config.receiverAuthorizer:
            raw_revert(method_id("NotAuthorizedToClaim()"))
        self._claim_row(row)


@external
@nonreentrant
def claimWithSignature(voucherClaims: DynArray[VoucherClaim, CLAIMS_MAX], authorizerSignature: Bytes[128]):
    self._require_development()
    if len(voucherClaims) == 0:
        raw_revert(method_id("EmptyBatch()"))
    authorizer: address = voucherClaims[0].voucher.channel.receiverAuthorizer
    self._require_signature(self._batch_digest(voucherClaims), authorizerSignature, authorizer)
    for row: VoucherClaim in voucherClaims:
        if row.voucher.channel.receiverAuthorizer != authorizer:
            raw_revert(method_id("NotReceiverAuthorizer()"))
        self._claim_row(row)


@external
@nonreentrant
def settle(receiver: address, token: address):
    self._require_development()
    state: ReceiverState = self.receivers[receiver][token]
    amount: uint128 = state.totalClaimed - state.totalSettled
    if amount == 0:
        return
    self.receivers[receiver][token].totalSettled = state.totalClaimed
    assert extcall ERC20(token).transfer(receiver, convert(amount, uint256))
    log Settled(receiver=receiver, token=token, sender=msg.sender, amount=amount)


# --- refund and withdrawal ------------------------------------------------------------------------------------

@internal
def _close_if_empty(config: ChannelConfig, channel_id: bytes32):
    # A channel that was ever claimed from is never closed: its totals stay, and so do old vouchers' worth.
    state: ChannelState = self.channels[channel_id]
    if state.balance == 0 and state.totalClaimed == 0:
        log ChannelClosed(channelId=channel_id, config=config)


@internal
def _refund(config: ChannelConfig, amount: uint128):
    if amount == 0:
        raw_revert(method_id("ZeroRefund()"))
    channel_id: bytes32 = self._channel_id(config)
    # Used up even when there is nothing to give back, so that a signed refund never works twice.
    self.refundNonce[channel_id] += 1
    state: ChannelState = self.channels[channel_id]
    paid: uint128 = min(amount, state.balance - state.totalClaimed)
    if paid == 0:
        return
    self.channels[channel_id].balance = state.balance - paid
    pending: WithdrawalState = self.pendingWithdrawals[channel_id]
    if pending.initiatedAt != 0:
        # The receiver gives back what the payer was about to take: the pending amount shrinks with it.
        if paid >= pending.amount:
            self.pendingWithdrawals[channel_id] = empty(WithdrawalState)
        else:
            self.pendingWithdrawals[channel_id].amount = pending.amount - paid
    log Refunded(channelId=channel_id, sender=msg.sender, amount=paid)
    self._close_if_empty(config, channel_id)
    assert extcall ERC20(config.token).transfer(config.payer, convert(paid, uint256))


@external
@nonreentrant
def refund(config: ChannelConfig, amount: uint128):
    self._require_development()
    if msg.sender != config.receiver and msg.sender != config.receiverAuthorizer:
        raw_revert(method_id("NotAuthorizedToRefund()"))
    self._refund(config, amount)


@external
@nonreentrant
def refundWithSignature(config: ChannelConfig, amount: uint128, nonce: uint256, receiverAuthorizerSignature: Bytes[128]):
    self._require_development()
    channel_id: bytes32 = self._channel_id(config)
    if nonce != self.refundNonce[channel_id]:
        raw_revert(method_id("InvalidRefundNonce()"))
    self._require_signature(
        self._refund_digest(channel_id, nonce, amount), receiverAuthorizerSignature, config.receiverAuthorizer
    )
    self._refund(config, amount)


@external
@nonreentrant
def initiateWithdraw(config: ChannelConfig, amount: uint128):
    self._require_development()
    if msg.sender != config.payer and msg.sender != config.payerAuthorizer:
        raw_revert(method_id("InvalidChannel()"))
    if amount == 0:
        raw_revert(method_id("NothingToWithdraw()"))
    channel_id: bytes32 = self._channel_id(config)
    if self.pendingWithdrawals[channel_id].initiatedAt != 0:
        raw_revert(method_id("WithdrawalAlreadyPending()"))
    state: ChannelState = self.channels[channel_id]
    if amount > state.balance - state.totalClaimed:
        raw_revert(method_id("WithdrawAmountExceedsAvailable()"))
    now: uint40 = convert(block.timestamp, uint40)
    self.pendingWithdrawals[channel_id] = WithdrawalState(amount=amount, initiatedAt=now)
    log WithdrawInitiated(channelId=channel_id, amount=amount, finalizeAfter=now + config.withdrawDelay)


@external
@nonreentrant
def finalizeWithdraw(config: ChannelConfig):
    self._require_development()
    if msg.sender != config.payer and msg.sender != config.payerAuthorizer:
        raw_revert(method_id("NotAuthorizedToFinalizeWithdraw()"))
    channel_id: bytes32 = self._channel_id(config)
    pending: WithdrawalState = self.pendingWithdrawals[channel_id]
    if pending.initiatedAt == 0:
        raw_revert(method_id("WithdrawalNotPending()"))
    if convert(block.timestamp, uint40) < pending.initiatedAt + config.withdrawDelay:
        raw_revert(method_id("WithdrawDelayNotElapsed()"))
    state: ChannelState = self.channels[channel_id]
    paid: uint128 = min(pending.amount, state.balance - state.totalClaimed)
    self.pendingWithdrawals[channel_id] = empty(WithdrawalState)
    self.channels[channel_id].balance = state.balance - paid
    log WithdrawFinalized(channelId=channel_id, sender=msg.sender, amount=paid)
    self._close_if_empty(config, channel_id)
    if paid != 0:
        assert extcall ERC20(config.token).transfer(config.payer, convert(paid, uint256))


# --- several calls at once ------------------------------------------------------------------------------------

@external
def multicall(data: DynArray[Bytes[CALL_BYTES_MAX], CALLS_MAX]) -> DynArray[Bytes[32], CALLS_MAX]:
    results: DynArray[Bytes[32], CALLS_MAX] = []
    for row: Bytes[CALL_BYTES_MAX] in data:
        results.append(raw_call(self, row, max_outsize=32, is_delegate_call=True))
    return results
