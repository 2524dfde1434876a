// Lets plotly's figures follow the theme's light and dark: text, grids and the colours that mean
// "ink". Grounds are transparent already (lib/figures), so the page shows through. A trace may also say
// what else changes in the dark: meta {dark: {"marker.colorscale": …}}. And gives panels side by side
// room on a narrow screen, where the box around a figure scrolls.
(function () {
  "use strict";
  const INKS = ["#000", "#000000", "black"];
  const LOOKS = {
    light: { ink: "#222832", text: "#222832", grid: "#dfe3e8", line: "#aab1ba", ground: "#ffffff" },
    dark: { ink: "#e8ebef", text: "#ced6dd", grid: "#39424d", line: "#69737f", ground: "#1d232b" },
  };

  const theme = () => (document.documentElement.dataset.theme === "dark" ? "dark" : "light");

  // Changes of layout that dress `figure` in `look`.
  function layoutFor(figure, look) {
    const changes = {
      "font.color": look.text,
      "hoverlabel.bgcolor": look.ground,
      "hoverlabel.font.color": look.text,
      "modebar.bgcolor": "rgba(0,0,0,0)",
      "modebar.color": look.line,
      "modebar.activecolor": look.text,
    };
    for (const name of Object.keys(figure._fullLayout || {})) {
      if (!/^[xy]axis\d*$/.test(name)) continue;
      changes[name + ".gridcolor"] = look.grid;
      changes[name + ".zerolinecolor"] = look.line;
      changes[name + ".linecolor"] = look.line;
    }
    (figure.layout.sliders || []).forEach((_, i) => {
      changes["sliders[" + i + "].bgcolor"] = look.grid;
      changes["sliders[" + i + "].bordercolor"] = look.line;
      changes["sliders[" + i + "].tickcolor"] = look.line;
    });
    (figure.layout.updatemenus || []).forEach((_, i) => {
      changes["updatemenus[" + i + "].bgcolor"] = look.ground;
      changes["updatemenus[" + i + "].bordercolor"] = look.line;
    });
    return changes;
  }

  // Traces drawn in black are drawn in the theme's ink; which ones is remembered from the start,
  // because after the first change their colour no longer tells.
  function inkOf(figure) {
    const at = (trace, path) => path.split(".").reduce((v, key) => (v ? v[key] : undefined), trace);
    const found = {};
    for (const path of ["line.color", "marker.color", "fillcolor"]) {
      const traces = [];
      figure.data.forEach((trace, i) => {
        if (INKS.includes(at(trace, path))) traces.push(i);
      });
      if (traces.length) found[path] = traces;
    }
    return found;
  }

  // What traces have in the dark and in the light, by path, from their meta: read from the start, like
  // the ink, and before anything is changed.
  function ownDarkOf(figure) {
    const at = (trace, path) => path.split(".").reduce((v, key) => (v ? v[key] : undefined), trace);
    const found = {};
    figure.data.forEach((trace, i) => {
      for (const [path, dark] of Object.entries((trace.meta && trace.meta.dark) || {})) {
        found[path] = found[path] || { traces: [], dark: [], light: [] };
        found[path].traces.push(i);
        found[path].dark.push(dark);
        found[path].light.push(at(trace, path));
      }
    });
    return found;
  }

  // Columns of panels that lie side by side, by where their axes begin.
  function columnsOf(figure) {
    const starts = Object.entries(figure._fullLayout)
      .filter(([name]) => /^xaxis\d*$/.test(name))
      .map(([, axis]) => axis.domain[0].toFixed(2));
    return new Set(starts).size;
  }

  // rem: of a panel, in narrower ones numbers and titles run into each other; and of a desktop's column
  const PANEL = 19, COLUMN = 42;
  function widen(figure) {
    const columns = columnsOf(figure);
    if (figure.style.minWidth || columns < 2) return Promise.resolve();
    figure.style.minWidth = Math.min(columns * PANEL, COLUMN) + "rem";
    const wanted = figure.getBoundingClientRect().width;
    const drawn = figure._fullLayout.width;
    return wanted > drawn + 1 ? Plotly.Plots.resize(figure) : Promise.resolve();
  }

  function dress(figure) {
    const look = LOOKS[theme()];
    if (!figure.inkTraces) {
      figure.inkTraces = inkOf(figure);
      figure.ownDark = ownDarkOf(figure);
      // a slider puts the figure's own colours back
      if (figure.on) figure.on("plotly_animated", () => dress(figure));
    }
    let done = Promise.resolve();
    for (const [path, traces] of Object.entries(figure.inkTraces)) {
      done = done.then(() => Plotly.restyle(figure, { [path]: look.ink }, traces));
    }
    for (const [path, own] of Object.entries(figure.ownDark)) {
      if (theme() === "light" && !figure.dataset.dressed) break; // it is as it was made
      done = done.then(() => Plotly.restyle(figure, { [path]: own[theme()] }, own.traces));
    }
    return done.then(() => Plotly.relayout(figure, layoutFor(figure, look)))
      .then(() => { figure.dataset.dressed = theme(); });
  }

  function dressAll() {
    if (!window.Plotly) return;
    document.querySelectorAll(".js-plotly-plot").forEach((figure) => {
      if (figure._fullLayout) widen(figure).then(() => dress(figure));
    });
  }

  new MutationObserver(dressAll).observe(document.documentElement, {
    attributes: true, attributeFilter: ["data-theme"],
  });
  // figures are drawn by scripts in the page; those that end a little later are dressed on "load"
  document.addEventListener("DOMContentLoaded", dressAll);
  window.addEventListener("load", dressAll);
})();
