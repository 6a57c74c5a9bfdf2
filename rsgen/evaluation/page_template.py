"""The text of the evaluation's page: style, parts, no script, nothing from elsewhere."""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rsgen evaluate</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --bar: #3f78bd; --other: #c07a1c; --line: #8886; --soft: #8881;
  --quiet: color-mix(in srgb, currentColor 70%, transparent) }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 74rem;
  padding: 1.5rem 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem;
  padding-top: .8rem; border-top: 1px solid var(--line) }
h3 { font-size: .95rem; margin: 1.1rem 0 .3rem; font-weight: 600 }
a { color: inherit } p { margin: .4rem 0 } .quiet, small { color: var(--quiet); font-size: .87rem }
nav { margin: .6rem 0 1rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .6rem }
.card { background: var(--soft); padding: .55rem .75rem; border-radius: .4rem; font-size: .9rem }
.card b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums }
.card .was { color: var(--other) }
.bar { height: .3rem; background: var(--soft); margin-top: .3rem; border-radius: .2rem }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: .2rem }
.bar.other i { background: var(--other) }
.pair { display: flex; flex-wrap: wrap; gap: 0 2.2rem; align-items: flex-start }
.pair > div { min-width: 0; max-width: 100% }
.scroll { overflow-x: auto } .theirs { --bar: var(--other) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top } th { font-weight: 600; vertical-align: bottom; max-width: 9rem }
th:first-child, td:first-child, .words { text-align: left }
ul { margin: .5rem 0; padding-left: 1.2rem } li { margin: .2rem 0 }
.key::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  background: var(--bar); border-radius: .15rem; margin-right: .35rem }
.key.other::before { background: var(--other) } .key + .key { margin-left: 1rem }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif }
svg text { fill: currentColor } svg .axis { stroke: var(--line) }
svg .mark { stroke: var(--bar); fill: var(--bar) } svg .base { stroke: var(--other) }
svg .curve { stroke: var(--bar); fill: none; stroke-width: 2 }
img { max-width: 100%; height: auto; border-radius: .3rem }
summary { cursor: pointer; margin: .8rem 0 .3rem; font-weight: 600; font-size: .95rem }
@media print { nav { display: none } details { break-inside: avoid } }
</style></head><body>
<h1>How good is the generated set?</h1>
<p>{% for name, value in counts.items() %}{{ value }} {{ name }}{{ ", " if not loop.last }}
{%- endfor %}.{% if other %}</p>
<p><span class="key">this set</span><span class="key other">the set it is compared with:
{% for name, value in other_counts.items() %}{{ value }} {{ name }}{{ ", " if not loop.last }}
{%- endfor %}</span>{% endif %}</p>
<nav>{% for cell in cells %}<a href="#{{ cell.name }}">{{ cell.name }}</a>{% endfor %}</nav>
{% macro card(f) %}
<div class="card"><b>{{ f.value }}</b>{{ f.name }}
{%- if f.share is not none %}<div class="bar"><i style="width:{{ f.share }}%"></i></div>{% endif %}
{% if other %}<div><span class="was">{{ f.other }}</span>
{%- if f.change %} <small>({{ f.change }})</small>{% endif %}</div>
{%- if f.other_share is not none %}<div class="bar other"><i style="width:{{ f.other_share }}%">
</i></div>{% endif %}{% endif %}</div>
{% endmacro %}
{% macro table(t) %}
<div class="scroll"><table><tr><th></th>{% for c in t.columns %}<th>{{ c }}</th>{% endfor %}</tr>
{% for row in t.rows %}<tr><td>{{ row.name }}</td>
{% for v in row.cells %}<td{{ ' class=words' if v.words }}>{{ v.text }}{% if v.share is not none %}
<div class="bar"><i style="width:{{ v.share }}%"></i></div>{% endif %}
</td>{% endfor %}</tr>{% endfor %}</table></div>
{% endmacro %}
{% for cell in cells %}
<h2 id="{{ cell.name }}">{{ cell.title }}</h2>
{% if cell.notes %}<ul>{% for note in cell.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}
<div class="grid">{% for f in cell.figures %}{{ card(f) }}{% endfor %}</div>
{% if cell.counts %}<p class="quiet">Measured on {% for name, value in cell.counts.items() %}
{{ value }} {{ name }}{{ ", " if not loop.last }}{% endfor %}.</p>{% endif %}
{% for t in cell.tables %}
<h3>{{ t.name }}</h3>
<div class="pair"><div>{% if t.other %}<p class="quiet key">this set</p>{% endif %}
{{ t.chart | safe }}{{ table(t) }}</div>
{% if t.other %}<div class="theirs"><p class="quiet key other">the set it is compared with</p>
{{ t.other.chart | safe }}{{ table(t.other) }}</div>{% endif %}</div>
{% endfor %}
{% for picture in cell.pictures %}
<details{{ " open" if picture.open }}><summary>{{ picture.title }}</summary>
<img alt="{{ picture.title }}, this set" src="data:image/png;base64,{{ picture.data }}">
{% if picture.other %}<p class="key other">the set it is compared with</p>
<img alt="{{ picture.title }}, the other set" src="data:image/png;base64,{{ picture.other }}">
{% endif %}</details>{% endfor %}
{% endfor %}
</body></html>
"""
