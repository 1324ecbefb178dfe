"""The development contracts: shipped is what compiles, digests are the golden ones, other chains are refused."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from eth_abi import encode
from web3 import Web3
from web3.exceptions import ContractCustomError

from depai_robot.adapters.anvil import call_rpc, fund, place_contracts, read_artifact, start_anvil
from depai_robot.adapters.settlement_abi import ERROR_BY_SELECTOR, SETTLEMENT_ABI, TOKEN_ABI, name_error
from depai_robot.app.resource import resource_path
from depai_robot.payment import eip712
from depai_robot.values.error import FinalChainError
from depai_robot.values.identity import address_from_hex, address_to_hex, keccak256
from test.chain_world import ARTIFACTS, DEVELOPMENT_USDC, Party, code_hash, require_anvil, signer, start_chain

ROOT = Path(__file__).resolve().parents[2]
VECTORS = json.loads((ROOT / "test" / "data" / "x402.json").read_text())
SETTLEMENT = address_to_hex(eip712.SETTLEMENT)


@pytest.fixture(scope="module")
def anvil(tmp_path_factory):
    process = start_chain(tmp_path_factory.mktemp("anvil"))
    yield process
    process.stop()


def settlement_at(url):
    abi = read_artifact(ARTIFACTS, "settlement")["abi"]
    return Web3(Web3.HTTPProvider(url)).eth.contract(address=SETTLEMENT, abi=abi)


def token_at(url):
    abi = read_artifact(ARTIFACTS, "usdc")["abi"]
    return Web3(Web3.HTTPProvider(url)).eth.contract(address=address_to_hex(DEVELOPMENT_USDC), abi=abi)


def config_tuple(row):
    keys = ("payer", "payerAuthorizer", "receiver", "receiverAuthorizer", "token", "withdrawDelay", "salt")
    return tuple(row[key] for key in keys)


def claim_tuples(rows):
    return [
        (
            (config_tuple(row["voucher"]["channel"]), int(row["voucher"]["maxClaimableAmount"])),
            bytes.fromhex(row["signature"][2:]),
            int(row["totalClaimed"]),
        )
        for row in rows
    ]


# --- what is shipped -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["settlement", "collector", "usdc", "multicall3"])
def test_shipped_artifacts_are_what_the_sources_compile_to(name):
    pytest.importorskip("vyper", reason="vyper is absent: pip install 'depai_robot[test]'")
    from contracts.compile import compile_contract

    assert (ARTIFACTS / f"{name}.json").read_text() == compile_contract(name)


def test_the_development_network_pins_what_is_shipped():
    network = yaml.safe_load(resource_path("config", "network", "development.yaml").read_text())
    assert network["settlement_code_hash"] == "0x" + code_hash("settlement").hex()
    assert network["collector_code_hash"] == "0x" + code_hash("collector").hex()
    assert address_from_hex(network["token"]) == DEVELOPMENT_USDC


def shape(item):
    """What callers see of an ABI entry: types, not names."""

    def kind(part):
        parts = ",".join(kind(p) for p in part["components"]) if "components" in part else ""
        return part["type"].replace("tuple", f"({parts})") + ("!" if part.get("indexed") else "")

    inputs, outputs = ([kind(part) for part in item.get(side, [])] for side in ("inputs", "outputs"))
    return item["type"], item["name"], inputs, outputs


def test_the_adapters_interface_is_the_contracts():
    shipped = {
        name: [shape(item) for item in read_artifact(ARTIFACTS, name)["abi"] if "name" in item]
        for name in ("settlement", "usdc")
    }
    for name, abi in (("settlement", SETTLEMENT_ABI), ("usdc", TOKEN_ABI)):
        for item in abi:
            assert shape(item) in [
                (k, n, i, o[0][1:-1].split(",") if o and o[0].startswith("(") else o)
                for k, n, i, o in shipped[name]
            ]


def test_the_interface_is_that_of_the_x402_package():
    theirs = pytest.importorskip(
        "x402.mechanisms.evm.batch_settlement.abi",
        reason="the x402 package is absent: pip install 'depai_robot[test]'",
    ).BATCH_SETTLEMENT_ABI
    ours = {
        shape(item)[1]: shape(item)
        for item in read_artifact(ARTIFACTS, "settlement")["abi"]
        if "name" in item
    }
    for item in theirs:
        kind, name, inputs, outputs = shape(item)
        mine = ours[name]
        flat = mine[3][0][1:-1].split(",") if mine[3] and mine[3][0].startswith("(") else mine[3]
        assert (kind, name, inputs, outputs) == (mine[0], mine[1], mine[2], flat)


# --- digests -------------------------------------------------------------------------------------------------


def check_digests(url, case):
    contract = settlement_at(url)
    given, expected = case["inputs"], case["expected"]
    channel = contract.functions.getChannelId(config_tuple(expected["channelConfig"])).call()
    assert "0x" + channel.hex() == expected["channelId"]
    digest = contract.functions.getVoucherDigest(channel, int(expected["maxClaimableAmount"])).call()
    assert "0x" + digest.hex() == expected["voucherDigest"]
    digest = contract.functions.getRefundDigest(
        channel, int(given["refundNonce"]), int(given["refundAmount"])
    ).call()
    assert "0x" + digest.hex() == expected["refundDigest"]
    digest = contract.functions.getClaimBatchDigest(claim_tuples(expected["claims"])).call()
    assert "0x" + digest.hex() == expected["claimBatchDigest"]


CHAINS = sorted({case["inputs"]["chainId"] for case in VECTORS["cases"]})


@pytest.mark.parametrize("chain_id", CHAINS)
def test_golden_digests_on_their_own_chain(chain_id, tmp_path, anvil):
    other = start_anvil(tmp_path, chain_id=chain_id)
    try:
        code = read_artifact(ARTIFACTS, "settlement")["bytecode_runtime"]
        call_rpc(other.url, "anvil_setCode", [SETTLEMENT, code])
        for case in VECTORS["cases"]:
            if case["inputs"]["chainId"] == chain_id:
                check_digests(other.url, case)
    finally:
        other.stop()


def test_an_empty_batch_has_a_digest(anvil):
    digest = settlement_at(anvil.url).functions.getClaimBatchDigest([]).call()
    assert digest == eip712.claim_batch_digest([], eip712.settlement_domain(31337))


# --- the contract's verdict on vouchers ----------------------------------------------------------------------


@pytest.mark.parametrize("row", VECTORS["voucherAcceptance"], ids=lambda row: row["note"])
def test_the_contracts_verdict_on_golden_vouchers(judge, row):
    config = config_tuple(row["channelConfig"])
    total = int(row["maxClaimableAmount"])
    claim = (((config, total), bytes.fromhex(row["signature"][2:]), total),)
    call = judge.functions.claim(list(claim))
    if row["contractClaim"] == "ok":
        call.call({"from": row["channelConfig"]["receiver"]})
        return
    with pytest.raises(ContractCustomError) as refusal:
        call.call({"from": row["channelConfig"]["receiver"]})
    assert name_error(bytes.fromhex(refusal.value.data[2:])) == row["contractClaim"]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """The contract on the vectors' chain, its guard widened and its channel filled by hand."""
    vyper = pytest.importorskip("vyper", reason="vyper is absent: pip install 'depai_robot[test]'")
    source = (ROOT / "contracts" / "settlement.vy").read_text()
    widened = source.replace("chain.id == 1337", "chain.id == 84532")
    assert widened != source
    out = vyper.compile_code(widened, output_formats=["bytecode_runtime", "layout"])
    slot = out["layout"]["storage_layout"]["channels"]["slot"]
    require_anvil()
    process = start_anvil(tmp_path_factory.mktemp("judge"), chain_id=84532)
    try:
        process.rpc("anvil_setCode", SETTLEMENT, out["bytecode_runtime"])
        for row in VECTORS["voucherAcceptance"]:
            key = keccak256(slot.to_bytes(32, "big") + bytes.fromhex(row["channelId"][2:]))
            process.rpc(
                "anvil_setStorageAt", SETTLEMENT, "0x" + key.hex(), "0x" + (10**4).to_bytes(32, "big").hex()
            )
        yield settlement_at(process.url)
    finally:
        process.stop()


