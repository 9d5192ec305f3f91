"""Where a middling reward helps and where it is fatal, over the geometry of two features."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from goodteacher.experiments.batches import LEVEL, batch, escapes
from goodteacher.experiments.datasets import TIME, Data, listed, variable
from goodteacher.experiments.experiment import Experiment
from goodteacher.experiments.instances import BEST, MIDDLING, SIMILARITIES, TRAINED_ON, beneficial_errors
from goodteacher.figures.style import BLACK, NEVER, PAGE, colorbar, edges, letter, paper
from goodteacher.sim.flow import Control
from goodteacher.sim.instance import Instance
from goodteacher.sim.policies import LinearSoftmax

_PUBLISHED_NORM = 1.5
_NAMES = {"ground_truth": "ground truth", "proxy": "proxy"}


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        initial_probability: of ``y*``.
        cosines: between the features of ``y*`` and ``y_med``, ascending.
        norms: of the feature of ``y*``, ascending; the others have norm one.
        horizon: the time at which a run counts as one that never escapes.
    """

    initial_probability: float = 1e-4
    cosines: tuple[float, ...] = tuple(np.linspace(-0.95, 0.95, 25))
    norms: tuple[float, ...] = tuple(np.geomspace(0.25, 4.0, 17))
    horizon: float = 1e25


def run(settings: Settings) -> Data:
    """Escape times on ground truth and proxy over cosine and norm."""
    norms, cosines = np.asarray(settings.norms), np.asarray(settings.cosines)
    grid = np.meshgrid(norms, cosines, indexing="ij")

    control = Control(horizon=settings.horizon)

    def time(trained_on: str) -> np.ndarray:
        def build(norm: Array, cosine: Array) -> Instance:
            middling = jnp.stack([cosine, jnp.sqrt(1.0 - cosine**2)])
            features = jnp.eye(5).at[BEST, 0].set(norm).at[MIDDLING, :2].set(middling)
            return beneficial_errors(
                settings.initial_probability, trained_on=trained_on, policy=LinearSoftmax(features[None])
            )

        found = escapes(batch(build, *map(np.ravel, grid)), control)
        return np.asarray(found.time).reshape(grid[0].shape)

    until = f"until the probability of y* is {LEVEL}, inf if not by the horizon"
    times = {name: time(name) for name in TRAINED_ON}
    variables = {
        name: variable(("norm", "cosine"), times[name], f"time on the {_NAMES[name]} {until}", TIME)
        for name in TRAINED_ON
    }
    gain = np.log10(times["ground_truth"] / times["proxy"])
    variables["gain"] = variable(("norm", "cosine"), gain, "log10 of time on truth over time on proxy")
    axes = {
        "norm": variable("norm", norms, "norm of the feature of y*"),
        "cosine": variable("cosine", cosines, "cosine between the features of y* and y_med"),
    }
    return {"times": xr.Dataset(variables, axes)}


@paper()
def figure(data: Data, settings: Settings) -> Figure:
    """Hatched is where the best output does not win by the horizon; the third panel compares the two."""
    times = data["times"]
    drawing = Figure(figsize=(PAGE, 2.75))
    axes = drawing.subplots(1, 3, sharex=True, sharey=True)
    cosine, norm = times["cosine"], times["norm"]
    cells = edges(cosine), edges(norm, log=True)
    scale = LogNorm(1.0, settings.horizon)
    images = []
    for ax, name in zip(axes, TRAINED_ON, strict=False):
        images.append(ax.pcolormesh(*cells, times[name], norm=scale, rasterized=True))
        ax.set_title(f"time on the {_NAMES[name]}")
    colorbar(drawing, images[0], axes[:2].tolist(), "Time", pad=0.02, aspect=30)

    gain = times["gain"].where(np.isfinite(times["gain"]))
    span = TwoSlopeNorm(0.0, -2.0, 20.0)
    image = axes[2].pcolormesh(*cells, gain, cmap="PuOr", norm=span, rasterized=True)
    colorbar(drawing, image, axes[2], "$\\log_{10}$ of the gain", ticks=[-2, 0, 10, 20], pad=0.02)
    if (gain < 0).any():
        axes[2].contour(cosine, norm, gain.fillna(20.0), [0.0], colors=BLACK, linewidths=1.0)
        best = gain.argmin(...)
        place = (float(cosine[best["cosine"]]), float(norm[best["norm"]]))
        axes[2].annotate("helps", place, (0.97, 0.97), textcoords="axes fraction", ha="right", va="top")
    axes[2].set_title("gain of the error")
    never = ("ground_truth", "proxy", "ground_truth")
    for ax, name, word in zip(axes, never, ("not reached", "not reached", "fatal"), strict=True):
        lost = xr.DataArray(np.isinf(times[name]))
        NEVER.fill(ax, *cells, lost)
        if lost.any():
            rows, columns = np.nonzero(lost.values)
            at = (float(cosine[int(np.median(columns))]), float(norm[int(np.median(rows))]))
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            ax.text(*at, word, ha="center", va="center", bbox=box)
        ax.plot(
            list(SIMILARITIES.values()), [_PUBLISHED_NORM] * len(SIMILARITIES), "o", mfc="white", mec=BLACK
        )
        ax.set(xlabel="Cosine of $y^{*}$ and $y_{\\rm med}$", yscale="log", xticks=[-0.5, 0, 0.5])
        ax.set(xlim=(cosine[0], cosine[-1]), ylim=(norm[0], norm[-1]))
    axes[0].set(ylabel="Norm of the feature of $y^{*}$", yticks=[0.25, 0.5, 1, 2, 4])
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_locator(NullLocator())
    letter(axes)
    return drawing


def caption(data: Data, settings: Settings) -> str:
    """What is seen, settings and source."""
    times = data["times"]
    truth, proxy = times["ground_truth"], times["proxy"]
    shares = [f"{100 * float(share):.0f} %" for share in (np.isinf(truth).mean(), (truth < proxy).mean())]
    best = (truth / proxy).where(truth < proxy).fillna(np.inf).argmin(...)
    fastest = [f"{float(t[best]):.3g}" for t in (truth, proxy)]
    return (
        f"Time of the gradient flow until y* has probability {LEVEL}, over the geometry of the features, "
        "the cosine between those of y* and y_med, and the norm of that of y* (the others have norm 1). "
        "(a) Trained on the ground truth 1, 0.8, -1, -1, -1; (b) on the proxy that gives y_med the low "
        f"reward. Hatched: not by t = {listed([settings.horizon])}. (c) The gain, time on the ground "
        "truth over time on the proxy: at a negative cosine the middling reward is fatal (hatched, "
        f"{shares[0]} of the plane); inside the line, {shares[1]} of the plane, the flow is faster with it, "
        f"at best {fastest[0]} against {fastest[1]}. On the proxy {_unreached(proxy)} Circles: the published "
        f"geometries. Linear softmax policy, y* starts at {settings.initial_probability:.0e}, y_med at "
        "0.5, the low outputs share the rest. After arXiv:2604.25872, Appendices A.1 and C."
    )


def _unreached(times: xr.DataArray) -> str:
    share = float(np.isinf(times).mean())
    return f"y* does not win on {100 * share:.0f} % of the plane." if share else "y* wins everywhere."


EXPERIMENT = Experiment(
    name="feature_geometry",
    title="Feature geometry: where a middling reward helps, and where it is fatal",
    settings=Settings(),
    run=run,
    figure=figure,
    caption=caption,
)
