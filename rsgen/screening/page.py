"""The text of the filter's page: style and parts, no script, nothing from elsewhere."""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>rsgen filter</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; --bar: #3f78bd; --real: #c07a1c; --line: #8886; --soft: #8881;
  --quiet: color-mix(in srgb, currentColor 70%, transparent); --bad: #d2452e; --good: #2f9e5c }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 76rem;
  padding: 1.5rem 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; padding-top: .8rem;
  border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 0 0 .2rem } p { margin: .4rem 0 }
.quiet, small { color: var(--quiet); font-size: .87rem }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .6rem }
.card { background: var(--soft); padding: .55rem .75rem; border-radius: .4rem; font-size: .9rem }
.card b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums }
.rules { display: grid; grid-template-columns: repeat(auto-fill, minmax(23.5rem, 1fr)); gap: 1rem;
  align-items: start }
.rule { border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .8rem; min-width: 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
svg { max-width: 100%; height: auto; display: block; margin: .4rem 0 0 }
svg rect { fill: var(--bar) } svg polyline { fill: none; stroke: var(--real); stroke-width: 2 }
svg .limit { stroke: var(--bad); stroke-width: 2; stroke-dasharray: 4 3 }
svg .axis { stroke: var(--line) }
.ends { display: flex; justify-content: space-between; max-width: 360px }
.key::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  background: var(--bar); border-radius: .15rem; margin: 0 .35rem 0 .9rem }
.key:first-child::before { margin-left: 0 }
.key.real::before { background: var(--real) } .key.limit::before { background: var(--bad) }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr));
  gap: .8rem }
figure { margin: 0; background: var(--soft); border-radius: .4rem; overflow: hidden }
img { display: block; width: 100%; height: auto }
figcaption { padding: .35rem .55rem .5rem; font-size: .82rem; overflow-wrap: anywhere }
figcaption b.drop, figcaption b.unknown { color: var(--bad) }
figcaption b.keep { color: var(--good) }
figcaption span { display: block; color: var(--quiet) }
@media print { figure, .rule { break-inside: avoid } }
</style></head><body>
<h1>What the filter kept, and why</h1>
<p class="quiet">{{ total }} images. Verdicts and reasons of each: rsgen why OUT ID.</p>
<div class="cards">
<div class="card"><b>{{ "%.1f" | format(100 * kept) }} %</b>kept</div>
{% for name, value in report.counts.items() %}
<div class="card"><b>{{ value }}</b>{{ {"keep": "images kept", "drop": "dropped",
"unknown": "unknown: a rule could not be applied"}[name] }}</div>{% endfor %}
</div>
{% if report.label_precision %}
<h2>Label precision</h2>
<ul>{% for name, line in report.label_precision.items() %}<li><b>{{ name }}</b>: {{ line }}</li>
{% endfor %}</ul>{% endif %}
<h2>Rules</h2>
<p class="quiet"><span class="key">scores of this set</span><span class="key real">of real
images</span><span class="key limit">bound</span></p>
<div class="rules">
{% for rule in rules %}
<div class="rule"><h3>{{ rule.name }}</h3>
<small>{{ rule.bound_text or "no bound" }}{% if rule.policy != "reject" %}, failing objects:
{{ rule.policy }}{% endif %}</small>
{% if rule.scored %}
<p>{{ rule.passed }} of {{ rule.scored }} {{ "objects" if rule.by_class else "images" }} pass
({{ "%.1f" | format(100 * rule.passed / rule.scored) }} %); {{ rule.rejected_images }} images
rejected{% if rule.failed_objects %}, {{ rule.failed_objects }} objects marked{% endif %}.</p>
<svg role="img" viewBox="0 0 {{ rule.bars.width }} {{ rule.bars.height }}"
 width="{{ rule.bars.width }}" height="{{ rule.bars.height }}"><title>scores of
{{ rule.name }}</title>
{% for x, y, h in rule.bars.bars %}<rect x="{{ x }}" y="{{ y }}" width="{{ rule.bars.step }}"
 height="{{ h }}"/>{% endfor %}
{% if rule.bars.real %}<polyline points="{{ rule.bars.real }}"/>{% endif %}
{% for x in rule.bars.limits %}<line class="limit" x1="{{ x }}" x2="{{ x }}" y1="0"
 y2="{{ rule.bars.height }}"/>{% endfor %}
<line class="axis" x1="0" x2="{{ rule.bars.width }}" y1="{{ rule.bars.height }}"
 y2="{{ rule.bars.height }}"/></svg>
<div class="ends"><small>{{ rule.bars.ends[0] }}</small><small>{{ rule.bars.ends[1] }}</small></div>
{% if rule.by_class %}<div class="scroll"><table><tr><th>class</th><th>scored</th><th>pass</th>
<th>%</th></tr>{% for name, row in rule.by_class.items() %}<tr><td>{{ name }}</td>
<td>{{ row.scored }}</td><td>{{ row.passed }}</td>
<td>{{ "%.1f" | format(100 * row.passed / row.scored) }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% else %}<p>It applied to nothing.</p>{% endif %}
</div>
{% endfor %}
</div>
{% if report.reasons %}
<h2>Reasons</h2>
<p class="quiet">Of images that were not kept; one image may have several.</p>
<div class="scroll"><table><tr><th>rule</th><th>images</th></tr>
{% for name, count in report.reasons.items() %}<tr><td>{{ name }}</td><td>{{ count }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if report.classes %}
<h2>Classes</h2>
<p class="quiet">Objects; sound ones failed no rule.</p>
<div class="scroll"><table><tr><th>class</th><th>objects</th><th>in kept images</th>
<th>kept and sound</th><th>%</th></tr>
{% for name, row in report.classes.items() %}<tr><td>{{ name }}</td><td>{{ row["objects"] }}</td>
<td>{{ row["in kept images"] }}</td><td>{{ row["kept and sound"] }}</td>
<td>{{ "%.1f" | format(100 * row["kept and sound"] / row["objects"]) }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% for title, text, pictures in groups %}{% if pictures %}
<h2>{{ title }}</h2><p class="quiet">{{ text }}</p>
<div class="pictures">
{% for p in pictures %}<figure><img alt="{{ p.id }}" src="data:image/jpeg;base64,{{ p.data }}">
<figcaption><b class="{{ p.verdict }}">{{ p.verdict }}</b> {{ p.id }}
{% for reason in p.reasons %}<span>{{ reason }}</span>{% endfor %}</figcaption></figure>
{% endfor %}</div>{% endif %}{% endfor %}
</body></html>
"""
