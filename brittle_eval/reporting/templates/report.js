"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const theme = document.getElementById("theme");
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; label(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();

  for (const figure of all("figure")) {
    const readout = figure.querySelector(".readout");
    const chart = figure.querySelector("svg.chart");
    const shown = () => all(".point", chart).filter((point) => !point.closest("[hidden]"));
    const columns = Number(chart.dataset.columns ?? 1);
    const tell = (point) => { readout.textContent = point.getAttribute("aria-label"); readout.classList.add("told"); };
    const enter = (point) => { for (const one of all(".point", chart)) one.setAttribute("tabindex", one === point ? "0" : "-1"); };
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -Infinity, End: Infinity };
    enter(shown()[0]);
    chart.addEventListener("pointerover", (event) => { const point = event.target.closest(".point"); if (point) tell(point); });
    chart.addEventListener("focusin", (event) => { const point = event.target.closest(".point"); if (point) { enter(point); tell(point); } });
    chart.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      const points = shown();
      const place = points.indexOf(document.activeElement) + steps[event.key];
      points[Math.max(0, Math.min(points.length - 1, place))]?.focus();
      event.preventDefault();
    });
    for (const button of all(".legend button", figure)) {
      button.addEventListener("click", () => {
        const on = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(on));
        for (const series of all(`g[data-series="${button.dataset.series}"]`, chart)) series.toggleAttribute("hidden", !on);
        enter(shown()[0]);
      });
    }
  }

  for (const table of all("table.main")) {
    const heads = all("thead th", table);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(head.firstChild);
      head.prepend(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") !== "descending";
        const sign = down ? -1 : 1;
        const value = (row) => { const text = row.cells[column].dataset.value; return text === "" ? -Infinity * sign * sign : Number(text); };
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        body.append(...[...body.rows].sort((a, b) => { const x = value(a), y = value(b); return x === y ? 0 : sign * (x - y); }));
      });
    });
  }

  const found = document.getElementById("samples-index");
  if (!found) return;
  const index = JSON.parse(found.textContent);
  const PAGE = 10, LONG = 4000;
  const NAMES = { a: "answered", r: "refused", d: "degenerate", u: "unscored or otherwise judged" };
  const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Surrogate}/gu;
  const visible = (text) => text.replace(HIDDEN, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const by = (id) => document.getElementById(id);
  const make = (tag, text, name) => { const one = document.createElement(tag); if (text !== undefined) one.textContent = text; if (name) one.className = name; return one; };
  const opened = new Map();
  const sample = (model, place) => {
    const id = `${model.id}-${Math.floor(place / index.chunk)}`;
    if (!opened.has(id)) {
      if (opened.size > 60) opened.clear();
      opened.set(id, JSON.parse(by(id).textContent));
    }
    return opened.get(id)[place % index.chunk];
  };
  let page = 0;

  const task = () => index.tasks[by("task").value];
  const chosen = () => task().models.filter((_, place) => by(`model-${place}`).checked);
  const matching = () => {
    const models = chosen(), kind = by("filter").value, flags = models.map((model) => model.flags);
    const length = Math.max(0, ...flags.map((one) => one.length));
    const fits = (place) => kind === "all" || (kind === "differ" ? new Set(flags.map((one) => one[place])).size > 1 : flags.some((one) => one[place] === kind));
    return Array.from({ length }, (_, place) => place).filter(fits);
  };
  const body = (text) => {
    const block = make("pre", undefined, "text");
    block.dir = "auto";
    const whole = visible(text);
    block.textContent = whole.slice(0, LONG);
    if (whole.length <= LONG) return [block];
    const more = make("button", `Show all ${whole.length.toLocaleString("en")} characters`);
    more.type = "button";
    more.addEventListener("click", () => { block.textContent = whole; more.remove(); });
    return [block, more];
  };
  const attempt = (model, place, one, number, of) => {
    const part = make("div", undefined, "answer");
    const which = of > 1 ? `, answer ${number + 1} of ${of}` : "";
    part.append(make("h4", visible(`${model.name}: ${NAMES[model.flags[place]]}${which}`)));
    const said = Object.entries(one.v).map(([judge, [positive, reason]]) => `${judge}: ${positive === null ? "unscored" : positive ? "positive" : "negative"}${reason ? ` (${reason})` : ""}`);
    if (one.d) said.unshift(`degenerate: ${one.d}`);
    part.append(...body(one.t), make("small", undefined, "said"));
    part.lastChild.textContent = visible(said.join("; "));
    return part;
  };
  const hide = (card, yes) => {
    card.classList.toggle("blurred", yes);
    for (const block of all(".text, .said", card)) block.setAttribute("aria-hidden", String(yes));
    for (const said of all(".said", card)) said.hidden = yes;
    card.querySelector("h3 button").textContent = yes ? "Show text" : "Hide text";
  };
  const draw = () => {
    const places = matching(), cards = by("cards"), models = chosen();
    page = Math.max(0, Math.min(page, Math.ceil(places.length / PAGE) - 1));
    const here = places.slice(page * PAGE, page * PAGE + PAGE);
    by("count").textContent = places.length ? `Prompts ${page * PAGE + 1} to ${page * PAGE + here.length} of ${places.length}` : "No prompt fits.";
    cards.replaceChildren(...here.map((place) => {
      const card = make("article", undefined, "card"), head = make("h3", `Prompt ${place + 1}`), show = make("button");
      show.type = "button";
      show.addEventListener("click", () => hide(card, !card.classList.contains("blurred")));
      head.append(show);
      card.append(head);
      const first = task().models.find((model) => place < model.flags.length);
      const { q, s, p } = sample(first, place);
      card.append(...body(q));
      if (s) { const sent = make("details"); sent.append(make("summary", "As it was sent"), ...body(s + (p ?? ""))); card.append(sent); }
      for (const model of models) if (place < model.flags.length) {
        const answers = sample(model, place).a;
        card.append(...answers.map((one, number) => attempt(model, place, one, number, answers.length)));
      }
      hide(card, true);
      return card;
    }));
    by("previous").disabled = page === 0;
    by("next").disabled = (page + 1) * PAGE >= places.length;
  };
  const again = () => { page = 0; draw(); };
  const pick = () => {
    by("models").replaceChildren(...task().models.map((model, place) => {
      const box = make("input"), line = make("label");
      Object.assign(box, { type: "checkbox", id: `model-${place}`, checked: place < 2 });
      box.addEventListener("change", again);
      line.append(box, ` ${visible(model.name)}`);
      return line;
    }));
    again();
  };
  by("task").append(...index.tasks.map((one, place) => new Option(visible(one.name), place)));
  const kinds = { all: "of any kind", differ: "answered differently by these models", a: "answered by one of them", r: "refused by one of them", d: "degenerate for one of them", u: "unscored for one of them" };
  by("filter").append(...Object.entries(kinds).map(([value, text]) => new Option(text, value)));
  by("task").addEventListener("change", pick);
  by("filter").addEventListener("change", again);
  by("previous").addEventListener("click", () => { page -= 1; draw(); });
  by("next").addEventListener("click", () => { page += 1; draw(); });
  by("reveal").addEventListener("click", () => { for (const card of all(".card")) hide(card, false); });
  by("filters").hidden = false;
  document.querySelector(".pager").hidden = false;
  pick();
})();
