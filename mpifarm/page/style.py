"""The style sheet of the HTML page. Colours are those of Okabe and Ito, told apart by all kinds of colour vision."""

STYLE = """
:root { color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f7f9; --ink: #1c2126; --soft: #5d6670; --line: #dfe3e8;
  --blue: #0072b2; --red: #d55e00; --pink: #cc79a7; --grey: #b3bac2; --pale: #dde1e6; --amber: #e69f00;
  --sky: #56b4e9; --green: #009e73; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15181c; --panel: #1d2126; --ink: #e4e7ea; --soft: #98a2ad; --line: #32383f;
  --blue: #3d9fd8; --red: #e8772e; --pink: #d48fb6; --grey: #6b747e; --pale: #3a4149; --amber: #e0a526;
  --sky: #8accf0; --green: #25b48b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 40px 24px 64px; max-width: 1060px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font-size: 28px; font-weight: 600; letter-spacing: -0.01em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 600; margin: 44px 0 2px; }
h3 { font-size: 15px; font-weight: 600; margin: 24px 0 2px; }
p { margin: 4px 0 12px; max-width: 100ch; }
.soft, .note, .legend, figcaption { color: var(--soft); font-size: 13px; }
.soft { overflow-wrap: anywhere; }
.state { display: inline-block; margin-left: 12px; padding: 1px 10px; border: 1px solid; border-radius: 99px;
  font-size: 13px; font-weight: 500; vertical-align: 5px; color: var(--soft); }
.state.succeeded { color: var(--blue); } .state.failed { color: var(--red); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 1px; margin: 24px 0 0;
  padding: 0; background: var(--line); border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
.tiles div { background: var(--paper); padding: 12px 16px; }
.tiles dt { color: var(--soft); font-size: 13px; } .tiles dd { margin: 0; font-size: 22px; font-weight: 500; }
.tiles .failed dd { color: var(--red); }
figure { margin: 0; overflow-x: auto; } figure svg { display: block; width: 100%; min-width: 760px; height: auto; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 0 24px; }
.pair figure svg { min-width: 320px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0 0; padding: 0; list-style: none; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; background: var(--c); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; margin-top: 8px; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px; white-space: nowrap; }
th, td { padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:last-child, th:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; } .w { white-space: nowrap; }
.any { overflow-wrap: anywhere; min-width: 12em; }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
.share { display: flex; gap: 2px; height: 30px; margin: 12px 0 8px; }
.share i { display: block; background: var(--c); min-width: 1px; border-radius: 2px; }
td .share { height: 10px; margin: 6px 0; min-width: 120px; gap: 1px; } td .share i { border-radius: 1px; }
.bar { display: block; height: 10px; margin-top: 6px; min-width: 1px; border-radius: 1px; background: var(--c); }
.gauge { width: 26%; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--soft);
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); } .break { stroke: var(--soft); stroke-dasharray: 3 3; }
.limit { fill: none; stroke: var(--ink); stroke-width: 1; stroke-opacity: 0.6; }
svg .hover rect { fill: var(--ink); fill-opacity: 0; } svg .hover rect:hover { fill-opacity: 0.1; }
svg .bars rect { stroke: var(--paper); stroke-width: 0.4; }
svg rect, svg path { fill: var(--c); } svg path.limit { fill: none; }
svg rect:hover { opacity: 0.75; }
.succeeded, .task { --c: var(--blue); } .failed { --c: var(--red); } .cancelled, .waiting { --c: var(--amber); }
.lost { --c: var(--pink); } .other, .tail { --c: var(--grey); } .drain { --c: var(--pale); }
.launch { --c: var(--sky); } .start-up { --c: var(--green); }
.shade1, .shade2, .shade3, .shade4, .shade5 { --c: var(--blue); }
.shade1 { opacity: 0.16; } .shade2 { opacity: 0.34; } .shade3 { opacity: 0.54; } .shade4 { opacity: 0.76; }
.state.waiting, .tiles .waiting { --c: none; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure { break-inside: avoid; } }
"""
