"use strict";
(() => {
  const config = { responsive: true, displayModeBar: false };

  function draw(element) {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "true";
    const data = document.getElementById("figure-" + element.dataset.figure);
    const figure = JSON.parse(data.textContent);
    Plotly.newPlot(element, figure.data, figure.layout, config);
  }

  function drawShown() {
    for (const element of document.querySelectorAll(".chart")) {
      const folded = element.closest("details");
      if (!folded || folded.open) draw(element);
    }
  }

  function zoom(button) {
    const chart = document.querySelector(`.chart[data-figure="${button.dataset.chart}"]`);
    const range = [Number(button.dataset.start), Number(button.dataset.end)];
    Plotly.relayout(chart, { "xaxis.range": range });
    for (const other of button.parentElement.children) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  }

  function light(stage, on) {
    for (const element of document.querySelectorAll(`[data-stage="${stage}"]`)) {
      element.classList.toggle("lit", on);
    }
  }

  for (const folded of document.querySelectorAll("details")) {
    folded.addEventListener("toggle", drawShown);
  }
  for (const button of document.querySelectorAll("button[data-chart]")) {
    button.addEventListener("click", () => zoom(button));
  }
  for (const element of document.querySelectorAll("[data-stage]")) {
    element.addEventListener("mouseenter", () => light(element.dataset.stage, true));
    element.addEventListener("mouseleave", () => light(element.dataset.stage, false));
  }
  drawShown();
})();
