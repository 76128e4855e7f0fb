"""Six mock-ups as HTML that the tests draw: the agent is given the picture alone.

`WRONG` and `NEARLY` make a first and a better attempt of each.
"""

from __future__ import annotations

_BASE = "* { box-sizing: border-box } body { margin: 0; font: 14px/1.4 sans-serif; "

MOCKUPS = {
    "card": (
        (360, 240),
        _BASE + "background: #eef1f5 } main { margin: 24px; padding: 20px; background: #fff; "
        "border: 1px solid #ccd3dd; border-radius: 12px; height: 192px } h1 { font-size: 20px; "
        "margin: 0 0 8px } button { border: 0; background: #1f6feb; color: #fff; padding: 8px 16px "
        "}",
        "<main><h1>Moon phases</h1><p>The next full moon is on Friday.</p><button>Remind me"
        "</button></main>",
    ),
    "table": (
        (420, 260),
        _BASE + "padding: 16px; background: #fff } table { border-collapse: collapse; width: 100% "
        "} td, th { border: 1px solid #99a; padding: 8px; text-align: left } th { background: "
        "#dde6f4 }",
        "<table><tr><th>Body<th>Radius<th>Day</tr><tr><td>Moon<td>1,737<td>27.3</tr><tr><td>Mars"
        "<td>3,390<td>1.03</tr><tr><td>Venus<td>6,052<td>243</tr></table>",
    ),
    "header": (
        (480, 200),
        _BASE + "background: #fafafa } header { display: flex; gap: 20px; background: #14213d; "
        "color: #fff; padding: 18px 24px; align-items: center } header b { flex: 1; font-size: "
        "18px } section { padding: 24px }",
        "<header><b>Perigee</b><span>Plans</span><span>Docs</span></header><section>Welcome back."
        "</section>",
    ),
    "form": (
        (320, 300),
        _BASE + "padding: 20px; background: #fff } label { display: block; margin: 0 0 4px } .i { "
        "height: 36px; border: 1px solid #889; border-radius: 6px; margin: 0 0 16px; padding: 7px "
        "} .b { height: 40px; background: #0a7f4f; border-radius: 6px }",
        '<label>Name</label><div class="i">Ada</div><label>City</label><div class="i">Turin</div>'
        '<div class="b"></div>',
    ),
    "chart": (
        (400, 240),
        _BASE + "background: #fff } .c { display: flex; align-items: flex-end; gap: 14px; height: "
        "200px; margin: 20px; border-bottom: 2px solid #222; border-left: 2px solid #222; padding: "
        "0 14px } .c i { flex: 1; background: #e07a1f }",
        '<div class="c"><i style="height:40%"></i><i style="height:85%"></i><i style="height:60%">'
        '</i><i style="height:25%"></i></div>',
    ),
    "dark": (
        (360, 280),
        _BASE + "background: #10141c; color: #e6e9ef } ul { list-style: none; margin: 0; padding: "
        "16px } li { padding: 12px; border-bottom: 1px solid #2b3342; display: flex; "
        "justify-content: space-between } b { color: #7cc4ff }",
        "<ul><li>Battery <b>82 %</b></li><li>Signal <b>good</b></li><li>Orbit <b>11</b></li><li>"
        "Fuel <b>31 kg</b></li></ul>",
    ),
}


def page(name: str) -> str:
    _, style, body = MOCKUPS[name]
    return f"<!doctype html><meta charset=utf-8><style>{style}</style><body>{body}"


def nearly(name: str) -> str:
    """Not the same page: a pixel more at the top right, as a person would build it."""
    return page(name).replace("<body>", "<body><u style='position:fixed;top:0;right:0;width:9px;"
                              "height:3px;background:#777'></u>")  # fmt: skip


def wrong(name: str) -> str:
    """Other colours, other places, and no style."""
    return (
        f"<!doctype html><meta charset=utf-8><body style='background:#e8d8c8;font:22px/2 serif;"
        f"padding:30px'>{MOCKUPS[name][2]}"
    )
