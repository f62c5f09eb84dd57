"""The tasks that can be named: those of the embedded data, lmms-eval's, and YAML files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from autoprune.errors import AutoPruneError, did_you_mean
from autoprune.evaluation.capabilities import capabilities_of, parse_pairs
from autoprune.evaluation.catalogue import TaskFile, entries, task_file
from autoprune.identity import content_hash, file_hash

ANSWER_TOKENS = 128
"""How long an answer may grow where neither the table nor a task's file says it."""


@dataclass(frozen=True)
class TaskSpec:
    """What AutoPrune knows about a task beyond what lmms-eval does.

    Attributes:
        name: lmms-eval's name of the task.
        metrics: its results that, summed, are the score; each must be one finite number.
        maximum: the best possible sum; scores are divided by it. 0 where it is not known yet: it is
            read off right answers, 1 or 100.
        chance: score of guessing, 0..1; 0 where it is not known.
        higher_is_better: False turns the score round.
        filter: the lmms-eval filter whose results are read.
        family: for tasks made from a sample set, the ``Turn.source`` of its questions; None for
            those that bring documents of their own.
        max_new_tokens: how long an answer may grow, where the task's file does not say it.
        per: a column of its documents each of whose values adds an equal part of ``maximum``.
        parts: number of these values in the whole task.
        joined: column that its ``process_docs`` fetches from a second data set; a local copy of
            the documents that has it is taken as it is.
        capabilities: what it asks for, see ``capabilities``.
        source: the user's YAML file; empty for a name of lmms-eval's.
        data: a local copy of its documents; empty where lmms-eval loads them.
        identity: content hash of YAML file and local copy, for tasks with documents of their own.
        guessed: whether the metric is the first of the file, since nobody named one.
    """

    name: str
    metrics: tuple[str, ...] = ("exact_match",)
    maximum: float = 1.0
    chance: float = 0.0
    higher_is_better: bool = True
    filter: str = "none"
    family: str | None = None
    max_new_tokens: int = 16
    per: str = ""
    parts: int = 0
    joined: str = ""
    capabilities: tuple[str, ...] = ()
    source: str = ""
    data: str = ""
    identity: str = ""
    guessed: bool = False

    @property
    def metric(self) -> str:
        """The metrics as one word."""
        return "+".join(self.metrics)

    @property
    def path(self) -> Path:
        """The YAML file of a task with documents of its own.

        Raises:
            AutoPruneError: lmms-eval has no task of this name.
        """
        if self.source:
            return Path(self.source)
        found = entries().get(self.name)
        if found is None or found.path is None or found.members:
            raise AutoPruneError(f"lmms-eval has no task {self.name!r}: name another")
        return found.path


# The benchmarks of the pruning study, as lmms-eval 0.7.3 computes them. Chance: POPE and MME ask
# balanced yes/no questions (MME adds accuracy and accuracy over pairs, 75 of 200 points by
# guessing); SEED-Bench and AI2D have four choices, MMBench up to four; ScienceQA's images 40.08 %,
# MMMU's validation split 22.1 % and MMStar 24.6 % are the "random" rows of their papers; open
# answers have no chance.
BENCHMARKS: tuple[TaskSpec, ...] = (
    TaskSpec("gqa", joined="image"),
    TaskSpec("pope", ("pope_accuracy",), chance=0.5),
    TaskSpec("scienceqa_img", chance=0.4008),
    TaskSpec(
        "mme",
        ("mme_perception_score", "mme_cognition_score"),
        maximum=2800.0,
        chance=0.375,
        per="category",
        parts=14,
    ),
    TaskSpec("mmmu_val", ("mmmu_acc",), chance=0.221),
    TaskSpec("mmbench_en_dev_static", ("gpt_eval_score",), maximum=100.0, chance=0.25),
    TaskSpec("textvqa_val"),
    TaskSpec("seedbench", ("seed_all",), chance=0.25),
    TaskSpec("vqav2_val"),
    TaskSpec("ai2d", chance=0.25, filter="flexible-extract"),
    TaskSpec("mmstar", ("average",), chance=0.246),
)


@cache
def known_tasks() -> dict[str, TaskSpec]:
    """Return the tasks in the table: those of the embedded data, then the benchmarks."""
    from autoprune.zoo import FAMILIES

    digits = [
        TaskSpec(
            f"digits_{f.name}",
            chance=f.chance,
            family=f.name,
            max_new_tokens=4,
            capabilities=capabilities_of(f"digits_{f.name}"),
        )
        for f in FAMILIES.values()
    ]
    return {spec.name: spec for spec in (*digits, *BENCHMARKS)}


