// Displays that are wider than the column scroll; this lets the keyboard reach those that do.
const reach = () => {
  for (const display of document.querySelectorAll("mjx-container[display]")) {
    if (display.scrollWidth > display.clientWidth) display.tabIndex = 0;
    else display.removeAttribute("tabindex");
  }
};

addEventListener("load", () => window.MathJax?.startup?.promise.then(reach));
addEventListener("resize", reach);
