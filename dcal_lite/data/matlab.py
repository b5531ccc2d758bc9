"""MATLAB files: arrays of version 5 by name, the package for version 7.3, one clear error for whatever is wrong."""

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

# SciPy's compiled reader crashes on some damaged files, so it runs in a process of its own.
_READ = """
import pickle, sys
from scipy.io import loadmat
try:
    read = loadmat(sys.argv[1], squeeze_me=True, chars_as_strings=True)
except NotImplementedError:
    read = "of version 7.3, and only version 5 is read here"
except Exception as error:
    read = f"no MATLAB file, or damaged ({(str(error) or type(error).__name__).splitlines()[0]}): get it again"
pickle.dump(read, sys.stdout.buffer)
"""


def load_h5py() -> ModuleType:
    """The package h5py, which only files of version 7.3 need.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module("h5py")
    except ImportError as error:
        raise ValueError("MATLAB files of version 7.3 need h5py: pip install h5py") from error


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of a .mat file, flattened; cells of text become an array of `str`.

    Raises:
        ValueError: the file is damaged, of version 7.3 (HDF5), or lacks a name.
    """
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    arrays = "damaged (it crashes SciPy): get it again" if done.returncode else pickle.loads(done.stdout)
    if isinstance(arrays, str):
        raise ValueError(f"{path} is a MATLAB file {arrays}" if arrays.startswith("of") else f"{path} is {arrays}")
    for name in names:
        if name not in arrays:
            there = ", ".join(sorted(key for key in arrays if not key.startswith("__"))) or "nothing"
            raise ValueError(f"{path} must hold {name}, but it holds {there}: is it the right file?")
    return [np.atleast_1d(arrays[name]).ravel() for name in names]