def resolve_tasks(
    names: Iterable[str] | None = None,
    *,
    data: Iterable[str] = (),
    capabilities: Iterable[str] = (),
) -> tuple[TaskSpec, ...]:
    """Return the specs of ``names``; ``None`` and the name ``digits`` mean all embedded tasks.

    Reads YAML files alone: no data, and nothing of lmms-eval is imported.

    Args:
        names: of tasks, of lmms-eval's groups and tags, or YAML files; each may be followed by
            ``:METRIC``, which the score is then read from.
        data: ``TASK=DIR``, a local copy of a task's documents.
        capabilities: ``TASK=CAPABILITY``, added to those of the table.

    Raises:
        AutoPruneError: for a name that is not known, or named twice; a file that is no task; a
            metric that the task does not list; data that are not there, or of no task named.
    """
    specs: list[TaskSpec] = []
    for name in ["digits"] if names is None else names:
        specs.extend(_named(name))
    if not specs:
        raise AutoPruneError("no task named: name at least one")
    if len({spec.name for spec in specs}) < len(specs):
        raise AutoPruneError(f"a task is named twice in {', '.join(s.name for s in specs)}")
    return with_said(specs, data, capabilities)


def with_said(
    specs: Sequence[TaskSpec], data: Iterable[str], capabilities: Iterable[str]
) -> tuple[TaskSpec, ...]:
    """Return specs with what is said of them: local copies and capabilities.

    Raises:
        AutoPruneError: something is said of a task that is not among them, or does not suit it.
    """
    return tuple(_with_capabilities(_with_data(specs, data), capabilities))


def answer_tokens(name: str, metadata: Mapping[str, Any] | None = None) -> int:
    """Return how long an answer may grow where a task's file does not say it for a model.

    Args:
        name: of the task.
        metadata: of its file.
    """
    own = (metadata or {}).get("autoprune") or {}
    known = known_tasks().get(name)
    usual = ANSWER_TOKENS if known is None else known.max_new_tokens
    return int(own.get("max_new_tokens", usual))


def _named(typed: str) -> list[TaskSpec]:
    """Return the tasks that one name stands for."""
    name, metric = typed, ""
    if ":" in typed:
        name, _, metric = typed.rpartition(":")
        if not name or not metric:
            raise AutoPruneError(
                f"task {typed!r} is not NAME:METRIC: write it as pope:pope_accuracy"
            )
    if name == "digits":
        specs = [spec for spec in known_tasks().values() if spec.family is not None]
    elif name.endswith((".yaml", ".yml")):
        specs = _of_file(Path(name))
    else:
        specs = _of_name(name)
    if not metric:
        return specs
    if len(specs) > 1:
        raise AutoPruneError(
            f"{name!r} stands for {len(specs)} tasks, and {metric!r} is the metric of one: name "
            f"that task, such as {specs[0].name}:{metric}"
        )
    return [_overridden(specs[0], metric)]


def _of_name(name: str, through: tuple[str, ...] = ()) -> list[TaskSpec]:
    table = known_tasks()
    if name in table and table[name].family is not None:
        return [table[name]]
    found = entries().get(name)
    if found is None:
        near = did_you_mean(name, ["digits", *table, *entries()])
        if "did you mean" not in near:  # two thousand names are no help
            near = ": 'lmms-eval tasks list' lists lmms-eval's, and a YAML file can be given"
        raise AutoPruneError(f"unknown task {name!r}{near}")
    if found.path is not None and not found.members:
        return [_spec(task_file(found.path), "")]
    if "" in found.members or name in through:
        raise AutoPruneError(
            f"{name!r} is a group of lmms-eval's that changes its tasks: name the tasks themselves"
        )
    return [spec for member in found.members for spec in _of_name(member, (*through, name))]


def _of_file(path: Path) -> list[TaskSpec]:
    """Return the task of a user's file, or those of a group file and of the files beside it."""
    from autoprune.evaluation.catalogue import read_yaml

    members = read_yaml(path).config.get("task")
    if not isinstance(members, list):
        return [_spec(task_file(path), str(path.absolute()))]
    beside = entries(path.absolute().parent)
    specs: list[TaskSpec] = []
    for member in members:
        own = beside.get(member) if isinstance(member, str) else None
        if not isinstance(member, str):
            raise AutoPruneError(f"task file {path} lists {member!r}: list names of tasks")
        if own is not None and own.path is not None and not own.members:
            specs.append(_spec(task_file(own.path), str(own.path)))
        else:
            specs.extend(_of_name(member))
    return specs


