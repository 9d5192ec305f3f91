"""The state of the page: one immutable value, which makes an instance, a link, a file and lines of Python."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from goodteacher.experiments.followed import OF_GROUPS, Followed
from goodteacher.sim.control import HORIZON
from goodteacher.sim.instance import Instance, Regularizer
from goodteacher.sim.names import unknown
from goodteacher.sim.policies import LinearSoftmax, Tabular

MOST = 20  # outputs on the page, to which all problems are filled up
LEAST_PROBABILITY = 1e-12
ANGLES = 5.0, 175.0  # in degrees
_NEW = 0.05  # the probability of an output that is added
_CLOSE = 1e-9  # of features to those that the page has


@dataclass(frozen=True)
class Features:
    """Features of a linear policy: orthonormal, but for the angle between two and the length of one.

    Attributes:
        first: an output.
        second: another.
        angle: between their features, in degrees.
        length: of the feature of the first.
    """

    first: int = 0
    second: int = 1
    angle: float = 90.0
    length: float = 1.0

    def __post_init__(self) -> None:
        """Validates the numbers.

        Raises:
            ValueError: naming the one that is out of range.
        """
        if self.first == self.second:
            raise ValueError(f"second is {self.second}, as first is; give two outputs")
        low, high = ANGLES
        if not low <= self.angle <= high:
            raise ValueError(f"angle is {self.angle:g}; give {low:g} to {high:g} degrees")
        if not 0.25 <= self.length <= 4:
            raise ValueError(f"length is {self.length:g}; give 0.25 to 4")

    def matrix(self, outputs: int) -> np.ndarray:
        """``[outputs, outputs]``, a row for each."""
        rows = np.eye(outputs)
        # At a right angle the cosine is none of rounding, so that the flow is solved.
        cosine = 0.0 if self.angle == 90.0 else math.cos(math.radians(self.angle))
        rows[self.second] *= math.sqrt(1.0 - cosine**2)
        rows[self.second, self.first] = cosine
        rows[self.first] *= self.length
        return rows


_GRADIENT = Followed()


@dataclass(frozen=True)
class Situation:
    """One prompt, a policy, what is followed, and what is waited for.

    Attributes:
        proxy: rewards that are trained on, one for each output.
        truth: what is wanted.
        start: initial probabilities; they sum to one.
        followed: the estimator.
        kl: coefficient of the divergence from the start.
        features: of a linear policy; ``None`` for a tabular one.
        goal: share of the possible increase of the ground truth that is waited for.
        horizon: how long.

    Raises:
        ValueError: naming the one that is out of range.
    """

    proxy: tuple[float, ...]
    truth: tuple[float, ...]
    start: tuple[float, ...]
    followed: Followed = _GRADIENT
    kl: float = 0.0
    features: Features | None = None
    goal: float = 0.9
    horizon: float = HORIZON

    def __post_init__(self) -> None:
        """Validates the numbers."""
        count = len(self.proxy)
        if not 2 <= count <= MOST:
            raise ValueError(f"there are {count} outputs; give 2 to {MOST}")
        for name in ("truth", "start"):
            if len(getattr(self, name)) != count:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} numbers for {count} outputs; give one each"
                )
        for name, check in _CHECKS.items():
            for value in getattr(self, name):
                check(value)
        if abs(sum(self.start) - 1.0) > 1e-6:
            raise ValueError(f"start sums to {sum(self.start):.9g}; make it sum to 1")
        if not 0 <= self.kl < math.inf:
            raise ValueError(f"kl is {self.kl:g}; give a number that is not negative")
        if not 0 < self.goal < 1:
            raise ValueError(f"goal is {self.goal:g}; give a share between 0 and 1")
        if not 0 < self.horizon < math.inf:
            raise ValueError(f"horizon is {self.horizon:g}; give a positive, finite time")
        if self.features is not None and not {self.features.first, self.features.second} <= {*range(count)}:
            raise ValueError(f"features are those of an output that is none; give 0 to {count - 1}")

    # Changes ---------------------------------------------------------------------------------

    def with_number(self, field: str, output: int, value: float) -> "Situation":
        """With another number of one output; the other probabilities share what is left as they did.

        Raises:
            ValueError: if it is out of range.
        """
        if not 0 <= output < len(self.proxy):
            raise ValueError(f"output {output} is none; give 0 to {len(self.proxy) - 1}")
        _CHECKS[field](value)
        numbers = list(getattr(self, field))
        if field == "start":
            left = (1.0 - value) / (1.0 - numbers[output])
            numbers = [max(p * left, LEAST_PROBABILITY) for p in numbers]
        numbers[output] = value
        return replace(self, **{field: _normal(numbers) if field == "start" else tuple(numbers)})

    def with_output(self) -> "Situation":
        """With one more output, at the lowest rewards.

        Raises:
            ValueError: if there are as many as there may be.
        """
        if len(self.proxy) == MOST:
            raise ValueError(f"there are {MOST} outputs, as many as there may be; remove one first")
        start = _normal([(1.0 - _NEW) * p for p in self.start] + [_NEW])
        lowest = (min(self.proxy), min(self.truth))
        return replace(self, proxy=(*self.proxy, lowest[0]), truth=(*self.truth, lowest[1]), start=start)

    def without_output(self, output: int) -> "Situation":
        """With one output less; features go on with the outputs they are of, or with the first two.

        Raises:
            ValueError: if there would be less than two.
        """
        if len(self.proxy) == 2:
            raise ValueError("there are 2 outputs, as few as there may be; add one first")

        def rest(numbers: tuple[float, ...]) -> tuple[float, ...]:
            return numbers[:output] + numbers[output + 1 :]

        features = self.features
        if features is not None:
            pair = [features.first, features.second]
            kept = [y - (y > output) for y in pair] if output not in pair else [0, 1]
            features = replace(features, first=kept[0], second=kept[1])
        start = _normal(list(rest(self.start)))
        return replace(self, proxy=rest(self.proxy), truth=rest(self.truth), start=start, features=features)

    # As an instance --------------------------------------------------------------------------

    def instance(self, width: int | None = None) -> Instance:
        """The problem.

        Args:
            width: to how many outputs it is filled up with such that do not exist; by none if not given.

        Raises:
            ValueError: if what is followed does not go with the rewards or the policy.
        """
        count = len(self.proxy)
        whole = count if width is None else width
        filled = [np.pad(np.array(of), (0, whole - count)) for of in (self.proxy, self.truth, self.start)]
        instance = Instance(
            *filled,
            policy=None if self.features is None else LinearSoftmax(self.features.matrix(whole)[None]),
            regularizer=Regularizer(kl=self.kl),
            mask=None if width is None else np.arange(whole) < count,
        )
        if self.followed == _GRADIENT:
            return instance
        if self.followed.estimator == "natural" and (self.kl or self.features is not None):
            raise ValueError(
                "natural is followed of tabular policies without KL; set the coefficient to 0 and leave "
                "features out, or choose another estimator"
            )
        return instance.following(self.followed.clock(), also=instance.ground_truth_rewards)

    @classmethod
    def of(cls, instance: Instance, prompt: int = 0, **others: Any) -> "Situation":
        """A prompt of an instance, by itself.

        Args:
            instance: the problem.
            prompt: which.
            others: fields that an instance does not have.

        Raises:
            ValueError: if the page cannot show it, saying why.
        """
        count = len(instance.rewards)
        if not 0 <= prompt < count:
            raise ValueError(f"prompt is {prompt}, and there are {count}; give 0 to {count - 1}")
        _check_plain(instance)
        exists = slice(None) if instance.mask is None else np.asarray(instance.mask)[prompt]
        log_p = np.asarray(instance.log_probabilities(instance.initial_parameters))[prompt][exists]
        rows = [np.asarray(of)[prompt][exists] for of in (instance.rewards, instance.ground_truth_rewards)]
        if len(log_p) > MOST:
            raise ValueError(
                f"prompt {prompt} has {len(log_p)} outputs, of which the page shows at most {MOST}; "
                "leave some out, or use goodteacher run"
            )
        start = _normal(np.maximum(np.exp(log_p), LEAST_PROBABILITY).tolist())
        proxy, truth = (tuple(map(float, of)) for of in rows)
        kl = 0.0 if instance.regularizer is None else float(instance.regularizer.kl)
        features = _features(instance, prompt, exists)
        return cls(proxy, truth, start, kl=kl, features=features, **others)

    # As text ---------------------------------------------------------------------------------

    def query(self) -> str:
        """What stands after the question mark of a link: all numbers in full, what is as usual left out."""
        given: dict[str, str] = {name: ",".join(map(repr, getattr(self, name))) for name in _CHECKS}
        if self.followed != _GRADIENT:
            given |= {name: _text(of) for name, of in _named(self.followed).items()}
        given |= {} if self.features is None else {n: _text(of) for n, of in vars(self.features).items()}
        usual = {"kl": 0.0, "goal": 0.9, "horizon": HORIZON}
        given |= {
            name: repr(float(getattr(self, name))) for name, of in usual.items() if getattr(self, name) != of
        }
        return urlencode(given, safe=",")

    @classmethod
    def from_query(cls, query: str) -> "Situation":
        """The state that a link is of.

        Raises:
            ValueError: naming what is wrong with it.
        """
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
        for name in given:
            if name not in _READ:
                raise unknown("name", name, _READ)
        for name in _CHECKS:
            if name not in given:
                raise ValueError(f"{name} is missing; give a number for each output")
        read = {name: _READ[name](name, text) for name, text in given.items()}

        def part(kind: Any) -> dict[str, Any]:
            return {field.name: read.pop(field.name) for field in fields(kind) if field.name in read}

        followed, features = part(Followed), part(Features)
        return cls(**read, followed=Followed(**followed), features=Features(**features) if features else None)

    def python(self) -> str:
        """Lines that compute the hitting time."""
        options = ""
        imported = ["Instance"]
        if self.features is not None:
            imported.append("LinearSoftmax")
            rows = [[float(of) for of in row] for row in self.features.matrix(len(self.proxy))]
            options += f"    policy=LinearSoftmax([{rows!r}]),\n"
        if self.kl:
            imported.append("Regularizer")
            options += f"    regularizer=Regularizer(kl={self.kl!r}),\n"
        control = ""
        if self.horizon != HORIZON:
            imported.append("Control")
            control = f", Control(horizon={self.horizon!r})"
        lines = [f"from goodteacher import {', '.join(sorted(imported))}, hitting_time"]
        if self.followed != _GRADIENT:
            lines.append("from goodteacher.experiments.followed import Followed")
        lines += [
            "from goodteacher.experiments.aims import share",
            "",
            "problem = Instance(",
            f"    {list(self.proxy)!r},  # what is trained on",
            f"    {list(self.truth)!r},  # what is wanted",
            f"    {list(self.start)!r},  # the initial policy",
            f"{options})",
        ]
        if self.followed != _GRADIENT:
            named = ", ".join(f"{name}={of!r}" for name, of in _named(self.followed).items())
            named = named.replace("=inf", '=float("inf")')
            lines.append(f"problem = problem.following(Followed({named}).clock())")
        lines.append(f"found = hitting_time(problem, share(problem, {self.goal!r}){control})")
        lines.append("print(found.time[0])")
        return "\n".join(lines) + "\n"


def _normal(numbers: list[float]) -> tuple[float, ...]:
    total = math.fsum(numbers)
    return tuple(of / total for of in numbers)


# Checks ---------------------------------------------------------------------------------------


def _reward(name: str) -> Callable[[float], None]:
    def check(value: float) -> None:
        if not abs(value) <= 1e6:
            raise ValueError(f"{name} is {value:g}; give a number from -1000000 to 1000000")

    return check


def _probability(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"probability is {value:g}; give a number between 0 and 1")
    if value < LEAST_PROBABILITY * (1.0 - _CLOSE):
        raise ValueError(f"probability is {value:g}; give at least {LEAST_PROBABILITY:g}")


_CHECKS: Mapping[str, Callable[[float], None]] = MappingProxyType(
    {"proxy": _reward("proxy reward"), "truth": _reward("ground truth"), "start": _probability}
)


def number(name: str, text: str) -> float:
    """A number as a person writes it.

    Raises:
        ValueError: if it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, which is no number; give one such as 0.5") from None


