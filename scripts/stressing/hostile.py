"""Files that somebody else made: read, or refused with a clear message; nothing in them runs."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path

from stressing.commands import Row, Starter

MARK = "ran-code"
"""A file that exists if a hostile file ran code."""

BELL = "\x1b]0;owned\x07"
"""Changes the title of a terminal that it reaches raw."""


class _Touch:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (MARK, "w")


def try_hostile_files(starter: Starter) -> Row:
    """Give hostile tables, images, configs, components, weights and results to commands."""
    row = Row("hostile files")
    home = starter.home
    for name, image in _images().items():
        folder = _make_folder(row, home)
        (folder / name).write_bytes(image)
        (folder / "good.png").write_bytes(_png(8, 8))
        lines = [f"p{i},{name if i == 3 else 'good.png'},{'ab'[i % 2]}" for i in range(30)]
        (folder / "t.csv").write_text("\n".join(["patient_id,image,label", *lines]) + "\n")
        row.add(_fault(starter, ("data", "check", *_choose_table(folder))))
    for table in _tables():
        folder = _make_folder(row, home)
        (folder / "t.csv").write_bytes(table)
        row.add(_fault(starter, ("data", "check", *_choose_table(folder))))
    for group, config in _configs():
        folder = _make_folder(row, home)
        (folder / group).mkdir()
        (folder / group / "bad.yaml").write_bytes(config)
        row.add(_fault(starter, ("plan", f"--config-dir={folder}", f"{group}=bad")))
    for override in ("hydra.launcher._target_=os.system", "model._target_=os.system", f"a={BELL}"):
        row.add(_fault(starter, ("plan", override)))
    weights = home / "weights.pt"
    weights.write_bytes(pickle.dumps(_Touch()))
    model = ("model=timm", "model.name=resnet10t", f"model.weights={weights}")
    row.add(_fault(starter, ("run", "dataset=severity", "dataset.patients=30", *model), "hostile"))
    for text in (f'{{"format": 1, "key": "{BELL}"}}', "[" * 9999):
        results = _make_folder(row, home)
        run = results / "runs" / "a" / "b" / "c" / f"d{BELL}"
        (run / "cells" / "r0-f0").mkdir(parents=True)
        (run / "run.json").write_text(text)
        for command in (("table",), ("results", "check")):
            row.add(_fault(starter, (*command, str(results))))
    return row


def _make_folder(row: Row, home: Path) -> Path:
    folder = home / f"hostile-{row.tries}"
    folder.mkdir()
    return folder


def _choose_table(folder: Path) -> tuple[str, ...]:
    return (
        *("dataset=table", f"dataset.table={folder / 't.csv'}", f"dataset.images={folder}"),
        *("dataset.label=label", "dataset.positive=b", "dataset.patient=patient_id"),
        *("dataset.image=image", f"paths.cache={folder / 'cache'}"),
    )


def _fault(starter: Starter, arguments: tuple[str, ...], name: str = "") -> str | None:
    """Return what is wrong with how a command took a hostile file."""
    command = starter.call(arguments, name)
    said, what = command.said, " ".join(arguments)[:80]
    if (starter.home / MARK).exists():
        (starter.home / MARK).unlink()
        return f"{what}: code was run"
    if "\x1b]" in said or "\x07" in said:
        return f"{what}: control characters were printed"
    if command.code not in (0, 1, 2) or "Traceback" in said:
        return f"{what}: exit {command.code}: {said[-300:]}"
    return None


def _png(width: int, height: int, data: bytes | None = None) -> bytes:
    """Return a PNG that says it is so large, whatever it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    if data is None:
        rows = (bytes((x * y) % 256 for x in range(width)) for y in range(height))
        data = b"".join(b"\0" + row for row in rows)
    packed = zlib.compress(data)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    )


def _images() -> dict[str, bytes]:
    small = _png(16, 16)
    preamble = bytes(128) + b"DICM"
    return {
        "bomb.png": _png(60000, 60000, b"\0"),
        "cut.png": small[: len(small) // 2],
        "empty.png": b"",
        "text.png": b"no image",
        "cut.dcm": preamble,
        "lengths.dcm": preamble + b"\x10\x00\x10\x00LO\xff\xff" + b"a" * 40,
        "nested.dcm": preamble + b"\x40\x00\x30\xa7SQ\x00\x00\xff\xff\xff\xff" * 500,
        "pickle.npy": b"\x93NUMPY\x01\x00" + pickle.dumps(_Touch()),
        "cut.tif": b"II*\x00\xff\xff\xff\xff",
        "cut.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(30),
    }


def _tables() -> tuple[bytes, ...]:
    header = b"patient_id,image,label\n"
    return (
        b"",
        b"\0" * 500,
        header,
        header + b'p1,"a.png,a\n',
        header + f"p1,{BELL}.png,a\np2,b.png,b\n".encode(),
        header + b"=cmd|' /C calc'!A0,../../../../etc/passwd,a\np2,b.png,b\n",
        b"\xff\xfe" + header,
        b"PK\x03\x04" + bytes(100),
        header + b"p" * 300000 + b",a.png,a\n",
        b"a," * 5000 + b"\n",
    )


def _configs() -> tuple[tuple[str, bytes], ...]:
    code = f"!!python/object/apply:builtins.open ['{MARK}', 'w']".encode()
    return (
        ("model", b"a: " + code + b"\n"),
        ("model", b"builder: embedded\nname: x\n_target_: os.system\n"),
        ("strategy", b"name: x\nbuilder: full\na: ${oc.env:HOME}\n"),
        ("strategy", b"name: x\nbuilder: full\na: ${oc.decode:x}\n"),
        (
            "experiment",
            b"# @package _global_\nhydra:\n  callbacks:\n    a:\n      _target_: os.system\n",
        ),
        ("experiment", b"a: &a [*a]\n"),
        (
            "experiment",
            b"a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
        ),
        ("experiment", b"\0\1\2"),
        ("experiment", f"x: '{BELL.encode('unicode_escape').decode()}'\n".encode()),
        ("dataset", b"name: x\nbuilder: table\ntable: /etc/shadow\n"),
    )
