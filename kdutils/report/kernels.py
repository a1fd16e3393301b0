"""A kernel that is forked from the worker of its notebook: all that it needs is imported already.

The child is forked while the worker has one thread, waits until papermill asks for a kernel, and becomes it.
Only on Linux, where a process may go on after a fork without starting a program.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import uuid
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from kdutils.io import environment

FORKS = environment.FORKS


class Seed(multiprocessing.get_context("fork").Process):
    """A child of this process that is not a kernel yet; looks like a subprocess.Popen to jupyter_client."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        super().__init__()
        self._theirs, self._pipe = multiprocessing.Pipe(duplex=False)
        self.start()
        self._theirs.close()

    def become(self, connection_file: str, variables: dict[str, str], folder: str | None) -> None:
        """Have the child become the kernel of a connection file, with that environment, in that folder."""
        with contextlib.suppress(BrokenPipeError):  # it was killed, which `poll` shows
            self._pipe.send({"file": connection_file, "variables": variables, "folder": folder})

    def end(self) -> None:
        """Make sure that it is gone, whether or not it became a kernel."""
        self._pipe.close()
        self.kill()
        self.join()

    def poll(self) -> int | None:
        """Exit code, None while it lives."""
        return self.exitcode

    def wait(self) -> int | None:
        """Exit code, once it has ended."""
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def run(self) -> None:
        """The child, from its fork to its end."""
        self._pipe.close()  # so that `_theirs` ends when the worker does
        os.setsid()  # signals to the group of the worker do not reach it
        try:
            asked = self._theirs.recv()
        except EOFError:
            return
        self._theirs.close()
        os.environ.clear()
        os.environ.update(asked["variables"])
        if asked["folder"]:
            os.chdir(asked["folder"])
        from ipykernel.kernelapp import IPKernelApp

        sys.argv = ["ipykernel_launcher", "-f", asked["file"]]
        IPKernelApp.launch_instance(sys.argv[1:])


def seed() -> Seed | None:
    """A seed where processes fork; to be made before there is a thread, which the seed would lack."""
    return Seed() if FORKS else None


def manager_of(seed: Seed) -> type[AsyncKernelManager]:
    """A kernel manager, for nbclient, whose only kernel grows from that seed."""

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
            variables = options.get("env", os.environ) | {"JPY_PARENT_PID": str(os.getpid())}
            seed.become(self.parent.connection_file, variables, options.get("cwd"))
            self.process, self.pid, self.pgid, self.cwd = seed, seed.pid, seed.pid, options.get("cwd")
            return self.connection_info

    class Manager(AsyncKernelManager):
        async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
            self.provisioner = Provisioner(
                kernel_id=str(uuid.uuid4()), kernel_spec=self.kernel_spec, parent=self
            )
            return await super()._async_pre_start_kernel(**options)

    return Manager