def _whole(name: str, text: str) -> int:
    value = number(name, text)
    if not value.is_integer():
        raise ValueError(f"{name} is {text!r}; give a whole number")
    return int(value)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    return tuple(number(name, part) for part in text.split(","))


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{name} is {text!r}; give true or false")
    return text == "true"


def _word(name: str, text: str) -> str:
    return text


_READ: Mapping[str, Callable[[str, str], Any]] = MappingProxyType(
    {
        **dict.fromkeys(_CHECKS, _numbers),
        **dict.fromkeys(("estimator", "preset"), _word),
        **dict.fromkeys(("population", "dynamic_sampling"), _flag),
        **dict.fromkeys(("group", "epsilon", "power", "k", "kl", "goal", "horizon"), number),
        **dict.fromkeys(("angle", "length"), number),
        **dict.fromkeys(("first", "second"), _whole),
    }
)


def _named(followed: Followed) -> dict[str, Any]:
    return {"estimator": followed.estimator, **followed.given}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else repr(value)


# What the page can show ------------------------------------------------------------------------


def _check_plain(instance: Instance) -> None:
    other = None
    regularizer = instance.regularizer
    if not isinstance(instance.policy, Tabular | LinearSoftmax):
        other = "a policy of tokens"
    elif regularizer is not None and (float(regularizer.forward_kl) or float(regularizer.entropy)):
        other = "forward KL or an entropy bonus"
    elif instance.reward_variances is not None:
        other = "random rewards"
    elif regularizer is not None and not np.allclose(
        instance.reference_log_probabilities, instance.log_probabilities(instance.initial_parameters)
    ):
        other = "a reference that is not the initial policy"
    if other is not None:
        raise ValueError(f"the instance has {other}, which the page does not show; use goodteacher run")


