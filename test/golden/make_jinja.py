"""Writes jinja.json: chat templates' constructs as Python's jinja2 renders them, in the environment that transformers sets up.

Run: python test/golden/make_jinja.py (jinja2 3.1). Each case has a template, its variables as JSON, and what came of it: a text, or an error.
"""

import json
from pathlib import Path

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


class Generation(jinja2.ext.Extension):
    """The tag around what the assistant says."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception

VARIABLES = {
    "text": "  Hello, <World> & 'you' \"too\"\n",
    "word": "straße",
    "emoji": "a👩‍👩‍👧é\u2028z",
    "n": 7,
    "f": 2.5,
    "one": 1.0,
    "big": 12345678901234567890,
    "small": 1.5e-7,
    "huge": 1e22,
    "yes": True,
    "no": False,
    "nothing": None,
    "empty": "",
    "list": [3, 1, 2],
    "names": ["bob", "Alice", "carol"],
    "mixed": [1, 1.0, "1", True, None, [], {}],
    "d": {"b": 1, "a": 2.0, "items": "own", "10": "x", "9": "y"},
    "people": [
        {"name": "Ann", "age": 30, "city": "Rome"},
        {"name": "bob", "age": 25, "city": "Oslo"},
        {"name": "Cy", "age": 30, "city": "rome"},
    ],
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi\nthere"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1.0, "y": [True, None], "é": "ü"}}},
        ]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "assistant", "content": "<think>hm</think>\n\nIt is 42."},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": "Does\nit", "parameters": {
        "type": "object", "properties": {"x": {"type": "number", "enum": [1, 2.5]}, "y": {"type": ["string", "null"]}}, "required": ["x"]}}}],
    "add_generation_prompt": True,
    "bos_token": "<s>",
    "eos_token": "</s>",
}

OUTPUTS = """
text | text|trim | text|e | text|upper | text|lower | text|title | text|capitalize | text|length | text|wordcount
word.upper() | word.title() | word.capitalize() | word|capitalize | word.swapcase() | emoji|length | emoji[1] | emoji[-1] | emoji[1:3]
emoji[::-1] | emoji|reverse | emoji|list | emoji.upper() | [emoji] | {'k': emoji} | [text] | ["it's"] | ['say "it\\'s"'] | ['\\x00\\t\\\\']
n / 2 | n // 2 | n % 3 | -n // 2 | -n % 3 | n ** 2 | 2 ** -1 | 2 ** 100 | n * 1.0 | f // 1 | f % 1 | -f % 2 | n + f | 7 / 7 | 1e16 | 1e15 | 0.1 + 0.2
one | big | big + 1 | small | huge | 1.0 | 100.0 | 1e5 | 1e-5 | 0.0001 | 123456789.123 | -0.0 | 3.0 * 2 | yes + 1 | yes * 3 | not nothing
list | names | mixed | d | (1,) | () | (1, 'a') | [] | {} | {1: 2, 'a': none} | [none, true] | nothing | yes | no | missing | missing|default('x')
mixed|tojson | d|tojson | d|tojson(indent=2) | text|tojson | emoji|tojson | emoji|tojson(ensure_ascii=true) | d|tojson(sort_keys=true)
d|tojson(separators=(',', ':')) | [1.0, 1e22, 1e-7, 12345678901234567890]|tojson | []|tojson(indent=2) | {'a': []}|tojson(indent=4) | tools|tojson
tools[0]|tojson(indent=4) | '/'|tojson | '\\x7f\\x1f'|tojson | true|tojson | none|tojson | {1: 1, none: 2, true: 3}|tojson
d['items'] | d.items()|list | d.get('b') | d.get('zz') | d.get('zz', 5) | d.keys()|list | d.values()|list | d.b | d['b'] | d.missing | d|length
d|dictsort | d|items|list | 'b' in d | 'zz' not in d | 2 in list | 'ell' in text | '' in text | 1 in [1.0] | '1' in [1]
list|sort | list|sort(reverse=true) | names|sort | names|sort(case_sensitive=true) | people|sort(attribute='age')|map(attribute='name')|list
people|sort(attribute='age,name')|map(attribute='name')|join(',') | people|map(attribute='city')|unique|list | people|groupby('age')
people|groupby('city')|map('first')|list | people|selectattr('age', 'gt', 26)|map(attribute='name')|list | people|rejectattr('age', 'eq', 30)|list|length
people|selectattr('name')|list|length | list|select('odd')|list | list|reject('odd')|list | list|sum | people|sum(attribute='age') | list|max | names|min
people|max(attribute='age') | list|first | list|last | []|first | list|join | list|join('-') | people|join(', ', attribute='name') | list|reverse|list
names|map('upper')|list | names|map('length')|list | list|batch(2)|list | list|batch(2, 0)|list | range(7)|slice(3)|list | list + [4] | [1] * 3
list[0] | list[-1] | list[5] | list[1:] | list[:-1] | list[::2] | list[::-1] | (1, 2, 3)[1:] | 'abc'[1:] | 'abc'[-2:] | 'abc'[5:] | 'abc'[10] | list.0
list.index(1) | list.count(3) | range(3)|list | range(1, 10, 3)|list | range(3, 0, -1)|list | range(5)|length
'a,b,,c'.split(',') | ' a  b '.split() | 'a b c'.split(' ', 1) | 'a b c d'.split(none, 2) | 'a-b-c'.rsplit('-', 1) | 'a\\nb\\r\\nc\\n'.splitlines()
'a\\nb'.splitlines(true) | 'abc'.startswith('ab') | 'abc'.startswith(('x', 'a')) | 'abc'.endswith('bc') | 'abc'.find('c') | 'abc'.find('z')
'xxabcxx'.strip('x') | '\\n\\nabc\\n'.lstrip('\\n') | 'abc\\n \\n'.rstrip('\\n') | '  a '.strip() | 'xyabc'.lstrip('xy') | 'abcabc'.replace('b', 'X', 1)
'abc'.replace('', '-') | 'a'.center(5, '*') | 'a'.ljust(3) ~ '|' | 'a'.rjust(3) | '42'.zfill(5) | '-42'.zfill(5) | 'abc'.partition('b') | 'abc'.rpartition('z')
','.join(names) | 'abc'.count('b') | 'prefix-x'.removeprefix('prefix-') | 'x.py'.removesuffix('.py') | 'abc'.isalpha() | '12'.isdigit() | 'a1'.isalnum()
' '.isspace() | 'Abc'.istitle() | 'ABC'.isupper() | ''.islower() | 'a\\tb'.expandtabs(4) | 'ǆ'.upper() | 'İ'.lower()|length
'{} and {}'.format(1, 'b') | '{1} {0}'.format('a', 'b') | '{x}'.format(x=3) | '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c') | '{:05d}'.format(42) | '{:.2f}'.format(3.14159)
'{:,}'.format(1234567) | '{:x} {:#x} {:b}'.format(255, 255, 5) | '{:+d}'.format(5) | '{:e}'.format(12345.678) | '{:g}'.format(0.00001234) | '{:g}'.format(1234567.0) | '{:%}'.format(0.25)
'{0[name]}'.format(people[0]) | '{{}}'.format() | '{!r}'.format('a') | '{:*^9}'.format('mid') | '{:,.2f}'.format(1234.5) | '{:.3}'.format('abcdef') | '{}'.format(none)
'%s is %d years'|format('Ann', 30) | '%s' % 'x' | '%s %s' % ('a', 1) | '%5.1f|' % 3.14159 | '%-5s|' % 'ab' | '%05d' % 42 | '%x' % 255 | '%r' % 'a' | '%%' % () | '%(name)s' % people[0]
'%d' % 3.9 | '%s' % 1.0 | '%s' % [1] | '%e' % 0.001 | '%g' % 100000 | '%g' % 1e10 | '%+d' % 3 | '%.3s' % 'abcdef' | '%c' % 'x'
5 == 5.0 | '5' == 5 | true == 1 | none == false | [1, 2] == [1.0, 2] | {'a': 1} == {'a': 1.0} | 'a' < 'b' | 'B' < 'a' | [1, 2] < [1, 3] | 1 < 2 < 3 | 1 < 3 < 2 | (1, 2) == (1, 2)
1 if yes else 2 | 'x' if no | 'a' if no else 'b' if no else 'c' | yes and 'x' | no or 'y' | empty or 'z' | not empty | not (1 and 0) | [] or {} or 'last'
n is odd | n is even | n is divisibleby 7 | n is number | f is float | n is integer | yes is boolean | yes is integer | 'a' is string | d is mapping | list is sequence | list is iterable
5 is iterable | nothing is none | missing is defined | missing is undefined | missing is not defined | d.b is defined | 'a' is in('abc') | 1 is in list | n is eq(7) | n is gt 6 | n is lt(3) | 'a' is lower | 'A' is upper
none is sameas none | true is true | 1 is true | range is callable | text is callable | 'x' is string and 1 is number | d is not string | missing is none
n|string ~ '!' | '12'|int + 1 | '12.7'|int | 'x'|int | 'x'|int(5) | ' 42 '|int | '0x1f'|int(base=16) | '1_000'|int | 3.99|int | '3.5'|float | 'x'|float | 'x'|float(1.5) | true|int | '1e3'|int
2.5|round | 3.5|round | 2.675|round(2) | 42.55|round(1, 'floor') | 42.51|round(1, 'ceil') | 7|round | 1234.5|round(-2) | -7|abs | -2.5|abs | 0.125|round(2)
text|replace('o', '0') | 'aaa'|replace('a', 'b', 2) | 'x y'|replace(' ', '_') | 'a\\nb\\n\\nc'|indent | 'a\\nb\\n\\nc'|indent(2, true) | 'a\\nb'|indent('> ') | 'a\\n\\nb'|indent(2, blank=true) | 'a\\n'|indent
{'a': none}.a is none | {'a': none}.a is defined | {'a': none}.a | {'a': none}['a'] | [{'a': none}]|map(attribute='a')|list | nothing[1:] | n[::2] | d[:1] | nothing|selectattr('a')|list | 0|reject|list | nothing|map('string')|join | missing|int | missing|float | '12'.center(7) | '1'.center(4) | '123'.center(6) | nothing|urlencode | ' a  b '.split(none, 1) | ' a  b '.rsplit(none, 1) | 'a b  '.rsplit(none, 1) | 'ß'.title() | 'ß'.capitalize() | true % -0.5 | 5.0 % -2.5
'The quick brown fox jumps'|truncate(10) | 'The quick brown fox jumps'|truncate(10, true) | 'short'|truncate(3) | 'The quick'|truncate(6, leeway=0) | 'ab'|center(6) | '<b>x</b> y'|striptags | 'a<b>c</b> <!-- x <b> --> d'|striptags | 'a <!-- b > c'|striptags | '1 < 2 and <b>x'|striptags | '<<a>b>'|striptags | 'a<!-->b'|striptags | 'x <!-- <b> y'|striptags | '<a t="<!-- q -->">z'|striptags | 'x < y <!-- c --> z'|striptags | 'ßa bc'|title | 'ßa bc'.title() | '1__0'|float | '1_'|float | '1_0.0_1'|float | '1e1_0'|float
'&lt;b&gt; &amp;amp; &eacute;&notit;&#233;&#xE9;&#128;&#1;&#0;&#xD800;&zz;&amp' |striptags | '&nbsp;a &NewLine; b'|striptags | 'a\x85b\x1fc'|striptags
d|attr('a') | d|attr('a') is defined | d|attr('items') is defined | list|attr('0') is defined | people[0]|attr('name') | d|attr(1) | missing|attr('a')
'ŉ'.capitalize() | 'ŉ'|capitalize | 'ǆa'.title() | 'ᾳ'.title() | 'ᾷ'|capitalize | 'აბ'.title() | 'ΑΣ'.capitalize() | 'ΑΣ ΑΣ'.title() | 'ⓐΑΣ'.swapcase() | 'ŉǰſς'.casefold() | 'ǅa'.istitle() | '①'.isdigit()
'a b&c/d'|urlencode | {'a b': 'c/d', 'e': 1}|urlencode | 'a'|attr('upper') is defined | d|attr('zz') | '-x-'|trim('-') | text|trim|length | none|default('d') | none|default('d', true) | ''|default('d', true)
1 ~ 2 ~ none | 'a' ~ 1.0 | 'a' 'b' | "\\u00e9\\U0001F600" | '\\q' | 'a\\
b' | 0x1F | 0b101 | 1_000 | 1.5e3 | [1, 2,] | {'a': 1,} | -2 ** 2 | 2 ** 3 ** 2 | -1|abs | not true == false | (1 if false) is defined | dict(a=1, b=2) | dict([('x', 1)])
names|map('replace', 'o', '0')|list | [[1, 2], [3]]|map('sum')|list | [1, none, 2]|select|list | ['a', 'b']|map('default', 'x')|join | people|map(attribute='zz', default='-')|join | [1,2,3]|map('string')|join('+')
namespace is defined | messages[1:]|length | messages[-1]['content'].split('</think>')[-1].lstrip('\\n') | messages|selectattr('role', 'equalto', 'user')|list|length
messages[2].tool_calls[0].function.arguments | messages[2].tool_calls[0].function.arguments|tojson | messages[2] | messages[2]|tojson | tools | tools[0].function|tojson(indent=2)
"""

BLOCKS = [
    "{% set ns = namespace(x=none) %}{{ ns.x is none }}{% set ns.y = none %}{{ ns.y is none }}{{ ns.z is none }}",
    "{% for x in [none, 1, none] %}{{ loop.previtem is defined }} {{ loop.previtem }} {{ loop.nextitem is none }};{% endfor %}",
    "{% for k, v in {'a': none}.items() %}{{ v is none }}{{ v }}{% endfor %}{% for g in [{'a': none}]|groupby('a') %}{{ g.grouper is none }}{% endfor %}",
    "{% macro m(a, b=none) %}{{ a is none }}{{ b is none }}{{ a }}{% endmacro %}{{ m(none) }}{{ m(b=1, a=none) }}",
    "{% for x in list %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in list %}\n  {{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ x }}\n{% endfor %}\nend\n",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }},{% endfor %}",
    "{% for c in 'añ👍' %}[{{ c }}]{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}",
    "{% for x in missing %}x{% else %}none{% endfor %}",
    "{% for x in list if x > 1 %}{{ loop.index }}:{{ x }} {% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in list %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {{ loop.cycle('a', 'b') }} {% endfor %}",
    "{% for a in list %}{% for b in list %}{{ loop.index }}{% endfor %}|{{ loop.index }} {% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}({% if x is iterable %}{{ loop(x) }}{% else %}{{ x }}@{{ loop.depth }}{% endif %}){% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in list|reverse %}{{ x }}{% endfor %}{% for x in list[::-1] %}{{ x }}{% endfor %}",
    "{% set x = 0 %}{% for i in list %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(x=0, y='a') %}{% for i in list %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x|length }}",
    "{% set x | upper | trim %}  a{{ n }}b {% endset %}[{{ x }}]",
    "{% if yes %}{% set z = 1 %}{% endif %}{{ z }}",
    "{% if no %}a{% elif n == 7 %}b{% else %}c{% endif %}",
    "{% if not missing and list %}ok{% endif %}{% if d.zz is not defined or d.zz is none %}!{% endif %}",
    "{% macro m(a, b=2, c='x') %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c='y') }}{{ m() }}{{ m(b=3, a=4) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}",
    "{% macro outer() %}<{{ caller('x') }}>{% endmacro %}{% call(v) outer() %}in {{ v }}{{ n }}{% endcall %}",
    "{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro uses() %}{{ later }}{% endmacro %}{% set later = 5 %}{{ uses() }}",
    "{% macro pad() %}\n  a\n{% endmacro %}[{{ pad() }}][{{ pad()|trim }}]",
    "{% filter upper %}a{{ word }}b{% endfilter %}",
    "{% filter replace('a', 'b')|upper %}banana{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{% raw %}{{ x }} {% if %}{% endraw %}|",
    "a\n  {%- raw -%}  \n {{ y }} \n {%- endraw -%}\n b",
    "a {# comment {{ x }} #}b\n  {# line #}\nc {#- tight -#} d",
    "a\n  {% if yes %}\n    b\n  {% endif %}\nc\n",
    "a\n  {%- if yes -%}\n    b\n  {%- endif -%}\nc\n",
    "a\n  {%+ if yes +%}\n    b\n  {%+ endif +%}\nc\n",
    "{{ 'x' }}\n\n{{- 'y' -}}\n\n{{ 'z' }}\n",
    "  {{ n }}\n  {% set q = 1 %}\n  {{ q }}",
    "x{% if yes %}\n\ny{% endif %}\n\n",
    "\n{% if yes %}\n{% endif %}\n",
    "line\r\nnext\r{{ n }}\r\n",
    "{{ '{{' }} {{ \"%}\" }} {{ {'a': {'b': 1}}['a']['b'] }} {{ {'a': 1}.a }}",
    "{% generation %}said{% endgeneration %} {% block b %}inner {{ n }}{% endblock b %}",
    "{% set x = [1] %}{{ x.append(2) }}",
    "{{ missing.attribute }}",
    "{{ d.zz.zz }}",
    "{{ nothing.x }}",
    "{{ raise_exception('no ' ~ n) }}",
    "{{ 1 + 'a' }}",
    "{{ 'a' < 1 }}",
    "{{ none|length }}",
    "{{ missing|tojson }}",
    "{{ missing + 1 }}",
    "{{ missing() }}",
    "{{ 1 / 0 }}",
    "{{ text.__class__ }}",
    "{% for x in 5 %}{% endfor %}",
    "{{ range(100001)|length }}",
    "{% set d.x = 1 %}",
    "{{ x|nosuch }}",
    "{% if no %}{{ x|nosuch }}{% endif %}ok",
    "{{ 'a' is nosuch }}",
    "{% if %}",
    "{% for x in list %}",
    "{{ 'unclosed }}",
    "{{ (1, 2 }}",
    "{% unknown %}",
    "{% endif %}",
    "{{ text|e|upper }}{{ '<' ~ 'a'|e }}",
    "{{ 'a\\\\nb' }}{{ 'tab\\there' }}{{ '\\x41\\u0042' }}",
    "{% set x = 'a' if missing else 'b' %}{{ x }}{% set y = missing or 'c' %}{{ y }}",
    "{%- set l = [] -%}{% for x in list %}{% set l = l + [x] %}{% endfor %}{{ l }}",
    "{% set ns = namespace(l=[]) %}{% for x in list %}{% set ns.l = ns.l + [x * 2] %}{% endfor %}{{ ns.l }}",
    "{{ messages | map(attribute='role') | list }}{{ messages | map(attribute='content') | map('length') | sum }}",
    "{{ people | map(attribute='name') | map('lower') | sort | join(', ') }}",
    "{{ tools[0].function.parameters.properties.keys() | list }}{{ tools[0]['function']['name'] }}",
    "{{ ('a', 'b') | join }}{{ (1,) + (2,) }}{{ [1] + [2] }}{{ 'a' * 3 }}{{ 3 * 'a' }}{{ [0] * 2 }}",
    "{{ -7 // 2 }} {{ 7 // -2 }} {{ -7 % 2 }} {{ 7 % -2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }}",
    "{{ 'x' if 'a' in d else 'y' }}{{ 'x' if d['zz'] else 'y' }}{{ d['10'] }}{{ d[10] is defined }}",
    "{% for m in messages %}{%- if loop.first -%}A{%- elif loop.last -%}Z{%- else -%}m{%- endif -%}{% endfor %}",
    "{% for m in messages %}{% set content = m.content if m.content is string else '' %}{{ content|length }},{% endfor %}",
    "{% macro row(k, v, sep=': ') -%}{{ k ~ sep ~ v }}{%- endmacro %}{% for k, v in d|dictsort(reverse=true) %}{{ row(k, v) }};{% endfor %}",
    "{% if text is string and text is not mapping %}s{% endif %}{% if people is iterable and people is not string and people is not mapping %}l{% endif %}",
    "{{ {'role': 'user', 'content': [{'type': 'text', 'text': 'x'}]} | tojson }}{{ {'a': (1, 2)} | tojson }}",
    "{{ [1, 2, 3, 4] | select('divisibleby', 2) | list }}{{ [1, 2] | map('string') | list }}{{ ['1', 'x'] | map('int', default=9) | list }}",
    "{%- for a in [1, 2] -%}\\n {{ a }} \\n{%- endfor -%}",
    "{% for x in list -%}\\n    {{ x }}\\n{% endfor %}",
    "{{ \"a'b\" }}{{ ['a\\\\'b\"c'] }}{{ [\"it's\"] }}",
    "{% set long = 'word ' * 100 %}{{ long|length }}{{ long|truncate(20) }}{{ long.split()|length }}",
    "{{ 'Ä'|lower }}{{ 'ẞ'|lower }}{{ 'ﬁ'|upper }}{{ 'ŉ'|upper }}{{ 'ΑΣ'|lower }}",
    "{{ '١٢'.isdigit() }}{{ '²'.isdigit() }}{{ '½'.isnumeric() }}{{ '\\u00a0'.isspace() }}",
    "{{ 5|default(1) }}{{ false|default(1) }}{{ false|default(1, true) }}{{ missing.x|default('y') if missing is defined else 'z' }}",
    "{{ joiner is defined }}{% set sep = joiner('|') %}{% for x in list %}{{ sep() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
    "{{ bos_token }}{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content']|trim + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
    "{%- if tools %}\n    {{- '<tools>' }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n    {{- \"\\n</tools>\\n\" }}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message.tool_calls %}\n        {%- for call in message.tool_calls %}\n            {%- set call = call.function %}\n            {{- '<tool_call>\\n{\"name\": \"' }}{{- call.name }}{{- '\", \"arguments\": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}\n        {%- endfor %}\n    {%- else %}\n        {{- message.role ~ ': ' ~ message.content ~ '\\n' }}\n    {%- endif %}\n{%- endfor %}",
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}{% for m in messages[::-1] %}{{ m.role[0] }}{% endfor %}",
    "{% macro type_of(p) %}{% if p.type is string %}{{ p.type }}{% elif p.type is iterable %}{{ p.type|join(' | ') }}{% endif %}{% if p.enum is defined %} in {{ p.enum }}{% endif %}{% endmacro %}{% for name, p in tools[0].function.parameters.properties.items() %}{{ name }}: {{ type_of(p) }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content %}{% set parts = m.content.split('</think>') %}{{ parts[0].split('<think>')[-1].strip('\\n') }}|{{ parts[-1].lstrip('\\n') }}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 and system != false %}<<SYS>>{{ system }}<</SYS>>{% endif %}{{ m.content.strip() }}{% endfor %}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}",
]


def cases():
    for line in OUTPUTS.replace("\\\n", "\0").strip().split("\n"):
        for expression in split_top(line.replace("\0", "\\\n")):
            yield "{{ " + expression.strip() + " }}"
    yield from BLOCKS


def split_top(line):
    """Expressions with ' | ' between, which no filter in them has."""
    return [part for part in line.split(" | ") if part.strip()]


def main():
    results = []
    for template in cases():
        try:
            results.append({"template": template, "text": environment.from_string(template).render(**VARIABLES)})
        except Exception as error:
            results.append({"template": template, "error": f"{type(error).__name__}: {error}"})
    path = Path(__file__).parent / "jinja.json"
    golden = {"jinja2": jinja2.__version__, "variables": json.dumps(VARIABLES, ensure_ascii=False), "cases": results}
    path.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")
    print(len(results), "cases,", sum("error" in r for r in results), "errors")


if __name__ == "__main__":
    main()
