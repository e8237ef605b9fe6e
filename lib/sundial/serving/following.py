"""Following the registry: a thread watches the aliases, loads what they point to, and swaps between two batches."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import Any

import pandas as pd

from sundial.errors import SundialError
from sundial.release.pointer import Pointer, RollbackOrder, Standing
from sundial.serving.fastpath import arm
from sundial.serving.schema import Schema
from sundial.serving.sources import Loaded, ModelSource, Servable, Version

POLL_SECONDS = 0.5
RETRY_SECONDS = 5.0  # after a version could not be loaded; a retry costs production CPU
ORDER_SECONDS = 0.1  # between two looks at whether somebody ordered a rollback
KEPT = 3  # the model in production, the one to go back to, and the one that was left

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
    shadows : mapping of str to int
        Versions in shadow, by alias: that one, and those of ``shadow-NAME``.
    error : str
        Why the wanted version does not answer, or why the aliases cannot be read; empty while all is well.
    switches : int
        How often another version took over.
    """

    model: Loaded | None = None
    wanted: int | None = None
    shadow: int | None = None
    shadows: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    switches: int = 0


@dataclass
class AliasFollower:
    """Keeps :attr:`state` at what the aliases point to.

    A version that cannot be loaded changes nothing but :attr:`Following.error`: the old one goes on answering. The
    version to go back to is kept loaded, and an order to go back is obeyed in a thread of its own, so that it needs no
    registry and waits for none.

    Parameters
    ----------
    source : ModelSource
        Where models come from.
    pointer : Pointer, optional
        Where orders to go back come from, and what answers is written down.
    poll_seconds : float
        Between two looks at the aliases.
    """

    source: ModelSource
    pointer: Pointer | None = None
    poll_seconds: float = POLL_SECONDS
    state: Following = field(default_factory=Following)
    _recent: dict[int, Loaded] = field(default_factory=dict)
    _extras: dict[int, Mapping[str, str]] = field(default_factory=dict)
    _failed: tuple[int, float] = (-1, 0.0)
    looked: threading.Event = field(default_factory=threading.Event)  # set after the first look
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _known_extras: Mapping[str, str] = field(default_factory=dict)
    _prepared: int = -1  # version whose way back is prepared
    _unprepared: str = ""
    _switching: threading.RLock = field(default_factory=threading.RLock)

    def start(self) -> None:
        """Begin to look, in threads: a registry that hangs must not keep the server from saying so."""
        for work, name in ((self._run, "sundial-follow-aliases"), (self._obey_often, "sundial-follow-orders")):
            self._threads.append(threading.Thread(target=work, name=name, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """Stop the threads and wait for them."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self) -> None:
        self.look()
        self.looked.set()
        while not self._stop.wait(self.poll_seconds):
            self.look()

    def _obey_often(self) -> None:
        while not self._stop.wait(ORDER_SECONDS):
            self.obey()

    def obey(self) -> None:
        """Go back where a person ordered it, whatever the registry says or does not say."""
        order = self.pointer.order() if self.pointer else None
        current = self.state.model
        if order is None or current is None or current.version != order.away_from:
            return
        with self._switching:
            self._follow(self.source.remember(order.to))

    def look(self) -> None:
        """Read the aliases, and load what is new."""
        try:
            production, shadows = self.source.alias("production"), self.source.shadows()
            extras = self._read_extras(shadows.values())
        except Exception as error:  # noqa: BLE001  whatever a registry or its database raises, production goes on
            if self.state.model is None:
                self._follow_standing()
            self._tell(f"the registry cannot be read: {error}")
            return
        with self._switching:
            order = self.pointer.order() if self.pointer else None
            obeyed = order is not None and production is not None and production.version == order.away_from
            if order is not None and obeyed:
                production = self.source.remember(order.to)
            self.state = replace(
                self.state,
                wanted=production.version if production else None,
                shadow=shadows["shadow"].version if "shadow" in shadows else None,
                shadows={alias: version.version for alias, version in shadows.items()},
            )
            if production is None:
                self.state = replace(self.state, error="")
                return
            self._follow(production, extras)
        self.looked.set()  # what follows can wait, and callers need not
        if order is not None:
            self._record(order)
        else:
            self._prepare_way_back(production)

    def _follow(self, production: Version, extras: Mapping[str, str] | None = None) -> None:
        """Let a version answer, unless it does already or cannot be loaded."""
        current = self.state.model
        if extras is None:
            extras = self._known_extras
        self._known_extras = extras
        if current is not None and current.version == production.version:
            if set(current.schema.extras) != set(extras) - set(current.schema.features):
                current = replace(current, schema=make_schema(current.model, extras))
                self._keep(current)
            self.state = replace(self.state, model=current, error="")
            return
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
        switches = self.state.switches + (current is not None)
        self.state = replace(self.state, model=loaded, wanted=loaded.version, error="", switches=switches)
        before = f" instead of version {current.version}" if current else ""
        logger.info("version %d answers from now on%s", loaded.version, before)

    def _follow_standing(self) -> None:
        """Start with what answered last, since the registry does not say what should."""
        standing = self.pointer.standing() if self.pointer else None
        if self.pointer is None or standing is None:
            return
        order, fields = self.pointer.order(), standing.production
        if order is not None and order.away_from == fields["version"]:
            fields = order.to
        with self._switching:
            self._follow(self.source.remember(fields))

    def _record(self, order: RollbackOrder) -> None:
        """Tell the registry of a rollback that was carried out, or overtaken."""
        try:
            self.source.record(order)
        except Exception as error:  # noqa: BLE001  it is tried again at the next look
            self._tell(f"the rollback away from version {order.away_from} cannot be recorded: {error}")

    def _prepare_way_back(self, production: Version) -> None:
        """Keep the version to go back to loaded, and write down where both are."""
        answering = self.state.model
        if self.pointer is None or answering is None or answering.version != production.version:
            return
        if self._prepared == production.version:
            return
        try:
            previous = self.source.previous()
            if previous is not None and previous.version not in self._recent:
                self._keep(self._load(previous))
            self._keep(answering)  # as the last that is let go
            self.pointer.stand(Standing(as_fields(production), as_fields(previous) if previous else None))
            self._prepared, self._unprepared = production.version, ""
        except Exception as error:  # noqa: BLE001  production answers all the same; a rollback will need the registry
            if str(error) != self._unprepared:
                logger.warning("the way back from version %d is not prepared: %s", production.version, error)
            self._unprepared = str(error)

    def _read_extras(self, shadows: Iterable[Version]) -> Mapping[str, str]:
        """Read which features the shadows take, so that what production does not need is logged for them."""
        known, self._extras = self._extras, {}
        extras: dict[str, str] = {}
        for shadow in shadows:
            self._extras[shadow.version] = known.get(shadow.version) or self.source.features(shadow)
            extras |= {name: dtype for name, dtype in self._extras[shadow.version].items() if name not in extras}
        return extras

    def _tell(self, error: str) -> None:
        """Say once what is wrong."""
        if error != self.state.error:
            logger.error("%s", error)
        with self._switching:
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


def as_fields(version: Version) -> dict[str, Any]:
    """Give what is known of a version as JSON can hold it."""
    if not is_dataclass(version) or isinstance(version, type):
        raise TypeError(f"{version!r} is no record")
    fields = asdict(version)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


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
