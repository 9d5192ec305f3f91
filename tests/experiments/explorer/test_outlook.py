"""What the page computes: the same as the commands, with nothing compiled as outputs come and go."""

import logging
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from goodteacher import hitting_time, itineraries
from goodteacher.experiments.aims import share
from goodteacher.experiments.explorer.outlook import effects, outlook
from goodteacher.experiments.explorer.readings import effect_text, headline, readings, way
from goodteacher.experiments.explorer.session import Shown, answer_data, controls_data, numbers_data, opened
from goodteacher.experiments.explorer.situation import Features, Situation
from goodteacher.experiments.explorer.starting_points import drawn, published, read_problems
from goodteacher.experiments.followed import Followed
from goodteacher.experiments.reports import reward_quality, simulation
from goodteacher.sim.status import Status
from goodteacher.theory import error_kinds

STALLED, TAUGHT = published("ground truth, 0.05"), published("proxy, 0.05")


@pytest.fixture(scope="module")
def stalled():
    return outlook(STALLED)


def test_it_is_what_the_commands_say():
    situation = drawn(1)
    found, instance = outlook(situation), situation.instance()
    goal = share(instance, 0.9)
    said = error_kinds.effects(instance, goal)
    assert found.time == pytest.approx(said.time[0], rel=1e-9)
    assert found.level == pytest.approx(float(goal.level[0]))
    assert found.kinds == tuple(error_kinds.categories(instance)[0].tolist())
    ratios = effects(situation, found.time)
    assert np.flatnonzero(~np.isnan(ratios)).tolist() == said.errors[:, 1].tolist()
    np.testing.assert_allclose(ratios[said.errors[:, 1]], said.log_ratio, rtol=1e-6, atol=1e-9)
    assert np.isfinite(said.log_ratio).any()
    measured = reward_quality.report(instance)["prompts"]
    assert found.measures["acc"] == pytest.approx(measured["pairwise"]["acc"][0])
    assert found.measures["hacc"] == pytest.approx(measured["pairwise"]["hacc"][0])
    assert found.measures["proxy_reward_variance"] == pytest.approx(measured["reward_variance"][0])
    outcome = simulation.AlongFlow().follow(instance, goal, None)  # pyright: ignore[reportArgumentType]
    assert found.bound == pytest.approx(outcome.lower_bound[0])
    stops = itineraries(instance)[0].stops
    assert [(held.output, held.start) for held in found.held] == [
        (stop.output, pytest.approx(stop.start, rel=1e-9)) for stop in stops
    ]


def test_paths_begin_at_the_start_and_pass_the_goal(stalled):
    np.testing.assert_allclose(stalled.probabilities[0], STALLED.start, rtol=0.1)
    assert stalled.truth[-1] > stalled.level > stalled.truth[0]
    assert np.interp(stalled.time, stalled.times, stalled.truth) == pytest.approx(stalled.level, abs=0.02)
    np.testing.assert_allclose(stalled.proxy, stalled.truth, rtol=1e-12)
    np.testing.assert_allclose(stalled.truth_on_truth, stalled.truth, rtol=1e-9)
    assert (np.diff(stalled.times) >= 0).all()


def test_paths_of_shared_features_reach_the_end_of_long_stalls():
    random = np.random.default_rng(20)
    truth, other = random.uniform(-1.0, 1.0, (2, 20))
    proxy, start = np.where(np.arange(20) % 2, truth, other), random.dirichlet(np.ones(20)) + 1e-4
    proxy, truth, start = (tuple(of.tolist()) for of in (proxy, truth, start / start.sum()))
    found = outlook(Situation(proxy, truth, start, features=Features(angle=60.0)))
    assert found.time > 1e20
    assert np.isfinite(found.probabilities).all()
    before, after = found.times < 0.9 * found.time, found.times > 1.1 * found.time
    assert found.truth[before].max() < found.level < found.truth[after].min()


def test_a_law_stands_beside_a_stall(stalled):
    assert stalled.law.time == pytest.approx(stalled.time, rel=0.02)
    rare = outlook(STALLED.with_number("start", 0, 1e-4))
    assert rare.law.time == pytest.approx(rare.time, rel=1e-4)
    assert rare.law.error < 1e-4
    none = outlook(replace(STALLED, truth=(1.0, 0.8, 1.0, -1.0, -1.0)))
    assert math.isnan(none.law.time)
    assert none.law.name.startswith("none: the goal")


