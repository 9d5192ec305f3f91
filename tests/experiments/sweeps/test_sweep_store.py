"""Whatever happens to a sweep, its finished store is that of an undisturbed one."""

import errno
import importlib
import importlib.metadata
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import goodteacher
from goodteacher.experiments.sweeps import open_store, provenance, runner, sweep
from goodteacher.experiments.sweeps import store as stores
from goodteacher.experiments.sweeps.specification import specify
from goodteacher.experiments.sweeps.store import Store, StoreError, Writer
from goodteacher.sim.instance import Instance, Parameters
from goodteacher.sim.policies import Policy
from goodteacher.sim.status import Status

AXES = {"seed": "range:0:48", "logit_scale": "linspace:0.5:2:4"}
MEASURES = ["variance", "entropy"]


def small(store: Path, **control: Any) -> xr.Dataset:
    options: dict[str, Any] = {"chunk": 16, **control}
    return sweep("random", AXES, MEASURES, store=store, **options)


def contents(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file() and not path.name.startswith("lock-"))
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    small(store)
    return contents(store)


def _run(store: str, compiled: str) -> None:
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    small(Path(store))


def _manifests(store: Path) -> int:
    return len(list((store / ".sweep/manifests").glob("*")))


def test_twenty_kills_leave_what_an_undisturbed_run_gives(tmp_path, undisturbed):
    # Every process starts from one that has imported everything and done nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["goodteacher.experiments.sweeps.runner"])
    chance = random.Random(0)
    kills, stores, unfinished, store = 0, 0, 0, tmp_path / "0"
    while kills < 20:
        process = context.Process(target=_run, args=(str(store), str(tmp_path / "compiled")))
        process.start()
        # Between two files, or within one; also while the store is being made.
        wanted = _manifests(store) + chance.randrange(4)
        while process.is_alive() and _manifests(store) < wanted:
            time.sleep(0.0005)
        time.sleep(chance.uniform(0.0, 0.01))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        found = contents(store) if store.exists() else {}
        unfinished += process.exitcode == -signal.SIGKILL and found != undisturbed
        if _manifests(store) == 13:
            small(store)
            assert contents(store) == undisturbed
            stores += 1
            store = tmp_path / str(stores)
    assert unfinished >= 15
    small(store)
    assert contents(store) == undisturbed


@pytest.mark.parametrize("number", [errno.ENOSPC])
def test_a_disk_that_refuses_any_file_loses_nothing(tmp_path, undisturbed, monkeypatch, number):
    # The plan, some of the skeleton, every file of the first chunk, its manifest, and the last manifest.
    place, files = stores._place, len(undisturbed)
    for refused in (
        0,
        1,
        8,
        files - 60,
        files - 59,
        files - 58,
        files - 57,
        files - 56,
        files - 55,
        files - 1,
    ):
        store, count = tmp_path / str(refused), 0

        def full(store, key, data, refused=refused):
            nonlocal count
            count += 1
            if count > refused:
                raise OSError(number, os.strerror(number))
            place(store, key, data)

        monkeypatch.setattr(stores, "_place", full)
        with pytest.raises(StoreError, match=rf"cannot write to .*: {os.strerror(number)}; .*again"):
            small(store)
        monkeypatch.setattr(stores, "_place", place)
        if refused:
            # Four arrays and a manifest for each of the twelve chunks.
            assert len(Store.find(store).done()) == max(0, refused - (files - 60)) // 5
        small(store)
        assert contents(store) == undisturbed


def test_a_file_that_is_cut_off_by_the_disk_is_never_seen(tmp_path):
    # A limit on the size of files makes writes fail in the middle, in a process of its own.
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from goodteacher.experiments.sweeps.runner import sweep\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        "sweep('random', {'seed': 'range:0:4096'}, ['variance'], store=sys.argv[1], chunk=4096)\n"
    )
    store = tmp_path / "s"
    done = subprocess.run([sys.executable, "-c", program, store], capture_output=True, text=True, timeout=120)
    assert "File too large" in done.stderr.splitlines()[-1]
    assert Store.find(store).done() == set()
    data = sweep("random", {"seed": "range:0:4096"}, ["variance"], store=store, chunk=4096)
    assert np.isfinite(data.variance).all()


def test_a_store_that_vanishes_is_not_made_anew(tmp_path, monkeypatch):
    write = Writer.write

    def vanish(self, number, values):
        if number == 3:
            (tmp_path / "s").rename(tmp_path / "elsewhere")
        write(self, number, values)

    monkeypatch.setattr(Writer, "write", vanish)
    with pytest.raises(StoreError, match="No such file"):
        small(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert Store.find(tmp_path / "elsewhere").done() == {0, 1, 2}


def test_unfinished_points_are_missing(tmp_path, monkeypatch):
    write = Writer.write

    def stop(self, number, values):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, values)

    monkeypatch.setattr(Writer, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "s")
    data = open_store(tmp_path / "s")
    done = data.variance_status == Status.FINISHED
    assert done.sum() == 32
    assert (data.variance_status.where(~done) == -1).sum() == 48 * 4 - 32
    assert np.array_equal(np.isfinite(data.variance), done)
    assert Store.find(tmp_path / "s").statuses()["variance"] == {"finished": 32}


