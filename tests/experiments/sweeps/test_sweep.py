"""What a sweep computes, what it says of bad input, and its commands."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from goodteacher.experiments import instances
from goodteacher.experiments.commands import main as cli
from goodteacher.experiments.sweeps import measures, runner, sweep
from goodteacher.experiments.sweeps.axes import Linspace, Logspace, Range, Values, axis
from goodteacher.experiments.sweeps.dynamics import Ascent, Flow, Sampled, dynamics
from goodteacher.experiments.sweeps.grid import Grid
from goodteacher.experiments.sweeps.specification import from_texts, read, specify
from goodteacher.sim.ascent import ascend, optimizer
from goodteacher.sim.clocks import Grpo, MeanSubtracted
from goodteacher.sim.files import from_dictionary
from goodteacher.sim.flow import Control, final_policy, hitting_time
from goodteacher.sim.goals import probability_level, reward_increase, reward_level
from goodteacher.sim.instance import Instance
from goodteacher.sim.learning import learn
from goodteacher.sim.objective import expected_reward
from goodteacher.sim.status import Status


def run(*arguments: str) -> int:
    return cli.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> xr.Dataset:
    # Where the two probabilities exceed one there is no instance; the level 2 is never reached.
    return sweep(
        "beneficial_errors",
        {"initial_probability": [1e-3, 0.1, 0.6], "middling_reward": "linspace:0.2:0.8:2"},
        ["hitting_time:0.9", "hitting_time:2", "ground_truth:50", "probability:1"],
        store=tmp_path_factory.mktemp("sweeps") / "s",
        parameters={"low_outputs": 2},
        chunk=4,
    )


def test_a_sweep_measures_what_single_runs_do(swept):
    for probability in (1e-3, 0.1):
        for reward in (0.2, 0.8):
            point = swept.sel(initial_probability=probability, middling_reward=reward, method="nearest")
            instance = instances.beneficial_errors(probability, reward, low_outputs=2)
            alone = hitting_time(instance, reward_level(instance, 0.9))
            assert point["hitting_time_0.9"] == pytest.approx(float(alone.time[0]), rel=1e-9)
            log_p, _ = final_policy(instance, Control(horizon=50.0))
            value = expected_reward(jnp.exp(log_p), instance.ground_truth_rewards)
            assert point.ground_truth == pytest.approx(float(value[0]), rel=1e-9)
            assert point.probability == pytest.approx(0.5, rel=1e-12)


def test_what_fails_is_a_status_and_never_a_number(swept):
    valid = swept.initial_probability < 0.5
    assert (swept["hitting_time_2"].where(valid, np.inf) == np.inf).all()
    expected = {"hitting_time_0.9": Status.REACHED, "hitting_time_2": Status.OUT_OF_REACH}
    expected |= dict.fromkeys(("ground_truth", "probability"), Status.FINISHED)
    for name in ("hitting_time_0.9", "hitting_time_2", "ground_truth", "probability"):
        assert np.isnan(swept[name].where(~valid)).all()
        status = swept[f"{name}_status"]
        assert (status == xr.where(valid, int(expected[name]), int(Status.INVALID))).all()


def test_steps_that_run_out_are_recorded(tmp_path):
    axes = {"seed": "range:0:3", "kl_coefficient": "0.1"}
    chosen = specify("random", axes, ["increase_time:0.1"], dynamics=Flow(max_steps=2))
    outcome = runner.run(chosen, tmp_path / "s")
    assert outcome.statuses == {"increase_time": {"not_converged": 3}}
    assert outcome.complete(chosen)
    assert np.isnan(xr.open_zarr(tmp_path / "s").increase_time).all()


def test_the_store_says_what_it_is(swept):
    assert swept["hitting_time_0.9"].attrs["units"] == "learning rate × updates"
    assert swept["hitting_time_0.9"].attrs["definition"] == "hitting_time:0.9"
    assert swept.attrs["precision"] == "float64"
    assert "jax" in swept.attrs["versions"]
    assert '"low_outputs": 2' in swept.attrs["specification"]


def test_chunks_do_not_depend_on_the_lanes(tmp_path):
    found = [
        sweep(
            "random",
            {"seed": "range:0:40"},
            ["increase_time:0.1"],
            store=tmp_path / f"{lanes}",
            chunk=40,
            lanes=lanes,
        ).load()
        for lanes in (8, 40)
    ]
    xr.testing.assert_identical(found[0].drop_attrs(), found[1].drop_attrs())


def test_lanes_and_chunks_follow_from_the_outputs_and_the_points():
    def cut(outputs: int, points: int):
        found = specify("random", {"seed": f"range:0:{points}"}, ["kl"], parameters={"outputs": outputs})
        return Grid.cut(found)

    assert [cut(outputs, 10**6).lanes for outputs in (4, 16, 64, 4096)] == [128, 128, 32, 32]
    # Fewer points in a chunk where each takes more memory; a small sweep is a single chunk.
    assert cut(8, 10**8).points == 1 << 17
    assert cut(4096, 10**8).points * 4096 <= 1 << 21
    assert cut(8, 10**5).points == 12_500
    assert (cut(8, 1000).chunk, cut(8, 1000).lanes) == ((1000,), 128)


def test_flows_follow_an_estimator(tmp_path):
    """The published runs have a middling reward and negative ones, which MaxRL has no clock for."""
    starts = [0.01, 0.1]

    def swept(**estimator: Any) -> xr.Dataset:
        return sweep(
            "beneficial_errors",
            {"initial_probability": starts},
            ["probability_time:0:0.9"],
            store=tmp_path / "-".join(map(str, estimator.values())),
            dynamics=Flow(**estimator),
        )

    found = swept(estimator="grpo", epsilon=1e-3).probability_time.values
    for start, time in zip(starts, found, strict=True):
        instance = instances.beneficial_errors(start).following(Grpo(epsilon=1e-3))
        alone = hitting_time(instance, probability_level(instance, 0, 0.9)).time
        np.testing.assert_allclose(time, alone[0], rtol=1e-9)
    for refused in (swept(estimator="maxrl"), swept(estimator="grpo", group=8)):
        assert np.isnan(refused.probability_time).all()
        assert (refused.probability_time_status == Status.NOT_CONVERGED).all()


def test_zipped_axes_shapes_prompts_and_names(tmp_path):
    data = sweep(
        "random",
        {"seed": [4, 5], "outputs": [3, 4], "logit_scale": [0.5, 1.0]},
        ["entropy", "kl:final"],
        store=tmp_path / "s",
        zip=[["seed", "logit_scale"]],
        parameters={"prompts": 2},
        dynamics=Sampled(estimator="rloo", steps=3),
    )
    assert dict(data.sizes) == {"seed": 2, "outputs": 2, "prompt": 2}
    assert data.logit_scale.dims == ("seed",)
    assert (data.entropy.sel(outputs=3) < np.log(3)).all()
    assert (data.kl > 0).all()
    names = sweep(
        "beneficial_errors", {"trained_on": "proxy,ground_truth"}, ["variance"], store=tmp_path / "n"
    )
    assert names.trained_on.values.tolist() == ["proxy", "ground_truth"]


def test_samples_of_frameworks(tmp_path):
    """With a preset learners are those of its clock; without, those of run's estimator of that name."""

    def learned(**options):
        chosen = dynamics({"name": "grpo", "group": 4, "steps": 20, **options})
        assert dynamics(chosen.describe()) == chosen
        (text,) = options or ("plain",)
        axes, measure = {"initial_probability": [0.1]}, ["probability:0:final"]
        return sweep("beneficial_errors", axes, measure, store=tmp_path / text, dynamics=chosen).probability

    def expected(clock):
        instance, key = instances.beneficial_errors(0.1), jax.random.fold_in(jax.random.key(0), 0)
        found = learn(instance, key, clock, None, optimizer("sgd", 0.1)[1], 20, metrics=("probabilities",))
        return found.records["probabilities"][-1, 0, 0]

    for options, clock in (
        ({"preset": "trl"}, Grpo(4, 1e-4)),
        ({"epsilon": 0.5}, Grpo(4, 0.5)),
        ({}, Grpo(4)),
    ):
        np.testing.assert_allclose(learned(**options), [expected(clock)], rtol=1e-12)
    assert Sampled(preset="prime-rl").clock() == MeanSubtracted(8)


