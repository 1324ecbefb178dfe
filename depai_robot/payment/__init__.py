"""x402 objects, EIP-712 digests, channels, vouchers, spending policy and receipts: pure.

May import values only. Signing needs a key and is a port; checking a signature needs none and is here.
"""
