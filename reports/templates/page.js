"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const readout = document.getElementById("readout");
  let chosen = null;

  // Text goes in as text, never as markup: names and details come from strangers' files.
  function make(tag, text, className) {
    const node = document.createElement(tag);
    if (text) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function cellOf(number) {
    const text = (entry) => (typeof entry === "number" ? data.strings[entry] : entry || "");
    const [place, ...records] = data.cells[number];
    const [title, dtype, family] = place.map(text);
    const named = (record) => Object.fromEntries(data.fields.map((field, i) => [field, text(record[i])]));
    return { title, dtype, family, halves: records.map(named) };
  }

  const advice = (half) => data.advice[half.outcome] || "";
  const words = (text) => text.replaceAll("_", " ");

  // --- tabs: stacked sections become tabs ---
  function tabs(box) {
    const panes = [...box.querySelectorAll(".pane")];
    if (panes.length < 2) return;
    const list = make("div", "", "tablist");
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "dtype");
    const show = (which) => panes.forEach((pane, i) => {
      pane.hidden = i !== which;
      list.children[i].setAttribute("aria-selected", String(i === which));
      list.children[i].tabIndex = i === which ? 0 : -1;
    });
    panes.forEach((pane, i) => {
      const tab = make("button", pane.dataset.tab);
      tab.type = "button";
      tab.id = `tab-${i}`;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", pane.id);
      pane.setAttribute("role", "tabpanel");
      pane.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(i));
      list.append(tab);
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (panes.findIndex((pane) => !pane.hidden) + step + panes.length) % panes.length;
      show(next);
      list.children[next].focus();
    });
    box.prepend(list);
    box.classList.add("tabbed");
    const float32 = panes.findIndex((pane) => pane.dataset.tab === "float32");
    show(Math.max(0, float32));
    box.reveal = (pane) => show(panes.indexOf(pane));
  }

  // --- sortable tables ---
  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.classList.contains("plain")) return;
      const button = make("button", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
        const number = (text) => ({ inf: Infinity, nan: Infinity })[text] ?? (text === "" ? NaN : Number(text));
        const rows = [...table.tBodies[0].rows];
        const numeric = rows.every((row) => !Number.isNaN(number(value(row))));
        const order = numeric
          ? (a, b) => Math.sign(number(value(a)) - number(value(b))) || 0
          : (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
        rows.sort(order);
        if (down) rows.reverse();
        table.tBodies[0].append(...rows);
      });
    });
  }

  // --- tooltip ---
  function showTip(cell) {
    const { title, dtype, family, halves } = cellOf(cell.dataset.c);
    tip.replaceChildren(make("b", title), document.createTextNode(` on ${family}, ${dtype}`));
    for (const half of halves) {
      const figures = half.grade ? `: ${half.ulp} ulp, ${half.ratio} × bound` : "";
      tip.append(make("div", `${half.what} ${half.label}${figures} (${words(half.outcome)})`));
    }
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 6}px`;
    cell.setAttribute("aria-label", tip.innerText.replaceAll("\n", "; "));
  }
  const hideTip = () => { tip.hidden = true; };

  // --- the readout of one cell ---
  function decimal(text, dtype) {
    const match = /^(-?)0x([01])\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
    if (!match) return /^-?inf$/.test(text) ? text.replace("-", "−").replace("inf", "∞") : text === "nan" ? "NaN" : "";
    const value = parseInt(match[2] + match[3], 16) * 2 ** (Number(match[4]) - 4 * match[3].length);
    const digits = dtype === "float64" ? 17 : 9;
    return (match[1] ? "−" : "") + String(Number(value.toPrecision(digits)));
  }

  function pairs(entries) {
    const list = make("dl");
    for (const [name, text] of entries) {
      if (!text) continue;
      const row = make("div");
      row.append(make("dt", name), make("dd", text));
      list.append(row);
    }
    return list;
  }

  function vectorRows(name, text, dtype) {
    if (!text.includes(" of ")) return [[name, text, decimal(text, dtype)]];
    const [entries, size] = text.split(" of ");
    const rows = entries.split(" ").filter(Boolean).map((entry) => {
      const cut = entry.indexOf(":");
      const value = entry.slice(cut + 1);
      return [`${name} ${entry.slice(0, cut)}`, value, decimal(value, dtype)];
    });
    return rows.length < Number(size) ? [...rows, [`${name} …`, `${Number(size).toLocaleString("en")} in all`, ""]] : rows;
  }

  function witness(half, dtype) {
    const rows = [];
    if (half.got) rows.push(["got", half.got, decimal(half.got, dtype)]);
    if (half.want) rows.push(["want", half.want, decimal(half.want, "float64")]);
    if (half.upstream) rows.push(["upstream", half.upstream, decimal(half.upstream, dtype)]);
    if (half.target) rows.push(...vectorRows("target", half.target, dtype));
    if (half.logits) rows.push(...vectorRows("logit", half.logits, dtype));
    for (const line of half.more ? half.more.split("\n") : []) rows.push(["", line, ""]);
    if (!rows.length) return [];
    const where = half.row ? `Witness: row ${half.row}${half.column ? `, column ${half.column}` : ""}` : "Witness";
    const table = make("table");
    for (const [name, hex, dec] of rows) {
      const row = table.insertRow();
      const head = make("th", name);
      head.scope = "row";
      row.append(head, make("td", dec || hex), make("td", dec ? hex : ""));
    }
    const scroll = make("div", "", "scroll");
    scroll.append(table);
    return [make("p", where, "note"), scroll];
  }

  function halfOf(half, dtype, cell) {
    const box = make("section");
    const head = make("h4");
    const mark = make("span", "", "m");
    mark.append(make("i", cell.querySelectorAll("i")[half.what === "loss" ? 0 : 1].textContent, half.css));
    head.append(mark, `${half.what}: ${half.label}`);
    const told = make("p", `${words(half.outcome)[0].toUpperCase()}${words(half.outcome).slice(1)}. ${advice(half)}`);
    box.append(head, told);
    if (half.detail) box.append(make("p", half.detail));
    if (half.thread) {
      const line = make("p", "Thread: ");
      const link = make(half.url ? "a" : "span", half.thread);
      if (half.url) { link.href = half.url; link.rel = "noreferrer"; }
      line.append(link);
      box.append(line);
    }
    const bounds = half.ratios.split(" ").filter(Boolean).map((entry) => {
      const cut = entry.indexOf(":");
      return [`× ${entry.slice(0, cut)} bound`, entry.slice(cut + 1)];
    });
    box.append(pairs([
      ["rows", half.rows], ["judged", half.judged], ["claimed", half.claimed], ["grade", half.grade],
      ["max ulp", half.ulp], ["max absolute", half.abs], ["max relative", half.rel], ["× bound", half.ratios.includes("absolute:") ? "" : half.ratio],
      ...bounds, ["not finite", half.nonfinite], half.what === "loss" ? ["negative", half.negative] : ["", ""],
      ["output dtype", half.dtype], ["backend", half.backend],
    ]));
    box.append(...witness(half, dtype));
    return box;
  }

  function open(cell, toReadout) {
    if (chosen) chosen.classList.remove("on");
    chosen = cell;
    cell.classList.add("on");
    const { title, dtype, family, halves } = cellOf(cell.dataset.c);
    const header = make("header");
    const head = make("h3");
    head.append(make("code", title));
    const at = cell.closest("table").tHead.rows[0].cells[cell.cellIndex].querySelector("a");
    const place = make("span", "on ", "q");
    const link = make("a", family);
    link.href = at.getAttribute("href");
    place.append(link, ` in ${dtype}`);
    header.append(head, place);
    const close = make("button", "Close", "close");
    close.type = "button";
    close.addEventListener("click", shut);
    header.append(close);
    const box = make("div", "", "halves");
    box.append(...halves.map((half) => halfOf(half, dtype, cell)));
    const why = make("p", at.title, "note");
    readout.replaceChildren(header, ...(at.title ? [why] : []), box);
    readout.hidden = false;
    readout.scrollTop = 0;
    document.body.classList.add("reading-out");
    cell.style.scrollMarginBottom = `${readout.offsetHeight + 12}px`;
    cell.scrollIntoView({ block: "nearest", inline: "nearest" });
    if (toReadout) readout.focus();
  }

  function shut() {
    if (readout.hidden) return;
    readout.hidden = true;
    document.body.classList.remove("reading-out");
    chosen.classList.remove("on");
    chosen.focus();
    hideTip();
  }

  // --- the grid: one tab stop, arrow keys inside ---
  function grid(table) {
    const cells = [...table.querySelectorAll("td[data-c]")];
    table.setAttribute("role", "grid");
    cells.forEach((cell, i) => { cell.setAttribute("role", "gridcell"); cell.tabIndex = i ? -1 : 0; });
    const own = (event) => event.target.closest("td[data-c]");
    const stop = (cell) => { cells.forEach((other) => { other.tabIndex = other === cell ? 0 : -1; }); };
    table.addEventListener("mouseover", (event) => (own(event) ? showTip(own(event)) : hideTip()));
    table.addEventListener("mouseleave", hideTip);
    table.addEventListener("focusin", (event) => { if (own(event)) { stop(own(event)); showTip(own(event)); } });
    table.addEventListener("focusout", hideTip);
    table.addEventListener("click", (event) => { if (own(event)) { own(event).focus(); open(own(event), false); } });
    table.addEventListener("keydown", (event) => {
      const cell = own(event);
      if (!cell) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(cell, true);
        return;
      }
      const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      let [row, column] = [cell.parentElement, cell.cellIndex];
      for (;;) {
        row = step[0] > 0 ? row.nextElementSibling : step[0] < 0 ? row.previousElementSibling : row;
        column += step[1];
        const next = row && row.cells[column];
        if (!next || next.tagName === "TH") return;
        if (next.dataset.c !== undefined) {
          next.focus();
          if (!readout.hidden) open(next, false);
          return;
        }
      }
    });
  }

  if (window.innerWidth < 640) document.querySelectorAll("details.meaning").forEach((box) => { box.open = false; });
  document.querySelectorAll(".tabs").forEach(tabs);
  document.querySelectorAll("table.sortable").forEach(sortable);
  document.querySelectorAll("table.grid").forEach(grid);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") { hideTip(); shut(); } });
  window.addEventListener("scroll", hideTip, { passive: true, capture: true });
  document.querySelectorAll("a[data-open]").forEach((link) => {
    link.addEventListener("click", (event) => {
      const cell = document.querySelector(`td[data-c="${Number(link.dataset.open)}"]`);
      if (!cell) return;
      event.preventDefault();
      const box = cell.closest(".tabs");
      if (box.reveal) box.reveal(cell.closest(".pane"));
      cell.scrollIntoView({ block: "center" });
      cell.focus({ preventScroll: true });
      open(cell, false);
    });
  });
})();
