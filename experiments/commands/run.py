"""``goodteacher run``."""

from typing import Annotated, Literal

from goodteacher.experiments.commands.options import (
    GRADIENT,
    NO_TRUTH,
    NOWHERE,
    SCREENFUL,
    Estimator,
    InstanceFile,
    Result,
    Rows,
    at_most_one,
    given,
    optional,
    print_rest,
)
from goodteacher.experiments.text import print_table


def run(
    source: InstanceFile,
    *,
    dynamics: Literal["flow", "ascent"] = "flow",
    gamma: Annotated[float | None, optional("G")] = None,
    goal: Annotated[float | None, optional("SHARE")] = None,
    horizon: Annotated[float | None, optional("T")] = None,
    steps: Annotated[int | None, optional("N")] = None,
    learning_rate: Annotated[float | None, optional("R")] = None,
    optimizer: Annotated[str | None, optional("NAME")] = None,
    kl: Annotated[float | None, optional("L")] = None,
    followed: Estimator = GRADIENT,
    rows: Rows = SCREENFUL,
    result: Result = NOWHERE,
) -> int:
    """Simulate an instance file: exact policy gradient from its initial policy.
    $ goodteacher run examples/ground_truth.json --gamma 0.9
    $ goodteacher run examples/proxy.json --dynamics ascent
    $ goodteacher run examples/two_prompts.json --kl 0.2
    $ goodteacher run examples/ground_truth.json --gamma 0.9 --estimator grpo --preset trl

    Args:
        dynamics: Gradient flow, or discrete ascent with exact gradients.
        gamma: Find when the expected ground truth reward has risen by G.
        goal: Instead: when it has covered this share of what is possible on each prompt.
        horizon: Flow: when to stop (default: 1e300).
        steps: Ascent: how many updates (default: 50000).
        learning_rate: Ascent: learning rate (default: 0.1), the largest one for backtracking.
        optimizer: Ascent: sgd (default), momentum, adam, normalized, backtracking or npg.
        kl: KL coefficient, instead of the file's own.
        rows: Prompts to print at most (default: 20).
    """
    of_flow = given(horizon=horizon)
    of_ascent = given(steps=steps, learning_rate=learning_rate, optimizer=optimizer)
    own, other = (of_flow, of_ascent) if dynamics == "flow" else (of_ascent, of_flow)
    for name in other:
        raise ValueError(f"--{name.replace('_', '-')} does not apply to --dynamics {dynamics}; leave it out")

    from goodteacher.experiments import aims
    from goodteacher.experiments.compilation import compile_quickly, keep_compiled
    from goodteacher.experiments.followed import follow, told
    from goodteacher.experiments.progress import Progress, interruptible
    from goodteacher.experiments.reports import simulation

    compile_quickly()
    keep_compiled()
    result.check()
    at_most_one(gamma=gamma, goal=goal)
    way = simulation.DYNAMICS[dynamics](**own)
    clock = followed.clock()
    problem, has_truth, names = source.read()
    for name in given(gamma=gamma, goal=goal):
        if not has_truth:
            raise source.without_truth(f"--{name} is of it")
    instance, unknown = follow(problem, clock)
    if kl is not None:
        instance = simulation.with_kl_coefficient(instance, kl)
    aim, wanted = "", None
    if gamma is not None:
        aim, wanted = f", ground truth reward to rise by {gamma:g}", aims.increase(instance, gamma)
    elif goal is not None:
        aim = f", ground truth reward to cover {goal:g} of what is possible"
        wanted = aims.share(instance, goal)
    title = way.title
    if followed != GRADIENT:
        title = f"{clock.title}: {way.title.removeprefix('gradient ')}"
    with Progress(title, way.parts) as progress:
        outcome = interruptible(lambda: way.follow(instance, wanted, progress))
    report = simulation.report(problem, instance, outcome, unknown, has_truth=has_truth) | names
    result.write(report)
    print(f"{source.file}: {title}{aim}: {report['status']}")
    print_table(simulation.table(report, rows), keys=2)
    prompts = len(report["prompt_status"])
    if stops := simulation.on_the_way(report, range(prompts)[:rows]):
        print(stops)
    print_rest(prompts, rows)
    if note := simulation.note(report):
        print(note)
    for line in told(unknown, names.get("prompt_names")):
        print(line)
    if not has_truth:
        print(NO_TRUTH)
    return 0
