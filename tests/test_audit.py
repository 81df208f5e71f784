"""The data desk finds what it is for, and nothing where there is nothing."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from made_dicom import deflated_bomb
from PIL import Image

from prognobench.audit import Audit, audit, drop_leaks, find_same_pictures, inspection
from prognobench.audit.frames import find_picture
from prognobench.audit.metadata import read_image_metadata, score_metadata
from prognobench.audit.similarity import agreement, hashes
from prognobench.audit.thumbnails import make_thumbnails
from prognobench.folds import make_folds
from prognobench.imaging.cache import Recipe
from prognobench.records import Checks, Cohort, Component, Files, Fold, Rendered

IMAGE_SIZE = 160


def image(seed: int, image_size: int = IMAGE_SIZE) -> np.ndarray:
    """A cloudy picture with fine structure, unlike any other."""
    random = np.random.default_rng(seed)
    clouds = cv2.resize(
        random.random((7, 7)), (image_size, image_size), interpolation=cv2.INTER_CUBIC
    )
    ribs = cv2.resize(
        random.random((40, 40)), (image_size, image_size), interpolation=cv2.INTER_CUBIC
    )
    return (170 * clouds + 70 * ribs).clip(0, 255).astype(np.uint8)


def table_of(patients: Sequence[int], labels: Sequence[int]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient_id": [f"P{number:02d}" for number in patients],
            "image": [f"{row}.png" for row in range(len(patients))],
            "source": "images",
            "label": labels,
            "centre": np.where(np.asarray(patients) % 3, "north", "south"),
            "order": np.arange(len(patients), dtype=float),
        }
    )


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Twenty patients with two images each; four of them with the outcome."""
    root = tmp_path / "images"
    root.mkdir()
    patients = np.repeat(np.arange(20), 2)
    for row in range(len(patients)):
        Image.fromarray(image(row)).save(root / f"{row}.png")
    table = table_of(patients, (patients < 4).astype(int))
    return Cohort("made", table, ("alive", "dead"), {"images": Files(root)})


def folds_of(cohort: Cohort, folds: int = 4) -> tuple[Fold, ...]:
    cv = Component("k_fold", "k_fold", {"folds": folds})
    return make_folds(cohort, cv, Component("full", "full"), 42)


def overwrite(cohort: Cohort, row: int, image: np.ndarray) -> None:
    source = cohort.sources["images"]
    assert isinstance(source, Files)
    Image.fromarray(image).save(source.root / f"{row}.png")


def groups(found: Audit) -> list[list[str]]:
    table = found.tables["same picture"]
    return [images["image"].tolist() for _, images in table.groupby("group")]


def test_a_clean_cohort_is_clean(cohort: Cohort, tmp_path: Path) -> None:
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache", thorough=True)
    assert found.leaks == found.duplicates == ()
    assert found.refusals(Checks(leaks="refuse", duplicates="refuse")) == []
    assert len(found.tables["faulty images"]) == len(found.tables["same picture"]) == 0
    titles = [title for title, _ in found.sections()]
    assert titles == ["patients and images", "patients by part", "metadata-only baseline"]


def test_counts(cohort: Cohort) -> None:
    exclusions = pd.DataFrame(
        {
            "item": ["a", "b", "c"],
            "reason": ["outcome is blank (x.csv row 2)", "outcome is blank (x.csv row 9)", "a (b)"],
        }
    )
    found = audit(replace(cohort, exclusions=exclusions), folds_of(cohort))
    centres = found.tables["patients and images"].set_index("centre")
    assert centres.loc["all centres"].tolist() == [16, 4, 20, 40]
    assert centres.loc["south"].tolist() == [5, 2, 7, 14]
    parts = found.tables["patients by part"].set_index("fold")
    assert len(parts) == 4
    assert parts.loc["r0-f0"].sum() == 20
    assert parts["test dead"].tolist() == [1, 1, 1, 1]
    left = found.tables["left out"]
    assert dict(zip(left["reason"], left["count"], strict=True)) == {
        "outcome is blank": 2,
        "a (b)": 1,
    }


