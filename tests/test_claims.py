"""Claims: supported, contradicted or undecided, by results made to be so."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from prognobench.analysis.claims.judging import check_claims
from prognobench.analysis.claims.reading import read_claims, study_claims
from prognobench.analysis.report.page import write_report
from prognobench.analysis.statistics.paired_tests import holm
from prognobench.analysis.statistics.pooling import pool_blocks
from prognobench.errors import ConfigError

CLAIMS = """
groups:
  cnn: {model: ["cnn*"]}
  vit: {model: ["vit*"]}
  lora: {strategy: [lora]}
  full: {strategy: [full]}
claims:
  - {name: cnn_wins, says: CNNs win, kind: better, metric: roc_auc, first: [cnn], second: [vit],
     where: {regime: [full]}}
  - {name: vit_wins, says: ViTs win, kind: better, metric: brier, first: [vit], second: [cnn],
     where: {regime: [full], minority: [0.2, 0.5]}}
  - {name: small, says: on tiny sets, kind: better, first: [cnn], second: [vit],
     where: {patients: [0, 10]}}
  - {name: competes, says: LoRA competes, kind: not_worse, metric: roc_auc, first: [lora],
     second: [full], margin: 0.9, where: {regime: [full]}}
  - {name: steady, says: LoRA is steady, kind: steadier, metric: roc_auc, first: [lora],
     second: [full], where: {regime: [few_shot]}}
  - {name: winners, says: no winner, kind: no_single_winner, metric: roc_auc,
     where: {regime: [full]}}
  - {name: balance, says: balance helps LoRA, kind: better_balanced, metric: roc_auc,
     first: [lora], second: [full], where: {regime: [full]}, balanced: [0.2, 0.5],
     imbalanced: [0, 0.2]}
"""


EVEN, RARE = ("even", "even2", "even3", "even4"), ("rare", "rare2", "rare3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    # LoRA is as good as full fine-tuning where classes are balanced, and lost elsewhere.
    for dataset in (*EVEN, *RARE):
        prevalence, lora = (0.45, 0.95) if dataset in EVEN else (0.1, 0.05)
        for model, skill in (("cnn", 0.95), ("vit", 0.3)):
            size = {"prevalence": prevalence, "patients": 300}
            make_run(folder, dataset, model, "full", skill=skill, **size)
            make_run(folder, dataset, model, "lora", skill=skill * lora + 0.01, **size)
        for k in (2, 4) if dataset in EVEN else ():
            make_run(folder, dataset, "cnn", "lora", skill=1.0, k=k, draws=4)
            make_run(folder, dataset, "cnn", "full", skill=0.2, k=k, draws=4)
    (folder / "claims.yaml").write_text(CLAIMS)
    return folder


@pytest.fixture(scope="module")
def findings(folder):
    found = check_claims(folder, folder / "claims.yaml")
    return {finding.claim.name: finding for finding in found}


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("cnn_wins", "supported"),
        ("vit_wins", "contradicted"),
        ("small", "undecided"),
        ("competes", "supported"),
        ("steady", "supported"),
        ("balance", "supported"),
    ],
)
def test_verdicts(findings, name, verdict):
    assert findings[name].verdict == verdict, findings[name].reason


def test_a_claim_is_one_test_over_data_sets(findings):
    finding = findings["cnn_wins"]
    effects = {effect.context: effect for effect in finding.effects}
    assert set(effects) == {f"{name} (full, five_fold)" for name in (*EVEN, *RARE)}
    first = effects["even (full, five_fold)"]
    assert first.difference.low < first.difference.value < first.difference.high
    assert (first.folds, first.runs) == (5, 4)
    values = np.array([effect.difference.value for effect in finding.effects])
    pooled = pool_blocks(values)
    assert finding.judgements[0].pooled == pooled
    assert finding.p == pytest.approx(pooled.p)
    assert "over 7 independent data sets" in finding.reason


def test_claims_are_corrected_for_their_number(findings):
    p = [finding.p for finding in findings.values()]
    assert [finding.p_holm for finding in findings.values()] == pytest.approx(holm(p), nan_ok=True)


def test_shots_of_one_data_set_are_one_unit(findings):
    assert len(findings["steady"].effects) == 8
    assert "over 4 independent data sets" in findings["steady"].reason


def test_what_is_compared_is_named(findings):
    compared = {effect.compared for effect in findings["cnn_wins"].effects}
    assert compared == {"full, lora on cnn against full, lora on vit"}


def test_a_strategy_is_compared_within_its_backbone(tmp_path):
    # LoRA ran on the better model only. Matched, it is worse than full fine-tuning on that model.
    for number in range(4):
        make_run(tmp_path, f"d{number}", "cnn", "full", skill=0.95)
        make_run(tmp_path, f"d{number}", "cnn", "lora", skill=0.7)
        make_run(tmp_path, f"d{number}", "vit", "full", skill=0.05)
    text = """
