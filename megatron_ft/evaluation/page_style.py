"""How a run's page looks, and what its script adds: a filter over the failures. Both are inside the page."""

CSS = """
:root { color-scheme: light dark; --back: #fff; --card: #f7f8fa; --text: #1c2430; --soft: #66707f; --line: #dfe3e8;
  --f0: #1f6fb2; --f1: #d1661f; --f2: #2a8f5b; --f3: #8d55b5; --f4: #c23b5a; --f5: #158f96;
  --passed: #2a8f5b; --failed: #c23b5a; --timeout: #d1961f; --compile-error: #8d55b5; --refused: #6b7280;
  --added: #dff3e4; --removed: #fbe3e6; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181e; --card: #1c222a; --text: #e4e8ee; --soft: #98a2b0; --line: #323b47;
    --f0: #5aa7e6; --f1: #f0985a; --f2: #5fc592; --f3: #bd8fe0; --f4: #ee7d95; --f5: #55c7cd;
    --passed: #4fae7d; --failed: #d9607a; --timeout: #d9a848; --compile-error: #a87bce; --refused: #8a94a3;
    --added: #1d3a29; --removed: #452329; } }
body { margin: 0 auto; max-width: 1360px; padding: 20px 24px 60px; background: var(--back); color: var(--text);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 2px; overflow-wrap: anywhere; } h2 { font-size: 16px; margin: 30px 0 8px; }
h3 { font-size: 13px; margin: 12px 0 4px; } .soft, small { color: var(--soft); }
table { border-collapse: collapse; margin: 4px 0; } .scroll { overflow-x: auto; }
th, td { text-align: left; padding: 3px 14px 3px 0; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td small { white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 14px;
  align-items: start; }
figure { margin: 0; padding: 10px 12px 6px; background: var(--card); border-radius: 8px; }
figcaption { font-weight: 600; } figure > svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); } .tick { fill: var(--soft); font-size: 11px; } .label { fill: var(--text); font-size: 12px; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .band { opacity: .14; }
.legend { margin: 4px 0; display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 12.5px; color: var(--soft); }
.key { width: 10px; height: 10px; margin-right: 6px; }
pre, .diff { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: 8px 10px; border-radius: 6px; margin: 4px 0; max-height: 320px; overflow: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details { border-bottom: 1px solid var(--line); } summary { cursor: pointer; padding: 5px 0; }
details > div { padding: 0 0 14px 16px; }
.verdict { display: inline-block; min-width: 118px; } .verdict::before { content: "\\25cf\\a0"; }
.reason { overflow-wrap: anywhere; margin-left: 10px; }
.line { border-bottom: 1px solid var(--line); padding: 5px 0 5px 16px; }
.diff { width: 100%; table-layout: fixed; background: var(--card); } .diff th { width: 50%; padding: 4px 8px; }
.diff td { padding: 0 8px; border: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.diff td + td, .diff th + th { border-left: 1px solid var(--line); }
.added { background: var(--added); } .removed { background: var(--removed); }
form { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; margin: 8px 0; } form[hidden], [hidden] { display: none; }
select, input { font: inherit; padding: 3px 6px; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 5px; } input { min-width: 260px; }
""" + "".join(f".f{n} {{ fill: var(--f{n}); }} .s{n} {{ stroke: var(--f{n}); stroke-width: 1.8; }}\n" for n in range(6)
) + "".join(
    f".v-{kind} {{ fill: var(--{kind}); }} .verdict.v-{kind}::before {{ color: var(--{kind}); }}\n"
    for kind in ("passed", "failed", "timeout", "compile-error", "refused"))

SCRIPT = """
const form = document.querySelector("#filter"), rows = [...document.querySelectorAll("[data-language]")];
if (form) {
  const shown = form.querySelector("output"), words = rows.map(row => row.querySelector(".head").textContent.toLowerCase());
  const filter = () => {
    const wanted = new FormData(form), text = wanted.get("text").toLowerCase();
    rows.forEach((row, at) => {
      row.hidden = ["language", "scenario", "status"].some(name => wanted.get(name) && wanted.get(name) !== row.dataset[name])
        || !words[at].includes(text);
    });
    shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length}`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", event => event.preventDefault());
  filter();
}
"""