def test_what_folds_lack_is_noted(cohort: Cohort) -> None:
    alive_alone = Fold(np.arange(20), np.arange(20, 30), np.arange(30, 38), fold=0)
    lacking, unused = audit(cohort, [alive_alone]).notes
    assert "no patient is 'dead' in the test part of 1 of 1 folds (r0-f0)" in lacking
    assert unused == "made: 1 of 20 patients are in no part of a fold"
    assert audit(cohort, folds_of(cohort)).notes == audit(cohort).notes == ()


def test_a_patient_in_two_parts_is_refused(cohort: Cohort) -> None:
    rows = [np.arange(start, stop) for start, stop in ((0, 21), (21, 30), (30, 40))]
    found = audit(cohort, [Fold(*rows, fold=0)])
    (leak,) = found.leaks
    assert "fold r0-f0: patients in several parts: 1 (P10)" in leak
    said, way_out = found.refusals(Checks())
    assert said == leak
    assert "checks.leaks=drop" in way_out
    assert found.refusals(Checks(leaks="allow")) == []


def test_the_same_file_under_two_patients_is_a_leak_if_a_fold_parts_them(
    cohort: Cohort, tmp_path: Path
) -> None:
    overwrite(cohort, 20, image(0))
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache")
    assert groups(found) == [["0.png", "20.png"]]
    assert found.tables["same picture"]["match"].tolist() == ["", "same file"]
    (leak,) = found.leaks
    assert "(image 1 of the cohort = image 21 of the cohort)" in leak
    assert "dataset.exclude" in leak
    assert found.refusals(Checks(leaks="allow")) == []
    assert [text.split(": ")[1] for text in found.duplicates] == [
        "pictures filed under several patients",
        "pictures filed under different outcomes",
    ]
    together = Fold(np.arange(30), np.arange(30, 34), np.arange(34, 40), fold=0)
    assert audit(cohort, [together], folder=tmp_path / "cache").leaks == ()
    assert audit(cohort, folder=tmp_path / "cache").leaks == ()


def test_patients_who_share_pictures_are_dropped_from_the_earlier_part(
    cohort: Cohort, tmp_path: Path
) -> None:
    overwrite(cohort, 20, image(0))  # patients 0 and 10
    overwrite(cohort, 39, image(4))  # patients 2 and 19
    overwrite(cohort, 25, image(21))  # patients 12 and 10
    rows = [np.arange(start, stop) for start, stop in ((0, 20), (20, 30), (30, 40))]
    fold = Fold(*rows, fold=0)
    same = find_same_pictures(cohort, tmp_path / "cache", None)
    (kept,), left_out = drop_leaks(cohort, same, [fold])
    assert kept.test.tolist() == fold.test.tolist()
    assert kept.validation.tolist() == fold.validation.tolist()
    assert kept.train.tolist() == [2, 3, *range(6, 20)]
    assert left_out == [{"fold": "r0-f0", "validation": 0, "train": 2}]
    assert audit(cohort, [kept], folder=tmp_path / "cache").leaks == ()
    clean = Fold(np.arange(10, 20), np.arange(6, 10), np.arange(30, 34), fold=1)
    assert drop_leaks(cohort, same, [clean])[1] == []


def test_a_copy_for_the_same_patient_is_told_but_no_leak(cohort: Cohort, tmp_path: Path) -> None:
    overwrite(cohort, 1, image(0))
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache")
    assert found.leaks == ()
    assert found.refusals(Checks()) == []
    said, way_out = found.refusals(Checks(duplicates="refuse"))
    assert said == "made: pictures that come several times for one patient: 1"
    assert "checks.duplicates=allow" in way_out


