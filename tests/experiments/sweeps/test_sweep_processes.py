"""Several devices and several processes at one sweep give the store of one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from goodteacher.experiments.commands import main as cli
from goodteacher.experiments.sweeps import processes, runner
from goodteacher.experiments.sweeps.specification import specify
from goodteacher.experiments.sweeps.store import Store, StoreError, join
from goodteacher.experiments.workers import cores, workers

SWEEP = ["random", "--axis", "seed=range:0:400", "--axis", "logit_scale=0.5,1", "--measure", "share_time:0.5"]


def chunks(store: Path) -> dict[str, bytes]:
    """What was computed, and its checksums."""
    files = [*store.glob("share_time*/c.*"), *store.glob(".sweep/manifests/[0-9]*")]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def start(
    store: Path, compiled: Path, *more: str, devices: int = 1, environment: Mapping[str, str] = {}
) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        **environment,
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
    }
    command = [sys.executable, "-m", "goodteacher", "sweep", *SWEEP, "--chunk", "50"]
    arguments = [*command, "--store", str(store), *more]
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Everything that a process has said; it must have succeeded."""
    said = "".join(process.communicate(timeout=200))
    assert process.returncode == 0, said
    return said


def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def as_slurm_says(job: int, process: int) -> dict[str, str]:
    """What Slurm tells one of two processes; JAX derives the port from the number of the job."""
    names = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
    values = (job, "localhost", 2, process, process)
    return {f"SLURM_{name}": str(value) for name, value in zip(names, values, strict=True)}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compiled) -> dict[str, bytes]:
    """The chunks of one process with one device."""
    store = tmp_path_factory.mktemp("sweeps") / "alone"
    finish(start(store, compiled))
    found = chunks(store)
    assert len(found) == 16 * 4
    return found


def test_chunks_do_not_depend_on_the_number_of_devices(tmp_path, compiled, alone):
    # Three devices do not divide sixteen chunks.
    finish(start(tmp_path / "s", compiled, devices=3))
    assert chunks(tmp_path / "s") == alone


def test_from_python_every_core_is_a_device_unless_one_says_otherwise(tmp_path):
    code = (
        "import jax; from goodteacher.experiments.sweeps import sweep\n"
        "from goodteacher.experiments.workers import cores\n"
        "sweep('random', {'seed': [1, 2]}, ['variance'], store='s')\n"
        "print(jax.local_device_count(), cores())"
    )
    unsaid = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    for said, expected in ({}, None), ({"JAX_NUM_CPU_DEVICES": "3"}, 3):
        where = tmp_path / str(expected)
        where.mkdir()
        environment = {**unsaid, **said, "PYTHONPATH": str(Path(__file__).parents[3])}
        command = [sys.executable, "-c", code]
        found = subprocess.check_output(command, cwd=where, text=True, env=environment)
        devices, cores = map(int, found.split()[-2:])
        assert devices == (expected or cores)


def test_cores_are_counted_where_the_system_does_not_say_which_are_ours(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
    with workers(3) as each:  # none of them in another process
        assert each is map
    counted: list[tuple[str, int]] = []
    unset = SimpleNamespace(
        values={"jax_num_cpu_devices": -1}, update=lambda name, value: counted.append((name, value))
    )
    monkeypatch.setattr(processes, "jax", SimpleNamespace(config=unset))
    processes.use_all_cores()
    assert counted == [("jax_num_cpu_devices", 1)]


def test_two_processes_of_slurm_give_the_store_of_one(tmp_path, compiled, alone):
    store, job = tmp_path / "s", os.getpid()
    both = [
        start(store, compiled, "--distributed", "auto", environment=as_slurm_says(job, process))
        for process in (0, 1)
    ]
    says = [finish(process) for process in both]
    assert "16 of 16 chunks (100%), 800 points" in says[0]
    assert "800 points" not in says[1]
    assert chunks(store) == alone


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_killed_is_reported_and_a_restart_finishes(tmp_path, compiled, alone, victim):
    store, where = tmp_path / "s", address()
    both = [start(store, compiled, "--distributed", f"{where},{process},2") for process in (0, 1)]
    # Both have taken their locks once a chunk exists; the victim stops before it has done its part.
    while not (store / ".sweep/lock-1").exists() or not list(store.glob(".sweep/manifests/[0-9]*")):
        assert both[victim].poll() is None
        time.sleep(0.001)
    both[victim].send_signal(signal.SIGSTOP)
    done = len(Store.find(store).done())
    assert done < 14
    survivor = both[1 - victim]
    time.sleep(1.5)
    assert survivor.poll() is None  # it waits for one that is not dead
    both[victim].kill()
    _, message = survivor.communicate(timeout=60)
    assert survivor.returncode == 2
    assert f"process {victim} has stopped with" in message
    assert "run the same command again" in message
    assert "Traceback" not in message
    assert chunks(store).items() < alone.items()
    both[victim].communicate()
    finish(start(store, compiled))
    assert chunks(store) == alone


def test_a_survivor_of_an_earlier_run_keeps_the_next_one_away(tmp_path):
    chosen = specify("random", {"seed": "range:0:4"}, ["entropy"])
    store = tmp_path / "s"
    runner.run(chosen, store)
    with join(store, chosen, 3), pytest.raises(StoreError, match="is being written by process"):
        runner.run(chosen, store)
    runner.run(chosen, store)


@pytest.mark.parametrize("text", ["localhost", "localhost:1,2,2", "localhost:x,0,2", "a:0,0,1"])
def test_malformed_addresses_are_refused(text, tmp_path, capsys):
    command = ["sweep", *SWEEP, "--store", str(tmp_path / "s"), "--distributed", text]
    assert cli.main(command) == 2
    assert f"distributed is {text!r}; give auto, or HOST:PORT" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_what_fails_in_one_process_fails_in_all(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(
        processes.multihost_utils, "process_allgather", lambda mine: processes.np.array([mine, True])
    )
    with pytest.raises(ValueError, match="process 1 cannot take part"):
        processes.together(lambda: 1)

    def fail():
        raise ValueError("my own reason")

    with pytest.raises(ValueError, match="my own reason"):
        processes.together(fail)