def test_ascent_and_a_varied_file(tmp_path):
    data = sweep(
        "file:examples/proxy.json",
        {"initial_policy_probabilities[0,0]": [0.05, 0.3], "rewards[0,1]": [-1.0, 0.5]},
        ["increase_time:0.3", "hitting_time:2", "probability:0", "variance"],
        store=tmp_path / "s",
        dynamics=Ascent(steps=200),
    )
    assert np.allclose(data.probability, [[0.05, 0.05], [0.3, 0.3]])
    assert (data.increase_time == data.increase_time.round()).all()
    assert (data.increase_time_status == Status.REACHED).all()
    assert (data.hitting_time == np.inf).all()
    assert (data.hitting_time_status == Status.OUT_OF_REACH).all()
    contents = json.loads(Path("examples/proxy.json").read_text())
    contents["rewards"][0][1] = 0.5
    start = np.array(contents["initial_policy_probabilities"][0])
    start *= 0.7 / (1 - start[0])
    contents["initial_policy_probabilities"] = [[0.3, *start[1:].tolist()]]
    instance = from_dictionary(contents)
    goal = reward_increase(instance, 0.3)
    alone = ascend(instance, *optimizer("sgd", 0.1)[1:], 200, goal=goal)
    assert alone.first_update is not None
    assert float(data.increase_time[1, 1]) == float(alone.first_update[0])
    assert float(data.increase_time[1, 0]) != float(alone.first_update[0])