def altered(image: np.ndarray) -> dict[str, np.ndarray]:
    """The ways in which a picture is saved a second time."""
    random = np.random.default_rng(1)
    written = image.copy()
    cv2.putText(written, "day 7", (50, 150), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    height, width = image.shape
    turned = cv2.getRotationMatrix2D((width / 2, height / 2), 1.5, 1)
    return {
        "compressed": cv2.imdecode(cv2.imencode(".jpg", image, [1, 40])[1], 0),
        "scaled": cv2.resize(image, (90, 100), interpolation=cv2.INTER_AREA),
        "noisy": (image + random.normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8),
        "brighter": (255 * (image / 255) ** 0.8).astype(np.uint8),
        "cropped": image[2:, 2:],
        "turned": cv2.warpAffine(image, turned, (width, height), borderMode=cv2.BORDER_REPLICATE),
        "written on": written,
    }


def turned_round(image: np.ndarray) -> dict[str, np.ndarray]:
    """Copies that are more than a little altered; each a little altered beside."""
    noisy = altered(image)["noisy"]
    return {
        "inverted": 255 - noisy,
        "mirrored": noisy[:, ::-1],
        "inverted and mirrored": 255 - noisy[:, ::-1],
        "cropped": noisy[8:-6, 6:-8],
        "turned by 90 degrees": np.rot90(noisy),
        "turned by 180 degrees": np.rot90(noisy, 2),
        "mirrored and turned by 90 degrees": np.rot90(noisy[:, ::-1]),
        "mirrored and turned by 180 degrees": noisy[::-1],
        "framed": framed(noisy, 0.15, 255),
    }


def framed(image: np.ndarray, share: float, grey: int) -> np.ndarray:
    """A picture within a broad frame, saved as JPEG, so that the frame's edge is not sharp."""
    edges = [round(share * length) for length in (*image.shape[:1] * 2, *image.shape[1:] * 2)]
    whole = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=grey)
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", whole, [1, 60])[1], 0))


@pytest.mark.parametrize("how", turned_round(image(0)))
@pytest.mark.parametrize("rows", [(6, 25), (25, 6)])
def test_turned_inverted_cropped_and_framed_copies_are_found(
    cohort: Cohort, tmp_path: Path, how: str, rows: tuple[int, int]
) -> None:
    one, other = rows
    overwrite(cohort, other, turned_round(image(one))[how])
    found = audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))
    assert groups(found) == [["6.png", "25.png"]]
    assert found.tables["same picture"]["match"].tolist() == ["", how]


@pytest.mark.parametrize("grey", [0, 128, 255])
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_a_frame_is_no_evidence(cohort: Cohort, tmp_path: Path, grey: int, share: float) -> None:
    """Different pictures in like frames are not alike; a turned one in a frame is a copy."""
    for row in range(20):
        overwrite(cohort, row, framed(image(row), share, grey))
    overwrite(cohort, 25, framed(np.rot90(image(6)), share / 2, 255 - grey))
    found = audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))
    assert groups(found) == [["6.png", "25.png"]]
    assert found.tables["same picture"]["match"].tolist() == ["", "turned by 90 degrees"]


def test_a_picture_lost_in_its_frame_is_not_compared(cohort: Cohort, tmp_path: Path) -> None:
    for row in range(20):
        overwrite(cohort, row, framed(image(row), 1.5, 255))
    assert groups(audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))) == []


def test_where_a_picture_lies() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.uint8)
    whole = cv2.copyMakeBorder(noise, 3, 5, 7, 0, cv2.BORDER_CONSTANT, value=12)
    assert find_picture(whole) == (7, 3, 87, 63)
    assert find_picture(cv2.copyMakeBorder(whole, *[4] * 4, 0, value=250)) == (11, 7, 91, 67)
    assert find_picture(noise) == (0, 0, 80, 60)
    assert find_picture(np.full((9, 9), 7, np.uint8)) == (0, 0, 9, 9)


