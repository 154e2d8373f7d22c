"""The report as text: what stands on the page, that it is inert and offline, and how odd runs look."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixtures import CE, FAMILIES, IMPLEMENTATIONS, make_run, result, run_of

from harness.grades import Grade
from harness.run import Run, RunFileError, Timing
from reports import render
from reports.heatmap import heat_map
from reports.model import subjects

CSP = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
VOID = {"meta", "link", "br", "path", "circle", "img", "input"}


class Page(HTMLParser):
    """A parsed page: its elements as (tag, attributes), its text outside style and script, and any bad nesting."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.data = ""
        self.faults: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop()[0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("id") == "data":
            self.data += data
        elif tag not in ("script", "style"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return render(run)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


# --- the page as a whole ---


def test_is_one_well_formed_document(html: str, page: Page) -> None:
    assert html.startswith("<!doctype html>")
    assert page.faults == []
    assert [a["lang"] for a in page.all("html")] == ["en"]


def test_declares_the_policy_that_proves_it_offline(page: Page) -> None:
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [CSP]


def test_loads_nothing(html: str, page: Page) -> None:
    assert [a for _, a in page.elements if "src" in a or "srcset" in a or "action" in a] == []
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    styles = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in styles
    assert "@import" not in styles


def test_links_lead_to_sources_and_into_the_page(page: Page) -> None:
    ids = {a["id"] for _, a in page.elements if "id" in a}
    targets = [str(a["href"]) for a in page.all("a")]
    assert {t for t in targets if not t.startswith("#")} == {
        "https://github.com/pytorch/pytorch/issues/11752",
        "https://github.com/linkedin/Liger-Kernel/issues/542",
        "https://github.com/jax-ml/jax/issues/24397",
    }
    assert [t for t in targets if t.startswith("#") and t[1:] not in ids] == []


def test_ids_are_unique(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_names_every_implementation_and_family(page: Page) -> None:
    assert [name for name, *_ in IMPLEMENTATIONS if name not in page.words] == []
    for name, entry in FAMILIES.items():
        assert name in page.words
        assert entry["breaks"] in page.words


def test_tells_the_circumstances(page: Page) -> None:
    for text in (
        "20240607",
        "9fe1770c5b1d",
        "AMD EPYC 9654",
        "torch 8, openblas 8",
        "torch 2.13.0",
        "3.12.4",
        "complete",
    ):
        assert text in page.words
    assert "xent accuracy --speed --seed 20240607 --json run.json" in page.words


def test_tells_how_to_get_what_is_missing(page: Page) -> None:
    assert "jax is not installed: pip install 'cross-entropy-harness[jax]'" in page.words
    assert "2 implementations could not run here; the reason stands below." in page.words


def test_legend_explains_every_grade(page: Page) -> None:
    for grade in Grade:
        assert f" {grade} " in page.words


def test_sections_stand_in_the_order_a_reader_needs(page: Page) -> None:
    order = [a.get("id") for tag, a in page.elements if tag == "section" and not str(a.get("id")).startswith("dtype-")]
    assert order == ["use", "maps", "speed", "families", "claims", "reading"]


def test_is_deterministic(run: Run, html: str) -> None:
    assert render(run) == html
    assert render(make_run()) == html


def test_survives_the_run_file(run: Run, html: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run.save(path)
    assert render(Run.load(path)) == html


def test_is_small_enough_to_send() -> None:
    """30 implementations x 30 families x 4 dtypes x 2, every result with its witness, stay under 1.5 MB."""
    forms = ("stable", "naive", "clipped")
    implementations = [(f"torch_implementation_{i:02}", "torch", CE, "absolute", forms[i % 3]) for i in range(30)]
    families = {f"family_{i:02}": {"breaks": "something that others do not", "source": "built"} for i in range(30)}
    big = make_run(implementations=implementations, families=families, timings=False)
    assert len(big.results) == 7200
    assert len(render(big).encode()) < 1_500_000


# --- hostile text ---

HOSTILE = "</script></script x=1><img src=x onerror=alert(1)>&amp;\"'<!--{{ 7*7 }}"


def hostile_run() -> Run:
    bad = result(
        implementation=HOSTILE, framework=HOSTILE, loss=HOSTILE, dtype=HOSTILE, device=HOSTILE, backend=HOSTILE,
        family=HOSTILE, outcome="failed", grade="inaccurate", detail=HOSTILE, thread="javascript:alert(1)",
        output_dtype=HOSTILE,
        witness={"row": 0, "logits": [HOSTILE], "target": HOSTILE, "got": HOSTILE, HOSTILE: HOSTILE},
    )  # fmt: skip
    return Run(
        environment={"seed": HOSTILE, "versions": {HOSTILE: HOSTILE}, "cpu": HOSTILE, "request": {"only": [HOSTILE]}},
        results=(bad, replace(bad, outcome="known_failure"), replace(bad, outcome="unexpected_pass")),
        families={HOSTILE: {"breaks": HOSTILE, "source": f"javascript:x {HOSTILE}", "losses": [HOSTILE]}},
        implementations=(
            {"name": HOSTILE, "summary": HOSTILE, "available": True},
            {"name": "absent", "available": False, "reason": HOSTILE, "requires": {"m": HOSTILE}, "loss": HOSTILE},
        ),
        timings=(
            Timing(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (2, 3), (1.0,), HOSTILE, 1.0, HOSTILE),
            Timing("none", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, (2, 3), (), HOSTILE, None, HOSTILE),
        ),
    )


def test_hostile_text_is_inert() -> None:
    page = Page(render(hostile_run()))
    assert page.faults == []
    assert page.all("img") == []
    assert [name for _, a in page.elements for name in a if name.startswith("on")] == []
    assert len(page.all("script")) == 2
    assert [a["href"] for a in page.all("a") if "script" in str(a["href"])] == []
    assert "49" not in page.words
    assert HOSTILE in json.loads(page.data)["strings"]
    assert set("<>&") & set(page.data) == set()


@given(st.text())
def test_any_text_is_shown_and_nothing_else(text: str) -> None:
    page = Page(render(run_of(result(implementation=text, detail=text, outcome="failed"))))
    assert page.faults == []
    assert len(page.all("script")) == 2
    json.loads(page.data)


def test_a_lone_surrogate_can_be_written() -> None:
    html = render(run_of(result(implementation="torch_\udcff")))
    assert "torch_?" in html
    html.encode("utf-8")


# --- odd runs ---


def test_an_empty_run() -> None:
    page = Page(render(Run(environment={}, results=())))
    assert page.faults == []
    assert "Nothing was measured in this run." in page.words
    assert "No results, so no heat-map." in page.words
    assert "xent accuracy --speed --json run.json" in page.words
    assert "xent accuracy --json run.json" in page.words


def test_an_incomplete_run() -> None:
    page = Page(render(run_of(result(), complete=False)))
    assert "Incomplete run." in page.words
    assert "None so far." in page.words


def test_a_run_of_one_dtype() -> None:
    page = Page(render(make_run(dtypes=("float32",))))
    assert [a["data-tab"] for a in page.all("section") if "data-tab" in a] == ["float32"]
    assert "float64" not in page.words
    assert "--dtype float32 --speed --seed 20240607" in page.words


def test_a_run_where_nothing_is_available() -> None:
    jax = [entry for entry in IMPLEMENTATIONS if entry[4] == "missing"]
    declared = make_run(implementations=jax)
    page = Page(render(declared))
    assert declared.results == ()
    assert "Nothing was measured in this run." in page.words
    assert "2 implementations could not run here" in page.words


def test_unavailable_results_leave_their_row_out_of_the_grid() -> None:
    gone = result(implementation="jax_one", outcome="unavailable", grade=None, detail="pip install jax", judged=0)
    grid = heat_map(run := run_of(result(), gone), subjects(run)).grids[0]
    assert [row.subject.name for row in grid.rows] == ["torch_one"]
    assert [subject.name for subject in grid.absent] == ["jax_one"]
    assert "Nothing measured in float32: jax_one ." in Page(render(run)).words


def test_a_device_and_a_backend_make_rows_of_their_own() -> None:
    run = run_of(result(), result(device="cuda"), result(backend="triton-interpreter"))
    assert [subject.qualifier for subject in subjects(run)] == ["", "cuda", "triton-interpreter"]


@pytest.mark.parametrize(("field", "word"), [("grade", "superb"), ("outcome", "fine")])
def test_a_word_that_is_none_of_ours_is_refused(field: str, word: str) -> None:
    with pytest.raises(RunFileError) as caught:
        render(run_of(result(**{field: word})))
    assert repr(word) in str(caught.value)


# --- speed ---


def test_speed_stands_beside_the_baseline(page: Page) -> None:
    assert "interleaved rounds" in page.words
    assert "compiler not found" in page.words
    labels = [str(a["aria-label"]) for a in page.all("svg")]
    assert "1.00× of the baseline's time" in labels
    assert len([label for label in labels if "per round" in label]) > 20


def test_speed_without_a_ratio() -> None:
    timings = tuple(
        Timing(f"t{i}", "torch", CE, "float32", "cpu", "forward", (4, 5), (0.001, 0.002), "t0", value)
        for i, value in enumerate((1.0, math.nan, math.inf, 0.0, None))
    )
    page = Page(render(run_of(timings=timings)))
    assert page.faults == []
    assert len(page.all("svg")) == 1
    assert "1.00–2.00 ms" in page.words


# --- colours ---


def _luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


STYLE = files("reports").joinpath("templates", "page.css").read_text(encoding="utf-8")
COLOURS = {
    name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", STYLE)
}
PAIRS = [(f"{grade}-fg", f"{grade}-bg") for grade in "FRASXNEU"]
PAIRS += [(text, back) for text in ("ink", "soft", "link", "bad") for back in ("bg", "faint")]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "back"), PAIRS)
def test_contrast_is_wcag_aa(text: str, back: str, theme: int) -> None:
    assert _contrast(COLOURS[text][theme], COLOURS[back][theme]) >= 4.5
