"""What the figure on several rewards claims, on a coarser plane."""

from matplotlib.figure import Figure

from goodteacher.experiments.gallery.sum_or_vote import EXPERIMENT, Settings


def test_grpo_sees_magnitudes_and_gdpo_weights():
    settings = Settings(
        gaps=(0.02, 0.5, 2.1, 50.0),
        weights=(0.1, 0.6, 1.5, 8.0),
        updates=(0, 10, 100, 200, 300, 400, 600, 5000, 20_000),
        rounds=tuple(range(0, 801, 40)),
    )
    data = EXPERIMENT.run(settings)
    right = data["winners"]["probability"]
    assert ((right < 0.1) | (right > 0.9)).all()
    assert ((right.sel(order="GRPO") > 0.5) == (right["weight"] * right["gap"] < 1)).all()
    assert ((right.sel(order="GDPO") > 0.5) == (right["weight"] < 1)).all()

    learned = data["learned"]["right"]
    assert float(abs(learned.sel(order="GDPO").diff("scale")).max()) < 0.05
    summed = learned.sel(order="GRPO", time=40.0)
    assert float(summed.sel(scale=0.1)) > 0.9 > 0.1 > float(summed.sel(scale=10.0))
    assert (learned.isel(time=-1) > 0.99).all()

    circle = data["circle"]["probability"]
    assert set(circle.sel(order="GDPO").values.argmax(-1)) == {0, 1, 2}
    assert float(abs(circle.sel(order="GRPO") - circle.sel(order="GRPO")[0]).max()) < 1e-12
    assert isinstance(EXPERIMENT.figure(data, settings), Figure)
    assert "they end differently on 38 % of the plane" in EXPERIMENT.caption(data, settings)
