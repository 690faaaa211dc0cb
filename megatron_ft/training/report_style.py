"""How the report looks, and what the pointer does on its curves: all of it is inside the page."""

CSS = """
:root { color-scheme: light dark; --back: #fff; --card: #f7f8fa; --text: #1c2430; --soft: #66707f; --line: #dfe3e8;
  --c0: #1f6fb2; --c1: #d1661f; --c2: #2a8f5b; --c3: #8d55b5; --c4: #c23b5a; --c5: #7d6a1f; --c6: #158f96;
  --c7: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181e; --card: #1c222a; --text: #e4e8ee; --soft: #98a2b0; --line: #323b47;
    --c0: #5aa7e6; --c1: #f0985a; --c2: #5fc592; --c3: #bd8fe0; --c4: #ee7d95; --c5: #cdb65a; --c6: #55c7cd;
    --c7: #a9b1bd; } }
body { margin: 0 auto; max-width: 1360px; padding: 20px 24px 60px; background: var(--back); color: var(--text);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 16px; margin: 30px 0 8px; }
.soft, small { color: var(--soft); } pre, td.mono { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: 10px 12px; border-radius: 6px; overflow-x: auto; margin: 6px 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 14px; }
figure { position: relative; margin: 0; padding: 10px 12px 6px; background: var(--card); border-radius: 8px; }
figcaption { font-weight: 600; } svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 11px; }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 3; }
.cursor { stroke: var(--soft); } .mark { stroke-width: 1; stroke: var(--soft); stroke-dasharray: 2 3; }
.mark.spike, .mark.skipped { stroke: var(--c4); }
.legend { margin: 2px 0 4px; display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px; }
.legend span::before { content: ""; display: inline-block; width: 14px; border-top: 3px solid; margin: 0 6px 3px 0; }
.legend b { font-weight: 600; } .legend span { color: var(--soft); } .legend .dashed::before { border-top-style: dashed; }
.legend .spike, .legend .skipped { color: var(--c4); }
.legend .resume::before, .legend .spike::before, .legend .skipped::before { border-top: 0; border-left: 1px dashed;
  width: 0; height: 11px; margin: 0 7px -1px 7px; }
.tip { position: absolute; z-index: 1; pointer-events: none; padding: 4px 9px; border-radius: 5px; font-size: 12.5px;
  white-space: nowrap; background: var(--back); border: 1px solid var(--line); box-shadow: 0 2px 8px #0003; }
table { border-collapse: collapse; margin: 4px 0; }
th, td { text-align: left; padding: 3px 14px 3px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } td.mono { overflow-wrap: anywhere; }
td.mono:first-child { white-space: nowrap; }
.scroll { overflow-x: auto; } tr.changed td:first-child { font-weight: 600; }
details summary { cursor: pointer; margin: 8px 0; }
""" + "".join(f"polyline.c{n} {{ stroke: var(--c{n}); }} circle.c{n} {{ fill: var(--c{n}); }} "
              f".legend .c{n}::before, .tip .c{n} {{ color: var(--c{n}); }}\n" for n in range(8))

SCRIPT = """
for (const figure of document.querySelectorAll("figure[data-points]")) {
  const series = JSON.parse(figure.dataset.points), svg = figure.querySelector("svg"), cursor = svg.querySelector(".cursor");
  const tip = figure.appendChild(document.createElement("div"));
  tip.className = "tip"; tip.hidden = true;
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
    const near = points => points.reduce((a, b) => Math.abs(b[1] - x) < Math.abs(a[1] - x) ? b : a);
    const at = near(series.flatMap(each => each.at));
    cursor.setAttribute("x1", at[1]); cursor.setAttribute("x2", at[1]); cursor.setAttribute("visibility", "visible");
    tip.replaceChildren(`step ${at[0]}`, ...series.map(each => {
      const point = near(each.at), line = document.createElement("div"), dot = document.createElement("span");
      dot.className = "c" + each.colour; dot.textContent = "\\u25cf ";
      line.append(dot, `${each.name} ${point[2]}` + (point[0] === at[0] ? "" : ` (step ${point[0]})`));
      return line;
    }));
    tip.hidden = false;
    const left = event.clientX - figure.getBoundingClientRect().left;
    const turns = left + tip.offsetWidth + 24 > figure.clientWidth;
    tip.style.left = Math.max(0, turns ? left - tip.offsetWidth - 14 : left + 14) + "px";
    tip.style.top = event.clientY - figure.getBoundingClientRect().top + 12 + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); });
}
"""