@pytest.mark.parametrize("how", altered(image(0)))
def test_altered_copies_are_found(cohort: Cohort, tmp_path: Path, how: str) -> None:
    overwrite(cohort, 25, altered(image(6))[how])
    parted = Fold(np.arange(20), np.arange(20, 30), np.arange(30, 40), fold=0)
    found = audit(cohort, [parted], folder=tmp_path / "cache", thorough=True)
    assert groups(found) == [["6.png", "25.png"]]
    assert found.tables["same picture"]["match"].tolist() == ["", "similar"]
    assert len(found.leaks) == 1


def test_copies_of_copies_are_one_group_across_sources(cohort: Cohort, tmp_path: Path) -> None:
    for row, how in ((12, "compressed"), (20, "noisy"), (30, "brighter")):
        overwrite(cohort, row, altered(image(4))[how])
    overwrite(cohort, 31, image(4))
    folder = cohort.sources["images"]
    table = cohort.table.assign(source=np.where(np.arange(40) < 30, "ours", "theirs"))
    union = replace(cohort, table=table, sources={"ours": folder, "theirs": folder})
    found = audit(union, folder=tmp_path / "cache", thorough=True)
    assert groups(found) == [["4.png", "12.png", "20.png", "30.png", "31.png"]]
    assert "made: pictures in several sources: 1" in found.duplicates


def test_ids_that_stand_in_several_parts_of_a_union_are_told(
    cohort: Cohort, tmp_path: Path
) -> None:
    part = np.where(np.arange(40) < 30, "ours", "theirs")
    ids = np.where(np.arange(40) < 30, np.arange(40), np.arange(40) - 27)  # 3 to 12 of theirs
    named = [f"{name}:P{number}" for name, number in zip(part, ids, strict=True)]
    union = replace(cohort, table=cohort.table.assign(cohort=part, patient_id=named))
    told = "made: 10 patient ids occur in several parts of the union"
    assert [note for note in audit(union, folder=tmp_path / "cache").notes if told in note]
    apart = replace(cohort, table=cohort.table.assign(cohort=part))
    assert not [note for note in audit(apart, folder=tmp_path / "cache").notes if "union" in note]


def test_drawn_images_are_not_compared_as_pictures(tmp_path: Path) -> None:
    def draw(name: str) -> np.ndarray:
        return image(int(name[:-4]) // 2)

    table = table_of(range(8), [0, 1] * 4)
    cohort = Cohort("drawn", table, ("a", "b"), {"images": Rendered("r", draw)}, synthetic=True)
    found = audit(cohort, folder=tmp_path / "cache", thorough=True)
    assert groups(found) == []
    assert found.notes[0] == "drawn: synthetic images, no clinical data"


def test_faulty_images_are_named(cohort: Cohort, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    white = image(3)
    white[:, :70] = 255
    black = image(4)
    black[60:] = 0
    overwrite(cohort, 1, np.full((50, 50), 90, dtype=np.uint8))
    overwrite(
        cohort, 2, random.normal(30, 4, (IMAGE_SIZE, IMAGE_SIZE)).clip(0, 255).astype(np.uint8)
    )
    overwrite(cohort, 3, white)
    overwrite(cohort, 4, black)
    overwrite(cohort, 5, np.full((50, 50), 90, dtype=np.uint8))
    found = audit(cohort, folder=tmp_path / "cache", thorough=True)
    faulty = found.tables["faulty images"]
    assert dict(zip(faulty["image"], faulty["fault"], strict=True)) == {
        "1.png": "constant",
        "2.png": "blank",
        "3.png": "overexposed",
        "4.png": "underexposed",
        "5.png": "constant",
    }
    assert "5 of 40 images are blank or badly exposed" in found.notes[0]
    assert groups(found) == [["1.png", "5.png"]], "constant images are compared by content alone"


def test_broken_images_are_named_and_the_others_looked_at(cohort: Cohort, tmp_path: Path) -> None:
    source = cohort.sources["images"]
    assert isinstance(source, Files)
    (source.root / "7.png").write_bytes(b"no image")
    (source.root / "9.png").write_bytes((source.root / "9.png").read_bytes()[:200])
    overwrite(cohort, 12, np.full((50, 50), 90, dtype=np.uint8))
    overwrite(cohort, 25, altered(image(6))["noisy"])
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache", thorough=True)
    faulty = found.tables["faulty images"].set_index("image")
    assert faulty["fault"].to_dict() == {"7.png": "broken", "9.png": "broken", "12.png": "constant"}
    assert "7.png: cannot be read as an image" in faulty.loc["7.png", "why"]
    assert found.notes[0].startswith("made: 2 of 40 images are broken")
    assert "1 of 40 images are blank" in found.notes[1]
    assert len(found.broken) == 2
    assert found.refusals(Checks(leaks="allow")) == list(found.broken)
    assert groups(found) == [["6.png", "25.png"]]
    assert len(found.tables["metadata-only baseline"])


def test_what_was_seen_is_remembered(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite(cohort, 25, altered(image(6))["noisy"])
    first = audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))
    with monkeypatch.context() as patched:
        patched.setattr(inspection, "make_thumbnails", lambda *_: pytest.fail("looked again"))
        again = audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))
    assert again.to_json() == first.to_json()
    assert groups(again) == [["6.png", "25.png"]]
    (memory,) = (tmp_path / "cache" / "seen").iterdir()
    memory.write_bytes(memory.read_bytes()[:100])
    assert audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160)).to_json() == first.to_json()
    overwrite(cohort, 25, image(25))
    assert groups(audit(cohort, folder=tmp_path / "cache", recipe=Recipe(160))) == []


