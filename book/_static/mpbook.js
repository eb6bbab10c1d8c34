// Displays and tables that are wider than the column scroll; this lets the keyboard reach them.
const reach = () => {
  for (const display of document.querySelectorAll("mjx-container[display], .mp-table")) {
    if (display.scrollWidth > display.clientWidth) display.tabIndex = 0;
    else display.removeAttribute("tabindex");
  }
};

addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(reach));
addEventListener("resize", reach);

// A guess first: the options of the box become buttons, and any of them opens what the cells after
// it show. Without this script, and on paper, everything is open.
const locked = [];
const opened = (outputs) => {
  for (const output of outputs) output.classList.remove("mp-locked");
  dispatchEvent(new Event("resize"));
};

document.addEventListener("DOMContentLoaded", () => {
  for (const box of document.querySelectorAll(".mp-guess")) {
    const outputs = [], list = box.querySelector("ul");
    for (let next = box.nextElementSibling; next?.matches(".cell"); next = next.nextElementSibling) {
      outputs.push(...next.querySelectorAll(":scope > .cell_output"));
    }
    if (!outputs.length || !list) continue;
    const said = Object.assign(document.createElement("p"), { role: "status" });
    const buttons = [...list.children].map((option) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(...(option.querySelector("p") ?? option).childNodes);
      for (const link of button.querySelectorAll("a")) link.replaceWith(...link.childNodes);
      button.addEventListener("click", () => {
        for (const one of buttons) one.setAttribute("aria-pressed", one === button);
        opened(outputs);
        said.textContent = "That is your guess. The answer is below.";
      });
      return button;
    });
    said.textContent = "The answer opens below when you have chosen.";
    const choices = Object.assign(document.createElement("div"), { className: "mp-choices" });
    choices.append(...buttons);
    list.replaceWith(choices, said);
    for (const output of outputs) output.classList.add("mp-locked");
    locked.push(...outputs);
  }
  if (location.hash && locked.some((output) => output.querySelector(location.hash))) opened(locked);
});
addEventListener("beforeprint", () => opened(locked));

// Excerpts on the page of a search: the text of a page without its contents, formulas readable.
const SIGNS = {
  linf: "ℓ∞", ltwo: "ℓ2", lone: "ℓ1", lp: "ℓp", ell: "ℓ", infty: "∞", eps: "ε", varepsilon: "ε",
  alpha: "α", beta: "β", delta: "δ", eta: "η", kappa: "κ", lambda: "λ", pi: "π", sigma: "σ",
  tau: "τ", varphi: "φ", phi: "φ", Phi: "Φ", Delta: "Δ", Pi: "Π", sum: "Σ", sqrt: "√", le: "≤",
  ge: "≥", ne: "≠", lt: "<", approx: "≈", in: "∈", to: "→", mapsto: "↦", cdot: "·", times: "×",
  cup: "∪", cap: "∩", subset: "⊂", dots: "…", langle: "⟨", rangle: "⟩", lVert: "‖", rVert: "‖",
  lvert: "|", rvert: "|",
};
const FORMS = "left right operatorname mathcal mathbb mathrm mathbf text quad qquad big Big";

const readable = (tex) =>
  tex
    .replace(/\\(?:begin|end)\{[^}]*\}/g, " ")
    .replace(/\\frac\{([^{}]*)\}\{([^{}]*)\}/g, "$1/$2")
    .replace(/\\([A-Za-z]+)/g, (_, name) =>
      FORMS.split(" ").includes(name) ? "" : SIGNS[name] ?? name)
    .replace(/\\[()[\]\\,;:! ]|[{}&*]/g, "")
    .replace(/ℓ_/g, "ℓ");

document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search === "undefined") return;
  const { htmlToText } = Search;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const article = page.querySelector(".bd-article");
    if (article) {
      const beside = article.querySelectorAll(".mp-provenance, .mp-cite, .mp-level");
      for (const part of beside) part.remove();
      for (const formula of article.querySelectorAll(".math")) {
        formula.textContent = readable(formula.textContent);
      }
      page.querySelector("[role=main]").replaceChildren(article);
    }
    return htmlToText(page.documentElement.outerHTML, anchor);
  };
});