def test_natural_has_its_law_and_its_closed_form():
    situation = replace(STALLED.with_number("start", 0, 1e-6), followed=Followed("natural"))
    found, instance = outlook(situation), situation.instance()
    assert found.time == pytest.approx(float(hitting_time(instance, share(instance, 0.9)).time[0]))
    assert found.law.time == pytest.approx(found.time, rel=0.05)
    assert math.isnan(found.bound)
    assert [stop.output for stop in found.held] == [1, 0]
    assert not found.solved


def test_nothing_is_compiled_as_outputs_come_and_go(stalled, caplog):
    effects(STALLED, stalled.time)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        situation = drawn(2)
        while len(situation.proxy) < 20:
            situation = situation.with_output()
        for one in (drawn(2), situation, STALLED.without_output(4).without_output(3).without_output(2)):
            found = outlook(one)
            effects(one, found.time)
    compiled = [record.getMessage() for record in caplog.records if "Compiling" in record.getMessage()]
    assert compiled == []
    # Which would be seen:
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jax.jit(lambda x: x * 3.0 - 0.123)(np.arange(7.0))
    assert any("Compiling" in record.getMessage() for record in caplog.records)


def test_words(stalled):
    taught = outlook(TAUGHT)
    assert headline(stalled).endswith("at time 33564.7, as on the ground truth itself.")
    assert headline(taught).endswith(
        "at time 16.7002, 2.01e+03 times sooner than on the ground truth itself."
    )
    assert way(taught) == "1, 0 from 7.974"
    rows = {row.name: row.text for row in readings(taught)}
    assert rows["hitting time"] == "16.7002"
    assert rows["on the truth"] == "33564.7"
    assert rows["Proposition 3"].startswith("≥ 1.66")
    # An accuracy says over which pairs it is.
    assert rows["Acc"] == "1"
    assert {"on-policy accuracy", "uniform, where truth differs"} <= set(rows)
    assert not {"accuracy", "uniform accuracy"} & set(rows)
    ratios = effects(TAUGHT, taught.time)
    assert effect_text(ratios[1], taught.kinds[1], True) == "beneficial: time × 0.000498"
    assert effect_text(ratios[0], taught.kinds[0], True) == ""
    assert effect_text(math.inf, taught.kinds[1], True) == "harmful: out of reach with it"
    assert effect_text(-math.inf, taught.kinds[1], True) == "beneficial: in reach by it"


def test_never_has_its_reason():
    flat = outlook(replace(TAUGHT, truth=(0.5,) * 5))
    assert flat.status is Status.NOTHING_TO_GAIN
    wrong = outlook(replace(TAUGHT, proxy=(-1.0, 1.0, 0.0, 0.0, 0.0)))
    assert wrong.status is Status.OPTIMUM
    assert "never: at rest at an optimum" in headline(wrong)
    assert "trained on the ground truth itself it would, at time 33564.7" in headline(wrong)


def test_what_is_shown_is_plain(stalled):
    page = opened("", None)
    shown = Shown(outlook(page.now))
    form, said, numbers = (
        controls_data(page, shown),
        answer_data(shown, busy=False, sent=3),
        numbers_data(shown),
    )
    assert [output["kind"] for output in form["outputs"]] == ["", "beneficial", "", "", ""]
    assert said["sent"] == 3
    assert not said["settled"]  # the effects are still to come
    assert numbers["readings"][0]["text"] == "16.7002"
    compared = numbers_data(shown._replace(pinned=stalled))
    assert compared["readings"][0]["pinned"] == "33564.7"
    # What is known of another state is not shown as that of this one.
    other = controls_data(replace(page, now=STALLED), shown)
    assert all(output["kind"] == "" for output in other["outputs"])


def test_a_page_opens_whatever_the_link(tmp_path):
    assert opened("?proxy=1,x", None).errors["page"].startswith("The link is of no state: truth is missing")
    linked = opened("?" + opened("", None).query(), None)
    assert linked.errors == {}
    path = tmp_path / "rollouts.csv"
    path.write_text("prompt,reward,truth\na,1,0\na,0,1\nb,0.5,1\nb,1,0\n")
    source = read_problems(path)
    assert opened("", source).now == source.situation(0)
    assert len(source.prompts) == 2