groups: {lora: {strategy: [lora]}, full: {strategy: [full]}}
claims: [{name: a, says: b, kind: better, metric: roc_auc, first: [lora], second: [full]WITHIN}]
"""
    file = tmp_path / "claims.yaml"
    file.write_text(text.replace("WITHIN", ""))
    matched = check_claims(tmp_path, file)[0]
    assert matched.judgements[0].pooled.value < 0
    assert matched.compared == "lora on cnn against full on cnn"
    file.write_text(text.replace("WITHIN", ", within: []"))
    assert check_claims(tmp_path, file)[0].judgements[0].pooled.value > 0


def test_tasks_on_the_same_patients_are_one_block(tmp_path):
    config = {"config": {"dataset": {"builder": "hospital", "settings": {}}}}
    for dataset in ("death", "icu", "other"):
        own = {} if dataset == "other" else config
        for strategy, skill in (("full", 0.9), ("lora", 0.2)):
            make_run(tmp_path, dataset, "cnn", strategy, skill=skill, images=1, meta=own)
    file = tmp_path / "claims.yaml"
    file.write_text(
        "groups: {lora: {strategy: [lora]}, full: {strategy: [full]}}\n"
        "claims: [{name: a, says: b, kind: better, first: [full], second: [lora]}]\n"
    )
    finding = check_claims(tmp_path, file)[0]
    assert len(finding.effects) == 3
    assert "over 2 independent data sets" in finding.reason


def test_all_statements_of_a_claim_have_to_hold(folder, tmp_path):
    file = tmp_path / "claims.yaml"
    head = CLAIMS.split("claims:", maxsplit=1)[0]
    good = "{kind: better, metric: roc_auc, first: [cnn], second: [vit], where: {regime: [full]}}"
    bad = good.replace("[cnn], second: [vit]", "[vit], second: [cnn]")
    file.write_text(
        f"{head}claims:\n  - {{name: a, says: a, statements: [{good}]}}\n"
        f"  - {{name: b, says: b, statements: [{good}, {bad}]}}\n"
    )
    one, both = check_claims(folder, file)
    assert one.verdict == "supported"
    assert both.verdict == "contradicted"


def test_one_data_set_is_tested_by_its_folds(tmp_path):
    for strategy, skill in (("full", 0.95), ("lora", 0.1)):
        make_run(tmp_path, "d", "cnn", strategy, skill=skill, patients=300)
    file = tmp_path / "claims.yaml"
    file.write_text(
        "groups: {lora: {strategy: [lora]}, full: {strategy: [full]}}\n"
        "claims: [{name: a, says: b, kind: better, first: [full], second: [lora]}]\n"
    )
    finding = check_claims(tmp_path, file)[0]
    alone = finding.effects[0].difference
    assert finding.p == pytest.approx(alone.p)
    assert finding.judgements[0].pooled.low == pytest.approx(alone.low)
    assert "says nothing about others" in finding.reason


def test_the_studys_claims_appear_where_they_belong(tmp_path):
    make_run(tmp_path, "mine")
    assert 'id="claims"' not in write_report(tmp_path).read_text()
    assert 'id="claims"' in write_report(tmp_path, claims="study").read_text()
    make_run(tmp_path, "car_icu")
    assert 'id="claims"' in write_report(tmp_path).read_text()


def winners(tmp_path, skills, patients=300):
    """The verdict on "no strategy wins everywhere" where datasets have these skills of two."""
    for number, (full, lora) in enumerate(skills):
        for strategy, skill in (("full", full), ("lora", lora)):
            make_run(tmp_path, f"d{number}", "cnn", strategy, skill=skill, patients=patients)
    return next(one for one in check_claims(tmp_path) if one.claim.name == "no_single_winner")


def test_no_strategy_wins_everywhere_where_each_clearly_beats_the_other(tmp_path):
    found = winners(tmp_path, [(0.95, 0.1), (0.1, 0.95)])
    assert found.verdict == "supported"
    assert "2 strategies on 2 independent data sets" in found.reason


def test_winners_by_chance_decide_nothing(tmp_path):
    assert winners(tmp_path, [(0.5, 0.5), (0.5, 0.5), (0.5, 0.5)]).verdict == "undecided"


def test_one_that_wins_everywhere_contradicts(tmp_path):
    assert winners(tmp_path, [(0.99, 0.0)] * 3, patients=1000).verdict == "contradicted"


def test_the_studys_findings_are_all_checked(tmp_path):
    make_run(tmp_path)
    found = check_claims(tmp_path)
    assert len(found) == 5
    assert {finding.verdict for finding in found} == {"undecided"}
    assert all(finding.reason for finding in found)


def test_the_studys_file_is_sound():
    described = read_claims(study_claims())
    assert {"cnn", "foundation", "peft"} <= set(described.groups)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind: better,", "kind: bettr,"), "kind"),
        (("first: [cnn]", "first: [cnns]"), "unknown group 'cnns'"),
        (("metric: brier", "metric: brierr"), "Did you mean 'brier'"),
        (("says: CNNs win", "sayz: CNNs win"), "sayz"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, change, said):
    file = tmp_path / "claims.yaml"
    file.write_text(CLAIMS.replace(*change))
    with pytest.raises(ConfigError, match=said):
        read_claims(file)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_claims(tmp_path / "no.yaml")
