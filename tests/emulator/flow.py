"""The order in which blocks of instructions are executed, such that threads that went different ways meet again.

Where ways join, the block comes after all blocks of the ways; what leaves a loop comes after the loop. PTX itself promises no
such order: the compiler puts blocks that it takes for rare at the end.
"""


def ranks(successors, start):
    """Place of each block in the order, from the blocks that follow each; blocks that nothing reaches come last."""
    depth = _loop_depths(successors, start)
    finished, seen, stack = [], {start}, [(start, iter(_inner_last(successors[start], depth)))]
    while stack:
        block, following = stack[-1]
        for successor in following:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(_inner_last(successors[successor], depth))))
                break
        else:
            finished.append(block)
            stack.pop()
    order = [*reversed(finished), *(block for block in successors if block not in seen)]
    return {block: place for place, block in enumerate(order)}


def _inner_last(blocks, depth):
    """What is visited first ends first, and so comes last in the order: what leaves loops."""
    return sorted(blocks, key=lambda block: depth.get(block, 0))


def _loop_depths(successors, start):
    """In how many loops each block lies."""
    dominators = _dominators(successors, start)
    predecessors = {block: [] for block in successors}
    for block, following in successors.items():
        for successor in following:
            predecessors[successor].append(block)
    loops = {}
    for block in dominators:
        for head in successors[block]:
            if head in dominators[block]:  # a jump back
                body = loops.setdefault(head, {head})
                reach = [block]
                while reach:
                    inside = reach.pop()
                    if inside not in body and inside in dominators:
                        body.add(inside)
                        reach += predecessors[inside]
    return {block: sum(block in body for body in loops.values()) for block in dominators}


def _dominators(successors, start):
    """The blocks through which every way to a block leads, for each that there is a way to."""
    found, work = {start: {start}}, [start]
    while work:
        block = work.pop()
        for successor in successors[block]:
            through = found[block] | {successor}
            known = found.get(successor)
            new = through if known is None else known & through
            if new != known:
                found[successor] = new
                work.append(successor)
    return found
