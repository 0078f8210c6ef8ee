"""One target under libFuzzer, by atheris: inputs that reach new code are kept and changed further.

A process of its own: ``python -m fuzzing.guided TARGET SECONDS COUNT SEED KEEP``, which is what
``scripts/fuzz --guided`` starts.  What reached new code stays in ``.fuzz/corpus``, where the next
run goes on from.
"""

from __future__ import annotations

import gc
import hashlib
import os
import sys
import traceback
from pathlib import Path
from types import FunctionType
from typing import Final

import atheris

from fuzzing.keep import keep, told
from fuzzing.mutate import LONGEST
from fuzzing.target import Session
from fuzzing.targets import TARGETS

CORPUS: Final = Path(".fuzz") / "corpus"

_OURS: Final = ("protocol", "meshd", "msgpack")


def main(name: str, seconds: str, count: str, seed: str, kept: str) -> None:
    """Does not return: libFuzzer ends the process."""
    target = TARGETS[name]
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    session = Session(target)
    done = 0

    def one(data: bytes) -> None:
        nonlocal done
        done += 1
        try:
            session.feed(data)
        except Exception as error:
            traceback.print_exc()
            path = keep(Path(kept), session)
            print(f"fuzz: {told(target, done, path, error)}", file=sys.stderr, flush=True)
            os._exit(1)  # libFuzzer would keep this one input, and not those before it

    for found in gc.get_objects():
        if isinstance(found, FunctionType) and str(found.__module__).partition(".")[0] in _OURS:
            atheris.instrument_func(found)
    limits = [f"-max_total_time={seconds}"] if count == "0" else [f"-runs={count}"]
    options = [*limits, f"-seed={seed}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    atheris.Setup([f"fuzz {name}", *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
