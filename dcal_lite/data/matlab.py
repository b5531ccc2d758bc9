"""MATLAB files (version 5): arrays by name, and one clear error for whatever is wrong."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat


def read_arrays(path: Path, *names: str) -> list[np.ndarray]:
    """The named arrays of a .mat file, flattened; cells of text become an array of `str`.

    Raises:
        ValueError: the file is damaged, of version 7.3 (HDF5), or lacks a name.
    """
    try:
        arrays = loadmat(path, squeeze_me=True, chars_as_strings=True)
    except NotImplementedError as error:
        raise ValueError(f"{path} is a MATLAB file of version 7.3, and only version 5 is read here") from error
    except Exception as error:  # SciPy raises whatever it stumbles over in a damaged file
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise ValueError(f"{path} is no MATLAB file, or damaged ({reason}): get it again") from error
    for name in names:
        if name not in arrays:
            there = ", ".join(sorted(key for key in arrays if not key.startswith("__"))) or "nothing"
            raise ValueError(f"{path} must hold {name}, but it holds {there}: is it the right file?")
    return [np.atleast_1d(arrays[name]).ravel() for name in names]
