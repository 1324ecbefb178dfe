# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Development USDC
@license Apache-2.0
@notice DEVELOPMENT CHAINS ONLY (31337 or 1337): anybody may mint. ERC-20 with 6 decimals and EIP-3009 in both
    signature forms, bytes and (v, r, s); the latter is dispatched by hand, since Vyper has no overloads.
    Source: EIP-20, EIP-3009; names of functions and of the domain as in FiatToken v2.2.
"""

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256

event AuthorizationUsed:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

event AuthorizationCanceled:
    authorizer: indexed(address)
    nonce: indexed(bytes32)

name: public(constant(String[4])) = "USDC"
symbol: public(constant(String[4])) = "USDC"
version: public(constant(String[1])) = "2"
decimals: public(constant(uint8)) = 6

DOMAIN_TYPE: constant(bytes32) = keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
TRANSFER_TYPE: constant(bytes32) = keccak256("TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")
RECEIVE_TYPE: constant(bytes32) = keccak256("ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)")
CANCEL_TYPE: constant(bytes32) = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)")
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
authorizationState: public(HashMap[address, HashMap[bytes32, bool]])


@internal
@view
def _domain() -> bytes32:
    return keccak256(abi_encode(DOMAIN_TYPE, keccak256("USDC"), keccak256("2"), chain.id, self))


@external
@view
def DOMAIN_SEPARATOR() -> bytes32:
    return self._domain()


@internal
def _move(sender: address, receiver: address, amount: uint256):
    assert receiver != empty(address), "ERC20: transfer to the zero address"
    assert self.balanceOf[sender] >= amount, "ERC20: transfer amount exceeds balance"
    self.balanceOf[sender] -= amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=sender, receiver=receiver, value=amount)


@external
def mint(to: address, amount: uint256) -> bool:
    assert chain.id == 31337 or chain.id == 1337, "development token: refuses this chain"
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log Transfer(sender=empty(address), receiver=to, value=amount)
    return True


@external
def transfer(to: address, amount: uint256) -> bool:
    self._move(msg.sender, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    log Approval(owner=msg.sender, spender=spender, value=amount)
    return True


@external
def transferFrom(sender: address, to: address, amount: uint256) -> bool:
    allowed: uint256 = self.allowance[sender][msg.sender]
    assert allowed >= amount, "ERC20: transfer amount exceeds allowance"
    self.allowance[sender][msg.sender] = allowed - amount
    self._move(sender, to, amount)
    return True


@internal
@pure
def _recover(digest: bytes32, v: uint8, r: uint256, s: uint256) -> address:
    assert s <= HALF_ORDER, "ECRecover: invalid signature 's' value"
    assert v == 27 or v == 28, "ECRecover: invalid signature 'v' value"
    return ecrecover(digest, v, r, s)


@internal
def _authorized(
    kind: bytes32, sender: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256,
    nonce: bytes32, v: uint8, r: uint256, s: uint256
):
    assert block.timestamp > validAfter, "FiatTokenV2: authorization is not yet valid"
    assert block.timestamp < validBefore, "FiatTokenV2: authorization is expired"
    assert not self.authorizationState[sender][nonce], "FiatTokenV2: authorization is used or canceled"
    struct_hash: bytes32 = keccak256(abi_encode(kind, sender, to, amount, validAfter, validBefore, nonce))
    digest: bytes32 = keccak256(concat(x"1901", self._domain(), struct_hash))
    signer: address = self._recover(digest, v, r, s)
    assert signer != empty(address) and signer == sender, "FiatTokenV2: invalid signature"
    self.authorizationState[sender][nonce] = True
    log AuthorizationUsed(authorizer=sender, nonce=nonce)
    self._move(sender, to, amount)


@internal
@pure
def _split(signature: Bytes[512]) -> (uint8, uint256, uint256):
    assert len(signature) == 65, "ECRecover: invalid signature length"
    return (
        convert(slice(signature, 64, 1), uint8),
        convert(extract32(signature, 0), uint256),
        convert(extract32(signature, 32), uint256),
    )


@external
def transferWithAuthorization(
    sender: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256, nonce: bytes32, signature: Bytes[512]
):
    v: uint8 = 0
    r: uint256 = 0
    s: uint256 = 0
    v, r, s = self._split(signature)
    self._authorized(TRANSFER_TYPE, sender, to, amount, validAfter, validBefore, nonce, v, r, s)


@external
def receiveWithAuthorization(
    sender: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256, nonce: bytes32, signature: Bytes[512]
):
    assert to == msg.sender, "FiatTokenV2: caller must be the payee"
    v: uint8 = 0
    r: uint256 = 0
    s: uint256 = 0
    v, r, s = self._split(signature)
    self._authorized(RECEIVE_TYPE, sender, to, amount, validAfter, validBefore, nonce, v, r, s)


@internal
def _cancel(authorizer: address, nonce: bytes32, v: uint8, r: uint256, s: uint256):
    assert not self.authorizationState[authorizer][nonce], "FiatTokenV2: authorization is used or canceled"
    struct_hash: bytes32 = keccak256(abi_encode(CANCEL_TYPE, authorizer, nonce))
    digest: bytes32 = keccak256(concat(x"1901", self._domain(), struct_hash))
    signer: address = self._recover(digest, v, r, s)
    assert signer != empty(address) and signer == authorizer, "FiatTokenV2: invalid signature"
    self.authorizationState[authorizer][nonce] = True
    log AuthorizationCanceled(authorizer=authorizer, nonce=nonce)


@external
def cancelAuthorization(authorizer: address, nonce: bytes32, signature: Bytes[512]):
    v: uint8 = 0
    r: uint256 = 0
    s: uint256 = 0
    v, r, s = self._split(signature)
    self._cancel(authorizer, nonce, v, r, s)


@external
def __default__():
    # The (v, r, s) overloads.
    selector: Bytes[4] = slice(msg.data, 0, 4)
    v: uint8 = 0
    r: uint256 = 0
    s: uint256 = 0
    sender: address = empty(address)
    nonce: bytes32 = empty(bytes32)
    if selector == method_id("cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)"):
        sender, nonce, v, r, s = abi_decode(
            slice(msg.data, 4, 160), (address, bytes32, uint8, uint256, uint256)
        )
        self._cancel(sender, nonce, v, r, s)
        return
    kind: bytes32 = empty(bytes32)
    if selector == method_id("transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"):
        kind = TRANSFER_TYPE
    elif selector == method_id("receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"):
        kind = RECEIVE_TYPE
    else:
        raise "no such function"
    to: address = empty(address)
    amount: uint256 = 0
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    sender, to, amount, valid_after, valid_before, nonce, v, r, s = abi_decode(
        slice(msg.data, 4, 288), (address, address, uint256, uint256, uint256, bytes32, uint8, uint256, uint256)
    )
    if kind == RECEIVE_TYPE:
        assert to == msg.sender, "FiatTokenV2: caller must be the payee"
    self._authorized(kind, sender, to, amount, valid_after, valid_before, nonce, v, r, s)
