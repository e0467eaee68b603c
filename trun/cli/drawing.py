"""The verb ``graph``: jobs and their conditions as a drawing, in Mermaid, Dot or JSON.

Jobs and atoms over the world are nodes; And, Or, AtLeast, Not and the like are small gate nodes between them, so that a
picture says what a list of dependencies cannot. The text depends on the record alone: the same jobs give the same text.

Who may come in: the command. Rule: names come from users, so each goes through the escaping of its language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from trun.cli.arguments import Parser, print_json
from trun.cli.listing import place_facts
from trun.cli.places import Place, Search, chosen_places
from trun.cli.text import count, line, look
from trun.conditions import wire
from trun.errors import UnknownName

#: {state: (fill, stroke)} of Mermaid and Dot; the icon in the label says the same without colour.
FILLS = {
    "completed": ("#d5f0e3", "#009e73"),
    "failed": ("#f8dcd0", "#d55e00"),
    "aborted": ("#f8dcd0", "#d55e00"),
    "cancelled": ("#f0dfe9", "#cc79a7"),
    "skipped": ("#eeeeee", "#777777"),
    "running": ("#d3e6f4", "#0072b2"),
    "lost": ("#f0dfe9", "#cc79a7"),
    "queued": ("#dff1fb", "#56b4e9"),
    "waiting": ("#fbf0d5", "#e69f00"),
    "held": ("#fbf0d5", "#e69f00"),
    "new": ("#eeeeee", "#777777"),
}


def graph(words: list[str]) -> int:
    """Draw jobs and conditions."""
    parser = Parser("graph", "Draw jobs and their conditions: all jobs of a run, or one and what it waits for.").where()
    parser.add_argument("job", nargs="?", metavar="JOB", help="only this job and what it waits for")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--mermaid", action="store_true", help="Mermaid flowchart (default)")
    forms.add_argument("--dot", action="store_true", help="Graphviz")
    forms.add_argument("--json", action="store_true", help="nodes and edges as data")
    options = parser.parse_args(words)
    with Search(chosen_places(options.service, options.folder)) as search:
        if options.job:
            found = search.job(options.job)
            place, answer = found.source.place, found.source.ask("graph", job=found.uid)
        else:
            place = _one_place(search.places)
            answer = search.source(place).ask("graph")
    drawing = Drawing(answer)
    if options.json:
        print_json({"run": place_facts(place), "nodes": list(drawing.nodes.values()), "edges": drawing.edges})
    else:
        print(dot(drawing) if options.dot else mermaid(drawing))
    return 0


def _one_place(places: list[Place]) -> Place:
    """Return the run that is meant where none is named: the only live one, else the one that ended last."""
    live = [place for place in places if place.live]
    if len(live) > 1:
        runs = ", ".join(place.run for place in live)
        raise UnknownName(f"{count(len(live), 'service')} are live; say which with --service: {runs}.")
    if not places:
        raise UnknownName("there is nothing to draw: no service answers and no run is on record.")
    return (live or places)[0]


class Drawing:
    """Nodes and edges of a graph, from what ``views.graph`` says.

    Names of nodes are ``j7`` for job number 7, ``j7g1`` for the gates of its condition in the order of the text, ``a1``
    for atoms that belong to no job, and ``x1`` for jobs that are not in the drawing.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        #: {name: {"id", "kind", "label", ...}}
        self.nodes: dict[str, dict[str, Any]] = {}
        #: {"from", "to", "label"}
        self.edges: list[dict[str, str]] = []
        self._jobs = {job["uid"]: f"j{job['id'].rpartition('#')[2]}" for job in answer["jobs"]}
        self._others: dict[str, str] = {}
        self._drawn: set[tuple[str, ...]] = set()
        jobs = sorted(answer["jobs"], key=lambda job: int(job["id"].rpartition("#")[2]))
        for job in jobs:
            name = self._jobs[job["uid"]]
            kind = "race" if job["kind"] == "first" else "job"
            self.nodes[name] = {
                "id": name,
                "kind": kind,
                "label": job["id"],
                "state": job["state"],
                "uid": job["uid"],
                "group": job["group"],
            }
        for job in jobs:
            if job["condition"] is not None:
                self._gates = 0
                self._connect(job["condition"], self._jobs[job["uid"]], self._jobs[job["uid"]])

    def _connect(self, node: Mapping[str, Any], to: str, owner: str) -> None:
        """Draw a condition and the edge from it."""
        if "atom" in node:
            self._connect_atom(node, to)
            return
        if node["op"] in ("and", "or") and len(node["of"]) == 1:
            self._connect(node["of"][0], to, owner)
            return
        self._gates += 1
        gate = f"{owner}g{self._gates}"
        self.nodes[gate] = {"id": gate, "kind": node["op"], "label": _gate_label(node)}
        for part in node["of"]:
            self._connect(part, gate, owner)
        self._edge(gate, to)

    def _connect_atom(self, node: Mapping[str, Any], to: str) -> None:
        if node["atom"] != "job":
            text = line(str(wire.from_dict({**node, "v": wire.VERSION})))
            self._edge(self._other("a", "atom", text), to)
            return
        source = self._jobs.get(node["uid"]) or self._other("x", "job", node.get("name") or node["uid"])
        argument = "" if node.get("arg") is None else f" {node['arg']}"
        self._edge(source, to, "" if node["is"] == "completed" else f"{node['is']}{argument}")

    def _other(self, letter: str, kind: str, text: str) -> str:
        name = self._others.get(f"{letter} {text}")
        if name is None:
            name = f"{letter}{1 + sum(known.startswith(letter) for known in self._others.values())}"
            self._others[f"{letter} {text}"] = name
            self.nodes[name] = {"id": name, "kind": kind, "label": text}
        return name

    def _edge(self, source: str, to: str, label: str = "") -> None:
        edge = {"from": source, "to": to, "label": line(label)}
        if tuple(edge.values()) not in self._drawn:
            self._drawn.add(tuple(edge.values()))
            self.edges.append(edge)


