"""A kernel that is a process of ours: forked, where that is safe, from one that has its imports already.

nbclient asks a kernel manager to launch a kernel; ours has a process that waits to become it.
"""

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


class Provisioner(LocalProvisioner):
    kernel: Kernel

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        self.kernel.send(self.parent.connection_file)
        self.process, self.pid, self.pgid = self.kernel, self.kernel.pid, self.kernel.pid
        return self.connection_info


class Manager(AsyncKernelManager):
    """The manager of that kernel alone."""

    kernel_spec = KernelSpec(**get_kernel_dict())  # this Python, whatever is installed as python3

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(transport_encryption="auto")
        known = {"kernel_id": str(uuid.uuid4()), "kernel_spec": self.kernel_spec}
        self.provisioner = Provisioner(parent=self, **known)
        self.provisioner.kernel = kernel


def serve(pipe: Connection) -> None:
    """Become the kernel of the connection file that arrives."""
    connection_file = pipe.recv()
    from ipykernel.kernelapp import IPKernelApp

    sys.argv = ["ipykernel_launcher", "-f", connection_file]
    IPKernelApp.launch_instance(sys.argv[1:])
