"""The report in a real browser, without a network: it fits, opens, switches, sorts, and makes no errors.

The page is put in a frame of a given width (a headless window has a least width of its own), acted on by a script, and
what that script found is read from the dumped document.
"""

from __future__ import annotations

import html as markup
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import make_run

from harness.run import Run
from reports import render

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium, chromium-browser or google-chrome on the PATH")

HOSTILE = '</script><img src=x onerror="window.broken=1"><b>bold</b>'

# Runs before the page: collects whatever goes wrong.
WATCH = """<script>
window.faults = [];
addEventListener("error", (e) => faults.push(String(e.message || e.target)), true);
addEventListener("unhandledrejection", (e) => faults.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => faults.push("policy: " + e.violatedDirective + " " + e.blockedURI));
for (const level of ["error", "warn"]) console[level] = (...words) => faults.push(words.join(" "));
</script>"""

Act = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Run:
    return make_run()


@pytest.fixture(scope="module")
def text(run: Run) -> str:
    return render(run)


@pytest.fixture
def act(tmp_path: Path, text: str) -> Act:
    def go(script: str, width: int = 1400, page: str = text) -> dict[str, Any]:
        """What a script, run in the loaded page, puts into `found`; and the faults."""
        report = f"""<script>addEventListener("load", () => {{
            const found = {{}};
            const q = (s) => document.querySelector(s), all = (s) => [...document.querySelectorAll(s)];
            const press = (key) => document.activeElement.dispatchEvent(
              new KeyboardEvent("keydown", {{key, bubbles: true}}));
            try {{ {script} }} catch (error) {{ faults.push(String(error.stack)); }}
            found.faults = faults;
            parent.postMessage(JSON.stringify(found), "*");
        }});</script>"""
        framed = page.replace("<head>", "<head>" + WATCH, 1).replace("</body>", report + "</body>")
        (tmp_path / "report.html").write_text(framed, encoding="utf-8")
        outer = tmp_path / "outer.html"
        outer.write_text(
            f"""<!doctype html><meta charset="utf-8"><body><pre id="found"></pre><script>
            addEventListener("message", (e) => {{ document.getElementById("found").textContent = e.data; }});
            </script><iframe src="report.html" style="width:{width}px;height:900px;border:0"></iframe></body>"""
        )
        return _found(outer, tmp_path / "profile")

    return go


def _found(page: Path, profile: Path) -> dict[str, Any]:
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}", "--window-size=1600,1000",
        "--virtual-time-budget=5000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert match, f"the page sent nothing back:\n{done.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(markup.unescape(match[1]))
    return found


MEASURE = """
found.inner = innerWidth;
found.excess = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.wide = all("main *, aside *").filter((e) => !e.closest(".scroll") && !e.closest(".skip, .hide")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => e.outerHTML.slice(0, 80)).slice(0, 5);
"""


@pytest.mark.parametrize("width", [320, 390, 768, 1400])
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "opened"])
def test_never_scrolls_sideways(act: Act, width: int, opened: bool) -> None:
    found = act(("q('td[data-c]').click();" if opened else "") + MEASURE, width)
    assert found == {"inner": width, "excess": 0, "wide": [], "faults": []}


def test_the_grid_scrolls_in_its_own_box_beside_a_fixed_first_column(act: Act) -> None:
    found = act(
        """const box = q(".pane:not([hidden]) .heat"); found.own = box.scrollWidth > box.clientWidth;
        const head = box.querySelector("tbody th"); const before = head.getBoundingClientRect().left;
        box.scrollLeft = 200; found.moved = box.scrollLeft;
        found.shift = head.getBoundingClientRect().left - before;""",
        390,
    )
    assert found == {"own": True, "moved": 200, "shift": 0, "faults": []}


