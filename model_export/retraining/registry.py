"""Registry: a folder of models, of which ``current`` is the champion that workers serve.

::

    current             relative link to the champion's model folder, swapped in one step
    <version>/          model folder, as ``valuestream-model export`` writes it
    runs/<version>/     run folder that it was exported from, and validated.safetensors: the network that its
                        calibration was found with, one horizon older
    history/<n>.json    a record of each retraining, promoted or not
    work/               examples, and the lock

A version is the number of its retraining and the hash of its weights. Nothing that is linked is ever written to.
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
#: Models kept to go back to, the champion among them: a few MB each.
VERSIONS_KEPT: Final = 5
_VERSION: Final = re.compile(r"\d{4,}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Champion:
    """The model that serves: its run, its network, and the network that its calibration was found with."""

    version: str
    run: Run
    network: EventBert
    validated: EventBert


class Registry:
    """One registry folder, made where there is none; raises ConfigError for one model's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._link = folder / CURRENT
        if (folder / MANIFEST_FILE).exists():
            raise ConfigError(f"{folder} is one model, expected a folder of models or a new one; give another --models")
        for part in ("runs", "history", "work"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    @property
    def examples(self) -> Path:
        """Where the labelled examples are kept."""
        return self.folder / "work" / "dataset"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Raise ConfigError where another process is at it: two would promote over each other."""
        with (self.folder / "work" / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another retraining is at work in {self.folder}; wait until it has ended") from None
            yield

    def champion(self) -> Champion | None:
        """The model that ``current`` names, none where there is no link yet; ConfigError for a broken one."""
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
        networks: tuple[EventBert, EventBert],
        sample: Sample,
        variants: tuple[Variant, ...],
        sign_key: Path | None = None,
    ) -> str:
        """Write run and model folder of a new version, which serving code has loaded; no worker sees it yet.

        ``networks`` are the one that serves, and the one that its calibration was found with.
        """
        network, validated = networks
        scratch = self.folder / "work" / "run"
        save_run(scratch, run, network, sample)
        save_file({name: x.contiguous() for name, x in validated.state_dict().items()}, scratch / VALIDATED_FILE)
        version = f"{number:04d}-{load_run(scratch)[3][:12]}"
        run_folder = self.folder / "runs" / version
        shutil.rmtree(run_folder, ignore_errors=True)  # left by one that was interrupted
        scratch.rename(run_folder)
        export(run_folder, self.folder / version, variants=variants, sign_key=sign_key)
        return version

    def promote(self, version: str) -> None:
        """Make ``version`` the champion in one step; interrupted before or after it, the link names a whole model."""
        new = self.folder / f".{CURRENT}"
        new.unlink(missing_ok=True)  # left by one that was interrupted
        new.symlink_to(version)
        new.replace(self._link)

    def next_number(self) -> int:
        """The number of the retraining that is now to be made, from 1."""
        names = [*(path.stem for path in (self.folder / "history").glob("*.json")), *self._versions()]
        return 1 + max((int(name.partition("-")[0]) for name in names), default=0)

    def record(self, number: int, record: msgspec.Struct) -> Path:
        """Write what a retraining came to, whole or not at all."""
        path = self.folder / "history" / f"{number:04d}.json"
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        return new.replace(path)

    def prune(self) -> None:
        """Remove all versions but the champion and the newest others."""
        champion = self._link.readlink().name
        others = [version for version in self._versions() if version != champion]
        for version in others[: -(VERSIONS_KEPT - 1)]:
            for folder in (self.folder / version, self.folder / "runs" / version):
                shutil.rmtree(folder, ignore_errors=True)

    def _versions(self) -> list[str]:
        """Versions that have a folder, oldest first."""
        found = {path.name for parent in (self.folder, self.folder / "runs") for path in parent.iterdir()}
        return sorted(filter(_VERSION.fullmatch, found))
