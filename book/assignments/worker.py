"""Runs a student's code. The whole file is handed to a Python of its own, in which nothing else of the book exists.

One message a line comes in, one goes out, both JSON: {"run": source} or {"call": name, "args": [...]} are answered by
{"value": ...} or {"error": text}. Tensors and arrays travel as bytes, never as pickles, so that reading an answer runs
no code.
"""

import base64
import json
import os
import re
import resource
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch

GIB = 2**30
KINDS = {"tensor": torch.Tensor, "array": np.ndarray}


def pack(value: Any) -> Any:
    """Return a value in JSON's types: numbers, strings, None, lists, tuples, dictionaries, tensors and arrays."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        array = np.ascontiguousarray(value.detach().cpu() if kind == "tensor" else value)
        data = base64.b64encode(array.tobytes()).decode()
        return {"kind": kind, "dtype": array.dtype.str, "shape": np.shape(value), "data": data}
    if isinstance(value, list | tuple):
        return {"kind": type(value).__name__, "items": [pack(item) for item in value]}
    if isinstance(value, dict):
        return {"kind": "dict", "items": [[pack(key), pack(item)] for key, item in value.items()]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a number, text, list, dictionary, tensor or array expected, got {type(value).__name__}")


def unpack(value: Any) -> Any:
    """Undo `pack`."""
    if not isinstance(value, dict):
        return value
    if value["kind"] in ("list", "tuple"):
        items = [unpack(item) for item in value["items"]]
        return items if value["kind"] == "list" else tuple(items)
    if value["kind"] == "dict":
        return {unpack(key): unpack(item) for key, item in value["items"]}
    array = np.frombuffer(base64.b64decode(value["data"]), value["dtype"]).reshape(value["shape"]).copy()
    return torch.from_numpy(array) if value["kind"] == "tensor" else array


def python(source: str) -> str:
    """Return a cell's source without the lines that are IPython's, not Python's."""
    return re.sub(r"^([ \t]*)(!(?!=)|%%?[a-z]).*", r"\1pass", source, flags=re.MULTILINE)


class NotHere(ModuleType):
    """Stands in for the library while answers are graded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise RuntimeError(f"{self.__name__}.{name} is not at hand while answers are graded: write it yourself")


def answer(message: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Do what a message asks, in the namespace of the student's notebook."""
    try:
        if "run" in message:
            exec(compile(python(message["run"]), "answer", "exec"), names)
            return {"value": None}
        if message["call"] not in names:
            raise NameError(f"{message['call']} is not defined: its cell failed, or is missing")
        return {"value": pack(names[message["call"]](*map(unpack, message["args"])))}
    except BaseException as error:  # noqa: BLE001  whatever the code raises, SystemExit too, is its result
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def main() -> None:
    """Answer messages until there are no more."""
    sys.modules["dcal_lite"] = NotHere("dcal_lite")
    torch.set_num_threads(1)
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    for stream in range(3):  # what the code reads is empty, what it prints goes nowhere
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    for limit, value in (("AS", 4 * GIB), ("FSIZE", GIB // 64), ("CORE", 0), ("NPROC", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (value, value))
    names: dict[str, Any] = {"__name__": "__main__"}
    outgoing.write(b"{}\n")  # ready: PyTorch is there, the time of the first message starts now
    outgoing.flush()
    for line in incoming:
        outgoing.write(json.dumps(answer(json.loads(line), names)).encode() + b"\n")
        outgoing.flush()


if __name__ == "__main__":
    main()