def _spec(found: TaskFile, source: str) -> TaskSpec:
    """Return what is known of a task: by the table, by its own word, or by its first metric."""
    name, own = found.name, found.own
    groups = capabilities_of(name, found.tags, own.get("capability"))
    known = known_tasks().get(name)
    if known is not None and known.family is not None:
        raise AutoPruneError(
            f"task file {found.path} calls its task {name!r}, as an embedded one: rename it"
        )
    if known is not None and not source:
        return replace(known, capabilities=groups, identity=found.identity)
    listed = found.metrics or _default_metrics(str(found.config.get("output_type", "")))
    if not listed:
        raise AutoPruneError(
            f"task {name!r} lists no metric in {found.path}: give it a metric_list"
        )
    wanted = own.get("metric")
    first = next((m for m, higher in listed if higher), listed[0][0])
    spec = TaskSpec(
        name=name,
        metrics=(str(first),),
        maximum=float(own.get("maximum", 0.0)),
        chance=float(own.get("chance", 0.0)),
        higher_is_better=dict(listed)[first],
        filter=(found.filters or ["none"])[0],
        max_new_tokens=int(own.get("max_new_tokens", ANSWER_TOKENS)),
        capabilities=groups,
        source=source,
        identity=found.identity,
        guessed=len(listed) > 1 and wanted is None,
    )
    return spec if wanted is None else _metric_of(spec, found, str(wanted))


def _default_metrics(output_type: str) -> list[tuple[str, bool]]:
    """Return what lmms-eval computes where a file lists no metric."""
    return [("acc", True)] if output_type in ("multiple_choice", "loglikelihood") else []


def _overridden(spec: TaskSpec, metric: str) -> TaskSpec:
    if spec.family is not None:
        if metric not in spec.metrics:
            raise AutoPruneError(
                f"task {spec.name!r} reports no {metric!r}{did_you_mean(metric, spec.metrics)}"
            )
        return spec
    return _metric_of(spec, task_file(spec.path), metric)


def _metric_of(spec: TaskSpec, found: TaskFile, metric: str) -> TaskSpec:
    """Return a spec that is read from another metric.

    Raises:
        AutoPruneError: the file does not list it.
    """
    listed = dict(found.metrics or _default_metrics(str(found.config.get("output_type", ""))))
    if metric not in listed:
        raise AutoPruneError(
            f"task {spec.name!r} reports no {metric!r}{did_you_mean(metric, listed)}"
        )
    if (metric,) == spec.metrics:
        return replace(spec, guessed=False)
    own = found.own
    return replace(
        spec,
        metrics=(metric,),
        maximum=float(own.get("maximum", 0.0)),
        chance=float(own.get("chance", 0.0)),  # that of the table is another metric's
        higher_is_better=listed[metric],
        per="",
        parts=0,
        guessed=False,
    )


def _with_data(specs: Sequence[TaskSpec], data: Iterable[str]) -> list[TaskSpec]:
    given: Mapping[str, str] = dict(parse_pairs(data, "--task-data", "pope=DIR"))
    by_name = {spec.name: spec for spec in specs}
    for name, place in given.items():
        if name not in by_name:
            raise AutoPruneError(
                f"--task-data {name}={place}: no such task{did_you_mean(name, by_name)}"
            )
        if by_name[name].family is not None:
            raise AutoPruneError(
                f"--task-data {name}={place}: the task is made from other data: leave it out"
            )
        path = Path(place).expanduser().absolute()
        if not path.exists():
            raise AutoPruneError(
                f"--task-data {name}={place} is not there: name a parquet file, a folder of them, "
                "or one that save_to_disk wrote"
            )
        spec = by_name[name]
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        marks = [(str(p.relative_to(path.parent)), _mark(p)) for p in files]
        by_name[name] = replace(
            spec, data=str(path), identity=content_hash(spec.identity, sorted(marks))
        )
    return [by_name[spec.name] for spec in specs]


def _mark(path: Path) -> str:
    """Return what tells a file's content: its hash, or of a large one size and time."""
    stat = path.stat()
    return file_hash(path) if stat.st_size < 2**26 else f"{stat.st_size}-{stat.st_mtime_ns}"


def _with_capabilities(specs: Sequence[TaskSpec], said: Iterable[str]) -> list[TaskSpec]:
    by_name = {spec.name: spec for spec in specs}
    for name, word in parse_pairs(said, "--capability", "pope=hallucination"):
        if name not in by_name:
            raise AutoPruneError(
                f"--capability {name}={word}: no such task{did_you_mean(name, by_name)}"
            )
        found = by_name[name]
        words = tuple(dict.fromkeys([*found.capabilities, word]))
        by_name[name] = replace(found, capabilities=words)
    return [by_name[spec.name] for spec in specs]
