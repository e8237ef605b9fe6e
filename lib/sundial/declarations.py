"""What a pipeline.yaml can declare: labels, stages, gates, hooks, calendar and schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sundial.errors import SettingsError, nearest
from sundial.settings import parse_duration


def _duration(value: Any) -> Any:
    try:
        return parse_duration(value)
    except SettingsError as error:
        raise ValueError(str(error)) from error


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Bound = Annotated[float, Field(allow_inf_nan=False)]


class Strict(BaseModel):
    """Base of all that can be declared: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelSpec(Strict):
    """What is predicted, and when it is known.

    Attributes
    ----------
    column : str
        Name of the label, 0 or 1.
    delay : timedelta
        From the moment the outcome happens to the moment it is known here.
    maturity : timedelta
        From the event to the moment at which its label is surely known; metrics use rows this old, or older.
    """

    column: str
    delay: Duration
    maturity: Duration


class SegmentSpec(Strict):
    """One way to cut the requests into groups that are watched one by one.

    Attributes
    ----------
    name : str
        What reports call it.
    columns : tuple of str
        Each combination of their values is a group.
    """

    name: str
    columns: Annotated[tuple[str, ...], Field(min_length=1)]


def _segment(value: Any) -> Any:
    """Read ``shop`` as the column of that name, and ``route: [origin, dest]`` as a name and its columns."""
    if isinstance(value, str):
        return {"name": value, "columns": (value,)}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, columns),) = value.items()
        return {"name": name, "columns": columns}
    if isinstance(value, SegmentSpec):
        return value
    raise ValueError("a segment is a column, or a name with its columns, such as 'route: [origin, dest]'")


def _unlike(segments: tuple[SegmentSpec, ...]) -> tuple[SegmentSpec, ...]:
    names = [segment.name for segment in segments]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"segment {twice!r} stands twice")
    return segments


Segment = Annotated[SegmentSpec, BeforeValidator(_segment)]
Segments = Annotated[tuple[Segment, ...], AfterValidator(_unlike)]


class StageSpec(Strict):
    """One stage: a notebook, what it reads and what it makes.

    Attributes
    ----------
    notebook : str
        Path below ``notebooks/``; by default the folder of the pipeline, and the name of the stage.
    inputs : tuple of str
        Each ``stage/output``.
    outputs : tuple of str
        Names that the notebook saves; all must be there when it ends.
    timeout : timedelta
        Deadline for the whole notebook.
    parameters : dict
        Values that differ from the notebook's own defaults in production.
    freshness : dict of str to timedelta
        By table that it makes: how old its newest event may be at ``as_of``, in a release.
    may_be_empty : tuple of str
        Tables that it makes which need no row; any other without one stops a release.
    """

    notebook: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    timeout: Duration = timedelta(minutes=10)
    parameters: dict[str, Any] = Field(default_factory=dict)
    freshness: dict[str, Duration] = Field(default_factory=dict)
    may_be_empty: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_tables(self) -> StageSpec:
        unknown = [name for name in (*self.freshness, *self.may_be_empty) if name not in self.outputs]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of its outputs. {nearest(unknown[0], self.outputs)}")
        return self


class Gate(Strict):
    """One declared check on a scrap.

    Attributes
    ----------
    gate : str
        What it protects, in words.
    scrap : str
        ``stage.scrap`` and then keys into it, joined by dots.
    at_least, at_most : float, optional
        Bounds; an estimate is judged by the end of its interval that is nearer to failing.
    equals : float, optional
        The exact value.
    allowed_drop : float, optional
        For a difference candidate - production, positive when the candidate is better: the low end of its
        interval may not be below minus this.
    allowed_harm : float, optional
        For a comparison segment by segment (see `sundial.evaluation.guardrail`): no segment's whole interval may lie
        below minus this. Stands alone.
    min_rows : int, optional
        Fewest rows that the number may rest on; with `allowed_harm`, those of the segments that could be judged.
    """

    gate: str
    scrap: str
    at_least: Bound | None = None
    at_most: Bound | None = None
    equals: Bound | None = None
    allowed_drop: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    allowed_harm: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    min_rows: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_bounds(self) -> Gate:
        alone = {"allowed_drop": self.allowed_drop, "allowed_harm": self.allowed_harm}
        given = [name for name, bound in alone.items() if bound is not None]
        bounded = (self.at_least, self.at_most, self.equals) != (None, None, None)
        if not given and not bounded:
            raise ValueError("a gate needs at_least, at_most, equals, allowed_drop or allowed_harm")
        if given and (bounded or len(given) > 1):
            raise ValueError(f"{given[0]} judges a difference and stands alone")
        if "." not in self.scrap:
            raise ValueError("scrap must be 'stage.scrap', such as '07_evaluate_model.rows'")
        return self


class Gates(Strict):
    """Gates by the step that they guard."""

    release: tuple[Gate, ...] = ()
    comparison: tuple[Gate, ...] = ()
    monitoring: tuple[Gate, ...] = ()


class Hooks(Strict):
    """The functions of the user's own package that the lifecycle calls, each ``package.module:function``.

    Attributes
    ----------
    labels : str
        ``(as_of, start, end) -> DataFrame[entity, label, label_known_at]``.
    requests : str
        ``(start, end) -> DataFrame[request_id, features...]`` with the columns that ``entity`` and
        ``event_time`` name, in order of arrival.
    value : str
        ``(label, decision) -> array`` of money a row, against doing nothing.
    """

    labels: str
    requests: str
    value: str