def test_tabs_show_one_dtype_at_a_time(act: Act) -> None:
    found = act(
        """const shown = () => all(".pane").filter((p) => p.offsetParent).map((p) => p.dataset.tab);
        found.tabs = all("[role=tab]").map((t) => t.textContent); found.first = shown();
        all("[role=tab]")[2].click(); found.clicked = shown();
        found.selected = all("[role=tab]").map((t) => t.getAttribute("aria-selected"));
        all("[role=tab]")[2].focus(); press("ArrowRight"); found.pressed = shown();
        press("ArrowRight"); found.around = shown();"""
    )
    assert found == {
        "tabs": ["float64", "float32", "bfloat16", "float16"],
        "first": ["float32"],
        "clicked": ["bfloat16"],
        "selected": ["false", "false", "true", "false"],
        "pressed": ["float16"],
        "around": ["float64"],
        "faults": [],
    }


def test_a_click_opens_the_details_and_escape_closes_them(act: Act, run: Run) -> None:
    found = act(
        """found.hidden = q("#readout").hidden;
        const grid = q(".pane:not([hidden]) .grid");
        const row = [...grid.tBodies[0].rows].find((r) => r.cells[0].textContent === "numpy_lse_minus_target");
        const column = [...grid.querySelectorAll(".fam")].findIndex((f) => f.textContent.trim() === "common_offset");
        const cell = row.cells[column + 1]; cell.click();
        found.open = !q("#readout").hidden; found.text = q("#readout").innerText; found.tip = q("#tip").innerText;
        found.seen = cell.getBoundingClientRect().bottom <= q("#readout").getBoundingClientRect().top;
        press("Escape"); found.closed = q("#readout").hidden; found.back = document.activeElement === cell;"""
    )
    want = next(
        r
        for r in run.results
        if (r.implementation, r.family, r.dtype, r.what)
        == ("numpy_lse_minus_target", "common_offset", "float32", "loss")
    )
    told = found.pop("text")
    for part in (
        "numpy_lse_minus_target", "on common_offset in float32", "loss: inaccurate", "gradient: absolute",
        "Failed. Less accurate than claimed: see the witness.", want.detail, "Witness: row", "got", "want",
        "logit ", "0x1.",
    ):  # fmt: skip
        assert part in told
    assert "loss inaccurate" in found.pop("tip")
    assert found == {"hidden": True, "open": True, "seen": True, "closed": True, "back": True, "faults": []}


def test_hexadecimal_is_shown_in_decimal_too(act: Act, run: Run) -> None:
    numbers = [
        "0x1.8p+1",
        "-0x1.0p-1074",
        "0x0.0000000000001p-1022",
        "0x1.fffffffffffffp+1023",
        "nan",
        "-inf",
        "0x0p+0",
    ]
    odd = replace(
        run.results[0], dtype="float64", witness={"row": 1, "logits": numbers[:6], "target": 0, "got": numbers[6]}
    )
    found = act(
        """q("td[data-c]").click();
        found.rows = all("#readout tr").map((r) => [...r.cells].map((c) => c.textContent));""",
        page=render(Run(environment={}, results=(odd,))),
    )
    assert found["faults"] == []
    assert found["rows"] == [
        ["got", "0", "0x0p+0"],
        ["target", "0", ""],
        ["logit 0", "3", "0x1.8p+1"],
        ["logit 1", "−5e-324", "-0x1p-1074"],
        ["logit 2", "5e-324", "0x0.0000000000001p-1022"],
        ["logit 3", "1.7976931348623157e+308", "0x1.fffffffffffffp+1023"],
        ["logit 4", "NaN", "nan"],
        ["logit 5", "−∞", "-inf"],
    ]