def test_everything_has_a_json_form(cohort: Cohort, tmp_path: Path) -> None:
    overwrite(cohort, 20, image(0))
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache", thorough=True)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["leaks"] == list(found.leaks)
    assert plain["tables"]["patients and images"][-1]["patients"] == 20
    assert plain["tables"]["same picture"][1]["match"] == "same file"


# ------------------------------------------------------------------ shortcuts


@pytest.mark.parametrize(
    ("kind", "column", "values"),
    [
        ("centre", "centre", ["north", "south"]),
        ("device", "device", ["one", "two"]),
        ("image and file size", "height", [2000, 1000]),
        ("file format", "format", ["PNG", "JPEG"]),
        ("date of image", "order", [0.0, 9.0]),
    ],
)
def test_a_shortcut_is_found_and_named(kind: str, column: str, values: list[object]) -> None:
    table = table_of(range(60), [n % 2 for n in range(60)]).assign(centre="here", order=0.0)
    metadata = pd.DataFrame({"format": ["PNG"] * 60, "height": 1000, "device": "one"})
    wrong = np.random.default_rng(0).random(60) < 0.1
    following = [values[label ^ flip] for label, flip in zip(table["label"], wrong, strict=True)]
    holder = table if column in table else metadata
    holder[column] = following
    cohort = Cohort("many", table, ("alive", "dead"), {})
    baseline = score_metadata(cohort, metadata, seed=1)
    assert baseline["metadata"].tolist() == [kind, "all metadata"]
    assert (baseline["mcc"] > 0.6).all()
    assert (baseline["pr_auc"] > 0.7).all()
    assert baseline["follows"].all()
    assert baseline["chance_pr_auc"].tolist() == [0.5, 0.5]


def test_the_number_of_images_is_a_shortcut() -> None:
    patients = [number for number in range(40) for _ in range(4 if number % 2 else 1)]
    table = table_of(patients, [number % 2 for number in patients]).assign(centre="x", order=np.nan)
    cohort = Cohort("many", table, ("alive", "dead"), {})
    blank = pd.DataFrame({"format": [""] * len(table)})
    baseline = score_metadata(cohort, blank, seed=1)
    assert baseline["metadata"].tolist() == ["number of images", "all metadata"]
    assert baseline["mcc"].tolist() == [1.0, 1.0]


