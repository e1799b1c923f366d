"use strict";
(() => {
  const config = { responsive: true, displayModeBar: false };

  function draw(element) {
    if (element.dataset.drawn) return;
    element.dataset.drawn = "true";
    const data = document.getElementById("figure-" + element.dataset.figure);
    const figure = JSON.parse(data.textContent);
    const words = (figure.layout.annotations || []).map((note) => ({ ...note }));
    figure.layout.annotations = fitted(words, element.clientWidth);
    Plotly.newPlot(element, figure.data, figure.layout, config);
    let width = element.clientWidth;
    new ResizeObserver(() => {
      if (!element.clientWidth || element.clientWidth === width) return;
      width = element.clientWidth;
      Plotly.relayout(element, { annotations: fitted(words, width) });
    }).observe(element);
  }

  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "12px " + getComputedStyle(document.body).fontFamily;
  const plain = (text) => text.replaceAll("&lt;", "<").replaceAll("&amp;", "&");
  const coded = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const long = (text) => pen.measureText(text).width;

  // The words at the left end of a row, shortened so that those at its right end have their room.
  function fitted(notes, width) {
    const taken = new Map();
    for (const note of notes) {
      if (note.xanchor === "right") taken.set(note.y, long(plain(note.text)));
    }
    return notes.map((note) => {
      if (note.xanchor === "right") return note;
      const room = width - 48 - (taken.get(note.y) || 0);
      const whole = plain(note.text);
      let text = whole;
      while (text.length > 1 && long(text) > room) {
        text = text.slice(0, -2).replace(/[ ,·…]+$/, "") + "…";
      }
      return { ...note, text: coded(text) };
    });
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