# --- other chains --------------------------------------------------------------------------------------------


def test_nothing_is_placed_or_moved_on_another_chain(tmp_path, anvil):
    other = start_anvil(tmp_path, chain_id=8453)
    try:
        with pytest.raises(FinalChainError, match="8453 is not a development chain"):
            place_contracts(other.url, ARTIFACTS)
        with pytest.raises(FinalChainError, match="8453 is not a development chain"):
            fund(other.url, bytes(20), usdc_atomic=1)
        for name, address in (("settlement", eip712.SETTLEMENT), ("usdc", DEVELOPMENT_USDC)):
            code = read_artifact(ARTIFACTS, name)["bytecode_runtime"]
            call_rpc(other.url, "anvil_setCode", [address_to_hex(address), code])
        party = Party()
        config = config_tuple(
            {
                "payer": address_to_hex(party.payer.address),
                "payerAuthorizer": address_to_hex(party.voucher_key.address),
                "receiver": address_to_hex(party.receiver.address),
                "receiverAuthorizer": address_to_hex(party.receiver.address),
                "token": address_to_hex(DEVELOPMENT_USDC),
                "withdrawDelay": 900,
                "salt": bytes(32),
            }
        )
        contract = settlement_at(other.url).functions
        for call in (
            contract.deposit(config, 1, SETTLEMENT, b""),
            contract.claim([]),
            contract.settle(config[0], config[4]),
            contract.refund(config, 1),
            contract.initiateWithdraw(config, 1),
            contract.finalizeWithdraw(config),
            token_at(other.url).functions.mint(config[0], 1),
        ):
            with pytest.raises(Exception, match="refuses this chain"):
                call.call()
    finally:
        other.stop()


