"""Tables of segments and contacts as files: CSV, an edge list, GraphML."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_cad.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from napari_cad.core.segment_table import ContactTable, SegmentTable

_GRAPHML = "http://graphml.graphdrawing.org/xmlns"


def segment_columns(table: SegmentTable) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table of segments by name, with the unit in the name.

    Returns
    -------
    dict of str to ndarray
        Without volume and surface where the voxel size is not known.
    """
    columns: dict[str, npt.NDArray[Any]] = {"segment": table.id}
    if not np.isnan(table.volume).any():
        columns |= {"volume_um3": table.volume, "surface_um2": table.surface}
    columns |= {
        "voxels": table.voxels,
        "sections": table.sections,
        "fragments": table.fragments,
        "contacts": table.contacts,
    }
    names = ("z_start", "y_start", "x_start", "z_stop", "y_stop", "x_stop")
    columns |= dict(zip(names, table.box.T, strict=True))
    return columns | dict(zip("zyx", table.centroid.T, strict=True))


def contact_columns(table: ContactTable) -> dict[str, npt.NDArray[Any]]:
    """Columns of a table of contacts by name; without the area where it is not known.

    Contacts with what is no segment are left out.
    """
    named = table.u != 0
    columns: dict[str, npt.NDArray[Any]] = {
        "segment_a": table.u[named],
        "segment_b": table.v[named],
    }
    if not np.isnan(table.area).any():
        columns["area_um2"] = table.area[named]
    return (
        columns
        | {"faces": table.faces[named]}
        | dict(zip("zyx", table.position[named].T, strict=True))
    )


def write_csv(path: str | Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write columns of one length, with a first line of names.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    try:
        with Path(path).open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(columns)
            writer.writerows(zip(*(_plain(c) for c in columns.values()), strict=True))
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def write_graphml(path: str | Path, segments: SegmentTable, contacts: ContactTable) -> None:
    """Write the contact graph as GraphML, which networkx, igraph, Gephi and Cytoscape read.

    Parameters
    ----------
    path : path
        Of the file; one that exists is replaced.
    segments : SegmentTable
        The nodes, with their columns as attributes.
    contacts : ContactTable
        The edges, with theirs.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    nodes, edges = segment_columns(segments), contact_columns(contacts)
    ids = _plain(nodes.pop("segment"))
    ends = [_plain(edges.pop(name)) for name in ("segment_a", "segment_b")]
    root = ET.Element("graphml", xmlns=_GRAPHML)
    for kind, columns in (("node", nodes), ("edge", edges)):
        for name, column in columns.items():
            about = {"id": f"{kind}_{name}", "for": kind, "attr.name": name}
            about["attr.type"] = "long" if column.dtype.kind in "iu" else "double"
            ET.SubElement(root, "key", about)
    graph = ET.SubElement(root, "graph", id="contacts", edgedefault="undirected")
    for i, identity in enumerate(ids):
        _with_data(ET.SubElement(graph, "node", id=str(identity)), "node", nodes, i)
    for i, (a, b) in enumerate(zip(*ends, strict=True)):
        _with_data(ET.SubElement(graph, "edge", source=str(a), target=str(b)), "edge", edges, i)
    try:
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def write_contacts(path: str | Path, segments: SegmentTable, contacts: ContactTable) -> None:
    """Write the contact graph: GraphML where the path ends in .graphml, an edge list as CSV else.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    if Path(path).suffix.lower() == ".graphml":
        write_graphml(path, segments, contacts)
    else:
        write_csv(path, contact_columns(contacts))


def _with_data(
    element: ET.Element, kind: str, columns: Mapping[str, npt.NDArray[Any]], i: int
) -> None:
    for name, column in columns.items():
        ET.SubElement(element, "data", key=f"{kind}_{name}").text = str(_number(column[i].item()))


def _plain(column: npt.NDArray[Any]) -> list[Any]:
    return [_number(value) for value in column.tolist()]


def _number(value: Any) -> Any:
    """Six significant digits are more than a measure of voxels has."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
