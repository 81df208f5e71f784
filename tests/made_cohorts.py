"""Tiny copies of the public cohorts: their layout, column names and traps, images of nobody."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made_dicom import image, write_dicom
from numpy.typing import NDArray
from openpyxl import Workbook
from PIL import Image
from pydicom.dataset import Dataset


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_xlsx(path: Path, rows: Iterable[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    for row in rows:
        book.active.append(list(row))
    book.save(path)
    return path


def write_xls(path: Path, rows: Iterable[Sequence[str | float | bool]]) -> Path:
    """Write an old Excel file (BIFF 8 in a compound file), which needs no library."""

    def record(kind: int, content: bytes = b"") -> bytes:
        return struct.pack("<HH", kind, len(content)) + content

    cells = [record(0x0809, struct.pack("<HHHHII", 0x0600, 0x0010, 0, 0, 0, 0))]
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            place = struct.pack("<HHH", row, column, 0)
            if isinstance(value, bool):
                cells.append(record(0x0205, place + bytes((value, 0))))
            elif isinstance(value, str):
                text = struct.pack("<HB", len(value), 1) + value.encode("utf-16-le")
                cells.append(record(0x0204, place + text))
            else:
                cells.append(record(0x0203, place + struct.pack("<d", value)))
    start = record(0x0809, struct.pack("<HHHHII", 0x0600, 0x0005, 0, 0, 0, 0))
    offset = len(start) + 4 + 14 + 4
    sheet = record(0x0085, struct.pack("<IBBBB", offset, 0, 0, 6, 0) + b"Sheet1")
    stream = b"".join([start, sheet, record(0x000A), *cells, record(0x000A)])
    return _write_compound_file(path, "Workbook", stream)


def _write_compound_file(path: Path, name: str, stream: bytes) -> Path:
    """Write one stream: a header, a table of sectors, a directory, the stream's sectors."""
    stream = stream.ljust(max(4096, -(-len(stream) // 512) * 512), b"\0")
    count = len(stream) // 512
    last, table, none = 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF
    links = [table, last, *range(3, count + 2), last]
    assert len(links) <= 128

    def entry(named: str, kind: int, child: int, first: int, size: int) -> bytes:
        text = named.encode("utf-16-le")
        head = struct.pack(
            "<64sHBBIII", text, len(text) + 2 * bool(text), kind, 1, none, none, child
        )
        return head + bytes(36) + struct.pack("<IQ", first, size)

    header = struct.pack(
        "<8s16xHHHHH6xIII4xIIIII",
        *(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0x3E, 3, 0xFFFE, 9, 6),
        *(0, 1, 1, 4096, last, 0, last, 0),
    )
    content = header + struct.pack("<109I", 0, *[none] * 108)
    content += struct.pack("<128I", *links, *[none] * (128 - len(links)))
    content += entry("Root Entry", 5, 1, last, 0) + entry(name, 2, none, 2, len(stream))
    content += 2 * entry("", 0, none, 0, 0)
    path.write_bytes(content + stream)
    return path


def write_image(path: Path, seed: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = (image(seed, 16) // 16).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(path)
    return path


# ------------------------------------------------------------------ AIforCOVID

AFC_COLUMNS = (
    *("Row_number", "ImageFile", "Hospital", "Age", "Sex", "PositivityAtAdmission", "Temp_C"),
    *("DaysFever", "Cough", "WBC", "D_dimer", "Position", "Prognosis", "Death"),
)


def make_aiforcovid(root: Path, deaths: tuple[Any, Any] = (0, 1)) -> Path:
    """Three releases of 18 patients in six hospitals; P_3_20 is one that the authors leave out.

    The first release has the older names of columns, one blank Death and a MONOCHROME1 image.
    """
    number = 0
    for release, prefix, count in (("", "P", 8), ("_r2", "P_1", 5), ("_r3", "P_3", 5)):
        rows = []
        for at in range(count):
            name = f"{prefix}_{20 if (prefix, at) == ('P_3', 4) else at + 1}"
            severe = number % 2
            death = deaths[number % 4 == 1]
            hospital = "ABCDEF"[number % 6] if number < 10 else "abcdef"[number % 6]
            cells = [at, name, hospital, 40 + number, "MF"[number % 2], 1, 37.5]
            cells += [3, 1, 5.1, None, "AP", ("MILD", "SEVERE")[severe]]
            rows.append([*cells, None if number == 2 else death])
            write_dicom(
                root / f"imgs{release}" / f"{name}.dcm",
                image(number),
                bits=12,
                PhotometricInterpretation="MONOCHROME1" if number == 0 else "MONOCHROME2",
            )
            number += 1
        header = list(AFC_COLUMNS)
        if not release:
            header[header.index("PositivityAtAdmission")] = "Positivity at admission"
            header[header.index("D_dimer")] = "D-dimer"
        write_xlsx(root / f"AIforCOVID{release}.xlsx", [header, *rows])
    return root


# ------------------------------------------------------------------ TCIA collections

METADATA = (
    *("Series UID", "Collection", "3rd Party Analysis", "Data Description URI", "Subject ID"),
    *("Study UID", "Study Description", "Study Date", "Series Description", "Manufacturer"),
    *("Modality", "SOP Class Name", "SOP Class UID", "Number of Images", "File Size"),
    *("File Location", "Download Timestamp"),
)


class Collection:
    """Writes series as the archive's downloader does, and its ``metadata.csv``."""

    def __init__(self, root: Path, name: str) -> None:
        self.manifest, self.name = root / "manifest-1600000000000", name
        self.listed: list[dict[str, str]] = []

    def add(
        self,
        patient: str,
        date: str,
        *,
        study: str = "XR CHEST AP PORTABLE",
        series: str = "AP",
        modality: str = "CR",
        times: Sequence[str] = ("101500",),
        views: Sequence[str] = ("AP",),
        written: bool = True,
        **tags: Any,
    ) -> Path:
        """Add a series with one file per time and view; ``date`` is YYYYMMDD."""
        american = f"{date[4:6]}-{date[6:]}-{date[:4]}"
        number = len(self.listed)
        below = f"{self.name}/{patient}/{american}-NA-{study}-{number:05d}"
        folder = f"{below}/{number}.000000-{series}-{number:05d}"
        row = dict.fromkeys(METADATA, "")
        row |= {"Collection": self.name, "Subject ID": patient, "Study Description": study}
        row |= {"Study Date": american, "Series Description": series, "Modality": modality}
        row["File Location"] = ".\\" + folder.replace("/", "\\")
        self.listed.append(row)
        if written:
            for at, (time, view) in enumerate(zip(times, views, strict=True), 1):
                write_dicom(
                    self.manifest / folder / f"1-{at:03d}.dcm",
                    image(100 * number + at),
                    bits=12,
                    Modality=modality,
                    StudyDescription=study,
                    SeriesDescription=series,
                    ViewPosition=view,
                    StudyDate=date,
                    AcquisitionTime=time,
                    **tags,
                )
        return self.manifest / folder

    def write_metadata(self) -> None:
        write_csv(self.manifest / "metadata.csv", self.listed)


def make_covid_19_ar(root: Path, yes_no: tuple[Any, Any] = (0, 1), metadata: bool = False) -> Path:
    """Eight patients with CT, laterals, later images, an abdomen; a patient without an image.

    The table's header stands in its second row.
    """
    tree = Collection(root, "COVID-19-AR")
    rows = []
    for at in range(8):
        number = f"{1640 * 10_000 + at}"
        patient = f"COVID-19-AR-{number}"
        icu = at % 2
        rows.append([patient, 50 + at, "MF"[at % 2], yes_no[icu], yes_no[icu and at > 3]])
        tree.add(patient, "20120105", times=("101500",))
        if icu:
            tree.add(patient, "20120109")
            tree.add(patient, "20120110")
    first = "COVID-19-AR-16400000"
    tree.add(
        first,
        "20120101",
        study="CT CHEST PE PROTOCOL",
        series="LUNG 1.0",
        modality="CT",
        views=("",),
    )
    tree.add(first, "20120102", study="XR ABDOMEN")
    second = "COVID-19-AR-16400001"
    tree.add(
        second,
        "20120103",
        study="XR CHEST PA AND LATERAL",
        series="CHEST",
        modality="DX",
        times=("120000", "115900", "115800"),
        views=("PA", "PA", "LL"),
    )
    tree.add(second, "20120103", study="XR CHEST PA AND LATERAL", series="LATERAL", views=("",))
    tree.add("COVID-19-AR-99999999", "20120105")
    rows.append(["COVID-19-AR-16409999", 60, "F", yes_no[0], yes_no[0]])
    title = ["COVID-19-AR clinical correlates", None, None, None, None]
    header = ["PATIENT_ID", "AGE", "SEX", "ICU Admit", "MORTALITY"]
    write_xlsx(root / "COVID_19_AR_ClinicalCorrelates_July202020.xlsx", [title, header, *rows])
    if metadata:
        tree.write_metadata()
    return root


def make_covid_19_ny(root: Path, metadata: bool = True) -> Path:
    """Ten patients; the severe ones with many images, enhanced copies, laterals, CT, MR.

    Beside the table lies its description, under nearly the same name.

    Later series of A000001 stand in ``metadata.csv`` but not on the disk: who takes the first
    image does not look at them.
    """
    tree = Collection(root, "COVID-19-NY-SBU")
    rows = []
    for at in range(10):
        patient = f"A{at:06d}"
        dead = at in (1, 4, 7)
        rows.append(
            {
                "to_patient_id": patient,
                "covid19_statuses": "positive",
                "visit_start_datetime": "1900-01-01",
                "age.splits": ("[18,59]", "(59,74]", "(74,90]")[at % 3],
                "gender_concept_name": ("MALE", "FEMALE")[at % 2],
                "last.status": "deceased" if dead else "discharged",
                "is_icu": str(at % 3 == 1).upper() if at == 4 else str(at % 3 == 1),
                "was_ventilated": "Yes" if dead else "No",
            }
        )
        if at == 9:
            continue
        tree.add(patient, "19000105", series="CHEST PA ENHANCED", times=("080000",))
        tree.add(patient, "19000105", series="CHEST PA", modality="DX", views=("PA",))
        for day in range(6, 12) if dead and metadata else ():
            tree.add(patient, f"190001{day:02d}", series="CHEST", written=at != 1)
    original = Dataset()
    original.ReferencedSOPInstanceUID = "1.2.3"
    tree.add("A000002", "19000101", series="SUPPRESSED", ReferencedImageSequence=[original])
    early = "A000000"
    tree.add(early, "19000102", study="CT CHEST", series="AXIAL", modality="CT", views=("",))
    tree.add(early, "19000101", study="MRI BRAIN", series="T1", modality="MR", views=("",))
    tree.add(early, "19000103", study="XR CHEST PA AND LATERAL", series="LATERAL", views=("LL",))
    tree.add(early, "19000104", study="XR KNEE")
    name = "deidentified_overlap_tcia.csv.cleaned.csv"
    write_csv(root / f"{name}_20210806.csv", rows)
    write_csv(root / f"{name}.template_20210806.csv", [{"column_name": "last.status"}])
    if metadata:
        tree.write_metadata()
    return root


# ------------------------------------------------------------------ CoCross


def make_cocross(root: Path, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Path, Path]:
    """Twelve patients: an image of each, or a folder of two of those who died; one is filed twice.

    Returns the table and the folder of images, which are named by the patients' ids.
    """
    rows: list[list[Any]] = [["ID", "ICU Outcome"]]
    drawn = iter(pictures)
    for number in range(12):
        died = number % 2 == 1
        rows.append([f"{number:03d}", "Death" if died else "Alive"])
        for name in ("/a", "/b") if died else ("",):
            write_dicom(root / "images" / f"{number:03d}{name}.dcm", next(drawn))
    filed = root / "images" / "003" / "a.dcm"
    (root / "images" / "007" / "a.dcm").write_bytes(filed.read_bytes())
    return write_xlsx(root / "cocross.xlsx", rows), root / "images"


# ------------------------------------------------------------------ covid-chestxray

CXR = {
    **{"patientid": "", "offset": "", "sex": "M", "age": "60", "finding": "COVID-19"},
    **{"survival": "", "intubated": "", "intubation_present": "", "went_icu": "", "in_icu": ""},
    **{"view": "PA", "modality": "X-ray", "date": "", "location": "", "folder": "images"},
    **{"filename": "", "clinical_notes": "", "": ""},
}


def make_covid_chestxray(root: Path) -> Path:
    """Eleven patients with every defect that the real table has."""
    rows = []

    def add(patient: str, name: str, mode: str | None = "L", **cells: str) -> None:
        rows.append({**CXR, "patientid": patient, "filename": name, **cells})
        if mode:
            write_image(root / "images" / name, len(rows), mode)

    for at in range(6):
        outcome = {"survival": "N" if at < 2 else "Y", "went_icu": "Y" if at < 3 else "N"}
        notes = {"clinical_notes": "39\N{DEGREE SIGN}, two\nlines", "location": "Lyon, \xa0France"}
        outcome["intubated"] = "Y" if at in (1, 3) else "N"
        late = {"offset": "9", "in_icu": "Y", "intubation_present": outcome["intubated"]}
        early = {"offset": "-2", "in_icu": "N", "intubation_present": "N"}
        add(f"{at + 1}", f"late-{at}.png", "RGBA", **late, **outcome, **notes)
        add(f"{at + 1}", f"early-{at}.jpg", "RGB", **early, **outcome)
    add("7", "lost.jpg", None, survival="N", went_icu="Y")
    add("8", "lateral.png", survival="Y", view="L")
    add("8", "unstated.png", "P", survival="Y", view="", went_icu="Would have been stated")
    add("9", "slice.png", survival="N", modality="CT", view="Axial")
    add("10", "what.png", survival="?", offset="?", view="?")
    add("311a", "early-0.jpg", None, survival="N", offset="-2", went_icu="Y")
    write_csv(root / "metadata.csv", rows, encoding="cp1252")
    return root