def test_values_of_axes_are_those_of_numpy():
    def values(text):
        one = axis("a", text)
        return one.at(np.arange(one.count))

    assert np.array_equal(values("linspace:0.1:0.9:100"), np.linspace(0.1, 0.9, 100))
    assert np.allclose(values("logspace:-6:-1:200"), np.logspace(-6, -1, 200), rtol=1e-15)
    assert values("range:3:11:2").tolist() == [3, 5, 7, 9]
    assert values("1,2.5").tolist() == [1.0, 2.5]
    assert values(np.array([3.0, 1.0])).tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"builder": "benefical_errors"}, "'benefical_errors' is unknown; did you mean beneficial_errors"),
        ({"builder": "file:no.json"}, "cannot read no.json"),
        ({"builder": "file:"}, "names no file; give file:FILE"),
        ({"builder": "rollouts:"}, "names no file; give rollouts:FILE"),
        ({"axes": {"outpts": [3]}}, "parameter of random 'outpts' is unknown; did you mean outputs"),
        ({"parameters": {"eror": 1}}, "'eror' is unknown; did you mean error"),
        ({"measures": ["hiting_time:1"]}, "measure 'hiting_time' is unknown; did you mean hitting_time"),
        ({"measures": ["hitting_time"]}, "has 0 arguments; give hitting_time:LEVEL"),
        ({"measures": ["kl:final:2"]}, "has 2 arguments; give kl"),
        ({"measures": ["hitting_time:nan"]}, "finite numbers"),
        ({"measures": ["probability:8"]}, "output 8 is not one of 0 to 7"),
        ({"measures": ["kl", "kl"]}, "'kl' is given twice"),
        ({"measures": []}, "measures is .*; give a list of at least one"),
        ({"measures": ["kl:-1"]}, "give a time from 0 to the horizon"),
        ({"axes": {}}, "axes is empty"),
        ({"axes": {"seed": []}}, "axis seed is empty"),
        ({"axes": {"seed": "range:5:5"}}, "axis seed is empty"),
        ({"axes": {"error": "linspace:0:1:0"}}, "axis error is empty"),
        ({"axes": {"error": [0.1, float("nan")]}}, "axis error holds nan; give finite numbers"),
        ({"axes": {"error": "linspace:0:inf:3"}}, "axis error .*finite"),
        ({"axes": {"logit_scale": "logspace:1:500:3"}}, "axis logit_scale holds inf"),
        ({"axes": {"error": "linspce:0:1:3"}}, "did you mean linspace"),
        ({"axes": {"error": "linspace:0:1"}}, "give linspace:FIRST:LAST:COUNT"),
        ({"axes": {"error": [0.1, 0.1]}}, "has the value 0.1 twice"),
        ({"axes": {"error": [0.1, 2]}}, "error is 2; give a number between 0 and 1"),
        ({"axes": {"outputs": [2.5]}}, "outputs is 2.5; give a whole number"),
        ({"axes": {"seed": "linspace:0:1:2"}}, "axis seed needs whole numbers"),
        ({"axes": {"prompts": [1, 2]}}, "prompts cannot be an axis"),
        ({"parameters": {"seed": 1}}, "seed is given as a parameter and as an axis"),
        ({"zip": [["seed", "eror"]]}, "axis to zip 'eror' is unknown"),
        ({"axes": {"seed": [1, 2], "error": [0]}, "zip": [["seed", "error"]]}, "seed has 2, error has 1"),
        ({"measures": ["accuracy"]}, "'accuracy' .*; give uniform_accuracy or on_policy_accuracy"),
        ({"measures": ["increase_time:-1"]}, "increase_time: gamma is -1; give a positive number"),
        ({"measures": ["share_time:1"]}, "share is 1; give a number strictly between 0 and 1"),
        ({"measures": [3]}, "measure 3 is no text"),
        ({"measures": measures.kl()}, "measures is .*; give a list"),
        ({"measures": ["kl", measures.kl()]}, "'kl' is given twice"),
        ({"measures": ["kl:2.5"], "dynamics": Ascent(steps=9)}, "give a whole time from 0 to the horizon, 9"),
        ({"dynamics": Sampled(estimator="rloo"), "measures": ["hitting_time:1"]}, "does not apply to dyn"),
        ({"dynamics": {"name": "flow"}}, "dynamics is .*; give Flow"),
        ({"axes": {"seed": Range(0, 0)}}, "axis seed is empty"),
        ({"axes": {"error": Linspace(0, 2, 3)}}, "error is 2.0; give a number between 0 and 1"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    given = {"builder": "random", "axes": {"seed": "range:0:3"}, "measures": ["kl"], **change}
    with pytest.raises(ValueError, match=message):
        specify(**given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dynamics({"name": "flw"}), "dynamics 'flw' is unknown; did you mean flow"),
        (lambda: dynamics({"steps": 3}), "steps does not apply to dynamics flow"),
        (lambda: dynamics({"name": "ascent", "group": 3}), "group does not apply to dynamics ascent"),
        (lambda: dynamics({"horizn": 3}), "'horizn' is unknown; did you mean horizon"),
        (
            lambda: dynamics({"name": "ascent", "optimizer": "adm"}),
            "optimizer 'adm' is unknown; did you mean",
        ),
        (lambda: dynamics({"horizon": "long"}), "horizon is 'long'; give a number"),
        (lambda: Flow(horizon=-3), "horizon is -3; give a positive number"),
        (lambda: Flow(tolerance=float("nan")), "tolerance is nan; give a finite number"),
        (lambda: dynamics({"name": "ascent", "steps": 2.5}), "steps is 2.5; give a whole number"),
        (lambda: Ascent(steps=0), "steps is 0; give a positive whole number"),
        (lambda: Sampled(estimator="rlo"), "estimator 'rlo' is unknown; did you mean rloo"),
        (lambda: Sampled(estimator="rloo", group=1), "group is 1; rloo needs at least 2"),
        (lambda: Sampled(seed=-1), "seed is -1"),
        (lambda: Sampled(group=1), "group is 1; give a whole number of at least 2"),
        (lambda: Sampled(estimator="rloo", preset="trl"), "preset does not apply to estimator rloo; .* grpo"),
        (lambda: dynamics({"name": "grpo", "power": 1}), "power does not apply to .*; leave it out$"),
        (lambda: Sampled(preset="trl-batch", dynamic_sampling=True), "trl-batch.* leave one out"),
        (lambda: Sampled(preset="prime-rl", epsilon=0.1), "divides by no standard deviation"),
        (lambda: Linspace(0, float("inf"), 3), "last is inf; give a finite number"),
        (lambda: Logspace(0, 1, -2), "count is -2; give a whole number of at least 0"),
        (lambda: Range(0, 3, 0), "step is 0"),
        (lambda: measures.hitting_time(), "has 0 arguments; give hitting_time:LEVEL"),
        (lambda: measures.hitting_time(0.5, at=3), "give hitting_time:LEVEL"),
        (lambda: measures.probability(0.5), "output is 0.5; give a whole number"),
    ],
)
def test_values_are_refused_when_they_are_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_values_and_texts_say_the_same(tmp_path):
    axes = {"seed": Range(0, 6), "error": Linspace(0, 1, 3), "logit_scale": Values((0.5, 1.0, 2.0))}
    chosen = specify(
        "random",
        axes,
        [measures.hitting_time(0.9), measures.hitting_time(2), measures.kl(at=measures.FINAL)],
        parameters={"outputs": 3},
        zip=[["error", "logit_scale"]],
        dynamics=Ascent(steps=7, optimizer="adam"),
    )
    texts = from_texts(
        "random",
        ["seed=range:0:6", "error=linspace:0:1:3", "logit_scale=0.5,1,2"],
        ["hitting_time:0.90", "hitting_time:2", "kl:final"],
        parameters=["outputs=3"],
        zip=["error,logit_scale"],
        dynamics="ascent",
        options=["steps=7", "optimizer=adam"],
    )
    file = tmp_path / "spec.toml"
    file.write_text(
        'builder = "random"\nmeasures = ["hitting_time:0.90", "hitting_time:2", "kl:final"]\n'
        'zip = [["error", "logit_scale"]]\n'
        '[axes]\nseed = "range:0:6"\nerror = "linspace:0:1:3"\nlogit_scale = [0.5, 1.0, 2.0]\n'
        '[parameters]\noutputs = 3\n[dynamics]\nname = "ascent"\nsteps = 7\noptimizer = "adam"\n'
    )
    for given in (texts, read(file)):
        other = specify(**given)
        assert other.describe() == chosen.describe()
        assert list(other.measures) == list(chosen.measures) == ["hitting_time_0.9", "hitting_time_2", "kl"]
        assert (other.measures, other.dynamics) == (chosen.measures, chosen.dynamics)
    assert chosen.describe() != specify("random", axes, ["kl"]).describe()


