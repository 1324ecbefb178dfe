# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Development stand-in of ERC3009DepositCollector
@license Apache-2.0
@notice DEVELOPMENT CHAINS ONLY. Takes a deposit from the payer by receiveWithAuthorization, whose nonce binds it to
    one channel, and hands it to the settlement contract that asked.
    Source: x402 v2, scheme batch-settlement on EVM (nonce and collectorData).
"""

interface ERC20:
    def transfer(to: address, amount: uint256) -> bool: nonpayable

interface ERC3009:
    def receiveWithAuthorization(
        payer: address, to: address, amount: uint256, validAfter: uint256, validBefore: uint256, nonce: bytes32, signature: Bytes[512]
    ): nonpayable

x402BatchSettlement: public(constant(address)) = 0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003


@external
def collect(payer: address, token: address, amount: uint256, channelId: bytes32, data: Bytes[1024]):
    if msg.sender != x402BatchSettlement:
        raw_revert(method_id("OnlyX402BatchSettlement()"))
    valid_after: uint256 = 0
    valid_before: uint256 = 0
    salt: uint256 = 0
    signature: Bytes[512] = b""
    valid_after, valid_before, salt, signature = abi_decode(data, (uint256, uint256, uint256, Bytes[512]))
    nonce: bytes32 = keccak256(abi_encode(channelId, salt))
    extcall ERC3009(token).receiveWithAuthorization(
        payer, self, amount, valid_after, valid_before, nonce, signature
    )
    assert extcall ERC20(token).transfer(msg.sender, amount)
