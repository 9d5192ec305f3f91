"""How programs are compiled."""

import os
import subprocess
import sys

import pytest

from goodteacher.experiments import compilation


@pytest.mark.parametrize(("version", "flags"), [("0.10.2", compilation._QUICKLY), ("0.12.0.1", None)])
def test_a_flag_is_given_only_to_who_knows_it(version, flags, monkeypatch):
    monkeypatch.setattr(compilation, "jaxlib_version", version)
    monkeypatch.setattr(os, "environ", {})
    compilation.compile_quickly()
    assert os.environ.get("XLA_FLAGS") == flags


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    compilation.compile_quickly()
    assert os.environ["XLA_FLAGS"] == "--xla_force_host_platform_device_count=2"


def test_the_jaxlib_that_is_installed_takes_the_flags():
    """In a process of its own, which XLA would end."""
    code = (
        "from goodteacher.experiments.compilation import compile_quickly; compile_quickly(); "
        "import jax; print(jax.jit(lambda x: x + 1)(1))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "2\n"), ran.stderr
