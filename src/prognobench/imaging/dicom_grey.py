"""The grey-scale pipeline of DICOM PS3.3 C.11: what a viewer shows of stored values.

Modality LUT or rescale, then VOI LUT or window, then the photometric interpretation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.imaging.pixels import EXACT, stretch

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING = ("PixelPaddingValue", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue")
LIMITS = tuple(name.replace("Value", "RangeLimit") for name in PADDING)


def apply_grey_pipeline(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """Turn stored values ``(rows, columns)`` into what is shown, padding black."""
    padding = _mark_padding(stored, dataset)
    values = _apply_modality(stored, dataset)
    shown = _apply_voi(values, dataset)
    if shown is None or shown.min() == shown.max():
        # Padding gets the darkest value of the field, so that it does not set the range.
        darkest = values[~padding].min(initial=values.max())
        shown = stretch(np.where(padding, darkest, values))
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = 255 - shown
    shown[padding] = 0
    return shown


def _mark_padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Pixels outside the exposed field, which the file marks by a value or a range."""
    marked: NDArray[np.bool_] = np.zeros(stored.shape, dtype=bool)
    if stored.dtype.kind == "f":
        marked |= ~np.isfinite(stored)
        np.nan_to_num(stored, copy=False, posinf=0, neginf=0)
    for name, limit_name in zip(PADDING, LIMITS, strict=True):
        value, limit = _first_number(dataset, name), _first_number(dataset, limit_name)
        if value is not None:
            ends = (value, value if limit is None else limit)
            low, high = sorted(_as_stored(end, stored.dtype) for end in ends)
            marked |= (stored >= low) & (stored <= high)
    return marked


def _as_stored(value: float, dtype: np.dtype[Any]) -> float:
    """Read a value as the pixels are: files give -2000 in signed pixels as 63536, and reverse."""
    if dtype.kind not in "iu":
        return value
    span, least = 2 ** (8 * dtype.itemsize), int(np.iinfo(dtype).min)
    return float((int(value) - least) % span + least)


def _apply_modality(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Turn stored values into those of the modality: by a table, else by slope and intercept."""
    for item in dataset.get("ModalityLUTSequence") or []:
        if (table := _read_table(item, dataset)) is not None:
            first = int(_as_stored(item.LUTDescriptor[1], stored.dtype))
            return _look_up(table, stored, first)
    slope, intercept = (_first_number(dataset, f"Rescale{name}") for name in ("Slope", "Intercept"))
    if slope is None and intercept is None:
        return stored
    # Empty elements mean that nothing is changed, and so does a slope of 0, which would leave one
    # grey value of any image.
    values: NDArray[Any] = stored.astype(np.float64) * (slope or 1)
    values += 0 if intercept is None else intercept
    return values


def _apply_voi(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8] | None:
    """Apply the first VOI LUT, else the first window; None without a usable one."""
    for item in dataset.get("VOILUTSequence") or []:
        if (table := _read_table(item, dataset)) is not None:
            # The table's own darkest and brightest entries become 0 and 255.
            return _look_up(stretch(table), values, _first_mapped(item, values))
    return _apply_window(values, dataset)


def _first_mapped(item: Any, values: NDArray[Any]) -> int:
    """The value that a VOI LUT maps first, in 16 bits whose sign the file may get wrong."""
    first = int(item.LUTDescriptor[1])
    if values.dtype.kind == "u":
        return first % 2**16
    return first - 2**16 if first >= 2**15 and values.min() < 0 else first


def _read_table(item: Any, dataset: Any) -> NDArray[Any] | None:
    """The entries of a LUT; None for an item without them."""
    data, descriptor = item.get("LUTData"), item.get("LUTDescriptor")
    if data is None or not descriptor or not len(data := np.atleast_1d(_as_array(data, dataset))):
        return None
    entries = int(descriptor[0]) or 2**16
    if len(data) < entries <= 2 * len(data):  # two entries of 8 bits in each word
        data = data.astype("<u2").view("u1")
    elif data.dtype == np.uint8 and len(data) > entries + 1:
        data = data.view(_word(dataset))
    table: NDArray[Any] = data[:entries]
    return table


def _as_array(data: Any, dataset: Any) -> NDArray[Any]:
    if isinstance(data, bytes):
        return np.frombuffer(data, "u1")
    return np.asarray(data, dtype=np.uint16 if np.max(data) < 2**16 else np.int64)


def _word(dataset: Any) -> str:
    """Words of 16 bits, in the order of bytes of the file."""
    _, little = getattr(dataset, "original_encoding", (None, None))
    return ">u2" if little is False else "<u2"


def _look_up(table: NDArray[Any], values: NDArray[Any], first: int) -> NDArray[Any]:
    """Values below and above the table get its first and last entry (PS3.3 C.11.1.1)."""
    position = np.rint(values).astype(np.int64) - first
    found: NDArray[Any] = table[np.clip(position, 0, len(table) - 1)]
    return found


def _apply_window(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8] | None:
    """Apply the first window by PS3.3 C.11.2.1.2 and .3; None without a usable one."""
    centre, width = (_first_number(dataset, f"Window{name}") for name in ("Center", "Width"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    least = 0 if function in ("SIGMOID", "LINEAR_EXACT") else 1
    if centre is None or width is None or width <= least:
        return None
    deep = values.dtype.itemsize > 2 and abs(centre) + width > EXACT
    # In place: fresh memory for every step takes nine times as long.
    x: NDArray[Any] = values.astype(np.float64 if deep else np.float32)
    if function == "SIGMOID":
        x -= centre
        x *= -4
        x /= width
        np.exp(np.clip(x, -80, 80, out=x), out=x)  # beyond, single precision overflows
        x += 1
        np.reciprocal(x, out=x)
    else:
        x -= centre if function == "LINEAR_EXACT" else centre - 0.5
        x /= width if function == "LINEAR_EXACT" else width - 1
        x += 0.5
    np.clip(x, 0, 1, out=x)
    x *= 255
    shown: NDArray[np.uint8] = np.rint(x, out=x).astype(np.uint8)
    return shown


def _first_number(dataset: Any, keyword: str) -> float | None:
    """The number of an element, of several views the first; None for an empty one."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    from pydicom.multival import MultiValue

    numbers = list(value) if isinstance(value, MultiValue) else [value]
    try:
        return float(numbers[0]) if numbers and math.isfinite(numbers[0]) else None
    except TypeError:
        raise ValueError(f"{keyword} is {str(value)!r}, which must be a number") from None