@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "manifest", "skeleton"])
def test_damage_is_found_and_repaired(tmp_path, undisturbed, harm):
    store = tmp_path / "s"
    small(store)
    name = {"manifest": ".sweep/manifests/5.json", "skeleton": "variance/zarr.json"}.get(
        harm, "variance/c.10.0"
    )
    victim = store / name
    data = victim.read_bytes()
    changed = {"flip": data[:20] + bytes([data[20] ^ 1]) + data[21:], "remove": b""}.get(harm, data[:-7])
    victim.write_bytes(changed)
    if harm == "remove":
        victim.unlink()
    with pytest.raises(StoreError, match=r"damaged: 1 of its chunks .*repair"):
        small(store)
    small(store, repair=True)
    assert contents(store) == undisturbed
    small(store)


def test_xarray_itself_refuses_a_damaged_chunk(tmp_path):
    small(tmp_path / "s")
    chunk = tmp_path / "s/variance/c.10.0"
    chunk.write_bytes(chunk.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"[Cc]hecksum"):
        xr.open_zarr(tmp_path / "s").load()


def test_a_second_run_is_refused_and_a_dead_one_forgotten(tmp_path):
    specification = specify("random", AXES, MEASURES)
    store = tmp_path / "s"
    grid = runner.plan(specification, store, chunk=16)
    with (
        runner.prepare(store, grid),
        pytest.raises(StoreError, match=f"being written by process {os.getpid()} on"),
    ):
        small(store)
    lock = store / ".sweep/lock-0"
    assert lock.read_text() == ""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    me = {"pid": dead.pid, "host": socket.gethostname(), "start": "1"}
    reused = {**me, "pid": os.getppid()}  # alive, but another process than the one that began then
    for holder in (me, reused):
        lock.write_text(json.dumps(holder))
        runner.run(specification, store)
    lock.write_text(json.dumps({**me, "host": "elsewhere"}))
    with pytest.raises(StoreError, match=rf"process {dead.pid} on elsewhere; .*delete"):
        runner.run(specification, store)


def another_version(monkeypatch, package: str) -> None:
    """As if another version of a package were installed."""
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0" if name == package else real(name))


def test_another_sweep_is_refused_with_the_differences(tmp_path, monkeypatch):
    store = tmp_path / "s"
    small(store)
    before = contents(store)
    other = {**AXES, "logit_scale": "linspace:0.5:3:4"}
    with pytest.raises(StoreError, match=r"axes.logit_scale is 'linspace:0.5:2.0:4' in the store and 'linsp"):
        sweep("random", other, MEASURES, store=store)
    with pytest.raises(StoreError, match=r"parameters.outputs is not given .*; measures is"):
        sweep("random", AXES, ["kl"], store=store, parameters={"outputs": 5})
    with pytest.raises(StoreError, match=r"chunk .* leave chunk out"):
        sweep("random", AXES, MEASURES, store=store, chunk=32)
    monkeypatch.setattr("goodteacher.experiments.sweeps.provenance._PACKAGES", ())
    with pytest.raises(StoreError, match=r"jax is '.*' in the store and not given now"):
        small(store)
    monkeypatch.undo()
    for package in ("jax", "jaxlib", "diffrax", "equinox", "optax", "numpy"):
        another_version(monkeypatch, package)
        with pytest.raises(StoreError, match=rf"{package} is '.*' in the store and '0\.0' now"):
            small(store)
        monkeypatch.undo()
    monkeypatch.setattr("goodteacher.experiments.sweeps.store.FORMAT", 3)
    with pytest.raises(StoreError, match="format 2, this program of 3"):
        small(store)
    monkeypatch.undo()
    assert contents(store) == before
    data = sweep("random", other, MEASURES, store=store, overwrite=True)
    assert float(data.logit_scale[-1]) == 3