def _features(instance: Instance, prompt: int, exists: Any) -> Features | None:
    """Those of the page with the same inner products, which are all that counts."""
    if not isinstance(instance.policy, LinearSoftmax):
        return None
    rows = np.asarray(instance.policy.features)[prompt][exists] / float(instance.policy.temperature)
    products = rows @ rows.T
    lengths = np.sqrt(np.diag(products))
    others = np.argwhere(np.triu(np.abs(products) > _CLOSE, 1))
    longer = np.flatnonzero(np.abs(lengths - 1.0) > _CLOSE)
    if len(others) <= 1 and len(longer) <= 1:
        pair = [int(y) for y in others[0]] if len(others) else [0, 1]
        if len(longer) and longer[0] not in pair:
            pair = [int(longer[0]), 1 if longer[0] == 0 else 0]
        if len(longer) and longer[0] == pair[1]:
            pair.reverse()
        first, second = pair
        length = float(lengths[first]) if lengths[first] != 0 else 1.0
        cosine = products[first, second] / (length * lengths[second])
        angle = 90.0 if abs(cosine) < _CLOSE else round(math.degrees(math.acos(cosine)), 9)
        found = Features(first, second, angle, round(length, 12))
        same = found.matrix(len(rows))
        if np.allclose(same @ same.T, products, atol=1e-8):
            return found
    raise ValueError(
        "the instance has features of which more than one pair is at an angle, or more than one has another "
        "length than 1, which the page does not show; use goodteacher run"
    )


def replaced(followed: Followed, name: str, value: Any) -> Followed:
    """With another estimator or number; numbers that do not go with another estimator are left out."""
    if name != "estimator":
        return dataclasses.replace(followed, **{name: value})
    group = followed.group if value in OF_GROUPS else None
    return Followed(value, group=group, k=(followed.k or 8.0) if value == "pass_at_k" else None)
