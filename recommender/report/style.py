"""How the report looks: on a screen by day and by night, and on paper.

Plots are drawn for the day; their axes take the page's colours from here, so that night and
paper need no script.
"""

STYLE = """
:root{color-scheme:light dark;--ink:#1b1e23;--soft:#5b626c;--paper:#fff;--card:#f5f6f8;
--line:#d5d8dd;--grid:#e4e6ea;--mark:#e9f0fd;--accent:#2f5fc4}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#a3aab4;--paper:#16181c;
--card:#1f2228;--line:#3b4048;--grid:#2d3138;--mark:#1f2c45;--accent:#8fb0f5}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);
background:var(--paper);max-width:1120px;margin:2rem auto 4rem;padding:0 1.25rem;
overflow-wrap:anywhere}
h1{font-size:1.75rem;line-height:1.25;margin:0 0 .3rem}
h2{font-size:1.2rem;margin:2.6rem 0 .4rem;padding-top:.9rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.3rem 0 0}
p{margin:.35rem 0;max-width:78ch}
ul,ol{margin:.35rem 0;padding-left:1.3rem;max-width:88ch}
.soft,.hint,figcaption{color:var(--soft)}.hint{font-size:.9rem}
.kicker{color:var(--soft);margin:0 0 .2rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(136px,1fr));gap:.7rem;
margin:1.1rem 0}
.tile{background:var(--card);border-radius:8px;padding:.7rem .85rem}
.tile b{display:block;font-size:1.45rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{display:block;font-size:.82rem;color:var(--soft);line-height:1.35}
code{font:.88rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.flags{display:block;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.6rem .85rem;user-select:all;-webkit-user-select:all}
.wide{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.28rem 0 .28rem 1.1rem;text-align:right;vertical-align:top;font-weight:400;
border-bottom:1px solid var(--grid);overflow-wrap:normal}
.word{text-align:left;overflow-wrap:anywhere;min-width:12ch}th.word{min-width:15ch}th:first-child{padding-left:.5rem}
th:last-child,td:last-child{padding-right:.5rem}
thead th{color:var(--soft);font-size:.84rem;vertical-align:bottom;border-color:var(--line)}
td.word[colspan]{color:var(--soft)}
tr.chosen{background:var(--mark)}tr.chosen th{font-weight:600}
figure{margin:.2rem 0 0}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:0 1.2rem}
.row>*,figure{min-width:0}
.row figure{display:flex;flex-direction:column}.row .hint{flex:1}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(340px,1fr));gap:0 2.5rem}
.pair table{width:100%}.pair>*{min-width:0}.pair td{overflow-wrap:anywhere}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--accent)}
footer{margin-top:3rem;padding-top:.8rem;border-top:1px solid var(--line);font-size:.88rem}
.main-svg{background:transparent!important}
.xtick text,.ytick text,.xtitle,.ytitle,.legendtext,.annotation-text{fill:var(--ink)!important}
.gridlayer path{stroke:var(--grid)!important}
.zerolinelayer path,.xlines-above,.ylines-above{stroke:var(--line)!important}
@page{margin:14mm}
@media print{body{margin:0;padding:0;max-width:none;font-size:10.5pt}
h2{break-after:avoid}h3,.hint{break-after:avoid}figure,.tile,tr,p,li{break-inside:avoid}
.tile{border:1px solid var(--line)}.wide{overflow:visible}
.js-plotly-plot{zoom:.62}.row{grid-template-columns:none;grid-auto-flow:column;
grid-auto-columns:minmax(0,1fr)}
details::details-content{content-visibility:visible;block-size:auto}
th,td{padding-left:.7rem}table{font-size:.85em}}
"""