# --- token ---------------------------------------------------------------------------------------------------

EIP3009 = "address,address,uint256,uint256,uint256,bytes32"


@pytest.mark.parametrize("form", ["bytes", "v, r, s"])
@pytest.mark.parametrize("kind", ["transfer", "receive"])
def test_token_authorization_in_both_signature_forms(anvil, kind, form):
    payer, to = signer("payer"), signer("to")
    fund(anvil.url, payer.address, usdc_atomic=100)
    fund(anvil.url, to.address)
    words = {"amount_atomic": 40, "valid_after_s": 0, "valid_before_s": 2**40, "nonce": bytes(31) + b"\5"}
    domain = eip712.domain_separator("USDC", "2", 31337, DEVELOPMENT_USDC)
    signature = payer.sign(
        eip712.authorization_digest(
            domain, payer=payer.address, to=to.address, receive=kind == "receive", **words
        )
    )
    if form == "bytes":
        types, tail = ["bytes"], [signature]
    else:
        types, tail = ["uint8", "bytes32", "bytes32"], [signature[64], signature[:32], signature[32:64]]
    name = f"{kind}WithAuthorization({EIP3009},{','.join(types)})"
    arguments = [
        address_to_hex(payer.address),
        address_to_hex(to.address),
        40,
        0,
        2**40,
        words["nonce"],
        *tail,
    ]
    data = keccak256(name.encode())[:4] + encode([*EIP3009.split(","), *types], arguments)
    call = {"to": address_to_hex(DEVELOPMENT_USDC), "data": "0x" + data.hex()}
    token = token_at(anvil.url)
    if kind == "receive":
        stranger = signer("stranger")
        with pytest.raises(Exception, match="caller must be the payee"):
            token.w3.eth.call({**call, "from": address_to_hex(stranger.address)})
    anvil.rpc("anvil_impersonateAccount", address_to_hex(to.address))
    tx_hash = anvil.rpc("eth_sendTransaction", {**call, "from": address_to_hex(to.address)})
    assert token.w3.eth.wait_for_transaction_receipt(tx_hash)["status"] == 1
    assert token.functions.balanceOf(address_to_hex(to.address)).call() == 40
    assert token.functions.authorizationState(address_to_hex(payer.address), words["nonce"]).call()
    with pytest.raises(Exception, match="used or canceled"):
        token.w3.eth.call({**call, "from": address_to_hex(to.address)})


