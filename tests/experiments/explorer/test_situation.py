"""The state of the page: changes, links, files and lines of Python, without a browser."""

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodteacher import Instance, LinearSoftmax, Regularizer, hitting_time
from goodteacher.experiments.aims import share
from goodteacher.experiments.explorer.edits import Page, after
from goodteacher.experiments.explorer.situation import LEAST_PROBABILITY, MOST, Features, Situation
from goodteacher.experiments.explorer.starting_points import PUBLISHED, drawn, published, read_problems
from goodteacher.experiments.followed import Followed
from goodteacher.experiments.instances import feature_similarity
from goodteacher.sim.files import write_instance
from goodteacher.sim.policies import Tabular

TRUTH = (1.0, 0.8, -1.0, -1.0)
PLAIN = Situation((1.0, -1.0, -1.0, 0.5), TRUTH, (0.05, 0.5, 0.25, 0.2))

rewards = st.floats(-2.0, 2.0)
followed = st.sampled_from(
    [
        Followed(),
        Followed("natural"),
        Followed("grpo", group=8.0, epsilon=1e-4, population=True, dynamic_sampling=True),
        Followed("grpo", preset="trl", group=math.inf),
        Followed("pass_at_k", k=4.0),
        Followed("cold_start", power=0.5),
    ]
)
features = st.none() | st.builds(
    Features, st.just(1), st.just(0), st.floats(5.0, 175.0), st.floats(0.25, 4.0)
)


@st.composite
def situations(draw):
    count = draw(st.integers(2, MOST))
    weights = draw(st.lists(st.floats(1e-6, 1.0), min_size=count, max_size=count))
    proxy, truth = (tuple(draw(st.lists(rewards, min_size=count, max_size=count))) for _ in range(2))
    return Situation(
        proxy,
        truth,
        tuple(w / math.fsum(weights) for w in weights),
        followed=draw(followed),
        kl=draw(st.floats(0.0, 2.0)),
        features=draw(features),
        goal=draw(st.floats(0.01, 0.99)),
        horizon=draw(st.floats(1.0, 1e300)),
    )


@given(situations(), st.none() | situations())
def test_a_link_reproduces_the_state_to_the_bit(now, pinned):
    page = Page(now, pinned)
    assert Page.from_query(page.query()) == page
    assert Page.from_query("?" + page.query()) == page


@given(situations(), st.integers(0, MOST - 1), st.floats(-15.0, -1e-9))
def test_the_other_probabilities_share_what_is_left(situation, output, log10):
    output %= len(situation.start)
    value = 10.0**log10
    if value < LEAST_PROBABILITY:
        with pytest.raises(ValueError, match="give at least 1e-12"):
            situation.with_number("start", output, value)
        return
    changed = situation.with_number("start", output, value)
    assert math.isclose(sum(changed.start), 1.0, rel_tol=1e-12)
    assert math.isclose(changed.start[output], value, rel_tol=1e-6)
    others = np.delete(np.array(changed.start) / np.array(situation.start), output)
    assert others.min() * len(others) <= 1.0001 * others.sum() <= 1.0002 * len(others) * others.max()


def test_the_share_of_the_others_stays():
    changed = PLAIN.with_number("start", 1, 0.9)
    np.testing.assert_allclose(changed.start, [0.01, 0.9, 0.05, 0.04], rtol=1e-12)


def test_outputs_come_and_go():
    more = PLAIN.with_output()
    assert more.proxy == (*PLAIN.proxy, -1.0)
    assert more.start[-1] == pytest.approx(0.05)
    assert more.without_output(4).start == pytest.approx(PLAIN.start)
    linear = replace(more, features=Features(3, 1, 60.0))
    assert linear.without_output(2).features == Features(2, 1, 60.0)
    assert linear.without_output(3).features == Features(0, 1, 60.0)
    few = PLAIN.without_output(0).without_output(0)
    with pytest.raises(ValueError, match="as few as there may be"):
        few.without_output(0)
    while len(more.proxy) < MOST:
        more = more.with_output()
    with pytest.raises(ValueError, match="as many as there may be"):
        more.with_output()


def test_filled_up_it_is_the_same_problem():
    own, filled = PLAIN.instance(), PLAIN.instance(MOST)
    assert filled.mask is not None
    assert filled.rewards.shape == (1, MOST)
    assert own.mask is None
    one, other = (hitting_time(of, share(of, 0.9)).time[0] for of in (own, filled))
    assert one == pytest.approx(float(other), rel=1e-12)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_problems_are_those_of_the_figures(name):
    situation, instance = published(name), PUBLISHED[name]()
    again = situation.instance()
    for of in ("rewards", "ground_truth_rewards"):
        np.testing.assert_allclose(getattr(again, of), getattr(instance, of))
    start, wanted = (of.probabilities(of.initial_parameters) for of in (again, instance))
    np.testing.assert_allclose(start, wanted, atol=1e-12)
    if isinstance(instance.policy, LinearSoftmax):
        assert isinstance(again.policy, LinearSoftmax)
        found, features = again.policy.features[0], instance.policy.features[0]
        np.testing.assert_allclose(found @ found.T, features @ features.T, atol=1e-8)
    else:
        assert isinstance(again.policy, Tabular)


