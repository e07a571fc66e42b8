"""Verification sets as .bin files: a pickled pair of lists, read without running anything.

    (list of 2N encoded pictures, list of N flags): pair i is pictures 2i and 2i + 1

Pickles can name any function to be called on loading. Here only what such files hold can be built:
lists, bytes, flags and arrays of numbers; anything else is refused before it is looked up. NumPy's
own constructors are not for strangers either: a crafted state makes an array of object pointers
out of any bytes. So what a pickle gets are stand-ins that keep checked bytes; values are made of
them after loading.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .. import ConfigError

_OPCODES = {one.code.encode("latin1"): one for one in pickletools.opcodes}
_DTYPE = re.compile(r"([<>|=]?)(b1|u1|i[1248]|f[248])")
_NUMPY = re.compile(r"numpy\._?core\.(multiarray|numeric)")


class BinSet(NamedTuple):
    """pictures: 2N encoded pictures; same (N,) bool."""

    pictures: list[bytes]
    same: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class BinPictures:
    """The pictures of a .bin file by row; each process reads the file once."""

    path: Path

    def read(self, row: int) -> bytes:
        """The encoded picture."""
        return read_bin(self.path).pictures[row]


@lru_cache(maxsize=1)
def read_bin(path: Path) -> BinSet:
    """The pictures and flags of a .bin file, written by Python 2 or 3, NumPy 1 or 2.

    Raises ConfigError when it is no such file, is cut short, names anything but the types above,
    or when flags and pictures do not fit; OSError when it cannot be read.
    """
    data = path.read_bytes()
    try:
        _check_sizes(data)
        content = _Restricted(data).load()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle fails in every way that Python can
        raise ConfigError(
            f"{path}: expected a pickled (pictures, flags) as verification sets come, got "
            f"{len(data):,} bytes that are none ({type(error).__name__}): copy the file again"
        ) from None
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise ConfigError(f"{path}: expected (pictures, flags), got {_kind(content)}")
    pictures, flags = content
    same = _flags(path, flags)
    if not isinstance(pictures, list):
        raise ConfigError(f"{path}: expected a list of pictures, got {_kind(pictures)}")
    if len(pictures) != 2 * len(same) or not len(same):
        raise ConfigError(
            f"{path}: expected two pictures per flag, got {len(pictures)} pictures and "
            f"{len(same)} flags"
        )
    return BinSet([_bytes(path, place, one) for place, one in enumerate(pictures)], same)


def _bytes(path: Path, place: int, picture: object) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, _Array) and picture.code == "u1" and picture.shape != ():
        return picture.data
    raise ConfigError(f"{path}: expected picture {place} as bytes, got {_kind(picture)}")


def _flags(path: Path, flags: object) -> npt.NDArray[np.bool_]:
    """Flags out of an array or a list, (N,) bool; ConfigError unless each is 0 or 1."""
    if isinstance(flags, _Array) and flags.shape != ():
        values = flags.values()
    elif isinstance(flags, list | tuple):
        values = [
            one.values()[0] if isinstance(one, _Array) and one.shape == () else one for one in flags
        ]
    else:
        raise ConfigError(f"{path}: flags must be one list of 0 and 1, got {_kind(flags)}")
    for place, one in enumerate(values):
        if not isinstance(one, bool | int | float) or one not in (0, 1):
            raise ConfigError(
                f"{path}: flags must be one list of 0 and 1, got another {_kind(one)} at {place}"
            )
    return np.array(values, np.bool_)


def _kind(value: object) -> str:
    """The type's name for a message: values of strangers may be endless when printed."""
    return "array" if isinstance(value, _Array) else type(value).__name__.lstrip("_").lower()


def _check_sizes(data: bytes) -> None:
    """Walk the opcodes without building: lengths and memo places must lie within the file.

    The unpickler makes room for what is announced before it looks whether it is there: one damaged
    byte can ask for gigabytes. Raises ValueError and its like.
    """
    stream = io.BytesIO(data)
    while (code := stream.read(1)) != b".":
        opcode = _OPCODES[code]
        if code == b"S":  # pickletools takes these for ASCII; Python 2 put any bytes in them
            stream.readline()
        elif opcode.arg is not None:
            argument = opcode.arg.reader(stream)
            if code in b"pr" and not 0 <= int(argument) <= len(data):
                raise ValueError("a memo place beyond the file")


def _text(value: object) -> str:
    """A short name, which Python 2 wrote as bytes."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, str):
        return value
    raise ConfigError(f"expected a name as text, got {_kind(value)}")


class _Sealed:
    """What a pickle may hold but not change: the BUILD opcode would set any attribute."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise ConfigError(f"{_kind(self)} takes no state: the file is damaged or made to harm")


