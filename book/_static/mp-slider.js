// Connects each slider of mpkit.sliders: a range control, a plotly drawing, the frames as JSON.
document.addEventListener("DOMContentLoaded", () => {
  for (const slider of document.querySelectorAll(".mp-slider")) {
    const plot = slider.querySelector(".mp-slider-plot");
    const control = slider.querySelector("input");
    const output = slider.querySelector("output");
    const { frames, labels, layout } = JSON.parse(slider.querySelector("script").textContent);

    const draw = () => {
      const ink = getComputedStyle(slider).color;
      const { l, r, t, b } = layout.margin;
      const panels = layout.meta?.square;  // images: as many square panels, side by side
      const side = panels ? (plot.clientWidth - l - r) / panels : Infinity;
      const height = Math.min(layout.height, side + t + b);
      const drawing = { ...layout, height, font: { ...layout.font, color: ink } };
      const options = { responsive: true, displayModeBar: false };
      const label = labels[control.value];
      output.textContent = label;
      control.setAttribute("aria-valuetext", label);
      return Plotly.react(plot, frames[control.value], drawing, options);
    };

    control.addEventListener("input", draw);
    addEventListener("resize", draw);
    new MutationObserver(draw).observe(document.documentElement, {
      attributeFilter: ["data-theme"],
    });
    draw();
  }
});