def test_the_grid_works_from_the_keyboard(act: Act) -> None:
    found = act(
        """const cells = [...q(".pane:not([hidden]) .grid").querySelectorAll("td[data-c]")];
        found.stops = cells.filter((c) => c.tabIndex === 0).length; cells[0].focus();
        press("ArrowRight"); press("ArrowDown");
        found.at = [document.activeElement.parentElement.rowIndex, document.activeElement.cellIndex];
        found.label = document.activeElement.getAttribute("aria-label").slice(0, 40);
        press("Enter"); found.focus = document.activeElement.id; press("Escape");
        found.back = [document.activeElement.parentElement.rowIndex, document.activeElement.cellIndex];
        found.after = cells.filter((c) => c.tabIndex === 0).length;"""
    )
    label = found.pop("label")
    assert re.match(r"\w+_log1p on wide, float32; loss relat", label)
    assert found == {"stops": 1, "at": [2, 2], "focus": "readout", "back": [2, 2], "after": 1, "faults": []}


def test_the_worst_family_leads_to_its_cell(act: Act) -> None:
    found = act(
        """const link = all("a[data-open]").find((a) => a.parentElement.textContent.includes("float64"));
        link.click(); found.title = q("#readout h3").textContent; found.family = q("#readout header a").textContent;
        found.want = [link.closest("tr").cells[1].querySelector(".name").textContent, link.textContent];
        found.shown = all(".pane").filter((p) => p.offsetParent).map((p) => p.dataset.tab);"""
    )
    assert [found["title"], found["family"]] == found["want"]
    assert found["shown"] == ["float64"]
    assert found["faults"] == []


def test_tables_sort_by_a_column_both_ways(act: Act) -> None:
    found = act(
        """const heads = [...q("table.use").tHead.rows[0].cells];
        const cells = (i) => [...q("table.use").tBodies[0].rows].map((r) => r.cells[i]);
        const at = (i) => cells(i).map((cell) => cell.dataset.v ?? cell.textContent.trim());
        const bound = heads.findIndex((h) => h.textContent.includes("bound"));
        heads[1].querySelector("button").click(); found.names = at(1); found.sort = heads[1].getAttribute("aria-sort");
        heads[bound].querySelector("button").click(); heads[bound].querySelector("button").click();
        found.bounds = at(bound); found.unset = heads[1].getAttribute("aria-sort");"""
    )
    assert found["names"] == sorted(found["names"])
    assert found["sort"] == "ascending"
    bounds = [float(value) for value in found["bounds"]]
    assert bounds == sorted(bounds, reverse=True)
    assert found["unset"] is None
    assert found["faults"] == []


def test_hostile_text_runs_nothing(act: Act, run: Run) -> None:
    bad = replace(
        run.results[0],
        implementation=HOSTILE,
        family=HOSTILE,
        detail=HOSTILE,
        thread=HOSTILE,
        witness={"row": 0, "logits": [HOSTILE], "target": HOSTILE, "got": HOSTILE, "note": HOSTILE},
    )
    families = {HOSTILE: {"breaks": HOSTILE, "source": HOSTILE, "losses": []}}
    found = act(
        """q("td[data-c]").click(); q("td[data-c]").dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
        found.title = q("#readout h3").textContent; found.made = all("img, b b, #readout b").length;
        found.broken = window.broken ?? null;""",
        page=render(Run(environment={}, results=(bad,), families=families)),
    )
    assert found == {"title": HOSTILE, "made": 0, "broken": None, "faults": []}


@pytest.mark.parametrize("empty", [Run(environment={}, results=()), make_run(dtypes=("float32",), complete=False)])
def test_odd_runs_make_no_errors(act: Act, empty: Run) -> None:
    assert act("found.title = document.title;", 390, render(empty)) == {
        "title": "Cross-entropy, judged against certified truth",
        "faults": [],
    }


def test_without_javascript_every_dtype_is_there(text: str) -> None:
    without = re.sub(r"<script(?! type=).*?</script>", "", text, flags=re.DOTALL)
    assert len(re.findall(r'<section class="pane" id="dtype-\d" data-tab="\w+">', without)) == 4
    assert 'class="pane" hidden' not in without
