"""What several commands take, and how that is read, checked and written."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import Positional, UseAppendAction, arg

if TYPE_CHECKING:
    from goodteacher.sim.clocks import Clock
    from goodteacher.sim.instance import Instance


def optional(metavar: str) -> Any:
    """Of an option that may be left out; its help says what then holds."""
    return arg(metavar=metavar, help_behavior_hint="")


def given(**options: Any) -> dict[str, Any]:
    """Those options that are not left out; for the others what they are given to has defaults."""
    return {name: value for name, value in options.items() if value is not None}


def at_most_one(**options: Any) -> None:
    """Refuses options that say the same in two ways.

    Raises:
        ValueError: if more than one is given.
    """
    names = [f"--{name.replace('_', '-')}" for name in given(**options)]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} are both given; give one")


Names = Annotated[Positional[tuple[str, ...]], optional("[NAME ...]")]
Texts = UseAppendAction[tuple[str, ...]]


class Problem(NamedTuple):
    """What a file holds.

    Attributes:
        instance: the problem.
        has_truth: whether it has a ground truth; in its place the instance has the reward itself if not.
        names: of prompts and outputs, as reports have them; none of an instance file, which numbers them.
    """

    instance: "Instance"
    has_truth: bool
    names: dict[str, Any]


NO_TRUTH = "There is no ground truth: what needs one is not known (--truth names its column)."


@dataclass(frozen=True)
class InstanceFile:
    """Where the problem comes from."""

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """An instance file, or rollouts as for goodteacher diagnose."""
    nearest: bool = False
    """If features cannot realise the initial probabilities, start from the nearest that they can."""
    reward: Annotated[str | None, optional("NAME")] = None
    """Of rollouts: the reward that is trained on (default: the first)."""
    truth: Annotated[str | None, optional("NAME")] = None
    """Of rollouts: the ground truth (default: what is recognised)."""
    prompt: Annotated[str | None, optional("NAME")] = None
    """Of rollouts: the column that says which prompt a row is of."""
    answer: Annotated[str | None, optional("NAME")] = None
    """Of rollouts: the column that is equal for equal outputs."""

    def read(self, *, like_truth: bool = False) -> Problem:
        """The problem.

        Args:
            like_truth: put the reward of rollouts on the scale of their ground truth.

        Raises:
            ValueError: if the file cannot be read or holds none.
        """
        from goodteacher.sim.files import is_instance_file, read_instance

        if is_instance_file(self.file):
            return Problem(read_instance(self.file, nearest=self.nearest), True, {})

        # pandas and what reads with it take long to import, and few need them.
        from goodteacher.experiments.rollouts.intake import read_rollouts
        from goodteacher.experiments.rollouts.layouts import Columns
        from goodteacher.experiments.rollouts.problems import as_problem

        named = () if self.reward is None else (self.reward,)
        rollouts = read_rollouts([self.file], Columns(named, self.truth, self.prompt, self.answer))
        found = as_problem(rollouts, self.reward, like_truth=like_truth)
        names = {"prompt_names": found.prompts, "output_names": found.outputs}
        return Problem(found.instance, rollouts.truth is not None, names)

    def without_truth(self, what: str) -> ValueError:
        """Says that there is no ground truth for something that needs one."""
        return ValueError(
            f"{self.file} has no ground truth, and {what}; name a column that has it with --truth"
        )


@dataclass(frozen=True)
class _Estimator:
    estimator: Annotated[str, arg(metavar="NAME")] = "gradient"
    """On average: gradient, natural, mean_subtracted, grpo, maxrl, pass_at_k or cold_start."""
    preset: Annotated[str | None, optional("NAME")] = None
    """Of grpo: as trl, trl-batch, trl-none (scale_rewards), verl, openrlhf or prime-rl computes it."""
    epsilon: Annotated[float | None, optional("E")] = None
    """Of grpo: added to the standard deviation (default: that of the preset, else 0)."""
    population: bool = False
    """Of grpo: the standard deviation divides by G, not by G - 1."""
    power: Annotated[float | None, optional("Q")] = None
    """Of cold_start: the weight is p^-Q (default: 1)."""
    k: Annotated[float | None, optional("K")] = None
    """Of pass_at_k: samples of which one is to succeed."""
    dynamic_sampling: bool = False
    """Groups whose rewards are all the same are drawn again."""


@dataclass(frozen=True)
class Estimator(_Estimator):
    """What is followed."""

    group: Annotated[float | None, optional("G")] = None
    """Samples of a group (default: inf, the limit)."""

    def clock(self) -> "Clock":
        """The value.

        Raises:
            ValueError: for an unknown name, or an option that is out of range or does not apply.
        """
        from goodteacher.experiments.followed import Followed

        return Followed(**asdict(self)).clock()


GRADIENT = Estimator()


@dataclass(frozen=True)
class EstimatorAndGroups(_Estimator):
    """What is followed, and the sizes of groups of which something is told."""

    group: Annotated[tuple[float, ...], optional("G ...")] = ()
    """Sizes of groups of which the spread is told (default: 2 4 8 16 32 64); with grpo, maxrl or
    mean_subtracted the one that is followed (default: inf, the limit)."""

    def clock(self) -> "Clock":
        """The value.

        Raises:
            ValueError: as that of :class:`Estimator`, or if it is to have several sizes, or the limit
                although it has none.
        """
        from goodteacher.experiments.followed import OF_GROUPS, Followed

        size = None
        if self.estimator not in OF_GROUPS and math.inf in self.group:
            raise ValueError(f"--group has inf, and {self.estimator} has no groups; give numbers of samples")
        if self.estimator in OF_GROUPS and self.group:
            size, *others = self.group
            if others:
                sizes = " ".join(f"{of:g}" for of in self.group)
                raise ValueError(f"--group is {sizes}; give the one that {self.estimator} has")
        named: dict[str, Any] = {**asdict(self), "group": size}
        return Followed(**named).clock()

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Those that are told of, or none for the default.

        Raises:
            ValueError: if one is no whole number; ``inf`` may be what is followed.
        """
        for of in self.group:
            if not (of.is_integer() or of == math.inf):
                raise ValueError(f"--group has {of:g}; give whole numbers of samples")
        return tuple(int(of) for of in self.group if of < math.inf) or None


GRADIENT_AND_GROUPS = EstimatorAndGroups()

Rows = Annotated[int, optional("N")]
SCREENFUL = 20  # prompts


def print_rest(prompts: int, rows: int) -> None:
    """Says how many prompts are not printed, and how to see them."""
    if prompts > rows:
        print(f"{prompts - rows} more prompts: --rows {prompts} prints them too, --output writes them all")


@dataclass(frozen=True)
class Result:
    """Where the result goes."""

    output: Annotated[Path | None, optional("OUT.json")] = None
    """Write the result as JSON."""
    overwrite: bool = False
    """Replace files that exist."""

    def check(self) -> None:
        """Refuses a file that cannot or must not be written, before anything is computed.

        Raises:
            ValueError: saying why.
        """
        from goodteacher.sim.files import check_writable

        if self.output is not None:
            check_writable(self.output, overwrite=self.overwrite)

    def write(self, contents: Any) -> None:
        """Writes it, if it is to go anywhere."""
        from goodteacher.sim.files import write_json

        if self.output is not None:
            write_json(self.output, contents, overwrite=self.overwrite)


NOWHERE = Result()
