"""Jupyter kernels that start at once: a process imports the large packages, and each kernel is a fork of it.

A kernel of its own imports PyTorch, timm and the library in several seconds of processor time, which a book of many
notebooks pays as often. Linux only: elsewhere a fork of a process with such packages is not safe.
"""

import multiprocessing
import os
import signal
import sys
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

# The program that starts kernels is among these, because each fork imports its main module. Matplotlib is not, because
# it asks on import where to draw.
PRELOADED = ["ipykernel.kernelapp", "book.tools.build", "pandas", "scipy.stats", "dcal_lite"]
AVAILABLE = sys.platform == "linux"


class WarmKernelManager(AsyncKernelManager):
    """Starts kernels as forks; give it to nbclient as `kernel_manager_class`."""

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        self.kernel_id = self.kernel_id or str(id(self))
        self.provisioner = self.provisioner or _Forks(
            kernel_id=self.kernel_id, kernel_spec=self.kernel_spec, parent=self
        )
        return await super()._async_pre_start_kernel(**options)

    pre_start_kernel = _async_pre_start_kernel


class _Forks(LocalProvisioner):
    """Forks a kernel where its parent class would start a program."""

    async def launch_kernel(self, cmd: list[str], *, cwd: str, env: dict[str, str], **_: Any) -> dict[str, Any]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=_run_kernel, args=(cmd[cmd.index("-f") + 1], cwd, env))
        process.start()
        self.process, self.pid = _AsPopen(process), process.pid
        return self.connection_info


def _run_kernel(connection_file: str, cwd: str, env: dict[str, str]) -> None:
    from ipykernel import kernelapp

    os.setsid()  # signals for a kernel are for its own children only
    os.chdir(cwd)
    os.environ.update(env)
    parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # without it a kernel outlives us
    kernelapp.launch_new_instance(["-f", connection_file, parent, "--log-level=ERROR"])


class _AsPopen:
    """A process of multiprocessing with the methods of subprocess.Popen that a provisioner calls."""

    stdin = stdout = stderr = None

    def __init__(self, process: multiprocessing.Process):
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.process.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