class _Type(_Sealed):
    """Stands for numpy.ndarray: can be named, not called."""

    __slots__ = ()


class _Call(_Sealed):
    """A function that a pickle may call; no function itself, whose defaults BUILD could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)


class _Dtype:
    """Stands for numpy.dtype: flags, integers and floats; of its state only the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, name: object, _align: object = 0, _copy: object = 1) -> None:
        found = _DTYPE.fullmatch(_text(name))
        if found is None:
            raise ConfigError("expected arrays of flags, bytes or numbers, got another dtype")
        self.order, self.code = found[1] or "=", found[2]

    def __setstate__(self, state: object) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else ""
        if order not in ("<", ">", "|", "="):
            raise ConfigError("expected a dtype with its byte order, got another state")
        self.order = order


class _Array:
    """Stands for an array of at most one dimension: shape, type and as many bytes as these ask."""

    __slots__ = ("_copy", "code", "data", "order", "shape")

    def __init__(self, copy: Callable[[bytearray], bytes]) -> None:
        self._copy = copy
        self.fill((0,), _Dtype("u1"), b"")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise ConfigError("expected an array's state, version 1, got another")
        _version, shape, dtype, _fortran, data = state
        self.fill(shape, dtype, data)

    def fill(self, shape: object, dtype: object, data: object) -> None:
        """Take what was read; ConfigError unless it fits together."""
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise ConfigError(f"expected an array's bytes, got {_kind(dtype)} and {_kind(data)}")
        if (
            not isinstance(shape, tuple)
            or len(shape) > 1
            or not all(type(one) is int and one >= 0 for one in shape)
        ):
            raise ConfigError("expected arrays of one dimension, got another shape")
        expected = (shape[0] if shape else 1) * int(dtype.code[1])
        if len(data) != expected:
            raise ConfigError(f"expected {expected} bytes for an array, got {len(data)}")
        self.shape, self.code, self.order = shape, dtype.code, dtype.order
        self.data = data if isinstance(data, bytes) else self._copy(data)

    def values(self) -> list[bool | int | float]:
        """The values; flags come as bytes, since a crafted one may be neither 0 nor 1."""
        code = "u1" if self.code == "b1" else self.code
        values: list[bool | int | float] = np.frombuffer(self.data, self.order + code).tolist()
        return values


def _nothing() -> bytes:
    return b""


class _Restricted(pickle.Unpickler):
    """Builds lists, bytes, flags and arrays, and nothing else."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._left = len(data)
        self._array_type = _Type()

    def find_class(self, module: str, name: str) -> object:
        """The few names that .bin files use, as stand-ins; ConfigError for any other."""
        if (module, name) == ("_codecs", "encode"):
            return _Call(self._latin1)
        if module in ("builtins", "__builtin__") and name == "bytes":
            return _Call(_nothing)  # how Python 3 writes no bytes in protocol 2
        if module == "numpy" and name == "dtype":
            return _Call(_Dtype)
        if module == "numpy" and name == "ndarray":
            return self._array_type
        calls: dict[str, Callable[..., object]] = {
            "_reconstruct": self._reconstruct,
            "_frombuffer": self._frombuffer,
            "scalar": self._scalar,
        }
        if _NUMPY.fullmatch(module) and name in calls:
            return _Call(calls[name])
        raise ConfigError(
            f"this pickle wants to use {module[:80]}.{name[:80]}, which no verification set "
            "needs: it may be harmful; do not open it with other programs"
        )

    def _copy(self, data: bytes | bytearray) -> bytes:
        """A copy; all together no more than the file, which can name one thing many times."""
        self._left -= len(data)
        if self._left < 0:
            raise ConfigError("expected no more bytes than the file has, got one text many times")
        return bytes(data)

    def _latin1(self, text: object, encoding: object) -> bytes:
        """What Python 3 pickles bytes as in protocol 2: characters that stand for bytes."""
        if not isinstance(text, str) or _text(encoding) != "latin1":
            raise ConfigError("expected bytes as latin1 text, got another encoding")
        return self._copy(text.encode("latin1"))

    def _reconstruct(self, kind: object, _shape: object, _code: object) -> _Array:
        """An empty array; its state follows."""
        if kind is not self._array_type:
            raise ConfigError(f"expected an array to be made, got {_kind(kind)}")
        return _Array(self._copy)

    def _frombuffer(self, data: object, dtype: object, shape: object, _order: object) -> _Array:
        """An array as protocol 5 has it."""
        array = _Array(self._copy)
        array.fill(shape, dtype, data)
        return array

    def _scalar(self, dtype: object, data: object) -> _Array:
        """One NumPy value: an array without dimensions."""
        array = _Array(self._copy)
        array.fill((), dtype, data)
        return array