def builders(folder: Path, monkeypatch) -> Any:
    """Two modules: of a builder, and of what it calls; the second of them."""
    (folder / "helpers.py").write_text(
        "import numpy as np\nSCALES = np.array([1.0, 2.0, 3.0])\n\n\ndef bent(x, outputs):\n    return x\n"
    )
    (folder / "mine.py").write_text(
        "import helpers\nimport jax.numpy as jnp\nfrom goodteacher.sim.instance import Instance\n\n\n"
        "def build(reward: float = 0.0, outputs: int = 3) -> Instance:\n"
        "    first = helpers.bent(reward, outputs) * helpers.SCALES.sum()\n"
        "    return Instance(jnp.zeros(outputs).at[0].set(first).at[:2].add(helpers.SCALES[:2]))\n"
    )
    monkeypatch.syspath_prepend(folder)
    for name in ("mine", "helpers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("mine").build, importlib.import_module("helpers")


def test_a_builder_whose_helper_has_changed_is_another_sweep(tmp_path, monkeypatch):
    build, helpers = builders(tmp_path, monkeypatch)

    def again() -> xr.Dataset:
        return sweep(build, {"reward": [0.5, 1.0], "outputs": [3, 4]}, ["variance"], store=tmp_path / "s")

    before, bent = again().load(), helpers.bent
    changes = {
        "bent": lambda x, outputs: x * 1.0000001,
        "SCALES": np.array([1.0, 3.0, 2.0]),  # the same but for the values of a constant
    }
    for name, change in changes.items():
        with monkeypatch.context() as changed:
            changed.setattr(helpers, name, change)
            with pytest.raises(
                StoreError, match=r"another sweep: builder_digest is '\w+' in the store and '\w+'"
            ):
                again()
    # With four outputs only.
    with monkeypatch.context() as changed:
        changed.setattr(helpers, "bent", lambda x, outputs: bent(x, outputs) + (outputs == 4))
        with pytest.raises(StoreError, match="builder_digest"):
            again()
    xr.testing.assert_identical(again().load(), before)


def test_a_policy_of_ones_own_is_part_of_the_sweep(tmp_path, monkeypatch):
    def again() -> xr.Dataset:
        return sweep(doubled, {"reward": [0.5, 1.0]}, ["variance"], store=tmp_path / "s")

    again()
    again()
    monkeypatch.setattr(Doubled, "factor", 3.0)
    with pytest.raises(StoreError, match="builder_digest"):
        again()


class Doubled(Policy):
    """A tabular policy of twice the logits."""

    factor: ClassVar[float] = 2.0

    def logits(self, parameters):
        return self.factor * parameters


def doubled(reward: float = 0.0) -> Instance:
    start = jnp.arange(3.0)[None]
    return Instance([0.0, 1.0, reward], start=Parameters(start), policy=Doubled())


def test_the_digest_of_code_is_of_all_that_is_imported(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    files = {
        "start.py": "from goodteacher import deep\nfrom goodteacher.deep.one import x\n",
        "deep/__init__.py": "",
        "deep/one.py": "try:\n    x = 1\nexcept ImportError:\n    import goodteacher.late\n",
        "late.py": "y = 1\n",
        "other.py": "z = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("goodteacher.__path__", [str(tmp_path)])
    digest = provenance.code_digest.__wrapped__
    before = digest("goodteacher.start")
    for name, text in files.items():
        (tmp_path / name).write_text(text + "# changed\n")
        assert (digest("goodteacher.start") == before) == (name == "other.py"), name
        (tmp_path / name).write_text(text)
    assert digest("goodteacher.start") == before


def test_numbers_depend_on_the_code_that_computes_and_no_other(monkeypatch):
    root = Path(goodteacher.__path__[0])
    read: set[str] = set()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: (read.add(str(self.relative_to(root))), read_bytes(self))[1]
    )
    provenance.code_digest.__wrapped__()
    computing = (
        "instances",
        "domains",
        "sweeps/builders",
        "sweeps/measures",
        "sweeps/dynamics",
        "sweeps/axes",
    )
    expected = {f"experiments/{name}.py" for name in computing}
    expected |= {"sim/flow.py", "sim/integrator.py", "sim/status.py", "theory/policy_families.py"}
    assert expected <= read
    assert not {"plotting.py", "store.py", "locks.py", "summaries.py"} & {Path(name).name for name in read}
    assert not any("gallery" in name or "commands" in name for name in read)


def test_a_folder_of_other_things_is_never_touched(tmp_path):
    (tmp_path / "letter").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="not empty and not the store of a sweep"):
            small(tmp_path, overwrite=overwrite)
    with pytest.raises(StoreError, match="is a file"):
        small(tmp_path / "letter")
    with pytest.raises(StoreError, match="is not the store of a sweep"):
        open_store(tmp_path)


def test_a_sweep_that_is_too_large_says_how_large(tmp_path):
    with pytest.raises(StoreError, match=r"10,000,000,000,000 points take up to 180 TB, but .* left"):
        sweep(
            "random",
            {"seed": "range:0:1000000", "error": "linspace:0:1:10000000"},
            ["variance", "kl"],
            store=tmp_path / "s",
        )
    assert not (tmp_path / "s").exists()


def test_an_interrupt_says_how_to_go_on(tmp_path):
    store = tmp_path / "s"
    # As from a terminal, even where the tests run in the background, where interrupts are ignored.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from goodteacher.experiments.commands.main import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "sweep", "random", "--axis", "seed=range:0:100000"]
    rest = ["--measure", "entropy", "--chunk", "50", "--store", str(store)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    process = subprocess.Popen([*command, *rest], stderr=subprocess.PIPE, text=True, env=environment)
    while process.poll() is None and _manifests(store) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "run the same command again to go on" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert Store.find(store).damaged() == {}
