# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Development stand-in of Multicall3
@license Apache-2.0
@notice DEVELOPMENT CHAINS ONLY. Only tryAggregate, which common x402 facilitators read a chain with.
    Source: Multicall3's interface.
"""

CALLS_MAX: constant(uint256) = 32
DATA_MAX: constant(uint256) = 4096
RESULT_MAX: constant(uint256) = 1024

struct Call:
    target: address
    callData: Bytes[DATA_MAX]

struct Result:
    success: bool
    returnData: Bytes[RESULT_MAX]


@external
@payable
def tryAggregate(requireSuccess: bool, calls: DynArray[Call, CALLS_MAX]) -> DynArray[Result, CALLS_MAX]:
    results: DynArray[Result, CALLS_MAX] = []
    for call: Call in calls:
        success: bool = False
        data: Bytes[RESULT_MAX] = b""
        success, data = raw_call(call.target, call.callData, max_outsize=RESULT_MAX, revert_on_failure=False)
        assert success or not requireSuccess, "Multicall3: call failed"
        results.append(Result(success=success, returnData=data))
    return results
