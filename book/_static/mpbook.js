// Displays and tables that are wider than the column scroll; this lets the keyboard reach them.
const reach = () => {
  for (const display of document.querySelectorAll("mjx-container[display], .mp-table")) {
    if (display.scrollWidth > display.clientWidth) display.tabIndex = 0;
    else display.removeAttribute("tabindex");
  }
};

addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(reach));
addEventListener("resize", reach);
