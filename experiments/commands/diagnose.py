"""``goodteacher diagnose``."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from goodteacher.experiments.commands.options import (
    GRADIENT_AND_GROUPS,
    NOWHERE,
    EstimatorAndGroups,
    Result,
    given,
    optional,
)
from goodteacher.experiments.text import print_table

Words = Annotated[tuple[str, ...], optional("NAME ...")]


def diagnose(
    rollouts: Annotated[Positional[tuple[Path, ...]], arg(metavar="ROLLOUTS ...")],
    *,
    reward: Words = (),
    truth: Annotated[str | None, optional("NAME")] = None,
    prompt: Annotated[str | None, optional("NAME")] = None,
    answer: Annotated[str | None, optional("NAME")] = None,
    weights: Annotated[tuple[str, ...], optional("NAME=W ...")] = (),
    scale: Literal["none", "policy", "within", "group"] = "policy",
    followed: EstimatorAndGroups = GRADIENT_AND_GROUPS,
    goal: Annotated[float | None, optional("SHARE")] = None,
    budget: Annotated[float | None, optional("T")] = None,
    resamples: Annotated[int | None, optional("N")] = None,
    seed: Annotated[int | None, optional("N")] = None,
    report: Annotated[Path | None, optional("OUT.html")] = None,
    table: Annotated[Path | None, optional("OUT.csv")] = None,
    result: Result = NOWHERE,
) -> int:
    """Say from a file of rollouts whether a reward is a good teacher for the policy that drew them.
    $ goodteacher diagnose examples/rollouts.csv --report answer.html --table prompts.csv
    $ goodteacher diagnose completions/ --reward accuracy_reward --truth accuracy_reward

    Files are those of TRL, verl, NeMo Gym, prime-rl, RewardBench, PPE, lm-evaluation-harness and
    reasoning-gym-eval, or any CSV, JSON lines or Parquet with a row for each draw or each prompt.

    Args:
        rollouts: Files, or folders of them.
        reward: Columns of rewards (default: what is recognised).
        truth: Column of the ground truth; may have gaps.
        prompt: Column that says which prompt a row is of.
        answer: Column that is equal for equal outputs.
        weights: Add the weighted sum of these rewards.
        scale: Put rewards on one scale: over all draws, by the variance within prompts, prompt by prompt.
        goal: Share of the possible increase of the ground truth to be reached (default: 0.9).
        budget: The time there is (default: ten times the median time on the ground truth, without one on
            the rewards).
        resamples: Of the bootstrap (default: 1000).
        seed: Of all random numbers (default: 0).
        report: Write a page with pictures, which needs no network.
        table: Write everything that is known of every prompt.
    """
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import teacher_answer
    from goodteacher.experiments.rollouts import diagnosis
    from goodteacher.experiments.rollouts.intake import read_rollouts
    from goodteacher.experiments.rollouts.layouts import Columns
    from goodteacher.sim.files import check_writable

    compile_quickly()
    keep_compiled()
    result.check()
    for path in filter(None, (table, report)):
        check_writable(path, overwrite=result.overwrite)
    asked = given(goal=goal, budget=budget, resamples=resamples, seed=seed, groups=followed.sizes)
    asked |= {"scale": scale, "estimator": followed.clock()}
    diagnosis.Asked(**asked)
    sums = _weights(weights)
    needed = tuple(dict.fromkeys((*reward, *sums)))
    with Progress("diagnose:") as progress:
        read = read_rollouts(rollouts, Columns(needed, truth, prompt, answer))
        if sums:
            summed = read.with_sum(sums)
            read = summed.choose((*(reward or needed), summed.names[-1]))
        data = interruptible(lambda: diagnosis.diagnose(read, tell=lambda doing: progress(0, doing), **asked))
    result.write(teacher_answer.report(data, read))
    if table is not None:
        teacher_answer.frame(data).to_csv(table, index=False)
    if report is not None:
        from goodteacher.experiments.reports.page import page

        report.write_text(page(data, read), encoding="utf-8")
    print(teacher_answer.answer(data))
    print_table(teacher_answer.rewards_table(data))
    print_table(teacher_answer.verdicts_table(data))
    if (prompts := teacher_answer.prompts_table(data)) is not None:
        print_table(prompts)
    print_table(teacher_answer.groups_table(data))
    for line in teacher_answer.limits(data):
        print(line)
    print(teacher_answer.recognised(read, "--prompt, --reward, --truth and --answer say otherwise"))
    return 0


def _weights(texts: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if name in found:
            raise ValueError(f"--weights has {name} twice; give it one weight")
        try:
            found[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(f"--weights has {text!r}; give NAME=NUMBER")
    return found
