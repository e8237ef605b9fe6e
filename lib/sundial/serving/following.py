"""Following the registry: a thread watches the aliases, loads what they point to, and swaps between two batches."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from sundial.errors import SundialError
from sundial.serving.fastpath import arm
from sundial.serving.schema import Schema
from sundial.serving.sources import Loaded, ModelSource, Servable, Version

POLL_SECONDS = 0.5
RETRY_SECONDS = 5.0  # after a version could not be loaded; a retry costs production CPU
KEPT = 2  # the model in production and the one before it, so that going back needs no registry and no loading

logger = logging.getLogger("sundial.serving")


@dataclass(frozen=True)
class Following:
    """What is known of the aliases; replaced as a whole, so that readers need no lock.

    Attributes
    ----------
    model : Loaded or None
        What answers now.
    wanted : int or None
        Version that the alias ``production`` points to.
    shadow : int or None
        Version that the alias ``shadow`` points to.
    error : str
        Why the wanted version does not answer, or why the aliases cannot be read; empty while all is well.
    switches : int
        How often another version took over.
    """

    model: Loaded | None = None
    wanted: int | None = None
    shadow: int | None = None
    error: str = ""
    switches: int = 0


@dataclass
class AliasFollower:
    """Keeps :attr:`state` at what the aliases point to.

    A version that cannot be loaded changes nothing but :attr:`Following.error`: the old one goes on answering.

    Parameters
    ----------
    source : ModelSource
        Where models come from.
    poll_seconds : float
        Between two looks at the aliases.
    """

    source: ModelSource
    poll_seconds: float = POLL_SECONDS
    state: Following = field(default_factory=Following)
    _recent: dict[int, Loaded] = field(default_factory=dict)
    _extras: tuple[int, Mapping[str, str]] = (-1, {})
    _failed: tuple[int, float] = (-1, 0.0)
    looked: threading.Event = field(default_factory=threading.Event)  # set after the first look
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look, in a thread: a registry that hangs must not keep the server from saying so."""
        self._thread = threading.Thread(target=self._run, name="sundial-follow-aliases", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        self.look()
        self.looked.set()
        while not self._stop.wait(self.poll_seconds):
            self.look()

    def look(self) -> None:
        """Read the aliases, and load what is new."""
        try:
            production, shadow = self.source.alias("production"), self.source.alias("shadow")
            extras = self._read_extras(shadow)
        except Exception as error:  # noqa: BLE001  whatever a registry or its database raises, production goes on
            self._tell(f"the registry cannot be read: {error}")
            return
        state = replace(
            self.state,
            wanted=production.version if production else None,
            shadow=shadow.version if shadow else None,
        )
        current = state.model
        if production is None or (current is not None and current.version == production.version):
            if current is not None and set(current.schema.extras) != set(extras) - set(current.schema.features):
                current = replace(current, schema=make_schema(current.model, extras))
                self._keep(current)
            self.state = replace(state, model=current, error="")
            return
        self.state = state
        version, failed_at = self._failed
        if version == production.version and time.monotonic() - failed_at < RETRY_SECONDS:
            return
        try:
            loaded = self._recent.get(production.version) or self._load(production)
            loaded = replace(loaded, schema=make_schema(loaded.model, extras))
        except Exception as error:  # noqa: BLE001  any failure to load keeps the old model
            self._failed = (production.version, time.monotonic())
            self._tell(f"version {production.version} cannot be loaded: {error}")
            return
        self._failed = (-1, 0.0)
        self._keep(loaded)
        self.state = replace(state, model=loaded, error="", switches=state.switches + (current is not None))
        before = f" instead of version {current.version}" if current else ""
        logger.info("version %d answers from now on%s", loaded.version, before)

    def _read_extras(self, shadow: Version | None) -> Mapping[str, str]:
        """Read which features the shadow takes, so that what production does not need is logged for it."""
        if shadow is None:
            return {}
        version, features = self._extras
        if version != shadow.version or not features:
            self._extras = (shadow.version, self.source.features(shadow))
        return self._extras[1]

    def _tell(self, error: str) -> None:
        """Say once what is wrong."""
        if error != self.state.error:
            logger.error("%s", error)
        self.state = replace(self.state, error=error)

    def _keep(self, loaded: Loaded) -> None:
        self._recent.pop(loaded.version, None)
        self._recent[loaded.version] = loaded
        loaded.reader  # noqa: B018  made here, in this thread, and not at the first request
        while len(self._recent) > KEPT:
            del self._recent[next(iter(self._recent))]

    def _load(self, version: Version) -> Loaded:
        """Load a version and warm it, so that its first caller does not wait."""
        loaded = load(self.source, version)
        loaded = replace(loaded, path=arm(loaded))
        warm(loaded)
        # What stays for good is taken out of the garbage collector's sight: walking it stalls answers by 100 ms.
        gc.collect()
        gc.freeze()
        return loaded


def make_schema(model: Servable, extras: Mapping[str, str] | None = None) -> Schema:
    """Read from a model's card what it takes.

    Parameters
    ----------
    model : Servable
        The model.
    extras : mapping of str to str, optional
        Dtypes of the features of a shadow; those that the model does not take are optional.
    """
    names: dict[str, Any] = {
        name: model.card[name] for name in ("entity", "event_time") if isinstance(model.card.get(name), str)
    }
    return Schema.of(model.features, extras, **names)


def load(source: ModelSource, version: Version) -> Loaded:
    """Load a version."""
    model = source.load(version)
    return Loaded(version.version, model, make_schema(model), float(model.threshold), time.time())


def warm(loaded: Loaded) -> None:
    """Score the model's check rows, or one row without values, so that everything is imported and compiled."""
    check = getattr(loaded.model, "check_rows", None)
    try:
        if check is not None:
            frame, _ = check()
        else:
            frame = pd.DataFrame({name: [None] for name in loaded.schema.features})
        loaded.model.score(frame.head(1))
    except (SundialError, ValueError, TypeError) as error:
        logger.info("version %d was not warmed: %s", loaded.version, error)