class Calendar(Strict):
    """Maps a scheduled week to a week of the data, for data that ends.

    Attributes
    ----------
    first : date
        First ``as_of`` of the data.
    weeks : int
        Number of weekly releases before it starts again.
    """

    first: date
    weeks: Annotated[int, Field(ge=1)]


class Schedule(Strict):
    """When the weekly release starts, and how long each wait is.

    Attributes
    ----------
    cron : str
        Five fields.
    timezone : str
        Name from the IANA database.
    soak : timedelta
        How long a candidate stays in shadow before it is compared.
    soak_on_log : timedelta
        How much of the traffic that is logged already a candidate is scored on instead, at once; 0 for none.
    watch : timedelta
        How much of production's time a monitoring looks at.
    approval_expires : timedelta
        How long a question waits for its answer.
    starts_within, ends_within : timedelta
        How late a release may start, and how long it may take, before the watchdog raises an alarm.
    """

    cron: str
    timezone: str = "UTC"
    soak: Duration = timedelta(days=7)
    soak_on_log: Duration = timedelta(0)
    watch: Duration = timedelta(days=7)
    approval_expires: Duration = timedelta(days=6)
    starts_within: Duration = timedelta(minutes=30)
    ends_within: Duration = timedelta(hours=3)

    @model_validator(mode="after")
    def _check_times(self) -> Schedule:
        try:
            self.next_after(datetime.now(ZoneInfo(self.timezone)))
        except CronSimError as error:
            raise ValueError(f"cron {self.cron!r} cannot be read: {error}") from error
        except (OSError, LookupError, ValueError, StopIteration) as error:
            raise ValueError(f"{self.cron!r} in {self.timezone!r} is no schedule: {error!r}") from error
        return self

    def last_before(self, moment: datetime) -> datetime:
        """Give the last start at or before a moment, in the schedule's time zone."""
        # CronSim looks for starts strictly before a moment
        return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone)) + timedelta(seconds=1), reverse=True))

    def next_after(self, moment: datetime) -> datetime:
        """Give the first start after a moment, in the schedule's time zone."""
        return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone))))


class Serving(Strict):
    """What a candidate must do before an alias may point to it.

    Attributes
    ----------
    latency_budget : timedelta
        What 95 % of single requests must be answered within, one after the other.
    requests : int
        How many of the newest logged requests a fresh server is asked.
    """

    latency_budget: Duration = timedelta(milliseconds=250)
    requests: Annotated[int, Field(ge=1, le=10_000)] = 200


class WatchBounds(Strict):
    """How far production may be from its forecast in the first hours after a promotion; see `monitoring.watch`.

    Attributes
    ----------
    lasts, every : timedelta
        How long it is watched, and how often looked at.
    min_rows : int
        Fewest requests that a limit is judged on.
    error_share : float
        Largest share of requests that fail with 5xx.
    latency_p99_ms : float
        Largest 99th percentile, from arrival to the log.
    alert_share_at_most : float
        Alert share that no model may exceed, whatever is asked.
    alert_share_change, score_change : float
        How far the change against the version before, on the same requests, may be from the shadow's.
    roll_back : bool
        Whether the version before is put back when a bound is broken; otherwise it is only reported.
    """

    lasts: Duration = timedelta(hours=2)
    every: Duration = timedelta(seconds=15)
    min_rows: Annotated[int, Field(ge=30)] = 300
    error_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    latency_p99_ms: Annotated[float, Field(gt=0)] = 250.0
    alert_share_at_most: Annotated[float, Field(gt=0, le=1)] = 0.6
    alert_share_change: Annotated[float, Field(gt=0, le=1)] = 0.05
    score_change: Annotated[float, Field(gt=0, le=1)] = 0.05
    roll_back: bool = True


# The same for every model: notebooks/lifecycle.
LIFECYCLE: dict[str, StageSpec] = {
    "09_deploy_shadow": StageSpec(
        inputs=(
            "04_build_training_set/training_profile",
            "05_build_evaluation_sets/evaluation_set",
            "06_train_model/model",
            "06_train_model/model_card",
            "07_evaluate_model/scores",
            "08_evaluate_business/policy",
        ),
        outputs=("deployment",),
    ),
    "10_compare_shadow": StageSpec(
        inputs=(
            "04_build_training_set/training_profile",
            "06_train_model/model_card",
            "08_evaluate_business/policy",
            "09_deploy_shadow/deployment",
        ),
        outputs=("comparison", "segments", "joined"),
    ),
    "11_promote_model": StageSpec(
        inputs=("08_evaluate_business/policy", "09_deploy_shadow/deployment"), outputs=("promotion",)
    ),
    "12_monitor_production": StageSpec(
        inputs=(
            "04_build_training_set/training_profile",
            "06_train_model/model_card",
            "08_evaluate_business/policy",
            "09_deploy_shadow/deployment",
            "11_promote_model/promotion",
        ),
        outputs=("monitoring", "drift", "observed"),
    ),
    "13_review_production": StageSpec(
        inputs=(
            "06_train_model/model_card",
            "09_deploy_shadow/deployment",
            "12_monitor_production/monitoring",
            "12_monitor_production/observed",
        ),
        outputs=("review", "hard_examples"),
    ),
}
