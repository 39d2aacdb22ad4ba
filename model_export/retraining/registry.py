"""Registry: a folder of models. The link ``current`` names the champion, which workers serve.

::

    current             relative link to the champion's model folder, swapped in one step
    <version>/          model folder, as ``valuestream-model export`` writes it
    runs/<version>/     run folder that it was exported from; its validated.safetensors is the network that its
                        calibration was found with, trained on labels that are one horizon older
    history/<n>.json    a record of each retraining, promoted or not
    work/               examples, and the lock

A version is the number of its retraining and the hash of its weights. A folder that ``current`` names is never written
to.
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from safetensors.torch import load_file, save_file

from model_export.export.export import export
from model_export.network.event_bert import EventBert
from model_export.run_folder import WEIGHTS_FILE, Run, Sample, load_run, save_run
from stream.contract.manifest import MANIFEST_FILE, Variant
from stream.errors import ConfigError

__all__ = ["Champion", "Registry"]

CURRENT: Final = "current"
VALIDATED_FILE: Final = f"validated.{WEIGHTS_FILE.rpartition('.')[2]}"
#: How many models are kept, so that one can go back to them; the champion is one of them. Each takes a few MB.
VERSIONS_KEPT: Final = 5
_VERSION: Final = re.compile(r"\d{4,}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that serves. ``validated`` is the network that its calibration was found with."""

    version: str
    run: Run
    network: EventBert
    validated: EventBert


class Registry:
    """One registry folder, which is made if it does not exist. Raises ConfigError if the folder is a model folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._link = folder / CURRENT
        if (folder / MANIFEST_FILE).exists():
            raise ConfigError(f"{folder} is one model, expected a folder of models or a new one; give another --models")
        for part in ("runs", "history", "work"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    @property
    def examples(self) -> Path:
        """The folder of the labelled examples."""
        return self.folder / "work" / "dataset"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. Raises ConfigError if another process holds it: two would replace each other's champion."""
        with (self.folder / "work" / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another retraining is at work in {self.folder}; wait until it has ended") from None
            yield

    def champion(self) -> Champion | None:
        """Read the model that ``current`` names; None if there is no link. Raises ConfigError if the link is broken."""
        if not self._link.is_symlink():
            if self._link.exists():
                raise ConfigError(f"{self._link} is no link, expected one to a model folder; give another --models")
            return None
        version = self._link.readlink().name
        run_folder = self.folder / "runs" / version
        path = run_folder / VALIDATED_FILE
        if not (self._link.is_dir() and path.is_file()):
            raise ConfigError(
                f"{self._link} names {version}, expected {self.folder / version} and {path};"
                " put them back, or link current to a version that is there"
            )
        run, network, _, _ = load_run(run_folder)
        validated = EventBert(run.settings.model, run.shape)
        validated.load_state_dict(load_file(path))
        return Champion(version, run, network, validated.eval())

    def add(
        self,
        number: int,
        run: Run,
        *,
        network: EventBert,
        validated: EventBert,
        sample: Sample,
        variants: tuple[Variant, ...],
        sign_key: Path | None = None,
    ) -> str:
        """Write run folder and model folder of a new version, and return its name. No worker sees it yet.

        The serving code has then loaded it once. ``validated`` is the network that the calibration was found with.
        """
        scratch = self.folder / "work" / "run"
        save_run(scratch, run, network, sample)
        save_file({name: x.contiguous() for name, x in validated.state_dict().items()}, scratch / VALIDATED_FILE)
        version = f"{number:04d}-{load_run(scratch)[3][:12]}"
        run_folder = self.folder / "runs" / version
        shutil.rmtree(run_folder, ignore_errors=True)  # an interrupted retraining may have left one
        scratch.rename(run_folder)
        export(run_folder, self.folder / version, variants=variants, sign_key=sign_key)
        return version

    def promote(self, version: str) -> None:
        """Make ``version`` the champion in one step. At every moment the link names a complete model."""
        new = self.folder / f".{CURRENT}"
        new.unlink(missing_ok=True)  # an interrupted promotion may have left one
        new.symlink_to(version)
        new.replace(self._link)

    def next_number(self) -> int:
        """The number of the next retraining; the first has 1."""
        names = [*(path.stem for path in (self.folder / "history").glob("*.json")), *self._versions()]
        return 1 + max((int(name.partition("-")[0]) for name in names), default=0)

    def record(self, number: int, record: msgspec.Struct) -> Path:
        """Write the result of a retraining; the file is there whole or not at all."""
        path = self.folder / "history" / f"{number:04d}.json"
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return new.replace(path)

    def prune(self) -> None:
        """Remove old versions. The champion and the newest others stay."""
        champion = self._link.readlink().name
        others = [version for version in self._versions() if version != champion]
        for version in others[: -(VERSIONS_KEPT - 1)]:
            for folder in (self.folder / version, self.folder / "runs" / version):
                shutil.rmtree(folder, ignore_errors=True)

    def _versions(self) -> list[str]:
        """Versions that have a folder, oldest first."""
        names = {path.name for parent in (self.folder, self.folder / "runs") for path in parent.iterdir()}
        return sorted(filter(_VERSION.fullmatch, names))
