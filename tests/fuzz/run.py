"""Run: runs every atheris target for its share of the time, from seeds of real events.

The exit status is 1 if a promise was broken. The input that broke it is kept as a file under ``.valuestream/fuzz``, and
``python -m tests.fuzz.target NAME FILE`` runs it again.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stream.contract.columns import USER_BYTES
from tests.contract.fixtures import make_state
from tests.decode.envelopes.examples import EXAMPLES
from tests.decode.makers import ALL_MAKERS, BROKEN, ISO, TIME
from tests.fuzz.inputs import ENVELOPES, TARGETS

FOLDER = Path(".valuestream/fuzz")
#: An input that takes more time or memory than this has made the code hang or blow up. A normal one takes 1 ms.
TIMEOUT_S, MEMORY_MB, BYTES_MAX = 10, 2_048, 70_000
#: Mutation would take long to find these.
DICTIONARY = (
    *("NaN", "Infinity", "1e999", "-1e308", "null", "true", '""', "[", "{", '"products"', '"price"', '"quantity"'),
    *('"timestamp"', '"ts"', '"userId"', '"user_id"', '"anonymousId"', '"currency"', '"EUR"', '"BIG"', '"revenue"'),
    *('"value"', '"total"', '"order_id"', '"messageId"', '"event_id"', '"review_body"', '"text"', '"item_id"'),
    *("\\ud800", "\\u0000", '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"', "1735600000000", "valuestream.attempt"),
)


def seeds(target: str) -> Iterator[bytes]:
    """Seeds: good events of every kind, broken events of the test suite, or packed users of every state version."""
    if target == "changelog":
        for version in USER_BYTES:
            lines = Path(make_state.__file__).with_name(f"state-v{version}.jsonl").read_text(encoding="utf-8")
            yield from (base64.b64decode(json.loads(line)["value"]) for line in lines.splitlines())
        return
    for place, preset in enumerate(ENVELOPES):
        yield from (bytes([place]) + json.dumps(example).encode() for example in EXAMPLES.get(preset, ()))
        if preset not in ALL_MAKERS:
            continue
        for kind in ("view", "purchase", "refund", "review", "cart", "?"):
            event = ALL_MAKERS[preset](kind=kind, user=7, order_id="o", item=5, category="c", amount="9.5", text="fits")
            yield bytes([place]) + json.dumps(event).encode()
        for time in (ISO, TIME, TIME * 1000.0):
            products = [{"price": 1, "quantity": "2"}, {"sku": "s"}]
            event = ALL_MAKERS[preset](kind="purchase", time=time, currency="EUR", products=products)
            yield bytes([place]) + json.dumps(event).encode()
        yield from (bytes([place]) + (value or b"")[:2_000] for value, _, _ in BROKEN.values())


def prepare(target: str) -> Path:
    """Write the seeds into the folder of a target, which keeps the inputs that earlier runs found."""
    corpus = FOLDER / target
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(seeds(target)):
        (corpus / f"seed-{i:03}").write_bytes(seed)
    lines = ('"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"' for word in DICTIONARY)
    (FOLDER / "words.dict").write_text("\n".join(lines) + "\n")
    return corpus


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Time for all targets together.")
@click.option(
    "--seed",
    default=1,
    show_default=True,
    help="Seed of the mutations. The same seed and corpus give the same findings.",
)
def main(seconds: float, seed: int) -> None:
    """Fuzz the decoder, dead letters and changelog values."""
    if importlib.util.find_spec("atheris") is None:
        raise click.ClickException("atheris is not installed; `make setup` brings it along on Linux")
    failed = [target for target in TARGETS if _fuzz(target, seconds / len(TARGETS), seed)]
    if failed:
        raise click.ClickException(f"{', '.join(failed)} broke a promise; the input is in {FOLDER}, see above")


def _fuzz(target: str, seconds: float, seed: int) -> int:
    flags = {
        "seed": seed,
        "max_total_time": max(1, round(seconds)),
        "timeout": TIMEOUT_S,
        "rss_limit_mb": MEMORY_MB,
        "max_len": BYTES_MAX,
        "dict": FOLDER / "words.dict",
        "artifact_prefix": f"{FOLDER}/{target}-",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    corpus = prepare(target)
    click.echo(f"{target}: {seconds:.0f} s from {len(list(corpus.iterdir()))} inputs")
    command = [sys.executable, "-m", "tests.fuzz.target", target, str(corpus)]
    return subprocess.run([*command, *(f"-{name}={value}" for name, value in flags.items())], check=False).returncode


if __name__ == "__main__":
    main()
