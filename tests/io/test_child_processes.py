"""Children are read while they run, and none is left when it fails, hangs, or loses its parent."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from kdutils.io import child_processes
from kdutils.io.child_processes import Function, Program, watch

SENDS = "from kdutils.io.child_processes import messages_to_parent; send = messages_to_parent(); "
WAITS = "import time; time.sleep(600)"
# Starts a child of its own in another session, and sends its number.
PARENT = (
    "import subprocess, sys; own = [sys.executable, '-c', 'import time; time.sleep(600)']; "
    "send(subprocess.Popen(own, start_new_session=True).pid); "
)


def program(code, **how):
    return Program(["-c", code], **how)


def messages_of(code, **how):
    messages = []
    with program(SENDS + code, **how) as child:
        assert watch([child], messages.append) == [0]
    return messages


def has_ended(pid):
    """Whether a process ends within some seconds; a zombie has ended."""
    for _ in range(1_000):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def has_been_reaped(child):
    return child.pid not in {process.pid for process in psutil.Process().children()}


def test_messages_arrive_in_order_and_prints_are_no_messages(capfd):
    code = "print('a library talks'); send({'a': 1}); send([2, None]); send('ü')"
    assert messages_of(code) == [{"a": 1}, [2, None], "ü"]
    assert capfd.readouterr().out == ""


def test_a_message_is_there_before_the_child_ends():
    first = []

    def note(message):
        first.append((message, child.wait(0.0)))
        child.stop(because="seen")

    with program(SENDS + "send(1); " + WAITS) as child:
        assert watch([child], note) == [-signal.SIGKILL]
    assert first == [(1, None)]
    assert child.reason() == "was stopped: seen" and has_been_reaped(child)


def test_a_child_has_the_variables_it_is_given_and_ours(monkeypatch):
    monkeypatch.setenv("KD_OURS", "ours")
    code = "import os; send([os.environ['KD_OURS'], os.environ['KD_OWN'], os.getsid(0) == os.getpid()])"
    assert messages_of(code, env={"KD_OWN": "own"}) == [["ours", "own", True]]
    assert "KD_OWN" not in os.environ


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('the cause')", "ended with code 1; ValueError: the cause"),
        ("import os; os._exit(3)", "ended with code 3; it wrote no message"),
        (
            "import os; os.kill(os.getpid(), 9)",
            r"was killed \(signal 9\); the usual reason is that memory ran out",
        ),
        ("import os; os.kill(os.getpid(), 11)", r"was killed \(signal 11\)$"),
    ],
)
def test_the_reason_of_a_death_is_its_signal_or_the_last_line_of_stderr(code, reason):
    with program(SENDS + code) as child:
        assert watch([child], pytest.fail) != [0]
        assert re.search(reason, child.reason())


def test_a_log_is_kept_and_only_its_end_is_the_reason(tmp_path):
    log = tmp_path / "log"
    with program(
        "import sys; print('x' * 50_000, 'y' * 999, ' ', sep='\\n', file=sys.stderr); exit(2)", log=log
    ) as child:
        assert watch([child], pytest.fail) == [2]
    assert child.reason() == f"ended with code 2; {'y' * 300}"
    assert len(log.read_text()) > 50_000


@pytest.fixture
def clock(monkeypatch):
    """The seconds that `watch` sees, in a list: they pass when a test says so."""
    seconds = [0.0]
    monkeypatch.setattr(child_processes, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    return seconds


def test_one_that_takes_too_long_is_stopped_with_its_descendants(clock):
    numbers = []

    def note(number):
        numbers.append(number)
        clock[0] = 900.0

    with program(SENDS + PARENT + WAITS) as child:
        assert watch([child], note, timeout_seconds=900) == [-signal.SIGKILL]
    assert child.reason() == "was stopped: took longer than 900 s"
    assert has_ended(numbers[0]) and has_been_reaped(child)


def test_others_are_stopped_after_the_grace_when_one_fails():
    with program("raise SystemExit(5)") as bad, program(SENDS + WAITS) as good:
        assert watch([good, bad], pytest.fail, grace_seconds=0.2) == [-signal.SIGKILL, 5]
        assert good.stopped == "another process failed" and not bad.stopped


def test_a_child_that_dies_while_a_descendant_holds_its_pipe_is_noticed():
    code = "import os, time\nif os.fork() == 0: time.sleep(600)\nprint(os.getpgrp(), flush=True); os._exit(4)"
    groups = []
    with program(code) as child:
        assert watch([child], groups.append) == [4]
    os.killpg(groups[0], signal.SIGKILL)


def test_one_that_closes_its_pipe_and_goes_on_is_waited_for():
    with program("import os, time; os.close(1); time.sleep(1); os._exit(7)") as child:
        assert watch([child], pytest.fail) == [7]


def test_what_a_callback_raises_leaves_no_child():
    def fail(message):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), program(SENDS + "send(1); " + WAITS) as child:
        watch([child], fail)
    assert has_been_reaped(child)


@pytest.mark.faults
@pytest.mark.parametrize(
    "start", [f"Program(['-c', {SENDS + 'send(0); ' + WAITS!r}])", "Function(test.waits)"]
)
def test_children_end_when_their_parent_is_killed(start, fault):
    code = (
        "import test_child_processes as test\nfrom kdutils.io.child_processes import Function, Program\n"
        f"child = {start}; child.read(); print(child.pid, flush=True); child.wait()"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    number = int(parent.stdout.readline())
    assert psutil.pid_exists(number)
    parent.kill()
    parent.communicate()
    fault("parent of watched children killed")
    assert has_ended(number)


# --- functions ------------------------------------------------------------------------------------------


def waits(pipe):
    pipe.send(0)
    time.sleep(600)


def sends_back(pipe, value):
    print("a library talks")
    pipe.send(value)
    pipe.send(os.environ.get("KD_OWN"))
    sys.exit(value["code"])


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_function_sends_messages_and_has_its_own_environment_and_log(method, capfd):
    messages = []
    context = child_processes.multiprocessing.get_context(method)
    how = {"env": os.environ | {"KD_OWN": "own"}, "context": context}
    with Function(sends_back, [{"code": 3}], **how) as child:
        assert watch([child], messages.append) == [3]
        said = child.log.read_text()
    assert messages == [{"code": 3}, "own"]
    assert "a library talks" in said and capfd.readouterr().out == ""
    assert has_been_reaped(child)


def test_a_function_that_hangs_is_stopped():
    with Function(waits) as child:
        assert watch([child], lambda message: None, timeout_seconds=1) == [-signal.SIGKILL]
    assert child.reason() == "was stopped: took longer than 1 s" and has_been_reaped(child)
