"""A kernel that grows from a fork."""

import os
import signal
import time

import psutil
import pytest

from kdutils.report import kernels

pytestmark = pytest.mark.skipif(not kernels.FORKS, reason="nothing is forked on this system")


@pytest.fixture
def seed():
    seed = kernels.Seed()
    yield seed
    seed.end()


def test_seed_waits_in_a_session_of_its_own(seed):
    child = psutil.Process(seed.pid)
    assert child.ppid() == os.getpid()
    assert seed.poll() is None
    while os.getsid(seed.pid) != seed.pid:  # it makes one at its start
        time.sleep(0.01)


def test_what_never_became_a_kernel_is_gone_at_the_end(seed):
    seed.end()
    assert not psutil.pid_exists(seed.pid)
    seed.end()  # again, as a worker does that fails at once


def test_killed_seed_has_the_exit_code_of_its_signal(seed):
    seed.send_signal(signal.SIGKILL)
    assert seed.wait() == -signal.SIGKILL
    seed.become("no_file.json", {}, None)  # says nothing: `poll` does
    seed.send_signal(signal.SIGTERM)
    assert seed.poll() == -signal.SIGKILL


def test_seed_ends_with_the_process_that_forked_it(seed):
    seed._pipe.close()
    assert seed.wait() == 0