def test_without_a_shortcut_the_baseline_is_at_chance() -> None:
    table = table_of(range(200), [number % 2 for number in range(200)])
    random = np.random.default_rng(0)
    table = table.assign(centre=random.choice(list("ABCDEF"), 200), order=random.random(200))
    cohort = Cohort("many", table, ("alive", "dead"), {})
    baseline = score_metadata(cohort, pd.DataFrame({"format": ["PNG"] * 200}), seed=1)
    assert not baseline["follows"].any()
    assert baseline["mcc"].abs().max() < 0.2
    nothing = replace(cohort, table=table.assign(centre="x", order=np.nan))
    assert len(score_metadata(nothing, pd.DataFrame({"format": ["PNG"] * 200}), seed=1)) == 0


def test_headers_are_read_without_pixels(tmp_path: Path) -> None:
    pydicom = importlib.import_module("pydicom")
    Image.fromarray(image(0)).save(tmp_path / "0.png")
    Image.fromarray(image(1)).convert("RGB").save(tmp_path / "1.png", format="JPEG")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns, dataset.Manufacturer = 30, 20, "ACME"
    dataset.ManufacturerModelName, dataset.PhotometricInterpretation = "X1", "MONOCHROME1"
    dataset.save_as(tmp_path / "2.png", enforce_file_format=True)
    (tmp_path / "3.png").write_bytes(b"broken")
    cohort = Cohort("c", table_of(range(4), [0, 1, 0, 1]), ("a", "b"), {"images": Files(tmp_path)})
    metadata = read_image_metadata(cohort)
    assert metadata["format"].tolist() == ["PNG", "JPEG", "DICOM", ""]
    assert metadata["colour"].tolist() == ["L", "RGB", "MONOCHROME1", ""]
    assert metadata["device"].tolist() == ["", "", "ACME X1", ""]
    assert metadata["height"].tolist()[:3] == [IMAGE_SIZE, IMAGE_SIZE, 30]
    assert metadata["width"].isna().tolist() == [False, False, False, True]


def test_the_header_of_a_deflated_bomb_is_blank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deflated_bomb(tmp_path / "0.png")
    cohort = Cohort("c", table_of(range(1), [0]), ("a", "b"), {"images": Files(tmp_path)})
    assert read_image_metadata(cohort)["format"].tolist() == ["DICOM"]
    monkeypatch.setattr("prognobench.imaging.dicom_files.DEFLATED_LIMIT", 1 << 20)
    assert read_image_metadata(cohort)["format"].tolist() == [""]


# ------------------------------------------------------------------ pictures


def test_hashes_are_those_of_imagehash() -> None:
    imagehash = importlib.import_module("imagehash")
    images = np.stack([image(seed) for seed in range(20)])
    ours = hashes(make_thumbnails(images[..., None]).thumbnails)
    theirs = [imagehash.phash(Image.fromarray(image)).hash.ravel() for image in images]
    assert np.array_equal(ours, np.stack(theirs))


def test_details_agree_for_copies_and_differ_for_others() -> None:
    for how, copy in altered(image(0)).items():
        assert agreement(image(0), copy) > 0.76, how
    assert max(agreement(image(0), image(seed)) for seed in range(1, 10)) < 0.5


@pytest.mark.real_data
def test_copies_in_a_real_cohort_are_found_and_nothing_else(
    real_cohort_root: Path, tmp_path: Path
) -> None:
    from prognobench.registry import DATASETS

    cohort = DATASETS["covid_chestxray"](
        root=real_cohort_root, task="icu", select="all", before_outcome=False
    )
    found = audit(cohort, folds_of(cohort), folder=tmp_path / "cache", thorough=True)
    table = found.tables["same picture"]
    patients = [sorted(set(images["patient_id"])) for _, images in table.groupby("group")]
    # Both patients were entered twice, from two collections; the reader gives them one number.
    assert patients == [["97"]] * 4 + [["192"]]
    assert len(table) == 2 * 4 + 3
    assert found.leaks == ()
    assert len(found.tables["faulty images"]) == 0