def test_a_right_angle_is_solved():
    assert (Features(0, 1, 90.0).matrix(3) == np.eye(3)).all()
    assert Features(1, 0, 60.0, 2.0).matrix(3) @ Features(1, 0, 60.0, 2.0).matrix(3).T == pytest.approx(
        np.array([[1.0, 1.0, 0.0], [1.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    )


@pytest.mark.parametrize(
    ("instance", "said"),
    [
        (Instance([1.0, 0.0], regularizer=Regularizer(entropy=0.1)), "forward KL or an entropy bonus"),
        (Instance([0.5, 0.0], reward_variances=[0.25, 0.0]), "random rewards"),
        (
            Instance([1.0, 0.0], regularizer=Regularizer(kl=1.0), reference_policy_logits=[1.0, 0.0]),
            "a reference that is not the initial policy",
        ),
        (Instance(np.arange(21.0)), "has 21 outputs"),
        (
            Instance(
                [1.0, 0.0, 0.0], policy=LinearSoftmax([[[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]])
            ),
            "more than one pair",
        ),
    ],
)
def test_what_the_page_does_not_show_is_refused(instance, said):
    with pytest.raises(ValueError, match=said):
        Situation.of(instance)


def test_a_feature_that_is_longer_is_shown_wherever_it_stands():
    instance = feature_similarity(similarity=0.3)
    order = np.array([2, 1, 0, 3, 4])
    moved = Instance(
        instance.rewards[:, order],
        instance.ground_truth_rewards[:, order],
        instance.probabilities(instance.initial_parameters)[:, order],
        policy=LinearSoftmax(instance.policy.features[:, order]),  # pyright: ignore[reportAttributeAccessIssue]
    )
    features = Situation.of(moved).features
    assert features is not None
    assert (features.first, features.second, features.length) == (2, 1, 1.5)
    assert math.cos(math.radians(features.angle)) == pytest.approx(0.3)


@pytest.mark.parametrize("situation", [PLAIN, replace(PLAIN, features=Features(0, 3, 45.0, 1.5), kl=0.1)])
def test_the_instance_file_is_the_state(situation, tmp_path):
    instance = situation.instance()
    write_instance(instance, tmp_path / "instance.json")
    found = read_problems(tmp_path / "instance.json")
    assert found.prompts == ("0",)
    again = found.situation(0)
    for name in ("proxy", "truth", "kl", "features"):
        assert getattr(again, name) == getattr(situation, name), name
    np.testing.assert_allclose(again.start, situation.start, rtol=1e-9)


@pytest.mark.parametrize(
    "situation",
    [
        PLAIN,
        replace(PLAIN, followed=Followed("grpo"), horizon=1e6),
        replace(PLAIN, followed=Followed("natural"), goal=0.5),
    ],
)
def test_the_lines_do_the_same(situation):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(situation.python(), {})
    problem = situation.instance()
    time = hitting_time(problem, share(problem, situation.goal)).time[0]
    assert 1 < time < math.inf
    assert float(said.getvalue()) == pytest.approx(float(time), rel=1e-6)


def test_lines_name_what_they_use():
    lines = replace(PLAIN, features=Features(angle=60.0), kl=0.5).python()
    assert "policy=LinearSoftmax([[[1.0, 0.0, 0.0, 0.0], [0.5000000000000001, 0.866" in lines
    assert "regularizer=Regularizer(kl=0.5)" in lines
    compile(lines, "lines", "exec")


def test_a_seed_is_a_problem():
    assert drawn(3) == drawn(3) != drawn(4)
    assert after(Page(PLAIN), {"what": "seed", "value": "3"}).now == drawn(3)
    assert sum(drawn(seed).proxy != drawn(seed).truth for seed in range(30)) > 20


# What a person does -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "at", "said"),
    [
        ({"what": "proxy", "output": 1, "value": "abc"}, "proxy-1", "proxy reward is 'abc', which is no"),
        ({"what": "truth", "output": 0, "value": "nan"}, "truth-0", "ground truth is nan; give a number"),
        ({"what": "truth", "output": 0, "value": "1e9"}, "truth-0", "give a number from -1000000 to 1000000"),
        ({"what": "start", "output": 2, "value": "1.5"}, "start-2", "probability is 1.5; give a number"),
        ({"what": "start", "output": 2, "value": "0"}, "start-2", "give a number between 0 and 1"),
        ({"what": "start", "output": 2, "value": "1e-13"}, "start-2", "give at least 1e-12"),
        ({"what": "proxy", "output": 9, "value": "1"}, "proxy-9", "output 9 is none; give 0 to 3"),
        ({"what": "kl", "value": "-1"}, "kl", "kl is -1; give a number that is not negative"),
        ({"what": "goal", "value": "1"}, "goal", "goal is 1; give a share between 0 and 1"),
        ({"what": "horizon", "value": "0"}, "horizon", "horizon is 0; give a positive, finite time"),
        ({"what": "group", "value": "8"}, "group", "group does not apply to estimator gradient"),
        ({"what": "estimator", "value": "gpro"}, "estimator", "did you mean grpo"),
        ({"what": "published", "value": "x"}, "published", "start 'x' is unknown"),
        ({"what": "seed", "value": "-1"}, "seed", "seed is -1; give a whole number from 0"),
        ({"what": "seed", "value": "inf"}, "seed", "give a whole number"),
        ({"what": "prompt", "value": "1"}, "prompt", "open one first"),
        ({"what": "angle", "value": "3"}, "angle", "angle is 3; give 5 to 175 degrees"),
        ({"what": "length", "value": "9"}, "length", "length is 9; give 0.25 to 4"),
        ({"what": "first", "value": "7"}, "first", "give 0 to 3"),
        ({"what": "back"}, "back", "pin a state first"),
        ({"what": "nothing"}, "nothing", "nothing that can be done"),
    ],
)
def test_bad_input_is_marked_and_changes_nothing(message, at, said):
    page = after(Page(PLAIN), message)
    assert page.now == PLAIN
    assert list(page.errors) == [at]
    assert said in page.errors[at]
    assert "\n" not in page.errors[at]
    assert page.rejected[at] == message.get("value", "")


def test_what_is_mended_is_marked_no_more():
    page = after(Page(PLAIN), {"what": "proxy", "output": 1, "value": "abc"})
    page = after(page, {"what": "kl", "value": "x"})
    page = after(page, {"what": "proxy", "output": 1, "value": "0.25"})
    assert page.now.proxy[1] == 0.25
    assert list(page.errors) == list(page.rejected) == ["kl"]
    assert after(page, {"what": "remove", "output": 0}).errors == {}


def test_switches_go_together():
    page = Page(PLAIN)
    for what, value in (("estimator", "grpo"), ("group", "8"), ("epsilon", "0.001"), ("population", "true")):
        page = after(page, {"what": what, "value": value})
    assert page.now.followed == Followed("grpo", group=8.0, epsilon=1e-3, population=True)
    page = after(page, {"what": "estimator", "value": "maxrl"})
    assert page.now.followed == Followed("maxrl", group=8.0)
    assert after(page, {"what": "group", "value": ""}).now.followed == Followed("maxrl")
    assert after(page, {"what": "estimator", "value": "pass_at_k"}).now.followed == Followed(
        "pass_at_k", k=8.0
    )
    page = after(page, {"what": "policy", "value": "linear"})
    page = after(page, {"what": "second", "value": "0"})
    assert page.now.features == Features(1, 0)
    page = after(page, {"what": "angle", "value": "120"})
    assert page.now.features == Features(1, 0, 120.0)
    assert after(page, {"what": "policy", "value": "tabular"}).now.features is None


def test_a_state_is_pinned_and_come_back_to():
    page = after(Page(PLAIN), {"what": "pin"})
    page = after(page, {"what": "proxy", "output": 1, "value": "0.5"})
    assert page.pinned == PLAIN != page.now
    assert after(page, {"what": "back"}).now == PLAIN
    assert after(page, {"what": "unpin"}).pinned is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("proxy=1,0&truth=1,0", "start is missing"),
        ("proxy=1,0&truth=1,0&start=0.5,0.6", "make it sum to 1"),
        ("proxy=1,0&truth=1,0&start=0.5,x", "'x', which is no number"),
        ("proxy=1,0&truth=1&start=0.5,0.5", "truth has 1 numbers for 2 outputs"),
        ("proxy=1&truth=1&start=1", "give 2 to 20"),
        ("proxy=1,0&truth=1,0&start=0.5,0.5&speed=3", "name 'speed' is unknown"),
        ("proxy=1,0&truth=1,0&start=0.5,0.5&first=0.5", "give a whole number"),
        ("proxy=1,0&truth=1,0&start=0.5,0.5&population=1", "give true or false"),
    ],
)
def test_a_bad_link_is_refused(query, said):
    with pytest.raises(ValueError, match=said):
        Page.from_query(query)


def test_what_does_not_go_with_the_rewards_is_said():
    with pytest.raises(ValueError, match="not negative"):
        replace(PLAIN, followed=Followed("maxrl")).instance()
    with pytest.raises(ValueError, match="choose another estimator"):
        replace(PLAIN, followed=Followed("natural"), kl=0.1).instance()
