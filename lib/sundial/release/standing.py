"""How a running stage stands to the registry: what it may read again, and that only a release may write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sundial.errors import RegistryError
from sundial.reads import Reading, acting_run, covered, observe
from sundial.runs import Run
from sundial.settings import Settings

if TYPE_CHECKING:  # pandas takes a second, which a rollback has not
    from sundial.release.models import ServableModel


def load_production(pipeline: str, settings: Settings | None = None) -> ServableModel | None:
    """Load the model that is in production; None before the first promotion.

    Parameters
    ----------
    pipeline : str
        Name of the pipeline.
    settings : Settings, optional
        Read from the environment by default.
    """
    from sundial.release.registry import Registry

    observe("sundial.release.standing:production_version", pipeline)
    registry = Registry(settings)
    with covered():
        info = registry.alias(pipeline, "production")
        return None if info is None else registry.load(pipeline, info.version)


def production_version(pipeline: str, reading: Reading) -> str:
    """Answer with the version that is in production, and the hashes of its files; see `sundial.reads`."""
    from sundial.release.registry import Registry

    info = Registry(reading.settings).alias(pipeline, "production")
    return "none" if info is None else f"{info.version} {info.sha256} {info.card_sha256}"


def refuse_experiments() -> None:
    """Refuse to write the registry from a notebook of a run that is no release.

    Raises
    ------
    RegistryError
        In the kernel of an experiment, or of a scratch run.
    """
    folder = acting_run()
    if folder is None:
        return
    with covered():
        run = Run(folder)
        if run.kind != "release":
            article = "an" if run.kind == "experiment" else "a"
            raise RegistryError(
                f"{article} {run.kind} moves no alias and registers no version: {run.name}",
                hint="ship the experiment: sundial ship",
            )
