"""Correcting a segmentation by edits of its region graph; no display, and no voxels but by patches.

Read in this order::

    session      what a viewer or a script calls: merge, preview_cut, apply_cut, lock, undo, ...
    view         what can be asked of it: segments, sizes, lineage
    edits        what an edit is: small changes with inverses, one line of the log
    decisions    the state that changes change: cut edges, links, locks, names, threshold
    partition    from graph and decisions to segments, from scratch or around an edit
    names        which segment keeps which id
    state        the steps from one state to another, none of them shown before it is written
    history      the tree of edits: undo, redo, time travel, lineage
    folder, log, lock    a session on the disk
    source, from_labels  what is corrected: a store, or any labels
    graph, growing       the region graph, to which fragments and edges can be added

    operations   merge, detach, lock: plans of what they come down to, and of what speaks against it
    cutting, cut         cuts between seeds: from clicks to a minimum cut and its plan
    painting, fragment_split, patch, overlay, voxels    where fragments themselves are wrong
    candidates, queue, questions, suspects   where to look next, and the answers
    statistics   how much is done
"""