def _gate_label(node: Mapping[str, Any]) -> str:
    if node["op"] == "atleast":
        return f"at least {node['k']}"
    return f"held {node['s']:g} s" if node["op"] == "held" else str(node["op"])


def _label(node: Mapping[str, Any]) -> str:
    """Return what stands in a node: for jobs with the icon of the state."""
    return f"{look(node['state'])[0]} {line(node['label'])}" if node.get("state") else line(node["label"])


# -- Mermaid ----------------------------------------------------------------------------------------------------------

_SHAPES: dict[str, tuple[str, str]] = {"job": ("[", "]"), "race": ("([", "])"), "atom": (">", "]")}


def mermaid(drawing: Drawing) -> str:
    """Return the drawing as a Mermaid flowchart."""
    lines = ["flowchart LR"]
    for node in drawing.nodes.values():
        begin, end = _SHAPES.get(node["kind"], ("((", "))"))
        state = f":::{node['state']}" if node.get("state") else ""
        lines.append(f'    {node["id"]}{begin}"{_in_mermaid(_label(node))}"{end}{state}')
    for edge in drawing.edges:
        label = f'|"{_in_mermaid(edge["label"])}"| ' if edge["label"] else ""
        lines.append(f"    {edge['from']} --> {label}{edge['to']}")
    for state in _states(drawing):
        fill, stroke = FILLS[state]
        lines.append(f"    classDef {state} fill:{fill},stroke:{stroke},color:#111")
    return "\n".join(lines)


def _in_mermaid(text: str) -> str:
    """Return text for a quoted label: nothing in it is markup, an entity, or the end of the quotes."""
    return re.sub(r"[\"<>&;`\\]", lambda found: f"#{ord(found[0])};", text)


def _states(drawing: Drawing) -> list[str]:
    used = {node["state"] for node in drawing.nodes.values() if node.get("state")}
    return [state for state in FILLS if state in used]


# -- Dot --------------------------------------------------------------------------------------------------------------


def dot(drawing: Drawing) -> str:
    """Return the drawing for Graphviz."""
    lines = ["digraph trun {", "    rankdir=LR;", '    node [fontname="sans-serif", style=filled, fillcolor="#fff"];']
    shapes = {"job": "box", "race": "box", "atom": "note"}
    for node in drawing.nodes.values():
        looks = {"label": _label(node), "shape": shapes.get(node["kind"], "circle")}
        if node.get("state"):
            looks["fillcolor"], looks["color"] = FILLS[node["state"]]
        elif looks["shape"] == "circle":
            looks |= {"fontsize": "9", "margin": "0.02"}
        lines.append(f"    {node['id']} [{', '.join(f'{key}={_quoted(value)}' for key, value in looks.items())}];")
    for edge in drawing.edges:
        label = f" [label={_quoted(edge['label'])}]" if edge["label"] else ""
        lines.append(f"    {edge['from']} -> {edge['to']}{label};")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
