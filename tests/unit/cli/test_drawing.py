"""Drawings are stable text, and no name can break out of them."""

from __future__ import annotations

from typing import Any

from trun.cli.drawing import Drawing, dot, mermaid


def done(uid: str, **more: Any) -> dict[str, Any]:
    """Return the atom "job is completed"."""
    return {"atom": "job", "is": "completed", "uid": uid, **more}


def job(uid: str, name: str, state: str, condition: Any = None, kind: str = "call") -> dict[str, Any]:
    """Return a job as the view ``graph`` gives it."""
    return {"uid": uid, "id": name, "state": state, "kind": kind, "group": "", "inputs": [], "condition": condition}


FIT = {
    "v": 1,
    "op": "and",
    "of": [
        done("m"),
        {"op": "or", "of": [done("f"), {"op": "not", "of": [done("c")]}]},
        {"atom": "job", "is": "result", "uid": "f", "arg": "chisq < 2"},
    ],
}
GRAPH = {
    "jobs": [
        job("m", "model#1", "completed"),
        job("f", "fetch#2", "running"),
        job("c", "cache#3", "failed"),
        job("x", "fit#4", "waiting", FIT),
        job("p", "plot#5", "waiting", done("x")),
    ],
    "groups": [],
}

MERMAID = """\
flowchart LR
    j1["✓ model#1"]:::completed
    j2["▶ fetch#2"]:::running
    j3["✗ cache#3"]:::failed
    j4["◷ fit#4"]:::waiting
    j5["◷ plot#5"]:::waiting
    j4g1(("and"))
    j4g2(("or"))
    j4g3(("not"))
    j1 --> j4g1
    j2 --> j4g2
    j3 --> j4g3
    j4g3 --> j4g2
    j4g2 --> j4g1
    j2 --> |"result chisq #60; 2"| j4g1
    j4g1 --> j4
    j4 --> j5
    classDef completed fill:#d5f0e3,stroke:#009e73,color:#111
    classDef failed fill:#f8dcd0,stroke:#d55e00,color:#111
    classDef running fill:#d3e6f4,stroke:#0072b2,color:#111
    classDef waiting fill:#fbf0d5,stroke:#e69f00,color:#111"""

DOT = """\
digraph trun {
    rankdir=LR;
    node [fontname="sans-serif", style=filled, fillcolor="#fff"];
    j1 [label="✓ model#1", shape="box", fillcolor="#d5f0e3", color="#009e73"];
    j2 [label="▶ fetch#2", shape="box", fillcolor="#d3e6f4", color="#0072b2"];
    j3 [label="✗ cache#3", shape="box", fillcolor="#f8dcd0", color="#d55e00"];
    j4 [label="◷ fit#4", shape="box", fillcolor="#fbf0d5", color="#e69f00"];
    j5 [label="◷ plot#5", shape="box", fillcolor="#fbf0d5", color="#e69f00"];
    j4g1 [label="and", shape="circle", fontsize="9", margin="0.02"];
    j4g2 [label="or", shape="circle", fontsize="9", margin="0.02"];
    j4g3 [label="not", shape="circle", fontsize="9", margin="0.02"];
    j1 -> j4g1;
    j2 -> j4g2;
    j3 -> j4g3;
    j4g3 -> j4g2;
    j4g2 -> j4g1;
    j2 -> j4g1 [label="result chisq < 2"];
    j4g1 -> j4;
    j4 -> j5;
}"""


def test_mermaid_draws_gates_between_jobs() -> None:
    assert mermaid(Drawing(GRAPH)) == MERMAID


def test_dot_draws_the_same() -> None:
    assert dot(Drawing(GRAPH)) == DOT


def test_the_order_of_the_answer_does_not_matter() -> None:
    assert mermaid(Drawing({**GRAPH, "jobs": GRAPH["jobs"][::-1]})) == MERMAID


def test_names_cannot_break_out_of_their_quotes() -> None:
    drawing = Drawing({"jobs": [job("e", 'a"]; click x "javascript:1"\n%% <b>\\#1', "completed")], "groups": []})

    assert mermaid(drawing).splitlines()[1] == (
        '    j1["✓ a#34;]#59; click x #34;javascript:1#34; %% #60;b#62;#92;#1"]:::completed'
    )
    assert 'label="✓ a\\"]; click x \\"javascript:1\\" %% <b>\\\\#1"' in dot(drawing)


def test_time_files_and_jobs_of_other_services_are_nodes_too() -> None:
    condition = {
        "v": 1,
        "op": "atleast",
        "k": 2,
        "of": [
            {"atom": "after", "s": 600.0},
            done("elsewhere", name="sim#9"),
            {"atom": "world", "is": "exists", "target": "/data/a.nxs", "poll": 5.0, "amount": 0.0},
        ],
    }

    text = mermaid(Drawing({"jobs": [job("w", "late#1", "waiting", condition)], "groups": []}))

    assert 'j1g1(("at least 2"))' in text
    assert 'x1["sim#9"]' in text
    assert 'a1>"' in text
    assert "/data/a.nxs" in text


def test_a_thing_that_several_jobs_wait_for_is_one_node() -> None:
    late = {"v": 1, "atom": "after", "s": 600.0}
    jobs = [job("a", "a#1", "waiting", late), job("b", "b#2", "waiting", late)]

    assert len(Drawing({"jobs": jobs, "groups": []}).nodes) == 3
