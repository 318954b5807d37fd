"""A study on disk: finished trials alone, as Optuna's journal, so that a search may end at any instant.

    runs/search/KEY/study.journal    read by Optuna's own tools, such as its dashboard
    runs/search/KEY/lock             held while a search works on it

What a trial suggests follows from the study's seed, its number and the trials before it. A trial that was cut short
leaves nothing here, and is suggested again as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from casam_cache.bench.search.objectives import higher_is_better
from casam_cache.bench.search.space import Space
from casam_cache.engine.runs import READ_ONLY
from casam_cache.errors import CasamError
from casam_cache.fingerprint import digest
from casam_cache.locks import Lock

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import Trial as OptunaTrial

JOURNAL = "study.journal"
ATTEMPTS = 8  # of the sampler, until it suggests a point that was not tried
FEWEST = 10  # trials of which importances say anything
MOST_LISTED = 20_000  # points of a space that are listed to find one that was not tried
_NAME = "casam search"
_RESULT = "casam"
State = Literal["complete", "pruned", "refused", "diverged"]


@dataclass(frozen=True)
class Scores:
    """What a point reached at one rung.

    Attributes:
        values: of the objectives, in their order.
        means: each metric, the mean over the rung's tasks of the mean over masks.
        gains: over the frozen SAM on the same masks, likewise.
        tasks: IoU by task.
    """

    values: tuple[float, ...]
    means: Mapping[str, float]
    gains: Mapping[str, float]
    tasks: Mapping[str, float]


@dataclass(frozen=True)
class TrialResult:
    """A finished trial.

    Attributes:
        number: from 0.
        point: what was suggested.
        state: `complete` where it was fitted in full; `pruned` where others were better before; `refused` where its
            values do not go together; `diverged` where a loss was no longer finite.
        rungs: what it reached, from the first.
        reason: of `refused` and `diverged`.
        parameters: that are trained.
        flops: of head and decoder for a sample of a training step; None where nobody asked.
        batch, size: number of the first of the trials that were suggested together, and how many these were.
        seconds: of wall clock, its share of those of its batch; decides nothing.
    """

    number: int
    point: Mapping[str, Any]
    state: State
    rungs: tuple[Scores, ...] = ()
    reason: str = ""
    parameters: int | None = None
    flops: int | None = None
    batch: int = 0
    size: int = 1
    seconds: float = 0.0

    @property
    def last(self) -> Scores | None:
        return self.rungs[-1] if self.rungs else None

    def to_json(self) -> dict[str, Any]:
        """Plain data; what says only when and how fast it ran is under `timing`."""
        data = asdict(self)
        timing = {name: data.pop(name) for name in ("seconds", "batch", "size")}
        return {**data, "timing": timing}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrialResult:
        """What `to_json` wrote."""
        plain = {name: value for name, value in data.items() if name not in ("timing", "rungs")}
        rungs = tuple(Scores(**{**each, "values": tuple(each["values"])}) for each in data["rungs"])
        return cls(**plain, **data["timing"], rungs=rungs)


@dataclass
class Study:
    """The trials of one search.

    Attributes:
        folder: where it lies; it exists.
        space: what is tried.
        objectives: their names.
        seed: of suggestions.
        trials: that are finished, in order.
    """

    folder: Path
    space: Space
    objectives: tuple[str, ...]
    seed: int
    trials: list[TrialResult] = field(default_factory=list)
    _refused: OSError | None = None

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, space: Space, objectives: Sequence[str], seed: int, *, anew: bool = False
    ) -> Iterator[Study]:
        """The study of a folder, made where there is none, or `anew`; no other process opens it meanwhile.

        Where the folder can only be read, a copy is opened, which keeps no further trial.

        Raises:
            HeldError: another search works on it.
            CasamError: Optuna is not installed, or the journal is damaged.
            OSError: the folder cannot be written, and has no study to read, or `anew` would change it.
        """
        require_optuna()
        study = cls(folder, space, tuple(objectives), seed)
        with ExitStack() as held:
            try:
                held.enter_context(Lock(folder / "lock", f"searches in {folder}"))
                where = folder
            except OSError as error:
                if error.errno not in READ_ONLY or anew or not (folder / JOURNAL).is_file():
                    raise
                where = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="casam_study_")))
                shutil.copyfile(folder / JOURNAL, where / JOURNAL)
                study._refused = error
            if anew:
                (folder / JOURNAL).unlink(missing_ok=True)
            study._read(where / JOURNAL)
            yield study

    @property
    def best(self) -> TrialResult | None:
        """The best in the first objective of those that were fitted in full; the first of equal ones."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(complete, key=lambda trial: trial.rungs[-1].values[0], default=None)

    def ask(self, count: int, start: int) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and points of the next trials that are suggested together, after the first `start` trials.

        Fewer, or none, where every point of a finite space was tried.
        """
        import optuna

        memory = self._new_study(optuna.storages.InMemoryStorage())
        known = self.trials[:start]
        memory.add_trials([self._frozen(trial) for trial in known])
        tried = {_name(trial.point) for trial in known}
        found: list[tuple[int, dict[str, Any]]] = []
        for number in range(start, start + count):
            point = self._ask(memory, number, tried)
            if point is None:
                break
            tried.add(_name(point))
            found.append((number, point))
        return found

    def _ask(self, memory: OptunaStudy, number: int, tried: set[str]) -> dict[str, Any] | None:
        import optuna

        for attempt in range(ATTEMPTS):
            chosen = int(digest([self.seed, "suggest", number, attempt])[:8], 16)
            with _quiet():
                memory.sampler = optuna.samplers.TPESampler(seed=chosen)
                trial: OptunaTrial = memory.ask()
                point = self.space.suggest(trial)
            if _name(point) not in tried:
                return point
            memory.tell(trial, state=optuna.trial.TrialState.FAIL)
        every = self.space.points(MOST_LISTED)
        left = [point for point in every or [] if _name(point) not in tried]
        if not left:
            return None if every is not None else point  # of a space without end, once more the same
        return min(left, key=lambda point: digest([self.seed, "untried", number, point]))

    def add(self, trial: TrialResult) -> None:
        """Keeps a finished trial, as one line of the journal.

        Raises:
            OSError: the disk is full, or the folder can only be read.
        """
        assert trial.number == len(self.trials)
        if self._refused is not None:
            raise self._refused
        with _quiet():
            self._stored.add_trial(self._frozen(trial))
        self.trials.append(trial)

    def importances(self) -> dict[str, dict[str, float]]:
        """For the score, in what share each option sets the best tenth of all trials apart, by PED-ANOVA.

        At the first rung, where every trial was judged alike. Empty where too few trials, or no differences, say
        anything. What sets costs apart needs no estimate: they follow from the options.
        """
        import optuna

        judged = [trial for trial in self.trials if trial.rungs]
        found: dict[str, dict[str, float]] = {}
        for place, name in enumerate(self.objectives[:1]):
            values = [trial.rungs[0].values[place] for trial in judged]
            if len(set(values)) < 2 or len(values) < FEWEST:
                continue
            with _quiet():
                study = optuna.create_study(direction="minimize")
                sign = -1.0 if higher_is_better(name) else 1.0
                for trial, value in zip(judged, values, strict=True):
                    study.add_trial(self._created(trial, [sign * value]))
                try:
                    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
                    told = optuna.importance.get_param_importances(study, evaluator=evaluator)
                except (ValueError, RuntimeError):  # e.g. no option that all trials have
                    continue
            if len(told) < 2 or len({round(share, 9) for share in told.values()}) > 1:
                found[name] = {
                    option: float(told[option])
                    for option in sorted(told, key=lambda each: (-told[each], each))
                }
        return found

    def _read(self, path: Path) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        _cut_torn_line(path)
        try:
            with _quiet():
                lock: Any = _Held()
                self._stored = self._new_study(JournalStorage(JournalFileBackend(str(path), lock_obj=lock)))
                kept = self._stored.get_trials(deepcopy=False)
            self.trials = [TrialResult.from_json(json.loads(trial.user_attrs[_RESULT])) for trial in kept]
        except (ValueError, KeyError, TypeError, optuna.exceptions.OptunaError) as error:
            raise CasamError(
                f"{path} is damaged: {error}",
                "remove it: the same search finds its fits again and goes through them quickly",
            ) from None
        if [trial.number for trial in self.trials] != list(range(len(self.trials))):
            raise CasamError(
                f"{path} is damaged: trials are missing in it",
                "remove it: the same search finds its fits again and goes through them quickly",
            )

    def _new_study(self, storage: Any) -> OptunaStudy:
        import optuna

        directions: list[Any] = [
            "maximize" if higher_is_better(name) else "minimize" for name in self.objectives
        ]
        return optuna.create_study(
            storage=storage, study_name=_NAME, directions=directions, load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(0),
        )  # fmt: skip

    def _frozen(self, trial: TrialResult) -> Any:
        """As Optuna has it: pruned ones with what they reached, where there is one objective."""
        import optuna

        whole = trial.state == "complete" and trial.last is not None
        values = list(trial.last.values) if whole and trial.last else None
        state = optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.PRUNED
        reached = {}
        if len(self.objectives) == 1:
            reached = {place: scores.values[0] for place, scores in enumerate(trial.rungs)}
        return self._created(trial, values, state, reached)

    def _created(
        self, trial: TrialResult, values: list[float] | None, state: Any = None, reached: Any = None
    ) -> Any:
        import optuna

        spread = {each.name: each.distribution for each in self.space.dimensions}
        return optuna.trial.create_trial(
            params=dict(trial.point),
            distributions={name: spread[name] for name in trial.point},
            values=values,
            state=optuna.trial.TrialState.COMPLETE if state is None else state,
            intermediate_values=reached or {},
            user_attrs={_RESULT: json.dumps(trial.to_json())},
        )


def require_optuna() -> None:
    """Says how to install Optuna where it is missing.

    Raises:
        CasamError: it is missing.
    """
    try:
        import optuna
    except ImportError:
        raise CasamError(
            "casam search needs Optuna, which is not installed", "pip install 'casam-cache[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _name(point: Mapping[str, Any]) -> str:
    return digest({name: repr(value) for name, value in point.items()})


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna warns of what is experimental, and of what its next version does otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Held:
    """The journal's lock: the whole folder is locked already, by a lock that ends with its process."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def _cut_torn_line(path: Path) -> None:
    """What a loss of power leaves of a line that was being written would make the next one unreadable."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
