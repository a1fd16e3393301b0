"""A kernel that is a process of ours: forked, where that is safe, from one that has its imports already.

papermill asks a kernel manager for a kernel; this one hands on a process that waits to become it.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from kdutils.io.child_processes import Function


class Kernel(Function):
    """A process that becomes a kernel once it is sent a connection file; to jupyter_client like a Popen."""

    stdin = stdout = stderr = None

    def __init__(self, variables: Mapping[str, str], context: BaseContext | None) -> None:
        super().__init__(serve, env=variables, context=context)

    def poll(self) -> int | None:
        """Exit code, None while it lives."""
        return self.wait(0.0)

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def manager(self) -> type[AsyncKernelManager]:
        """A kernel manager, for nbclient, whose only kernel is this process."""

        class Provisioner(LocalProvisioner):
            async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
                kernel.send(self.parent.connection_file)
                self.process, self.pid, self.pgid = kernel, kernel.pid, kernel.pid
                return self.connection_info

        class Manager(AsyncKernelManager):
            kernel_spec = KernelSpec(**get_kernel_dict())  # this Python, whatever is installed as python3

            async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
                known = {"kernel_id": str(uuid.uuid4()), "kernel_spec": self.kernel_spec}
                self.provisioner = Provisioner(parent=self, **known)
                return await super()._async_pre_start_kernel(**options)

        kernel = self
        return Manager


def serve(pipe: Connection) -> None:
    """Become the kernel of the connection file that arrives."""
    connection_file = pipe.recv()
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    IPKernelApp.launch_instance(sys.argv[1:])