def test_accuracies_name_their_pairs(tmp_path):
    names = (
        "uniform_accuracy",
        "on_policy_accuracy",
        "uniform_accuracy_where_truth_differs",
        "on_policy_accuracy_where_truth_differs",
    )
    data = sweep(ranked, {"probability": [0.5, 0.9]}, names, store=tmp_path / "s")
    # Pairs of the truth (1, 0, 0) under rewards (2, 1, 3): the first pair is right, the tie is not.
    assert np.allclose(data.uniform_accuracy, 1 / 3)
    assert np.allclose(data.uniform_accuracy_where_truth_differs, 1 / 2)
    for p in (0.5, 0.9):
        point, rest = data.sel(probability=p), (1 - p) / 2
        pairs = np.array([p * rest, p * rest, rest * rest])
        assert float(point.on_policy_accuracy) == pytest.approx(pairs[0] / pairs.sum())
        assert float(point.on_policy_accuracy_where_truth_differs) == pytest.approx(1 / 2)


def ranked(probability: float = 0.5) -> Instance:
    """Three outputs of which two are equally good."""
    rest = (1.0 - probability) / 2
    return Instance([2.0, 1.0, 3.0], [1.0, 0.0, 0.0], jnp.stack([probability, rest, rest]))


def test_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("goodteacher.experiments.compilation.keep_compiled", lambda: None)
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "spec.toml"
    spec.write_text(
        'builder = "random"\nmeasures = ["variance", "entropy"]\nchunk = 8\n'
        '[axes]\nseed = "range:0:6"\nlogit_scale = [0.5, 1.0, 2.0]\nerror = [0.0, 0.5]\n'
    )
    assert run("sweep", spec, "--store", "s", "--dry-run") == 0
    assert "36 = 6 × 3 × 2" in capsys.readouterr().out
    assert not os.path.exists("s")
    assert run("sweep", spec, "--store", "s") == 0
    assert "100%" in capsys.readouterr().out
    assert run("show", "s", "--export", "out.csv") == 0
    printed = capsys.readouterr().out
    for part in ("logit_scale", "entropy of the policy of the initial policy", "6 of 6 chunks", "jax"):
        assert part in printed
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 37
    assert run("show", "s", "--export", "out.nc") == 0
    xr.testing.assert_allclose(xr.open_dataset("out.nc", engine="scipy"), xr.open_zarr("s"))
    assert (
        run("plot", "s", "--x", "seed", "--y", "logit_scale", "--color", "variance", "--facet", "error") == 0
    )
    assert (
        run("plot", "s", "--x", "logit_scale", "--y", "entropy", "--color", "error", "--output", "l.pdf") == 0
    )
    assert (tmp_path / "s.png").stat().st_size > 5000
    capsys.readouterr()
    refused = {
        ("plot", "s", "--x", "sed", "--y", "entropy"): "axis 'sed' is unknown; did you mean seed",
        ("plot", "s", "--x", "seed", "--y", "entrpy"): "did you mean entropy",
        ("plot", "s", "--x", "seed", "--y", "error"): "needs a color: give a measure",
        ("plot", "s", "--x", "seed", "--y", "entropy", "--log", "seed", "--output", "a.png"): "not positive",
        ("show", "t"): "t is not the store of a sweep",
        ("show", "s", "--export", "out.xls"): "ends in .csv or .nc",
        ("sweep", "random", "--axis", "seed", "--store", "t"): "axis 'seed' is malformed; give NAME=VALUE",
        ("sweep", "random", "--axis", "seed=1", "--axis", "seed=2", "--store", "t"): "seed is given twice",
        ("sweep", str(spec), "--measure", "kl", "--store", "t"): "--measure does not apply to a file",
    }
    for arguments, message in refused.items():
        if "plot" in arguments and "--output" not in arguments:
            arguments = (*arguments, "--overwrite")
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    for text, message in {
        "a = [1,\nb": "line 2",
        "builder = 'random'": "key axes is missing",
        "buildr = 1": "did you mean builder",
    }.items():
        spec.write_text(text)
        assert run("sweep", spec, "--store", "t") == 2
        assert message in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_of_the_command(tmp_path, capsys, monkeypatch):
    def full(store, key, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("goodteacher.experiments.compilation.keep_compiled", lambda: None)
    monkeypatch.setattr("goodteacher.experiments.sweeps.store._place", full)
    assert run("sweep", "random", "--axis", "seed=1,2", "--measure", "kl", "--store", tmp_path / "s") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device" in lines[0]


def test_a_function_of_ones_own(tmp_path):
    def mine(reward: float = 0.0, outputs: int = 3):
        """Uniform, one output better."""
        return Instance(jnp.zeros(outputs).at[0].set(reward))

    data = sweep(mine, {"reward": [1.0, 2.0]}, ["variance"], store=tmp_path / "s")
    assert np.allclose(data.variance, [2 / 9, 8 / 9])