@pytest.mark.parametrize("form", ["bytes", "v, r, s"])
def test_token_authorization_is_cancelled_in_both_forms(anvil, form):
    payer = signer("payer")
    nonce = b"\7" * 32
    struct = keccak256(
        keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")
        + bytes(12)
        + payer.address
        + nonce
    )
    domain = eip712.domain_separator("USDC", "2", 31337, DEVELOPMENT_USDC)
    signature = payer.sign(eip712.typed_digest(domain, struct))
    if form == "bytes":
        types, tail = ["bytes"], [signature]
    else:
        types, tail = ["uint8", "bytes32", "bytes32"], [signature[64], signature[:32], signature[32:64]]
    name = f"cancelAuthorization(address,bytes32,{','.join(types)})"
    data = keccak256(name.encode())[:4] + encode(
        ["address", "bytes32", *types], [address_to_hex(payer.address), nonce, *tail]
    )
    sender = anvil.rpc("eth_accounts")[0]
    call = {"from": sender, "to": address_to_hex(DEVELOPMENT_USDC), "data": "0x" + data.hex()}
    tx_hash = anvil.rpc("eth_sendTransaction", call)
    token = token_at(anvil.url)
    assert token.w3.eth.wait_for_transaction_receipt(tx_hash)["status"] == 1
    assert token.functions.authorizationState(address_to_hex(payer.address), nonce).call()


def test_token_metadata_and_allowance(anvil):
    token = token_at(anvil.url)
    read = token.functions
    assert [read.name().call(), read.version().call(), read.symbol().call(), read.decimals().call()] == [
        "USDC",
        "2",
        "USDC",
        6,
    ]
    assert read.DOMAIN_SEPARATOR().call() == eip712.domain_separator("USDC", "2", 31337, DEVELOPMENT_USDC)
    owner, spender, to = (signer(role) for role in ("owner", "spender", "to"))
    fund(anvil.url, owner.address, usdc_atomic=10)
    fund(anvil.url, spender.address)
    for who in (owner, spender):
        anvil.rpc("anvil_impersonateAccount", address_to_hex(who.address))
    read.approve(address_to_hex(spender.address), 6).transact({"from": address_to_hex(owner.address)})
    move = read.transferFrom(address_to_hex(owner.address), address_to_hex(to.address), 6)
    move.transact({"from": address_to_hex(spender.address)})
    assert read.balanceOf(address_to_hex(to.address)).call() == 6
    with pytest.raises(Exception, match="exceeds allowance"):
        move.call({"from": address_to_hex(spender.address)})


def test_only_the_settlement_contract_collects(anvil):
    abi = read_artifact(ARTIFACTS, "collector")["abi"]
    contract = Web3(Web3.HTTPProvider(anvil.url)).eth.contract(
        address=address_to_hex(eip712.DEPOSIT_COLLECTOR), abi=abi
    )
    assert contract.functions.x402BatchSettlement().call() == SETTLEMENT
    with pytest.raises(ContractCustomError) as refusal:
        contract.functions.collect(SETTLEMENT, address_to_hex(DEVELOPMENT_USDC), 1, bytes(32), b"").call()
    assert ERROR_BY_SELECTOR[bytes.fromhex(refusal.value.data[2:10])] == "OnlyX402BatchSettlement"


def test_start_and_stop_many_chains_at_once(tmp_path, anvil):
    with ThreadPoolExecutor(3) as pool:
        started = list(pool.map(lambda n: start_anvil(tmp_path / str(n)), range(3)))
    ports = {process.port for process in started}
    for process in started:
        assert process.rpc("eth_blockNumber") == "0x0"
        assert process.log.read_text() == ""
        process.stop()
        process.stop()
        assert process.process.returncode is not None
    assert len(ports) == 3
