"""Splits and regimes: whatever the table, nobody leaks and classes are spread evenly."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prognobench.errors import DataError
from prognobench.folds import check_folds, export_folds, import_folds, make_folds
from prognobench.folds.regimes import TooFewPatientsError
from prognobench.records import Cohort, Component, Files, Fold

PARTS = ("train", "validation", "test")


def cohort_of(
    images: Sequence[int], labels: Sequence[int], centres: Sequence[str] = (), classes: int = 2
) -> Cohort:
    """One entry per patient: how many images, which class, which centre."""
    rows = [
        {
            "patient_id": f"P{number:03d}",
            "image": f"{number}-{image}.png",
            "source": "images",
            "label": label,
            "centre": centres[number] if centres else "unknown",
            "order": float(image),
        }
        for number, (count, label) in enumerate(zip(images, labels, strict=True))
        for image in range(count)
    ]
    names = tuple(f"class{n}" for n in range(classes))
    return Cohort("made", pd.DataFrame(rows), names, {"images": Files(Path("images"))})


def simple(patients: int = 60, positives: int = 20, centres: Sequence[str] = ()) -> Cohort:
    labels = [int(number < positives) for number in range(patients)]
    return cohort_of([1 + number % 3 for number in range(patients)], labels, centres)


def split(
    cohort: Cohort, cv: str, regime: str = "full", seed: int = 42, **options: Any
) -> tuple[Fold, ...]:
    """``options`` are settings of the cv, or with the prefix ``regime_`` of the regime."""
    of_regime = {
        k.removeprefix("regime_"): v for k, v in options.items() if k.startswith("regime_")
    }
    of_cv = {k: v for k, v in options.items() if not k.startswith("regime_")}
    return make_folds(cohort, Component(cv, cv, of_cv), Component(regime, regime, of_regime), seed)


def patients(cohort: Cohort, rows: Any) -> set[str]:
    return set(cohort.table["patient_id"].to_numpy(dtype=object)[rows])


def class_counts(cohort: Cohort, rows: Any) -> Any:
    ids, labels = (cohort.table[name].to_numpy()[rows] for name in ("patient_id", "label"))
    label_of = dict(zip(ids, labels, strict=True))
    return np.bincount(list(label_of.values()), minlength=len(cohort.classes))


tables = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 2), st.sampled_from("ABC")), min_size=9, max_size=50
)


@settings(max_examples=40, deadline=None)
@given(rows=tables, folds=st.integers(3, 6), seed=st.integers(0, 5))
def test_k_fold_whatever_the_table(rows: list[tuple[int, int, str]], folds: int, seed: int) -> None:
    images, labels, centres = zip(*rows, strict=True)
    present = np.bincount(labels, minlength=3)
    assume(present.min() >= folds)
    cohort = cohort_of(images, labels, centres, classes=3)
    made = split(cohort, "k_fold", folds=folds, repeats=2, seed=seed)
    everyone = patients(cohort, slice(None))
    for repeat in range(2):
        mine = [fold for fold in made if fold.repeat == repeat]
        for part in ("test", "validation"):
            members = [patients(cohort, getattr(fold, part)) for fold in mine]
            assert sum(map(len, members)) == len(everyone)
            assert set.union(*members) == everyone
            counts = np.array([class_counts(cohort, getattr(fold, part)) for fold in mine])
            assert (np.ptp(counts, axis=0) <= 1).all()
            assert np.ptp(counts.sum(axis=1)) <= 1
    for fold in made:
        parts = [patients(cohort, getattr(fold, part)) for part in PARTS]
        assert sum(map(len, parts)) == len(everyone) == len(set.union(*parts))
        assert sorted(np.concatenate([fold.train, fold.validation, fold.test])) == list(
            range(len(cohort))
        )


@settings(max_examples=30, deadline=None)
@given(
    rows=tables,
    cv=st.sampled_from(["k_fold", "holdout", "leave_one_centre_out"]),
    regime=st.sampled_from(["few_shot", "reduced"]),
)
def test_no_patient_is_in_two_parts_whatever_is_asked(
    rows: list[tuple[int, int, str]], cv: str, regime: str
) -> None:
    images, labels, centres = zip(*rows, strict=True)
    cohort = cohort_of(images, [min(label, 1) for label in labels], centres)
    options = {"few_shot": {"regime_k": 2}, "reduced": {"regime_patients": 5}}[regime]
    try:
        made = split(cohort, cv, regime, **options)
    except DataError:
        return
    for fold in made:
        parts = [patients(cohort, getattr(fold, part)) for part in PARTS]
        assert sum(map(len, parts)) == len(set.union(*parts))
        assert class_counts(cohort, fold.train).min() >= 1


def test_images_are_balanced_between_folds() -> None:
    random = np.random.default_rng(0)
    images = random.geometric(0.2, 200)
    cohort = cohort_of(images, random.integers(0, 2, 200))
    sizes = [len(fold.test) for fold in split(cohort, "k_fold", folds=5)]
    assert np.ptp(sizes) <= 0.03 * np.mean(sizes)


def test_folds_depend_on_seed_and_patients_alone() -> None:
    cohort = simple()
    shuffled = replace(cohort, table=cohort.table.sample(frac=1, random_state=1, ignore_index=True))
    for cv, regime, options in (
        ("k_fold", "full", {}),
        ("holdout", "few_shot", {"regime_k": 4}),
        ("k_fold", "reduced", {"regime_patients": 12}),
    ):
        one, other = (split(c, cv, regime, **options) for c in (cohort, shuffled))
        for a, b in zip(one, other, strict=True):
            for part in PARTS:
                assert patients(cohort, getattr(a, part)) == patients(shuffled, getattr(b, part))
        changed = split(cohort, cv, regime, seed=43, **options)
        assert any(not np.array_equal(a.test, b.test) for a, b in zip(one, changed, strict=True))
    repeats = split(cohort, "k_fold", repeats=2)
    assert not np.array_equal(repeats[0].test, repeats[5].test)
    assert [fold.name for fold in repeats[4:6]] == ["r0-f4", "r1-f0"]


def test_five_fold_is_three_one_one() -> None:
    cohort = cohort_of([1] * 50, [int(n < 10) for n in range(50)])
    for fold in split(cohort, "k_fold"):
        assert [len(getattr(fold, part)) for part in PARTS] == [30, 10, 10]
        assert [class_counts(cohort, getattr(fold, part))[1] for part in PARTS] == [6, 2, 2]


def test_few_shot_draws_are_nested_and_balanced() -> None:
    cohort = simple(90, 40)
    by_k = {k: split(cohort, "k_fold", "few_shot", regime_k=k) for k in (2, 4, 8, 16)}
    assert len(by_k[2]) == 5 * 10
    whole = {fold.fold: fold for fold in split(cohort, "k_fold")}
    for k, folds in by_k.items():
        for fold in folds:
            assert class_counts(cohort, fold.train).tolist() == [k, k]
            assert set(fold.train) <= set(whole[fold.fold].train)
            assert np.array_equal(fold.test, whole[fold.fold].test)
            assert class_counts(cohort, fold.validation).min() >= 1
    for smaller, larger in ((2, 4), (4, 8), (8, 16)):
        for a, b in zip(by_k[smaller], by_k[larger], strict=True):
            assert a.name == b.name
            assert set(a.train) < set(b.train)
            assert set(a.validation) <= set(b.validation)
    draws = {tuple(fold.train) for fold in by_k[4] if fold.fold == 0}
    assert len(draws) == 10


def test_validation_of_few_shot_shrinks_or_goes_or_stays() -> None:
    cohort = simple(90, 45)
    (whole, *_) = split(cohort, "k_fold")
    sizes = {}
    for validation in ("proportional", "none", "full"):
        (fold, *_) = split(cohort, "k_fold", "few_shot", regime_k=9, regime_validation=validation)
        sizes[validation] = class_counts(cohort, fold.validation).tolist()
    # 9 of 27 training patients a class, so a third of the 9 validation patients.
    assert sizes == {"proportional": [3, 3], "none": [0, 0], "full": [9, 9]}
    assert class_counts(cohort, whole.validation).tolist() == [9, 9]


def test_reduced_keeps_shares_and_is_nested() -> None:
    cohort = cohort_of([1] * 100, [int(n < 20) for n in range(100)])
    before: set[str] = set()
    for number in (2, 3, 5, 10, 30, 60):
        (fold, *_) = split(cohort, "k_fold", "reduced", regime_patients=number)
        kept = patients(cohort, fold.train)
        assert len(kept) == number
        assert before < kept
        assert abs(class_counts(cohort, fold.train)[1] - max(1, 0.2 * number)) <= 1
        before = kept


def test_leave_one_centre_out_tests_each_centre_once() -> None:
    centres = [("north", "east", "south")[n % 3] for n in range(60)]
    cohort = simple(60, 20, centres)
    made = split(cohort, "leave_one_centre_out")
    tested = [set(cohort.table["centre"].iloc[fold.test]) for fold in made]
    assert tested == [{"east"}, {"north"}, {"south"}]
    for fold in made:
        assert not tested[fold.fold] & set(cohort.table["centre"].iloc[fold.train])
        assert 0.15 < len(patients(cohort, fold.validation)) / 40 < 0.25


def test_centres_with_too_few_cases_are_refused_with_their_counts_or_only_train() -> None:
    centres = ["A"] * 25 + ["B"] * 32 + ["C"] * 3
    labels = [n % 2 for n in range(57)] + [0, 0, 1]
    cohort = cohort_of([1] * 60, labels, centres)
    with pytest.raises(DataError, match=r"1 of 3 centres.*C \(2 class0, 1 class1\)"):
        split(cohort, "leave_one_centre_out")
    made = split(cohort, "leave_one_centre_out", small_centres="train")
    assert len(made) == 2
    for fold in made:
        assert "C" in set(cohort.table["centre"].iloc[[*fold.train, *fold.validation]])


def test_centres_that_cannot_be_left_out() -> None:
    with pytest.raises(DataError, match="all images come from one centre"):
        split(simple(), "leave_one_centre_out")
    torn = simple(60, 20, ["A", "B"] * 30)
    torn.table.loc[torn.table["image"] == "1-1.png", "centre"] = "A"
    with pytest.raises(DataError, match="patients with images of several centres: 1"):
        split(torn, "leave_one_centre_out")


@pytest.mark.parametrize("unknown", ["", "unknown"])
def test_an_unknown_centre_is_no_centre(unknown: str) -> None:
    cohort = simple(60, 20, ["A", "B", unknown] * 20)
    with pytest.raises(DataError, match=r"without a known centre: 20 .*cv\.unknown_centre=train"):
        split(cohort, "leave_one_centre_out")
    made = split(cohort, "leave_one_centre_out", unknown_centre="train")
    assert len(made) == 2
    for fold in made:
        assert unknown not in set(cohort.table["centre"].iloc[fold.test])
        assert unknown in set(cohort.table["centre"].iloc[fold.train])
    with pytest.raises(DataError, match="all images come from one centre"):
        split(simple(60, 20, ["A", unknown] * 30), "leave_one_centre_out", unknown_centre="train")


def test_holdout_by_fractions() -> None:
    cohort = simple(100, 40)
    (fold,) = split(cohort, "holdout", validation=0.1, test=0.3)
    assert [len(patients(cohort, getattr(fold, part))) for part in PARTS] == [60, 10, 30]
    assert class_counts(cohort, fold.test).tolist() == [18, 12]
    assert len(split(cohort, "holdout", repeats=3)) == 3
    with pytest.raises(DataError, match="leave nothing to train on"):
        split(cohort, "holdout", validation=0.5, test=0.5)


@pytest.mark.parametrize("positives", [3, 4, 5, 7])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_no_part_goes_without_a_class(positives: int, share: float) -> None:
    cohort = cohort_of([1] * 60, [int(n < positives) for n in range(60)])
    (fold,) = split(cohort, "holdout", validation=share, test=share)
    counts = [class_counts(cohort, getattr(fold, part))[1] for part in PARTS]
    assert min(counts) >= 1
    assert max(counts[1:]) <= max(1, np.ceil(share * positives))


def test_holdout_by_a_column() -> None:
    cohort = simple(30, 15)
    number = cohort.table["patient_id"].str[1:].astype(int)
    parts = np.select([number % 3 == 0, number % 3 == 1], ["Train", "val"], "test")
    with_column = replace(cohort, table=cohort.table.assign(split=parts))
    (fold,) = split(with_column, "holdout", column="split")
    assert {int(p[1:]) % 3 for p in patients(cohort, fold.validation)} == {1}
    two = replace(cohort, table=cohort.table.assign(split=np.where(number % 2, "test", "train")))
    (fold,) = split(two, "holdout", column="split", validation=0.25)
    assert {int(p[1:]) % 2 for p in patients(cohort, fold.test)} == {1}
    assert len(patients(cohort, fold.validation)) in (3, 4)

    again = split(two, "holdout", column="split", validation=0.25, repeats=3)
    assert np.array_equal(again[0].validation, fold.validation)
    assert len({tuple(each.validation) for each in again}) == 3
    assert len({tuple(each.test) for each in again}) == 1
    with pytest.raises(DataError, match="has nothing to split anew"):
        split(with_column, "holdout", column="split", repeats=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "not a column of the table; it has patient_id, image"),
        (["train", "dunno"] * 30, r"'dunno' \(30 images\)"),
        (["train"] * 59 + ["test"], r"column 'split' puts patients into several parts: 1 \(P029\)"),
    ],
)
def test_faults_of_a_split_column(values: list[str] | None, message: str) -> None:
    cohort = cohort_of([2] * 30, [n % 2 for n in range(30)])
    table = cohort.table if values is None else cohort.table.assign(split=values)
    with pytest.raises(DataError, match=message):
        split(replace(cohort, table=table), "holdout", column="split")


def test_external_trains_on_one_source_and_tests_on_another() -> None:
    cohort = simple(60, 30)
    number = cohort.table["patient_id"].str[1:].astype(int)
    table = cohort.table.assign(source=np.where(number % 3 == 0, "theirs", "ours"))
    folder = Files(Path("images"))
    union = replace(cohort, table=table, sources={"ours": folder, "theirs": folder})
    (fold,) = split(union, "external", test=("theirs",))
    assert set(table["source"].iloc[fold.test]) == {"theirs"}
    assert set(table["source"].iloc[[*fold.train, *fold.validation]]) == {"ours"}
    folders = replace(union, sources={"ours": folder, "theirs/a": folder, "theirs/b": folder})
    half = np.where(table["source"] == "ours", "ours", "theirs/" + table["image"].str[-5])
    half = pd.Series(half).replace({"theirs/0": "theirs/a", r"theirs/\d": "theirs/b"}, regex=True)
    (whole,) = split(
        replace(folders, table=table.assign(source=half)), "external", test=("theirs",)
    )
    assert np.array_equal(whole.test, fold.test)
    with pytest.raises(DataError, match=r"'their'. Did you mean 'theirs'"):
        split(union, "external", test=("their",))
    with pytest.raises(DataError, match="leaves no source to train on"):
        split(union, "external", test=("theirs", "ours"))
    table.loc[table["image"] == "1-1.png", "source"] = "theirs"
    with pytest.raises(DataError, match=r"training source: 1 \(P001\)"):
        split(replace(union, table=table), "external", test=("theirs",))


@pytest.mark.parametrize(
    ("cv", "regime", "options", "message"),
    [
        ("k_fold", "full", {"folds": 25}, "only 20 patients have the outcome 'class1'"),
        ("k_fold", "few_shot", {"regime_k": 13}, "fold r0-f0 .* the most possible is 12"),
        ("holdout", "reduced", {"regime_patients": 37}, "36 patients to train on"),
    ],
)
def test_too_few_patients(cv: str, regime: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(simple(60, 20), cv, regime, **options)


@pytest.mark.parametrize(
    ("regime", "options"), [("few_shot", {"regime_k": 2}), ("reduced", {"regime_patients": 10})]
)
def test_faults_of_imported_folds_come_before_those_of_a_regime(
    tmp_path: Path, regime: str, options: dict[str, Any]
) -> None:
    cohort = simple(40, 20)
    folds = export_folds(split(cohort, "k_fold"), cohort)
    dead = set(cohort.table.loc[cohort.table["label"] == 1, "patient_id"])
    alone = ~(folds["patient_id"].isin(dead) & (folds["part"] == "train") & (folds["fold"] == 0))
    folds[alone].to_csv(tmp_path / "folds.csv", index=False)

    with pytest.raises(DataError) as caught:
        split(cohort, "imported", regime, path=tmp_path / "folds.csv", **options)

    (fault,) = caught.value.faults
    assert "there must be some of every class" in fault


def test_what_every_fold_has_too_few_of_is_said_once_and_allows_all_of_them() -> None:
    cohort = simple(60, 23)  # 13 to 14 of the rarer class to train on
    with pytest.raises(DataError) as caught:
        split(cohort, "k_fold", "few_shot", regime_k=40)

    (fault,) = caught.value.faults
    most = int(fault.rpartition(" ")[2])
    split(cohort, "k_fold", "few_shot", regime_k=most)
    with pytest.raises(DataError):
        split(cohort, "k_fold", "few_shot", regime_k=most + 1)


def test_what_a_regime_refuses_of_any_fold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cohort: Cohort, fold: Fold, seed: int) -> list[Fold]:
        raise DataError([f"fold {fold.name} is refused"])

    monkeypatch.setattr("prognobench.folds.splits.REGIMES", {"full": refuse})
    with pytest.raises(DataError) as caught:
        split(simple(), "k_fold", folds=3)
    assert caught.value.faults == tuple(f"fold r0-f{number} is refused" for number in range(3))


def test_too_few_patients_is_the_same_error_in_another_process() -> None:
    error = TooFewPatientsError("fold r0-f0 has 12 patients", "of a class", 12)
    again = copy(error)  # as pickle does it
    assert (str(again), again.most) == (str(error), 12)
    assert "the most possible is 12" in str(again)


def test_patients_that_are_taken_out_are_not_drawn_either() -> None:
    cohort = simple()
    out: set[str] = set()

    def clean(folds: Sequence[Fold]) -> list[Fold]:
        table = cohort.table["patient_id"]
        out.update(table.iloc[folds[0].train].unique()[:3])
        kept = [fold.train[~table.iloc[fold.train].isin(out).to_numpy()] for fold in folds]
        return [replace(fold, train=train) for fold, train in zip(folds, kept, strict=True)]

    cv, regime = Component("k_fold", "k_fold"), Component("few_shot", "few_shot", {"k": 9})
    drawn = make_folds(cohort, cv, regime, 42, clean)
    assert len(out) == 3
    assert len(drawn) == 50
    assert not any(out & patients(cohort, fold.train) for fold in drawn)


def test_an_outcome_that_cannot_be_learnt() -> None:
    with pytest.raises(DataError, match="30 class0, 0 class1"):
        split(cohort_of([1] * 30, [0] * 30), "k_fold")
    torn = simple()
    torn.table.loc[1, "label"] = 0
    with pytest.raises(DataError, match=r"images have different outcomes: 1 \(P001\)"):
        split(torn, "k_fold")


def test_check_folds_finds_what_a_splitter_did_wrong() -> None:
    cohort = cohort_of([2] * 10, [n % 2 for n in range(10)])
    rows = [np.arange(start, stop) for start, stop in ((0, 11), (11, 15), (15, 20))]
    with pytest.raises(DataError) as caught:
        check_folds(
            cohort,
            [
                Fold(*rows, fold=0),
                Fold(np.array([0, 4, 8]), rows[1], np.array([], dtype=int), fold=1),
            ],
        )
    assert len(caught.value.faults) == 4
    assert "r0-f0: patients in the train and in the validation part: 1" in str(caught.value)
    assert "r0-f1: the test part is empty" in str(caught.value)
    assert "3 class0, 0 class1" in str(caught.value)


def test_folds_go_through_a_file_and_come_back(tmp_path: Path) -> None:
    cohort = simple()
    made = split(cohort, "k_fold", "few_shot", regime_k=2, regime_draws=2, repeats=2)
    table = export_folds(made, cohort)
    assert list(table) == ["repeat", "fold", "draw", "part", "patient_id"]
    table.to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(DataError, match=r"folds are called r0-f0-d0, .* go with regime=full"):
        split(cohort, "imported", "few_shot", path=tmp_path / "folds.csv", regime_k=1)
    back = split(cohort, "imported", path=tmp_path / "folds.csv")
    assert [fold.name for fold in back] == [fold.name for fold in made]
    for one, other in zip(made, back, strict=True):
        assert all(np.array_equal(getattr(one, p), getattr(other, p)) for p in PARTS)


def test_official_folds_need_patient_and_part_alone(tmp_path: Path) -> None:
    cohort = simple(9, 4)
    cohort.table["patient_id"] = "=" + cohort.table["patient_id"]
    names = sorted(cohort.table["patient_id"].unique())
    parts = ["Train", "test", "dev"] * 3
    lines = [f"'{name},{part}" for name, part in zip(names, parts, strict=True)]
    path = tmp_path / "official.csv"
    path.write_text("\ufeffpatient_id,part\n" + "\n".join(lines), encoding="utf-8")
    (fold,) = import_folds(path, cohort)
    assert patients(cohort, fold.test) == set(names[1::3])
    assert fold.name == "r0-f0"


def test_all_faults_of_a_folds_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    with pytest.raises(DataError, match=r"no table .*folds\.csv"):
        import_folds(path, simple())
    path.write_text("patient,part\nP001,train\n")
    with pytest.raises(DataError, match=r"a column 'patient_id'[\s\S]*columns are patient, part"):
        import_folds(path, simple())
    path.write_text("patient_id,part,fold\nP001,train,0\nP999,tset,one\n")
    with pytest.raises(DataError) as caught:
        import_folds(path, simple())
    assert len(caught.value.faults) == 3
    assert "line 3: fold is 'one'" in caught.value.faults[0]
    assert "P999; the first in line 3" in caught.value.faults[1]
    assert "tset (the first in line 3)" in caught.value.faults[2]
    path.write_text("patient_id,part,fold\nP001,train,1e20\n")
    refused = "line 2: fold is '1e20', which must be a whole number from 0"
    with pytest.raises(DataError, match=refused):
        import_folds(path, simple())


def test_columns_of_folds_are_found_whatever_their_case(tmp_path: Path) -> None:
    cohort = simple()
    folds = make_folds(cohort, Component("k", "k_fold"), Component("few", "few_shot", {"k": 2}), 1)
    table = export_folds(folds, cohort).rename(columns=str.title)
    table.to_csv(tmp_path / "folds.csv", index=False)
    assert len(import_folds(tmp_path / "folds.csv", cohort)) == len(folds) == 50


def test_blank_cells_of_folds_are_named_by_row(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("patient_id,part\nP001,train\n,test\nP002,\n")
    with pytest.raises(DataError) as caught:
        import_folds(tmp_path / "folds.csv", simple())
    patient, part = caught.value.faults
    assert "no part in folds.csv row 4" in patient
    assert "no patient_id in folds.csv row 3" in part


def test_folds_are_read_from_any_kind_of_table(tmp_path: Path) -> None:
    cohort = simple()
    table = export_folds(split(cohort, "k_fold"), cohort)
    table["patient_id"] += " "
    table.to_csv(tmp_path / "plain.csv", index=False)
    table.to_csv(tmp_path / "semicolon.csv", index=False, sep=";", encoding="utf-16")
    table.to_excel(tmp_path / "sheet.xlsx", index=False)
    first, *others = (import_folds(path, cohort) for path in sorted(tmp_path.iterdir()))
    assert len(first) == 5
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert all(np.array_equal(getattr(one, p), getattr(same, p)) for p in PARTS)


@pytest.mark.real_data
def test_folds_of_a_real_cohort(real_cohort_root: Path) -> None:
    from prognobench.registry import DATASETS

    cohort = DATASETS["covid_chestxray"](root=real_cohort_root, task="mortality")
    counts = [class_counts(cohort, fold.test) for fold in split(cohort, "k_fold")]
    assert np.ptp(counts, axis=0).max() <= 1
    assert len(split(cohort, "k_fold", "few_shot", regime_k=8)) == 50
    (fold,) = split(cohort, "holdout")
    assert class_counts(cohort, fold.test).min() >= 4
    with pytest.raises(DataError, match="without a known centre: 3 "):
        split(cohort, "leave_one_centre_out")
    with pytest.raises(DataError, match="centres have fewer than"):
        split(cohort, "leave_one_centre_out", unknown_centre="train")


def test_few_shot_per_centre_draws_from_each_centre_and_is_nested() -> None:
    centres = ["ABCD"[number % 4] for number in range(120)]
    cohort = simple(120, 60, centres)
    folds = {
        k: split(cohort, "leave_one_centre_out", "few_shot_per_centre", regime_k=k, regime_draws=3)
        for k in (1, 3)
    }
    centre_of = cohort.table.set_index("patient_id")["centre"].to_dict()
    for k, drawn in folds.items():
        assert len(drawn) == 4 * 3
        for fold in drawn:
            assert class_counts(cohort, fold.train).tolist() == [3 * k, 3 * k]
            trained = [centre_of[name] for name in patients(cohort, fold.train)]
            assert sorted(trained.count(name) for name in set(trained)) == [2 * k] * 3
            assert not set(trained) & {centre_of[n] for n in patients(cohort, fold.test)}
    for smaller, larger in zip(folds[1], folds[3], strict=True):
        assert set(smaller.train) < set(larger.train)
    with pytest.raises(DataError, match=r"centre . of fold r0-f0 .*; the most possible is"):
        split(cohort, "leave_one_centre_out", "few_shot_per_centre", regime_k=16)
