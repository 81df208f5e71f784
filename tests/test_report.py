"""The report: one file, sound, escaped, and alive in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from made_runs import make_run, store_instead

from prognobench.analysis.report.page import write_report
from prognobench.errors import ConfigError, StoreError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script>&\"'\x1b[31m"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for model, skill in (("cnn", 0.9), ("vit", 0.6), ("densenet", 0.5)):
        for strategy in ("full", "lora", "a_strategy_with_quite_a_long_name"):
            make_run(folder, model=model, strategy=strategy, skill=skill)
    make_run(folder, model="cnn", strategy="bitfit", not_applicable=EVIL)
    make_run(folder, model="vit", strategy="bitfit", done=2, failed=["r0-f2"])
    meta = {"weights": EVIL, "warnings": [EVIL]}
    make_run(folder, f"data {EVIL.replace('/', '')}", "cnn", risk=False, meta=meta)
    return folder


@pytest.fixture(scope="module")
def page(results):
    return write_report(results, claims="study")


class Checker(HTMLParser):
    """Counts what matters, and refuses tags that do not close."""

    VOID = ("meta", "link", "input", "br", "path", "use")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[name] for name in ("href", "src") if name in given]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def checked(page):
    checker = Checker()
    checker.feed(page.read_text())
    return checker


def test_the_page_is_sound(checked, page):
    assert checked.open == []
    assert len(set(checked.ids)) == len(checked.ids)
    assert page.stat().st_size < 5_000_000


def test_it_needs_no_network(checked, page):
    assert all(link.startswith(("#", "data:")) for link in checked.links)
    assert "@import" not in page.read_text()


def test_what_users_wrote_is_text(page, checked):
    assert checked.tags.count("script") == 1
    assert "alert(1)</script>" not in page.read_text()
    assert "&lt;script&gt;alert(1)" in page.read_text()
    assert "\x1b" not in page.read_text()


def test_every_figure_has_words_data_and_command(checked, page):
    text = page.read_text()
    figures = checked.tags.count("figure")
    assert figures > 8
    assert text.count('role="img" aria-label="') == figures
    assert text.count('href="data:text/csv;base64,') == figures
    assert text.count("synthetic images, no clinical data") > 5


def test_all_sections_are_there(checked):
    wanted = ["best", "scores", "maps", "details", "compare", "cost", "claims", "run"]
    assert [name for name in checked.ids if name in wanted] == wanted
    assert {"open", "repeat"} <= set(checked.ids)


def test_the_answer_comes_first(page):
    first = page.read_text().split('<section id="scores">')[0]
    assert "the best by MCC on each dataset" in first
    assert re.search(r"<strong>cnn, \w+</strong>", first)
    assert re.search(r"\d\.\d{3}\s\[-?\d\.\d{3},\s\d\.\d{3}\]", first)


def test_reasons_of_exclusion_are_counted_whatever_row_they_name(tmp_path):
    folder = make_run(tmp_path)
    rows = [f"n{i}.png,not a frontal view (metadata.csv row {i})" for i in range(30)]
    reasons = [f"r{i}.png,odd in way {i}" for i in range(20)]
    listed = "\n".join(["item,reason", *rows, *reasons])
    store_instead(folder, "exclusions.csv", f"{listed}\n".encode())
    text = write_report(tmp_path).read_text()
    assert "left out: 30 x not a frontal view, 1 x odd in way" in text
    assert "13 for 13 other reasons" in text


def test_impossible_and_failed_runs_are_explained(page):
    text = page.read_text()
    assert "loss is not finite" in text
    assert "n/a: &lt;script&gt;" in text
    assert "2/5 folds" in text


def test_figures_as_files(tmp_path):
    make_run(tmp_path, classes=("mild", "severe", "dead"))
    out = write_report(tmp_path, tmp_path / "page.html", metric="PR-AUC", figures=True)
    assert out.name == "page.html"
    kinds = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert kinds == {".svg", ".png", ".pdf", ".csv"}


def test_without_a_writer_of_commands_runs_are_repeated_by_their_keys(tmp_path):
    folder = make_run(tmp_path, strategy="lora", k=4, draws=2)
    # What files tell is computed beside any run, so it has no command.
    make_run(tmp_path, model="shortcut", strategy="shortcut", meta={"reads": ["files"]})
    text = write_report(tmp_path).read_text()
    assert f"prognobench run --from {folder.path.name}" in text
    assert text.count("prognobench run --from") == 1


def test_nothing_to_report_and_unknown_metrics(results, tmp_path):
    with pytest.raises(StoreError, match="prognobench run"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean"):
        write_report(results, metric="mccc")


# ------------------------------------------------------------------ in a browser

PROBE = """
<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
window.addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
window.addEventListener("load", () => {
  const overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const table = [...document.querySelectorAll("#scores table")]
    .find((one) => one.caption.textContent.startsWith("toy"));
  const column = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.startsWith("MCC"));
  const head = table.tHead.rows[0].cells[column];
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value)
    .filter((value) => value !== undefined).map(Number);
  head.querySelector("button").click();
  const down = read(), order = head.getAttribute("aria-sort");
  head.querySelector("button").click();
  const up = read();
  const filter = table.closest(".scroll").previousElementSibling;
  filter.value = "vit lora";
  filter.dispatchEvent(new Event("input"));
  const shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
  const found = { errors, overflow, down, up, order, shown, width: innerWidth };
  document.body.innerHTML = "<pre id=found>" + JSON.stringify(found) + "</pre>";
});
</script></head>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [375, 1440])
def test_in_a_browser(page, tmp_path, width):
    # Chromium's window has a least width, so the page is framed at the width wanted.
    (tmp_path / "page.html").write_text(page.read_text().replace("</head>", PROBE, 1))
    frame = f'<iframe src="page.html" style="border:0" width="{width}" height="900"></iframe>'
    relay = (
        "<script>setTimeout(() => document.body.append(document.querySelector('iframe')"
        ".contentDocument.querySelector('#found').textContent), 3000)</script>"
    )
    (tmp_path / "frame.html").write_text(f"<body>{frame}{relay}</body>")
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
        *("--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
        (tmp_path / "frame.html").as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(re.search(r"</script>(\{.*?\})</body>", shown, re.DOTALL)[1])
    assert found["width"] == width
    assert found["errors"] == []
    assert found["overflow"] <= 0
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["up"] == sorted(found["up"])
    assert len(found["up"]) > 5
    assert found["order"] == "descending"
    assert found["shown"] == 1
